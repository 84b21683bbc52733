//! Kubernetes' named formats: `format.dns1123Label().validate(name)`.

use coracle_api::names;

use super::strings::one;
use super::{GLOBAL, MEMBER, Outcome, Row, time};
use crate::cost::Cost;
use crate::eval::Error;
use crate::value::Value;

const ONE: Cost = Cost::Fixed(1);
const MADE: &str = ": kubernetes.NamedFormat";

pub(crate) const ROWS: &[Row] = &[
    ("format.named", GLOBAL, "string: optional(kubernetes.NamedFormat)", ONE, |args| {
        one(args, |name| match FORMATS.iter().find(|(known, _)| *known == name) {
            Some((name, _)) => Value::Format(name).some(),
            None => Value::NONE,
        })
    }),
    ("validate", MEMBER, "kubernetes.NamedFormat string: optional(list(string))", Cost::Prefix, validate),
    ("format.dns1123Label", GLOBAL, MADE, ONE, |_| Ok(Value::Format("dns1123Label"))),
    ("format.dns1123Subdomain", GLOBAL, MADE, ONE, |_| Ok(Value::Format("dns1123Subdomain"))),
    ("format.dns1035Label", GLOBAL, MADE, ONE, |_| Ok(Value::Format("dns1035Label"))),
    ("format.qualifiedName", GLOBAL, MADE, ONE, |_| Ok(Value::Format("qualifiedName"))),
    ("format.dns1123LabelPrefix", GLOBAL, MADE, ONE, |_| Ok(Value::Format("dns1123LabelPrefix"))),
    ("format.dns1123SubdomainPrefix", GLOBAL, MADE, ONE, |_| Ok(Value::Format("dns1123SubdomainPrefix"))),
    ("format.dns1035LabelPrefix", GLOBAL, MADE, ONE, |_| Ok(Value::Format("dns1035LabelPrefix"))),
    ("format.labelValue", GLOBAL, MADE, ONE, |_| Ok(Value::Format("labelValue"))),
    ("format.uri", GLOBAL, MADE, ONE, |_| Ok(Value::Format("uri"))),
    ("format.uuid", GLOBAL, MADE, ONE, |_| Ok(Value::Format("uuid"))),
    ("format.byte", GLOBAL, MADE, ONE, |_| Ok(Value::Format("byte"))),
    ("format.date", GLOBAL, MADE, ONE, |_| Ok(Value::Format("date"))),
    ("format.datetime", GLOBAL, MADE, ONE, |_| Ok(Value::Format("datetime"))),
];

/// A format's name, and what is wrong with a text.
type Format = (&'static str, fn(&str) -> Vec<String>);

const FORMATS: [Format; 13] = [
    ("dns1123Label", names::check_dns_label),
    ("dns1123Subdomain", names::check_dns_subdomain),
    ("dns1035Label", names::check_dns1035_label),
    ("qualifiedName", names::check_qualified_name),
    ("dns1123LabelPrefix", |text| names::check_dns_label(&prefix(text))),
    ("dns1123SubdomainPrefix", |text| names::check_dns_subdomain(&prefix(text))),
    ("dns1035LabelPrefix", |text| names::check_dns1035_label(&prefix(text))),
    ("labelValue", names::check_label_value),
    ("uri", |text| problem(super::url::is_url(text), "invalid URI")),
    ("uuid", |text| problem(is_uuid(text), "does not match the UUID format")),
    ("byte", |text| problem(is_base64(text), "invalid base64")),
    ("date", |text| problem(text.len() == 10 && time::parse_timestamp(text).is_some(), "invalid date")),
    ("datetime", |text| problem(text.len() > 10 && time::parse_timestamp(text).is_some(), "invalid datetime")),
];

/// A name that will get a suffix may end in a dash.
fn prefix(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) => format!("{rest}a"),
        None => text.to_owned(),
    }
}

fn problem(good: bool, message: &str) -> Vec<String> {
    if good { vec![] } else { vec![message.to_owned()] }
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let hex = |group: &str| group.bytes().all(|b| b.is_ascii_hexdigit());
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.into_iter().all(hex)
}

fn is_base64(text: &str) -> bool {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

fn validate(args: &[Value]) -> Outcome {
    let [Value::Format(name), Value::String(text)] = args else { return Err(Error::NoOverload) };
    let (_, check) = FORMATS.iter().find(|(known, _)| known == name).ok_or(Error::NoOverload)?;
    let problems = check(text);
    if problems.is_empty() {
        return Ok(Value::NONE);
    }
    Ok(Value::from(problems.into_iter().map(Value::from).collect::<Vec<_>>()).some())
}
