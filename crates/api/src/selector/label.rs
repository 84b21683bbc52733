//! Label selectors, in their text form (`a=b,c in (d,e)`) and as `metav1.LabelSelector`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Map, Value};

use crate::meta::{check_label_value, check_qualified_name};

/// What a requirement asks of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// It has one of the values.
    In,
    /// It has none of the values, or is missing.
    NotIn,
    /// It is there.
    Exists,
    /// It is missing.
    DoesNotExist,
    /// It is there, a whole number, and greater than the value.
    GreaterThan,
    /// It is there, a whole number, and less than the value.
    LessThan,
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What is asked of it.
    pub operator: Operator,
    /// The values to compare with.
    pub values: BTreeSet<String>,
}

/// Anything that labels can be looked up in.
pub trait Labels {
    /// The label's value.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl<L: Labels> Labels for Option<L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref().and_then(|labels| labels.label(key))
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

/// A label selector: all requirements must hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    /// The requirements; none selects everything.
    pub requirements: Vec<Requirement>,
    /// Selects nothing at all, as an absent `LabelSelector` does.
    pub nothing: bool,
}

impl Selector {
    /// Selects everything.
    pub fn everything() -> Self {
        Selector { requirements: Vec::new(), nothing: false }
    }

    /// Selects nothing.
    pub fn nothing() -> Self {
        Selector { requirements: Vec::new(), nothing: true }
    }

    /// Parses the text form, as in `?labelSelector=` and `status.selector`.
    ///
    /// # Errors
    /// Upstream's message; the API server answers 400 with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let requirements = Parser::new(text).parse()?;
        Ok(Selector { requirements, nothing: false })
    }

    /// The selector of labels that must all be equal, as a Service's or ReplicationController's.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        let requirements = labels
            .iter()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: BTreeSet::from([value.clone()]),
            })
            .collect();
        Selector { requirements, nothing: false }
    }

    /// The selector of a typed `LabelSelector`; an empty one selects everything.
    ///
    /// # Errors
    /// If an operator is unknown or has the wrong number of values.
    pub fn from_label_selector(selector: &LabelSelector) -> Result<Self, String> {
        let mut this = Self::from_map(selector.match_labels.as_ref().unwrap_or(&BTreeMap::new()));
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.iter().flatten().cloned().collect();
            this.requirements.push(requirement(&expression.key, &expression.operator, values)?);
        }
        Ok(this)
    }

    /// The selector of a `LabelSelector` in JSON; `null` selects nothing.
    ///
    /// # Errors
    /// As [`Selector::from_label_selector`].
    pub fn from_json(selector: &Value) -> Result<Self, String> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut this = Self::everything();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let values = BTreeSet::from([text(value)]);
            this.requirements.push(Requirement { key: key.clone(), operator: Operator::In, values });
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let values = expression["values"].as_array().into_iter().flatten().map(text).collect();
            this.requirements.push(requirement(&text(&expression["key"]), &text(&expression["operator"]), values)?);
        }
        Ok(this)
    }

    /// Whether objects with these labels are selected.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
}

/// A requirement in the words of `LabelSelectorRequirement`.
fn requirement(key: &str, operator: &str, values: BTreeSet<String>) -> Result<Requirement, String> {
    let operator = match operator {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => return Err(format!("{other:?} is not a valid label selector operator")),
    };
    let needs_values = matches!(operator, Operator::In | Operator::NotIn);
    if needs_values && values.is_empty() {
        return Err("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".into());
    }
    if !needs_values && !values.is_empty() {
        return Err("values: Invalid value: values set must be empty for exists and does not exist".into());
    }
    Ok(Requirement { key: key.to_owned(), operator, values })
}

impl Requirement {
    /// Whether the labels fulfil it.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let value = labels.label(&self.key);
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
        let bound = number(self.values.first().map(String::as_str));
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => number(value).zip(bound).is_some_and(|(value, bound)| value > bound),
            Operator::LessThan => number(value).zip(bound).is_some_and(|(value, bound)| value < bound),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let key = &self.key;
        match self.operator {
            Operator::In if self.values.len() == 1 => write!(f, "{key}={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn if self.values.len() == 1 => write!(f, "{key}!={values}"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl fmt::Display for Selector {
    /// The text form, sorted by key, as in `Scale.status.selector`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<_> = self.requirements.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        let texts: Vec<_> = sorted.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

/// A recursive-descent parser over tokens: `(`, `)`, `,`, operators, and words.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Parser { rest: text }
    }

    /// The next token without taking it; empty at the end.
    fn peek(&self) -> &'a str {
        let rest = self.rest.trim_start();
        for operator in ["==", "!=", "=", "!", "(", ")", ",", ">", "<"] {
            if rest.starts_with(operator) {
                return &rest[..operator.len()];
            }
        }
        let end = rest.find(|c: char| "=!(),<> \t\r\n".contains(c)).unwrap_or(rest.len());
        &rest[..end]
    }

    fn next(&mut self) -> &'a str {
        let token = self.peek();
        let start = self.rest.trim_start();
        self.rest = &start[token.len()..];
        token
    }

    fn parse(mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        if self.peek().is_empty() {
            return Ok(requirements);
        }
        loop {
            requirements.push(self.requirement()?);
            match self.next() {
                "" => break,
                "," => match self.peek() {
                    token if is_word(token) || token == "!" => {}
                    token => return Err(format!("found '{token}', expected: identifier after ','")),
                },
                token => return Err(format!("found '{token}', expected: ',' or 'end of string'")),
            }
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(requirements)
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.peek() == "!" && !self.next().is_empty();
        let key = match self.next() {
            token if is_word(token) => token,
            token => return Err(format!("found '{token}', expected: identifier")),
        };
        check_key(key)?;
        let made = |operator, values| Ok(Requirement { key: key.to_owned(), operator, values });
        if negated {
            return made(Operator::DoesNotExist, BTreeSet::new());
        }
        if matches!(self.peek(), "" | ",") {
            return made(Operator::Exists, BTreeSet::new());
        }
        let (operator, set) = match self.next() {
            "=" | "==" => (Operator::In, false),
            "!=" => (Operator::NotIn, false),
            "in" => (Operator::In, true),
            "notin" => (Operator::NotIn, true),
            ">" => (Operator::GreaterThan, false),
            "<" => (Operator::LessThan, false),
            token => return Err(format!("found '{token}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values = if set { self.values()? } else { BTreeSet::from([self.exact_value()?]) };
        if matches!(operator, Operator::GreaterThan | Operator::LessThan) {
            let number = values.first().is_some_and(|value| value.parse::<i64>().is_ok());
            if !number {
                return Err("values[0]: Invalid value: for 'Gt', 'Lt' operators, the value must be an integer".into());
            }
        }
        for value in &values {
            check_value(key, value)?;
        }
        made(operator, values)
    }

    /// The value after `=`, which may be empty.
    fn exact_value(&mut self) -> Result<String, String> {
        match self.peek() {
            "" | "," => Ok(String::new()),
            token if is_word(token) => Ok(self.next().to_owned()),
            token => Err(format!("found '{token}', expected: identifier")),
        }
    }

    /// `(a, b, c)`, where an empty place is the empty value.
    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        match self.next() {
            "(" => {}
            token => return Err(format!("found '{token}' expected: '('")),
        }
        let mut values = BTreeSet::new();
        loop {
            match self.peek() {
                token if is_word(token) => {
                    values.insert(self.next().to_owned());
                }
                "," | ")" => {
                    values.insert(String::new());
                }
                token => return Err(format!("found '{token}', expected: ',', or identifier")),
            }
            match self.next() {
                "," => {}
                ")" => return Ok(values),
                token => return Err(format!("found '{token}', expected: ',' or ')'")),
            }
        }
    }
}

fn is_word(token: &str) -> bool {
    !token.is_empty() && !["=", "==", "!=", "!", "(", ")", ",", ">", "<"].contains(&token)
}

fn check_key(key: &str) -> Result<(), String> {
    match check_qualified_name(key).as_slice() {
        [] => Ok(()),
        problems => Err(format!("key: Invalid value: {key:?}: {}", problems.join("; "))),
    }
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    match check_label_value(value).as_slice() {
        [] => Ok(()),
        problems => Err(format!("values[0][{key}]: Invalid value: {value:?}: {}", problems.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split_terminator(',').filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }

    #[test]
    fn label_selectors_match_as_upstream() {
        for (selector, object, expected) in [
            ("", "a=b", true),
            ("a", "a=b", true),
            ("!a", "a=b", false),
            ("a=b", "a=b", true),
            ("a==b", "a=c", false),
            ("a!=b", "", true),
            ("a in (b, c)", "a=c", true),
            ("a notin (b)", "a=b", false),
            ("a notin (b)", "", true),
            ("a=", "a=", true),
            ("a=,b", "a=,b=1", true),
            ("x>5", "x=6", true),
            ("x<5", "x=6", false),
            ("x<5", "x=y", false),
            ("app.kubernetes.io/name=web,tier in (a,b),!c", "app.kubernetes.io/name=web,tier=a", true),
        ] {
            assert_eq!(Selector::parse(selector).unwrap().matches(&labels(object)), expected, "{selector} on {object}");
        }
    }

    #[test]
    fn nonsense_is_refused_in_upstreams_words() {
        for (selector, message) in [
            (",", "found ',', expected: identifier"),
            ("a=b,", "found '', expected: identifier after ','"),
            ("a in b", "found 'b' expected: '('"),
            ("a in (b", "found '', expected: ',' or ')'"),
            ("a b", "found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ] {
            assert_eq!(Selector::parse(selector).unwrap_err(), message, "{selector}");
        }
        assert!(Selector::parse("a=b!").is_err());
        assert!(Selector::parse("-a=b").unwrap_err().starts_with("key: Invalid value: \"-a\": name part must consist"));
    }

    #[test]
    fn objects_and_texts_say_the_same() {
        let object = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}]});
        let selector = Selector::from_json(&object).unwrap();
        assert_eq!(selector.to_string(), "a=b,c in (d,e)");
        assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        assert!(!Selector::from_json(&Value::Null).unwrap().matches(&labels("a=b")));
        assert!(Selector::from_json(&json!({})).unwrap().matches(&labels("a=b")));
    }

    proptest! {
        #[test]
        fn a_selector_reads_back_from_its_text(pairs in proptest::collection::btree_map("[a-z][a-z0-9]{0,5}", "[a-z0-9]{0,5}", 0..4)) {
            let selector = Selector::from_map(&pairs);
            prop_assert_eq!(&Selector::parse(&selector.to_string()).unwrap(), &selector);
            prop_assert!(selector.matches(&pairs));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,40}") {
            let _ = Selector::parse(&text);
            let _ = super::super::FieldSelector::parse(&text);
        }
    }
}
