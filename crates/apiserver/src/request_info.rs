//! What a request is about, read from its method and URL alone (upstream's `RequestInfo`).
//!
//! ```text
//! GET  /api/v1/namespaces/default/pods           list   pods in default
//! GET  /api/v1/namespaces/default/pods/web-0/log get    pods/log web-0 in default
//! POST /apis/apps/v1/namespaces/x/deployments    create deployments.apps in x
//! GET  /api/v1/namespaces/x                      get    namespaces x (the namespace is x, too)
//! GET  /healthz                                  get    a path, no resource
//! ```

use std::borrow::Cow;

use http::{Method, Uri};

/// What a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; the method in lower case
    /// for paths that are no resource.
    pub verb: String,
    /// Whether the path names a resource.
    pub is_resource: bool,
    /// The API group; empty for core.
    pub group: String,
    /// The version, such as `v1`.
    pub version: String,
    /// The plural resource name.
    pub resource: String,
    /// The subresource, or empty.
    pub subresource: String,
    /// What follows the subresource, as for `proxy/…`; with its leading slash, or empty.
    pub rest: String,
    /// The namespace, or empty for all of them and for cluster-wide resources.
    pub namespace: String,
    /// The object's name, or empty.
    pub name: String,
    /// The path.
    pub path: String,
    /// The one object that a list, watch or deletion of a collection is narrowed to by the field selector
    /// `metadata.name=…`: whoever may see just that object may ask so. Otherwise empty.
    pub selected_name: String,
    /// The fields and values that the field selector demands.
    pub selected_fields: Vec<(String, String)>,
}

/// Subresources of a namespace; every other segment after its name is a resource in it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads method and URL.
    pub fn parse(method: &Method, uri: &Uri) -> Self {
        let path = uri.path().to_owned();
        let mut info = RequestInfo { verb: method.as_str().to_ascii_lowercase(), path, ..RequestInfo::default() };
        // Decoded first and split then, as Go does: an encoded slash is a slash, never part of a name.
        let decoded = percent_decode(&info.path, false).into_owned();
        let segments: Vec<&str> = decoded.split('/').filter(|segment| !segment.is_empty()).collect();
        let rest = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = (*group).to_owned();
                info.version = (*version).to_owned();
                rest
            }
            _ => return info,
        };
        info.is_resource = true;
        // The deprecated `/api/v1/watch/...` paths.
        let (watch_path, rest) = match rest {
            ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
            rest => (false, rest),
        };
        let rest = match rest {
            ["namespaces", namespace, inner @ ..] => {
                info.namespace = (*namespace).to_owned();
                match inner {
                    [] => rest,
                    [first, ..] if NAMESPACE_SUBRESOURCES.contains(first) => rest,
                    inner => inner,
                }
            }
            rest => rest,
        };
        let mut parts = rest.iter().copied();
        info.resource = parts.next().unwrap_or_default().to_owned();
        info.name = parts.next().unwrap_or_default().to_owned();
        info.subresource = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            info.rest.push('/');
            info.rest.push_str(part);
        }
        let watching = || query_param(uri, "watch").is_some_and(|value| flag(&value));
        info.verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if info.name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            Method::GET | Method::HEAD if watch_path => "watch",
            Method::GET | Method::HEAD if info.name.is_empty() && watching() => "watch",
            Method::GET | Method::HEAD if info.name.is_empty() => "list",
            Method::GET | Method::HEAD => "get",
            _ => return info,
        }
        .to_owned();
        if info.name.is_empty() && info.verb != "create" {
            info.selected_fields = selected_fields(&query_param(uri, "fieldSelector").unwrap_or_default());
            let name = info.selected_fields.iter().find(|(field, _)| field == "metadata.name");
            info.selected_name = name.map(|(_, name)| name.clone()).unwrap_or_default();
        }
        info
    }
}

/// The fields and values that a field selector demands: its terms with `=` or `==`.
pub fn selected_fields(selector: &str) -> Vec<(String, String)> {
    let terms = selector.split(',').filter_map(|term| {
        let (field, value) = term.trim().split_once('=')?;
        let demanded = !field.ends_with('!');
        demanded.then(|| (field.to_owned(), value.strip_prefix('=').unwrap_or(value).to_owned()))
    });
    terms.collect()
}

/// The pairs of the URL's query, decoded, in order.
pub fn query(uri: &Uri) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (percent_decode(key, true), percent_decode(value, true))
    })
}

/// A flag's value. Anything but `false` and `0` is yes, a bare name too, as Go's conversion has it: the Python client
/// says `True`.
pub(crate) fn flag(value: &str) -> bool {
    !value.eq_ignore_ascii_case("false") && value != "0"
}

/// The first value of a query parameter.
pub fn query_param<'a>(uri: &'a Uri, name: &str) -> Option<Cow<'a, str>> {
    query(uri).find(|(key, _)| key == name).map(|(_, value)| value)
}

/// Undoes percent-encoding; in queries `+` is a space. What is no UTF-8 becomes U+FFFD.
pub(crate) fn percent_decode(text: &str, plus_is_space: bool) -> Cow<'_, str> {
    if !text.bytes().any(|b| b == b'%' || (b == b'+' && plus_is_space)) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match (bytes[i], hex(bytes.get(i + 1)), hex(bytes.get(i + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                i += 3;
            }
            (b'+', _, _) if plus_is_space => {
                out.push(b' ');
                i += 1;
            }
            (byte, _, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_what_a_request_is_about() {
        // method, URL, verb, group/version, resource/subresource, namespace, name
        let cases = [
            ("GET", "/api/v1/pods?limit=5", "list", "/v1", "pods/", "", ""),
            ("GET", "/api/v1/namespaces/d/pods?watch=true", "watch", "/v1", "pods/", "d", ""),
            ("GET", "/api/v1/namespaces/d/pods?watch=True", "watch", "/v1", "pods/", "d", ""),
            ("GET", "/api/v1/namespaces/d/pods?watch=0", "list", "/v1", "pods/", "d", ""),
            ("GET", "/api/v1/watch/namespaces/d/pods", "watch", "/v1", "pods/", "d", ""),
            ("GET", "/api/v1/namespaces/d/pods/p/log", "get", "/v1", "pods/log", "d", "p"),
            ("POST", "/apis/apps/v1/namespaces/d/deployments", "create", "apps/v1", "deployments/", "d", ""),
            ("GET", "/api/v1/namespaces/d", "get", "/v1", "namespaces/", "d", "d"),
            ("PUT", "/api/v1/namespaces/d/finalize", "update", "/v1", "namespaces/finalize", "d", "d"),
            ("DELETE", "/api/v1/namespaces/d/pods", "deletecollection", "/v1", "pods/", "d", ""),
            ("DELETE", "/api/v1/nodes/n%2Dx", "delete", "/v1", "nodes/", "", "n-x"),
            ("GET", "/api/v1/namespaces/d/pods/..%2Fp", "get", "/v1", "pods/p", "d", ".."),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/d/deployments/x/scale",
                "patch",
                "apps/v1",
                "deployments/scale",
                "d",
                "x",
            ),
        ];
        for (method, url, verb, gv, resource, namespace, name) in cases {
            let info = RequestInfo::parse(&method.parse().unwrap(), &url.parse().unwrap());
            assert!(info.is_resource, "{url}");
            assert_eq!(
                (
                    info.verb.as_str(),
                    format!("{}/{}", info.group, info.version).as_str(),
                    format!("{}/{}", info.resource, info.subresource).as_str(),
                    info.namespace.as_str(),
                    info.name.as_str()
                ),
                (verb, gv, resource, namespace, name),
                "{method} {url}"
            );
        }
        for path in ["/healthz", "/api", "/api/v1", "/apis/apps/v1", "/openapi/v3/apis/apps/v1"] {
            let info = RequestInfo::parse(&Method::GET, &path.parse().unwrap());
            assert!(!info.is_resource && info.verb == "get", "{path}");
        }
    }

    #[test]
    fn a_list_of_one_object_by_name_says_so() {
        let name = |url: &str| RequestInfo::parse(&Method::GET, &url.parse().unwrap()).selected_name;
        assert_eq!(name("/api/v1/namespaces/d/secrets?watch=1&fieldSelector=metadata.name%3Done"), "one");
        assert_eq!(name("/api/v1/secrets?fieldSelector=type!=x,metadata.name==one"), "one");
        assert_eq!(name("/api/v1/secrets?fieldSelector=metadata.name!=one"), "");
        assert_eq!(name("/api/v1/namespaces/d/secrets/two?fieldSelector=metadata.name=one"), "");
    }

    #[test]
    fn query_values_are_decoded() {
        let uri: Uri = "/x?labelSelector=app%3Dx,y+in+(a)&watch".parse().unwrap();
        assert_eq!(query_param(&uri, "labelSelector").unwrap(), "app=x,y in (a)");
        assert_eq!(query_param(&uri, "watch").unwrap(), "");
    }
}
