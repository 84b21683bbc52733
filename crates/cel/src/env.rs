//! What an expression is compiled in: the variables it may use. The functions are always Kubernetes'.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::check::{Checked, Checker};
use crate::cost::{self, Range};
use crate::eval::{Error, Meter, Variables};
use crate::types::{Decl, Type};
use crate::value::Value;

/// The longest expression, in characters.
const MAX_EXPRESSION: usize = 100_000;

/// The variables of an expression, and whether it may make objects.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: BTreeMap<String, (Type, Option<Arc<Decl>>)>,
    /// Whether `Object{…}` and `JSONPatch{…}` are known.
    pub mutates: bool,
}

impl Env {
    /// Declares a variable. A name may have dots (`variables.replicas`).
    pub fn with(mut self, name: &str, decl: Arc<Decl>) -> Env {
        self.variables.insert(name.to_owned(), (decl.ty(), Some(decl)));
        self
    }

    /// Declares a variable that is a computed value or no data.
    pub fn with_type(mut self, name: &str, ty: Type) -> Env {
        self.variables.insert(name.to_owned(), (ty, None));
        self
    }

    pub(crate) fn variable(&self, name: &str) -> Option<(Type, Option<Arc<Decl>>)> {
        self.variables.get(name).cloned()
    }

    /// Whether some variable's name begins with `name` and a dot.
    pub(crate) fn is_namespace(&self, name: &str) -> bool {
        self.variables.keys().any(|known| known.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    }

    /// Parses and checks an expression.
    ///
    /// # Errors
    /// With every place that is wrong.
    pub fn compile(&self, expression: &str) -> Result<Program, CompileError> {
        if expression.chars().count() > MAX_EXPRESSION {
            let message =
                format!("expression code point size exceeds limit: size: {}, limit {MAX_EXPRESSION}", expression.len());
            return Err(CompileError { issues: vec![Issue { line: 1, column: 1, message, snippet: String::new() }] });
        }
        let parser = cel::Env::default().parser().enable_ident_escape_syntax(true);
        let (expr, info) = match parser.parse_with_source_info(expression) {
            Ok(parsed) => parsed,
            Err(errors) => {
                let issue = |error: cel::ParseError| {
                    let (line, column) = (error.pos.0.max(1) as usize, error.pos.1.max(1) as usize);
                    Issue::at(expression, line, column, error.msg)
                };
                return Err(CompileError { issues: errors.errors.into_iter().map(issue).collect() });
            }
        };
        match Checker::check(self, &expr, &info) {
            Ok(checked) => Ok(Program { checked, source: expression.to_owned() }),
            Err(issues) => {
                let issue = |(offset, message): (u32, String)| {
                    let before: Vec<char> = expression.chars().take(offset as usize).collect();
                    let line = before.iter().filter(|c| **c == '\n').count() + 1;
                    let column = before.iter().rev().take_while(|c| **c != '\n').count() + 1;
                    Issue::at(expression, line, column, message)
                };
                Err(CompileError { issues: issues.into_iter().map(issue).collect() })
            }
        }
    }
}

/// One thing that is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    snippet: String,
}

impl Issue {
    fn at(source: &str, line: usize, column: usize, message: String) -> Issue {
        let snippet = source.split('\n').nth(line - 1).unwrap_or_default().to_owned();
        Issue { line, column, message, snippet }
    }
}

/// Why an expression does not compile, with each place marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// What is wrong, in the order of the text.
    pub issues: Vec<Issue>,
}

impl std::error::Error for CompileError {}

impl CompileError {
    /// `ERROR: <input>:1:6: …` and the marked line, for each issue.
    pub fn marked(&self) -> String {
        let marked = |issue: &Issue| {
            let Issue { line, column, message, snippet } = issue;
            let dots = ".".repeat(column.saturating_sub(1));
            format!("ERROR: <input>:{line}:{column}: {message}\n | {snippet}\n | {dots}^")
        };
        self.issues.iter().map(marked).collect::<Vec<_>>().join("\n")
    }
}

/// `compilation failed: ERROR: …`, as upstream prints it.
impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "compilation failed: {}", self.marked())
    }
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    checked: Checked,
    source: String,
}

impl Program {
    /// The expression's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The type of its value.
    pub fn output(&self) -> &Type {
        &self.checked.root.ty
    }

    /// Whether it uses the variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.checked.variables.iter().any(|known| known == variable)
    }

    /// What it may cost, by its variables' declared bounds.
    pub fn estimate(&self) -> Range {
        cost::estimate(&self.checked.root)
    }

    /// Evaluates it. The meter's limit stops what costs too much.
    ///
    /// # Errors
    /// If it fails, worded as upstream words it, or costs too much.
    pub fn evaluate(&self, variables: &dyn Variables, meter: &Meter) -> Result<Value, Error> {
        crate::eval::evaluate(&self.checked, variables, meter)
    }
}
