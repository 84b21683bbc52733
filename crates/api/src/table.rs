//! What `kubectl get` prints: the cells of the server-side Table.

mod core;
mod drivers;
mod pod;
mod policy;
mod workload;

use jiff::Timestamp;
use serde_json::Value;

pub use core::*;
pub use drivers::*;
pub use pod::*;
pub use policy::*;
pub use workload::*;

use crate::validate::list;

/// A column: name, OpenAPI type, format, priority (1: with `-o wide` only).
pub type ColumnRow = (&'static str, &'static str, &'static str, i32);

const NAME: ColumnRow = ("Name", "string", "name", 0);
const AGE: ColumnRow = ("Age", "string", "", 0);

const fn text(name: &'static str) -> ColumnRow {
    (name, "string", "", 0)
}

const fn wide(name: &'static str) -> ColumnRow {
    (name, "string", "", 1)
}

const fn number(name: &'static str) -> ColumnRow {
    (name, "integer", "", 0)
}

const fn flag(name: &'static str) -> ColumnRow {
    (name, "boolean", "", 0)
}

/// Name and Age: the columns of a kind that has none of its own.
pub const GENERIC_COLUMNS: &[ColumnRow] = &[NAME, AGE];

/// The cells of a kind that has none of its own.
pub fn generic(object: &Value) -> Vec<Value> {
    vec![name(object), age(object)]
}

/// Name and creation time, for kinds that print the time itself.
pub const CREATED_AT_COLUMNS: &[ColumnRow] = &[NAME, ("Created At", "date", "", 0)];

/// The cells of [`CREATED_AT_COLUMNS`].
pub fn created_at(object: &Value) -> Vec<Value> {
    vec![name(object), object["metadata"]["creationTimestamp"].clone()]
}

/// The text at a path of keys; empty if there is none.
fn str_at<'a>(object: &'a Value, path: &str) -> &'a str {
    path.split('.').fold(object, |value, key| &value[key]).as_str().unwrap_or_default()
}

/// The number at a path of keys; 0 if there is none.
fn int_at(object: &Value, path: &str) -> i64 {
    path.split('.').fold(object, |value, key| &value[key]).as_i64().unwrap_or_default()
}

/// `text`, or `<none>` if it is empty.
fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

/// Texts joined by commas, or `<none>`.
fn joined<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
    or_none(&texts.into_iter().collect::<Vec<_>>().join(",")).into()
}

/// `a=b,c=d` of a map of labels, or `<none>`.
fn labels(map: &Value) -> Value {
    let texts: Vec<String> =
        map.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    joined(texts.iter().map(String::as_str))
}

/// A LabelSelector's text, or `<none>`.
fn selector(value: &Value) -> Value {
    let text = crate::selector::Selector::from_json(value).map(|s| s.to_string()).unwrap_or_default();
    or_none(&text).into()
}

/// The names and the images of a template's containers.
fn containers_and_images(pod_spec: &Value) -> (Value, Value) {
    let of = |key: &str| list(pod_spec, "containers").iter().map(|c| str_at(c, key)).collect::<Vec<_>>().join(",");
    (of("name").into(), of("image").into())
}

/// `translateTimestampSince` for a time that may be missing: then `<none>`.
fn since_or_none(time: &Value) -> String {
    if time.is_null() { "<none>".into() } else { since(time) }
}

/// `metadata.name`.
pub fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

/// The object's age, such as `3m12s`; `<unknown>` without a creation time.
pub fn age(object: &Value) -> Value {
    since(&object["metadata"]["creationTimestamp"]).into()
}

/// How long ago a `metav1.Time` was, as `kubectl` prints it; `<unknown>` when it is not one.
pub fn since(time: &Value) -> String {
    let Some(time) = time.as_str().and_then(|text| text.parse::<Timestamp>().ok()) else {
        return "<unknown>".into();
    };
    human_duration(coracle_clock::now().as_second() - time.as_second())
}

/// A duration in seconds with the precision people want: two units at most, the finer one dropped as it
/// grows (`119s`, `3m12s`, `45m`, `3h5m`, `12h`, `2d3h`, `9d`, `2y40d`, `9y`).
pub fn human_duration(seconds: i64) -> String {
    let (s, m, h, d) = (seconds, seconds / 60, seconds / 3600, seconds / 86_400);
    // A clock that is a little behind the server's must not print a negative age.
    let two = |major: i64, unit: char, minor: i64, sub: char| match minor {
        0 => format!("{major}{unit}"),
        _ => format!("{major}{unit}{minor}{sub}"),
    };
    match () {
        () if s < -1 => "<invalid>".into(),
        () if s < 0 => "0s".into(),
        () if s < 120 => format!("{s}s"),
        () if m < 10 => two(m, 'm', s % 60, 's'),
        () if m < 180 => format!("{m}m"),
        () if h < 8 => two(h, 'h', m % 60, 'm'),
        () if h < 48 => format!("{h}h"),
        () if h < 192 => two(d, 'd', h % 24, 'h'),
        () if d < 730 => format!("{d}d"),
        () if d < 2920 => two(d / 365, 'y', d % 365, 'd'),
        () => format!("{}y", d / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (192, "3m12s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (28_800, "8h"),
            (172_800, "2d"),
            (183_600, "2d3h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (66_528_000, "2y40d"),
            (252_288_000, "8y"),
            (-1, "0s"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }
}
