//! The authorizer in expressions: `authorizer.group('apps').resource('deployments').check('get').allowed()`.

use std::fmt;
use std::sync::Arc;

use crate::cost::Cost;
use crate::eval::Error;
use crate::library::{MEMBER, Outcome, Row};
use crate::value::Value;

/// Who is asked.
pub trait Authorizer: fmt::Debug + Send + Sync {
    /// Whether `subject` may do this.
    fn decide(&self, subject: &Subject, question: &Question) -> Answer;
}

/// Whose rights are asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Those of who sends the request.
    User,
    /// Those of a ServiceAccount: namespace and name.
    ServiceAccount(String, String),
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The verb.
    pub verb: String,
    /// The path of a URL, if it is no resource.
    pub path: String,
    /// The API group.
    pub group: String,
    /// The plural name; empty with a path.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

/// The authorizer's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// They may.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// Why it could not say.
    pub error: Option<String>,
}

/// A question that is being asked, or its answer: the values behind `authorizer`.
#[derive(Debug)]
pub struct Check {
    authorizer: Arc<dyn Authorizer>,
    subject: Subject,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    Start,
    Path(Question),
    Group(Question),
    Resource(Question),
    Decided(Answer),
}

pub(crate) const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
pub(crate) const RESOURCE: &str = "kubernetes.authorization.ResourceCheck";

const ONE: Cost = Cost::Fixed(1);
/// So that one expression can afford two.
const CHECK: Cost = Cost::Fixed(350_000);
const NARROWER: &str = "kubernetes.authorization.ResourceCheck string: kubernetes.authorization.ResourceCheck";

pub(crate) const ROWS: &[Row] = &[
    ("path", MEMBER, "kubernetes.authorization.Authorizer string: kubernetes.authorization.PathCheck", ONE, |args| {
        step(args, |stage, path| match stage {
            Stage::Start => Some(Stage::Path(Question { path: path.into(), ..Question::default() })),
            _ => None,
        })
    }),
    ("group", MEMBER, "kubernetes.authorization.Authorizer string: kubernetes.authorization.GroupCheck", ONE, |args| {
        step(args, |stage, group| match stage {
            Stage::Start => Some(Stage::Group(Question { group: group.into(), ..Question::default() })),
            _ => None,
        })
    }),
    (
        "serviceAccount",
        MEMBER,
        "kubernetes.authorization.Authorizer string string: kubernetes.authorization.Authorizer",
        ONE,
        |args| match args {
            [Value::Check(check), Value::String(namespace), Value::String(name)] => Ok(Value::Check(Arc::new(Check {
                authorizer: check.authorizer.clone(),
                subject: Subject::ServiceAccount(namespace.to_string(), name.to_string()),
                stage: check.stage.clone(),
            }))),
            _ => Err(Error::NoOverload),
        },
    ),
    (
        "resource",
        MEMBER,
        "kubernetes.authorization.GroupCheck string: kubernetes.authorization.ResourceCheck",
        ONE,
        |args| {
            step(args, |stage, resource| match stage {
                Stage::Group(question) => {
                    Some(Stage::Resource(Question { resource: resource.into(), ..question.clone() }))
                }
                _ => None,
            })
        },
    ),
    ("subresource", MEMBER, NARROWER, ONE, |args| {
        narrow(args, |question, subresource| question.subresource = subresource.into())
    }),
    ("namespace", MEMBER, NARROWER, ONE, |args| {
        narrow(args, |question, namespace| question.namespace = namespace.into())
    }),
    ("name", MEMBER, NARROWER, ONE, |args| narrow(args, |question, name| question.name = name.into())),
    // RBAC does not look at selectors: whoever may do it to all may do it to some.
    ("fieldSelector", MEMBER, NARROWER, ONE, |args| narrow(args, |_, _| ())),
    ("labelSelector", MEMBER, NARROWER, ONE, |args| narrow(args, |_, _| ())),
    (
        "check",
        MEMBER,
        "kubernetes.authorization.PathCheck string: kubernetes.authorization.Decision | \
            kubernetes.authorization.ResourceCheck string: kubernetes.authorization.Decision",
        CHECK,
        |args| {
            let [Value::Check(check), Value::String(verb)] = args else { return Err(Error::NoOverload) };
            let (Stage::Path(question) | Stage::Resource(question)) = &check.stage else {
                return Err(Error::NoOverload);
            };
            let question = Question { verb: verb.to_string(), ..question.clone() };
            let answer = check.authorizer.decide(&check.subject, &question);
            Ok(check.next(Stage::Decided(answer)))
        },
    ),
    ("allowed", MEMBER, "kubernetes.authorization.Decision: bool", ONE, |args| {
        answer(args, |a| Value::Bool(a.allowed))
    }),
    ("reason", MEMBER, "kubernetes.authorization.Decision: string", ONE, |args| {
        answer(args, |a| a.reason.as_str().into())
    }),
    ("error", MEMBER, "kubernetes.authorization.Decision: string", ONE, |args| {
        answer(args, |a| a.error.as_deref().unwrap_or_default().into())
    }),
    ("errored", MEMBER, "kubernetes.authorization.Decision: bool", ONE, |args| {
        answer(args, |a| Value::Bool(a.error.is_some()))
    }),
];

impl Check {
    /// The value of `authorizer`.
    pub fn start(authorizer: Arc<dyn Authorizer>) -> Value {
        Value::Check(Arc::new(Check { authorizer, subject: Subject::User, stage: Stage::Start }))
    }

    /// The value of `authorizer.requestResource`.
    pub fn resource(authorizer: Arc<dyn Authorizer>, question: Question) -> Value {
        Value::Check(Arc::new(Check { authorizer, subject: Subject::User, stage: Stage::Resource(question) }))
    }

    fn next(&self, stage: Stage) -> Value {
        Value::Check(Arc::new(Check { authorizer: self.authorizer.clone(), subject: self.subject.clone(), stage }))
    }

    pub(crate) fn type_name(&self) -> &'static str {
        match self.stage {
            Stage::Start => AUTHORIZER,
            Stage::Path(_) => "kubernetes.authorization.PathCheck",
            Stage::Group(_) => "kubernetes.authorization.GroupCheck",
            Stage::Resource(_) => RESOURCE,
            Stage::Decided(_) => "kubernetes.authorization.Decision",
        }
    }
}

fn step(args: &[Value], next: impl Fn(&Stage, &str) -> Option<Stage>) -> Outcome {
    let [Value::Check(check), Value::String(text)] = args else { return Err(Error::NoOverload) };
    next(&check.stage, text).map(|stage| check.next(stage)).ok_or(Error::NoOverload)
}

fn narrow(args: &[Value], set: impl Fn(&mut Question, &str)) -> Outcome {
    step(args, |stage, text| match stage {
        Stage::Resource(question) => {
            let mut question = question.clone();
            set(&mut question, text);
            Some(Stage::Resource(question))
        }
        _ => None,
    })
}

fn answer(args: &[Value], f: impl Fn(&Answer) -> Value) -> Outcome {
    match args {
        [Value::Check(check)] => match &check.stage {
            Stage::Decided(answer) => Ok(f(answer)),
            _ => Err(Error::NoOverload),
        },
        _ => Err(Error::NoOverload),
    }
}
