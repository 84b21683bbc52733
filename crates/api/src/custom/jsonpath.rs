//! JSONPath as printer columns use it: `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(i64, Option<i64>),
    All,
    /// Everything below, at any depth.
    Deep,
    /// Items for which the path leads to something, or to something that compares so.
    Filter(JsonPath, Option<(String, Value)>),
}

impl JsonPath {
    /// Reads a path; none if it is none.
    pub fn parse(text: &str) -> Option<JsonPath> {
        let mut steps = Vec::new();
        let mut rest = text.trim_start_matches(['$', '@']);
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("..") {
                steps.push(Step::Deep);
                rest = after;
                if !rest.starts_with('[') {
                    rest = take_name(rest, &mut steps)?;
                }
            } else if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after)?;
                steps.push(bracket(&after[..end])?);
                rest = &after[end + 1..];
            } else if let Some(after) = rest.strip_prefix('.') {
                rest = if after.is_empty() { after } else { take_name(after, &mut steps)? };
            } else {
                rest = take_name(rest, &mut steps)?;
            }
        }
        Some(JsonPath(steps))
    }

    /// All it leads to.
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        self.0.iter().fold(vec![root], |values, step| values.into_iter().flat_map(|value| step.apply(value)).collect())
    }
}

/// A name up to the next step; `*` stands for all, a backslash protects a point.
fn take_name<'a>(text: &'a str, steps: &mut Vec<Step>) -> Option<&'a str> {
    let (mut name, mut chars) = (String::new(), text.char_indices());
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.push(chars.next()?.1),
            '.' | '[' => {
                end = at;
                break;
            }
            c => name.push(c),
        }
    }
    match name.as_str() {
        "" => return None,
        "*" => steps.push(Step::All),
        _ => steps.push(Step::Field(name)),
    }
    Some(&text[end..])
}

/// Where the bracket that is open closes.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn unquote(text: &str) -> Option<&str> {
    ['\'', '"'].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
}

fn bracket(text: &str) -> Option<Step> {
    let text = text.trim();
    if let Some(name) = unquote(text) {
        return Some(Step::Field(name.to_owned()));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        for operator in ["==", "!=", ">=", "<=", ">", "<"] {
            if let Some((left, right)) = filter.split_once(operator) {
                let right = right.trim();
                let value = match unquote(right) {
                    Some(text) => text.into(),
                    None => serde_json::from_str(right).ok()?,
                };
                return Some(Step::Filter(JsonPath::parse(left.trim())?, Some((operator.to_owned(), value))));
            }
        }
        return Some(Step::Filter(JsonPath::parse(filter.trim())?, None));
    }
    if text == "*" {
        return Some(Step::All);
    }
    match text.split_once(':') {
        Some((from, to)) => {
            let number = |text: &str, default| if text.is_empty() { Some(default) } else { text.parse().ok() };
            Some(Step::Slice(number(from, 0)?, if to.is_empty() { None } else { Some(to.parse().ok()?) }))
        }
        None => text.parse().ok().map(Step::Index),
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        // Negative places count from the end.
        let place = |i: i64| {
            let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
            usize::try_from(if i < 0 { length + i } else { i.min(length) }).unwrap_or(0)
        };
        match self {
            Step::Field(name) => value.get(name).into_iter().collect(),
            Step::Index(i) if *i < 0 && i.unsigned_abs() > items.len() as u64 => Vec::new(),
            Step::Index(i) => items.get(place(*i)).into_iter().collect(),
            Step::Slice(from, to) => {
                let (from, to) = (place(*from), to.map_or(items.len(), place));
                items.get(from..to).unwrap_or_default().iter().collect()
            }
            Step::All => children(value),
            Step::Deep => {
                let mut found = vec![value];
                found.extend(children(value).into_iter().flat_map(|child| Step::Deep.apply(child)));
                found
            }
            Step::Filter(path, test) => children(value)
                .into_iter()
                .filter(|item| match (path.find(item).as_slice(), test) {
                    ([], _) => false,
                    (_, None) => true,
                    ([found, ..], Some((operator, wanted))) => compare(found, operator, wanted),
                })
                .collect(),
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn compare(found: &Value, operator: &str, wanted: &Value) -> bool {
    let order = match (found, wanted) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => found.as_f64().zip(wanted.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
    };
    match operator {
        "==" => found == wanted || order.is_some_and(|o| o.is_eq()),
        "!=" => found != wanted && !order.is_some_and(|o| o.is_eq()),
        ">" => order.is_some_and(|o| o.is_gt()),
        ">=" => order.is_some_and(|o| o.is_ge()),
        "<" => order.is_some_and(|o| o.is_lt()),
        _ => order.is_some_and(|o| o.is_le()),
    }
}

/// A value as Go prints it: `[a b]`, `map[k:v]`.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".into(),
        Value::Array(items) => format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", text(value))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_where_kubectl_would_go() {
        let object = json!({
            "metadata": { "labels": { "app.io/name": "x" } },
            "spec": { "list": [1, 2, 3], "a.b": "dotted", "map": { "k": "v" } },
            "status": { "conditions": [{ "type": "Ready", "status": "True", "n": 2 }, { "type": "Other", "n": 5 }] },
        });
        for (path, expected) in [
            (".spec.list", json!([[1, 2, 3]])),
            (".spec.list[0]", json!([1])),
            (".spec.list[-1]", json!([3])),
            (".spec.list[1:]", json!([2, 3])),
            (".spec.list[*]", json!([1, 2, 3])),
            (".spec['a.b']", json!(["dotted"])),
            (r".spec.a\.b", json!(["dotted"])),
            (r".metadata.labels.app\.io/name", json!(["x"])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (".status.conditions[?(@.n>3)].type", json!(["Other"])),
            (".status.conditions[?(@.status)].type", json!(["Ready"])),
            ("..type", json!(["Ready", "Other"])),
            (".no.such", json!([])),
        ] {
            let found: Vec<Value> = JsonPath::parse(path).unwrap().find(&object).into_iter().cloned().collect();
            assert_eq!(Value::from(found), expected, "{path}");
        }
        for wrong in [".a[", ".a[x]", ".a..", ".a[?(@.x==y)]"] {
            assert_eq!(JsonPath::parse(wrong), None, "{wrong}");
        }
        assert_eq!(text(&object["spec"]["map"]), "map[k:v]");
        assert_eq!(text(&object["spec"]["list"]), "[1 2 3]");
    }
}
