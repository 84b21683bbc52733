//! Expectations: what a scenario is tested for, each one line.
//!
//! ```text
//! deployment/web available >= 80% always          every moment, from when it first holds on
//! deployment/web available >= 80% always from 5m to 20m
//! at 10m deployment/web ready == 5                 at that moment
//! deployment/web ready == 5 within 3m              at some moment until then
//! pods app=web ready > 10 eventually               at some moment
//! pending pods p99 < 60s                           at the end; so is all that says no time
//! ```
//!
//! | subject | is |
//! |---|---|
//! | `KIND/NAME available`, `ready`, `replicas`, `desired`, `updated`, `unavailable`, `active`, `succeeded`, `failed` | what the object's status says; in per cent: of the wanted replicas |
//! | `KIND/NAME condition TYPE` | `True`, `False` or `Unknown` |
//! | `service/NAME served` | the share of its requests that were answered: at a moment with a time, of the whole run without |
//! | `pods [LABEL=VALUE,…] total`, `pending`, `running`, `ready`, `succeeded`, `failed` | how many pods; in per cent: of the total |
//! | `pending pods p50`, `p90`, `p95`, `p99`, `max` | from a pod's creation until its containers run |
//! | `nodes [GROUP] total`, `ready` | how many nodes |
//! | `cost` | USD so far |
//! | `disruptions`, `restarts` | pods that were evicted, preempted or lost with their node; containers that ended badly |

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use coracle_kubelet::runtime::simulated::Span;

use super::object::ObjectRef;

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    /// What is looked at.
    pub subject: Subject,
    /// How it compares.
    pub op: Op,
    /// With what.
    pub bound: Bound,
    /// And when.
    pub when: When,
    /// As it was written.
    pub text: String,
}

/// What can be measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// A number in an object's status.
    Object(ObjectRef, String),
    /// A condition of an object: 1 is `True`, 0 `False`, anything else neither.
    Condition(ObjectRef, String),
    /// The share of a Service's requests that were answered, in per cent.
    Served(ObjectRef),
    /// Pods with these labels in this state.
    Pods(BTreeMap<String, String>, String),
    /// How long pods were pending, in seconds: at this quantile.
    Pending(f64),
    /// Nodes of a group, or all: those that are ready, or all.
    Nodes(Option<String>, bool),
    /// USD so far.
    Cost,
    /// Pods that were disrupted.
    Disruptions,
    /// Containers that ended and were started again.
    Restarts,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    AtLeast,
    AtMost,
    More,
    Less,
    Equal,
    Other,
}

const OPS: [(&str, Op); 6] =
    [(">=", Op::AtLeast), ("<=", Op::AtMost), (">", Op::More), ("<", Op::Less), ("==", Op::Equal), ("!=", Op::Other)];
const OBJECT_FIELDS: [&str; 9] =
    ["available", "ready", "replicas", "desired", "updated", "unavailable", "active", "succeeded", "failed"];
const POD_STATES: [&str; 6] = ["total", "pending", "running", "ready", "succeeded", "failed"];
const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)];

/// What something is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// A number.
    Number(f64),
    /// A part of what there should be, in per cent.
    Percent(f64),
}

/// When it must hold. Times count from the beginning of the scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// From `from` (or, without one, from when it first holds) until `to` (or the end), without a break.
    Always {
        /// From when on.
        from: Option<Duration>,
        /// Until when.
        to: Option<Duration>,
    },
    /// At some moment until this one (or the end).
    Eventually(Option<Duration>),
    /// At this moment.
    At(Duration),
    /// At the end.
    End,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// The value.
    pub value: f64,
    /// Of how many, for per cent.
    pub of: Option<f64>,
}

impl Measure {
    /// A value that is a part of nothing.
    pub fn plain(value: f64) -> Measure {
        Measure { value, of: None }
    }
}

impl FromStr for Expectation {
    type Err = String;

    fn from_str(text: &str) -> Result<Expectation, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (at, words) = match words.as_slice() {
            ["at", time, rest @ ..] => (Some(span(time)?), rest),
            words => (None, words),
        };
        let split = words.iter().position(|word| OPS.iter().any(|(sign, _)| sign == word));
        let split = split.ok_or_else(|| {
            format!("{text:?} compares nothing; write it like: deployment/web available >= 80% always")
        })?;
        let op = OPS.iter().find(|(sign, _)| *sign == words[split]).map_or(Op::Equal, |(_, op)| *op);
        let subject = subject(&words[..split])?;
        let Some((value, rest)) = words[split + 1..].split_first() else {
            return Err(format!("{text:?} ends where a value should be"));
        };
        let bound = bound(&subject, value)?;
        let when = match (at, when(rest)?) {
            (Some(time), When::End) if rest.is_empty() => When::At(time),
            (Some(_), _) => return Err(format!("{text:?} says twice when it must hold")),
            (None, when) => when,
        };
        Ok(Expectation { subject, op, bound, when, text: words_of(text) })
    }
}

fn words_of(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn span(text: &str) -> Result<Duration, String> {
    text.parse::<Span>().map(|span| span.0)
}

fn subject(words: &[&str]) -> Result<Subject, String> {
    let state = |word: &str| {
        let known = POD_STATES.contains(&word);
        known
            .then(|| word.to_owned())
            .ok_or_else(|| format!("pods are counted by {}, not {word:?}", POD_STATES.join(", ")))
    };
    match words {
        ["cost"] => Ok(Subject::Cost),
        ["disruptions"] => Ok(Subject::Disruptions),
        ["restarts"] => Ok(Subject::Restarts),
        ["pending", "pods"] => Ok(Subject::Pods(BTreeMap::new(), "pending".into())),
        ["pending", "pods", quantile] => {
            let known = QUANTILES.iter().find(|(name, _)| name == quantile);
            let names = QUANTILES.map(|(name, _)| name).join(", ");
            known.map(|(_, share)| Subject::Pending(*share)).ok_or_else(|| format!("{quantile:?} is none of {names}"))
        }
        ["pods", word] => Ok(Subject::Pods(BTreeMap::new(), state(word)?)),
        ["pods", labels, word] => Ok(Subject::Pods(labels_of(labels)?, state(word)?)),
        ["nodes", word @ ("total" | "ready")] => Ok(Subject::Nodes(None, *word == "ready")),
        ["nodes", group, word @ ("total" | "ready")] => Ok(Subject::Nodes(Some((*group).into()), *word == "ready")),
        [object, "condition", condition] => Ok(Subject::Condition(object.parse()?, (*condition).into())),
        [object, "served"] => match object.parse::<ObjectRef>()? {
            service if service.kind == "service" => Ok(Subject::Served(service)),
            other => Err(format!("{other} is no service; write service/{} served", other.name)),
        },
        [object, field] if object.contains('/') => {
            if !OBJECT_FIELDS.contains(field) {
                return Err(format!("{field:?} is none of {}", OBJECT_FIELDS.join(", ")));
            }
            Ok(Subject::Object(object.parse()?, (*field).into()))
        }
        other => Err(format!("{:?} is nothing that can be measured; docs/simulate.md lists what can", other.join(" "))),
    }
}

fn labels_of(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is not LABEL=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    text.split(',').map(pair).collect()
}

fn bound(subject: &Subject, text: &str) -> Result<Bound, String> {
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| *number >= 0.0);
    match subject {
        Subject::Condition(..) => match text {
            "True" => Ok(Bound::Number(1.0)),
            "False" => Ok(Bound::Number(0.0)),
            _ => Err(format!("a condition is True or False, not {text:?}")),
        },
        Subject::Pending(_) => span(text).map(|time| Bound::Number(time.as_secs_f64())),
        _ => match text.strip_suffix('%') {
            Some(percent) => {
                let percent = number(percent).ok_or_else(|| format!("{text:?} is no share such as 80%"))?;
                let can = matches!(subject, Subject::Object(..) | Subject::Served(_) | Subject::Pods(..));
                match can {
                    true if percent <= 100.0 => Ok(Bound::Percent(percent)),
                    true => Err(format!("{text} can never be: there are at most 100%")),
                    false => Err(format!("{text}: of what? write a number")),
                }
            }
            None if matches!(subject, Subject::Served(_)) => Err(format!("{text:?} is no share such as 99%")),
            None => number(text).map(Bound::Number).ok_or_else(|| format!("{text:?} is no number")),
        },
    }
}

fn when(words: &[&str]) -> Result<When, String> {
    let order = |from: Option<Duration>, to: Option<Duration>| match (from, to) {
        (Some(from), Some(to)) if to <= from => {
            Err(format!("time runs backwards: from {} to {}", Span(from), Span(to)))
        }
        (from, to) => Ok(When::Always { from, to }),
    };
    match words {
        [] => Ok(When::End),
        ["always"] => order(None, None),
        ["always", "from", from] => order(Some(span(from)?), None),
        ["always", "to", to] => order(None, Some(span(to)?)),
        ["always", "from", from, "to", to] => order(Some(span(from)?), Some(span(to)?)),
        ["eventually"] => Ok(When::Eventually(None)),
        ["within", time] => Ok(When::Eventually(Some(span(time)?))),
        other => Err(format!(
            "{:?} is no time; write always, always from 5m to 20m, eventually, within 3m, or begin with: at 10m",
            other.join(" ")
        )),
    }
}

impl Expectation {
    /// Whether it holds for what was measured. Nothing measured is nothing that holds.
    pub fn holds(&self, measure: Option<Measure>) -> bool {
        let Some(Measure { value, of }) = measure else { return false };
        let (value, bound) = match (self.bound, of) {
            (Bound::Number(bound), _) => (value, bound),
            // Nothing of nothing is all of it.
            (Bound::Percent(bound), Some(of)) => (if of == 0.0 { 100.0 } else { value / of * 100.0 }, bound),
            (Bound::Percent(bound), None) => (value, bound),
        };
        match self.op {
            Op::AtLeast => value >= bound,
            Op::AtMost => value <= bound,
            Op::More => value > bound,
            Op::Less => value < bound,
            Op::Equal => value == bound,
            Op::Other => value != bound,
        }
    }

    /// A measure in the units in which the expectation speaks.
    pub fn shown(&self, measure: Option<Measure>) -> String {
        let Some(Measure { value, of }) = measure else { return "nothing".into() };
        match (&self.subject, self.bound, of) {
            (Subject::Pending(_), ..) => Span(Duration::from_millis((value * 1000.0) as u64)).to_string(),
            (Subject::Condition(..), ..) => match value {
                1.0 => "True".into(),
                0.0 => "False".into(),
                _ => "Unknown".into(),
            },
            (Subject::Cost, ..) => format!("{value:.2}"),
            (_, Bound::Percent(_), Some(of)) => format!("{value} of {of}"),
            (_, Bound::Percent(_), None) => format!("{value:.2}%"),
            _ => format!("{value}"),
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A time in which an expectation did not hold.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Breach {
    /// From when.
    pub from: Span,
    /// Until when.
    pub to: Span,
    /// What was measured at its beginning.
    pub measured: String,
}

/// Follows an expectation through a run.
#[derive(Clone, Debug)]
pub struct Tracker {
    /// What is expected.
    pub expectation: Expectation,
    first_held: Option<Duration>,
    breaches: Vec<Breach>,
    open: Option<(Duration, String)>,
    at_moment: Option<Option<Measure>>,
}

/// What became of an expectation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// As it was written.
    pub expectation: String,
    /// Whether it was met.
    pub met: bool,
    /// What was seen instead, or at the end.
    pub seen: String,
    /// When it did not hold, in the order of time.
    pub breaches: Vec<Breach>,
}

impl Tracker {
    /// At the beginning of a run.
    pub fn new(expectation: Expectation) -> Tracker {
        Tracker { expectation, first_held: None, breaches: Vec::new(), open: None, at_moment: None }
    }

    /// Whether it matters to it what holds from `from` until `to`: measuring costs more than asking.
    pub fn cares(&self, from: Duration, to: Duration) -> bool {
        match self.expectation.when {
            When::End => false,
            When::At(time) => self.at_moment.is_none() && (from..=to).contains(&time),
            When::Eventually(until) => self.first_held.is_none() && until.is_none_or(|until| from <= until),
            When::Always { .. } => true,
        }
    }

    /// Takes in what held from `from` until `to`. What it says of a breach that begins or ends with that.
    pub fn observe(&mut self, from: Duration, to: Duration, measure: Option<Measure>) -> Option<String> {
        let held = self.expectation.holds(measure);
        match self.expectation.when {
            When::At(time) if (from..=to).contains(&time) && self.at_moment.is_none() => {
                self.at_moment = Some(measure);
                None
            }
            When::Eventually(until) if held && self.first_held.is_none() && until.is_none_or(|until| from <= until) => {
                self.first_held = Some(from);
                None
            }
            When::Always { from: begin, to: end } => {
                let begun = begin.map_or(held || self.first_held.is_some(), |begin| to > begin || from >= begin);
                let over = end.is_some_and(|end| from >= end);
                if held {
                    self.first_held.get_or_insert(from);
                }
                let breaks = begun && !over && !held;
                match (&self.open, breaks) {
                    (None, true) => {
                        let seen = self.expectation.shown(measure);
                        self.open = Some((from.max(begin.unwrap_or_default()), seen.clone()));
                        Some(format!("no longer: {} (it is {seen})", self.expectation))
                    }
                    (Some(_), false) => {
                        self.close(from.min(end.unwrap_or(from)));
                        Some(format!("again: {}", self.expectation))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn close(&mut self, to: Duration) {
        if let Some((from, measured)) = self.open.take() {
            self.breaches.push(Breach { from: Span(from), to: Span(to), measured });
        }
    }

    /// The verdict at the end of a run, with what is measured then.
    pub fn finish(mut self, end: Duration, measure: Option<Measure>) -> Verdict {
        self.close(end);
        let shown = |measure| self.expectation.shown(measure);
        let (met, seen) = match self.expectation.when {
            When::End => (self.expectation.holds(measure), format!("{} at the end", shown(measure))),
            When::At(time) => {
                let then = self.at_moment.unwrap_or(measure);
                (self.expectation.holds(then), format!("{} at {}", shown(then), Span(time)))
            }
            When::Eventually(_) => match self.first_held {
                Some(at) => (true, format!("at {}", Span(at))),
                None => (false, format!("never; {} at the end", shown(measure))),
            },
            When::Always { from: None, .. } if self.first_held.is_none() => {
                (false, format!("never; {} at the end", shown(measure)))
            }
            When::Always { .. } => match self.breaches.first() {
                None => (true, "at every moment".into()),
                Some(first) => {
                    let more = match self.breaches.len() {
                        1 => String::new(),
                        count => format!(" and {} more times", count - 1),
                    };
                    (false, format!("{} from {} to {}{more}", first.measured, first.from, first.to))
                }
            },
        };
        Verdict { expectation: self.expectation.text.clone(), met, seen, breaches: self.breaches }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Expectation {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn lines_are_understood() {
        let web: ObjectRef = "deployment/web".parse().unwrap();
        let of = |field: &str| Subject::Object(web.clone(), field.into());
        let always = |from, to| When::Always { from, to };
        let app: BTreeMap<_, _> = [("app".to_owned(), "web".to_owned())].into();
        for (text, subject, op, bound, when) in [
            (
                "deployment/web available >= 80% always",
                of("available"),
                Op::AtLeast,
                Bound::Percent(80.0),
                always(None, None),
            ),
            ("at 10m deploy/web ready == 5", of("ready"), Op::Equal, Bound::Number(5.0), When::At(minutes(10))),
            ("pending pods p99 < 60s", Subject::Pending(0.99), Op::Less, Bound::Number(60.0), When::End),
            (
                "pending pods == 0 eventually",
                Subject::Pods(BTreeMap::new(), "pending".into()),
                Op::Equal,
                Bound::Number(0.0),
                When::Eventually(None),
            ),
            (
                "pods app=web ready > 2 within 3m",
                Subject::Pods(app, "ready".into()),
                Op::More,
                Bound::Number(2.0),
                When::Eventually(Some(minutes(3))),
            ),
            (
                "nodes spot ready != 0 always from 1m to 2m",
                Subject::Nodes(Some("spot".into()), true),
                Op::Other,
                Bound::Number(0.0),
                always(Some(minutes(1)), Some(minutes(2))),
            ),
            (
                "deployment/web condition Progressing == False",
                Subject::Condition(web.clone(), "Progressing".into()),
                Op::Equal,
                Bound::Number(0.0),
                When::End,
            ),
            ("cost <= 12.50", Subject::Cost, Op::AtMost, Bound::Number(12.5), When::End),
        ] {
            let found = parse(text);
            assert_eq!((found.subject, found.op, found.bound, found.when), (subject, op, bound, when), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_a_hint() {
        for (text, hint) in [
            ("deployment/web is fine", "compares nothing"),
            ("deployment/web availble >= 3", "available"),
            ("deployment/web available >=", "where a value should be"),
            ("deployment/web available >= 120%", "at most 100%"),
            ("pending pods p98 < 1s", "p99"),
            ("pending pods p99 < 60", "90s"),
            ("pods lost == 0", "ready"),
            ("deployment/web ready == 3 always from 5m to 2m", "backwards"),
            ("at 5m deployment/web ready == 3 always", "twice"),
            ("deployment/web ready == 3 sometimes", "eventually"),
            ("deployment/web served > 99%", "service/web"),
            ("service/web served > 99", "99%"),
            ("nodes ready > 50%", "of what"),
            ("gadget/web ready == 3", "gadget"),
            ("the weather > 3", "docs/simulate.md"),
        ] {
            let refused = text.parse::<Expectation>().unwrap_err();
            assert!(refused.contains(hint), "{text}: {refused}");
        }
    }

    /// What is measured from each minute to the next.
    fn play(text: &str, measures: &[Option<f64>]) -> Verdict {
        let mut tracker = Tracker::new(parse(text));
        let measure = |value: &Option<f64>| value.map(|value| Measure { value, of: Some(4.0) });
        for (minute, value) in measures.iter().enumerate() {
            tracker.observe(minutes(minute as u64), minutes(minute as u64 + 1), measure(value));
        }
        tracker.finish(minutes(measures.len() as u64), measures.last().and_then(measure))
    }

    #[test]
    fn expectations_are_met_or_broken_over_time() {
        let (rise, dip) = ([None, Some(1.0), Some(4.0), Some(4.0)], [Some(4.0), Some(2.0), Some(4.0), Some(3.0)]);
        for (text, measures, met, seen) in [
            // It counts from when it first holds, unless a time is given.
            ("deployment/web available >= 80% always", rise, true, "at every moment"),
            ("deployment/web available >= 80% always from 1m", rise, false, "1 of 4 from 1m to 2m"),
            ("deployment/web available >= 80% always", dip, false, "2 of 4 from 1m to 2m and 1 more times"),
            ("deployment/web available >= 80% always from 2m to 3m", dip, true, "at every moment"),
            ("deployment/web available >= 5 always", dip, false, "never; 3 at the end"),
            ("deployment/web available == 4 eventually", rise, true, "at 2m"),
            ("deployment/web available == 4 within 1m", rise, false, "never; 4 at the end"),
            ("at 1m30s deployment/web available == 2", dip, true, "2 at 1m30s"),
            ("at 2m30s deployment/web available == 2", dip, false, "4 at 2m30s"),
            ("deployment/web available == 4", dip, false, "3 at the end"),
        ] {
            let verdict = play(text, &measures);
            assert_eq!((verdict.met, verdict.seen.as_str()), (met, seen), "{text}");
        }
    }
}
