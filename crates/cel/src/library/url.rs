//! Kubernetes' URLs: absolute URIs and absolute paths.

use std::sync::Arc;

use super::strings::one;
use super::{GLOBAL, MEMBER, Outcome, Row};
use crate::cost::Cost;
use crate::eval::{Error, failed};
use crate::value::Value;

const ONE: Cost = Cost::Fixed(1);
/// Stands before a path that has no scheme and host, since the parser wants these.
const NOWHERE: &str = "path-only://";

pub(crate) const ROWS: &[Row] = &[
    ("url", GLOBAL, "string: kubernetes.URL", Cost::Text(1.0), |args| {
        let Some(text) = args[0].as_str() else { return Err(Error::NoOverload) };
        match parse(text) {
            Some(url) => Ok(Value::Url(Arc::new(url))),
            None => failed(format!(
                "URL parse error during conversion from string: parse {text:?}: invalid URI for request"
            )),
        }
    }),
    ("isURL", GLOBAL, "string: bool", Cost::Text(1.0), |args| one(args, |text| parse(text).is_some().into())),
    ("getScheme", MEMBER, "kubernetes.URL: string", ONE, |args| of(args, |url| known(url.scheme()).into())),
    ("getHost", MEMBER, "kubernetes.URL: string", ONE, |args| {
        of(args, |url| match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}").into(),
            (host, _) => host.unwrap_or_default().into(),
        })
    }),
    ("getHostname", MEMBER, "kubernetes.URL: string", ONE, |args| {
        of(args, |url| url.host_str().unwrap_or_default().trim_matches(['[', ']']).into())
    }),
    ("getPort", MEMBER, "kubernetes.URL: string", ONE, |args| {
        of(args, |url| url.port().map(|port| port.to_string()).unwrap_or_default().into())
    }),
    ("getEscapedPath", MEMBER, "kubernetes.URL: string", ONE, |args| of(args, |url| url.path().into())),
    ("getQuery", MEMBER, "kubernetes.URL: map(string,list(string))", ONE, |args| {
        of(args, |url| {
            let mut query = std::collections::BTreeMap::<String, Vec<Value>>::new();
            for (key, value) in url.query_pairs() {
                query.entry(key.into_owned()).or_default().push(value.as_ref().into());
            }
            query.into_iter().map(|(key, values)| (key, values.into())).collect()
        })
    }),
];

/// Whether a text is a URL.
pub(super) fn is_url(text: &str) -> bool {
    parse(text).is_some()
}

fn parse(text: &str) -> Option<url::Url> {
    if text.chars().any(|c| c.is_ascii_control() || c == ' ') {
        return None;
    }
    let parsed = if text.starts_with('/') { format!("{NOWHERE}{text}").parse() } else { text.parse::<url::Url>() };
    parsed.ok()
}

fn known(scheme: &str) -> &str {
    if NOWHERE.starts_with(scheme) && !scheme.is_empty() { "" } else { scheme }
}

fn of(args: &[Value], f: impl Fn(&url::Url) -> Value) -> Outcome {
    match args {
        [Value::Url(url)] => Ok(f(url)),
        _ => Err(Error::NoOverload),
    }
}
