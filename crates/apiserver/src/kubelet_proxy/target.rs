//! Where a connecting request goes: pure functions from objects to addresses and kubelet paths.

use std::net::IpAddr;

use coracle_api::{ApiError, ApiResult};
use http::Uri;
use serde_json::Value;

use crate::request_info::{flag, query};
use crate::webhook::resolve::port_name;

/// How to reach a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TLS, with our client certificate, to a server whose certificate the cluster's authority signed.
    Kubelet,
    /// TLS to whatever certificate there is: a pod's server is not ours to vouch for.
    Https,
    /// No TLS.
    Http,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How.
    pub transport: Transport,
    /// An address, or a name.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Path and query there.
    pub path: String,
}

impl Target {
    /// `host:port`, with brackets where the address has colons.
    pub fn authority(&self) -> String {
        match self.host.parse() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    /// The whole URL, for error messages.
    pub fn url(&self) -> String {
        let scheme = if self.transport == Transport::Http { "http" } else { "https" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn names<'a>(pod: &'a Value, field: &str) -> Vec<&'a str> {
    pod["spec"][field].as_array().into_iter().flatten().map(|c| text(c, "/name")).collect()
}

/// The container a request means: the one it names, the pod's default one, or the only one.
pub fn container(pod: &Value, asked: &str) -> ApiResult<String> {
    let pod_name = text(pod, "/metadata/name");
    let (containers, init) = (names(pod, "containers"), names(pod, "initContainers"));
    let known = |name: &str| {
        containers.contains(&name) || init.contains(&name) || names(pod, "ephemeralContainers").contains(&name)
    };
    let default = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    match (asked, default, containers.as_slice()) {
        ("", Some(name), _) if known(name) => Ok(name.to_owned()),
        ("", _, [only]) => Ok((*only).to_owned()),
        ("", _, several) => {
            let mut why = format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                several.join(" ")
            );
            if !init.is_empty() {
                why.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(ApiError::bad_request(why))
        }
        (name, ..) if known(name) => Ok(name.to_owned()),
        (name, ..) => Err(ApiError::bad_request(format!("container {name} is not valid for pod {pod_name}"))),
    }
}

/// The node a pod runs on.
pub fn host_of(pod: &Value) -> ApiResult<&str> {
    match text(pod, "/spec/nodeName") {
        "" => Err(ApiError::bad_request(format!("pod {} does not have a host assigned", text(pod, "/metadata/name")))),
        node => Ok(node),
    }
}

/// Where a node's kubelet listens.
pub fn kubelet(node: &Value) -> ApiResult<(String, u16)> {
    let addresses = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
    let address = ["InternalIP", "ExternalIP", "Hostname"]
        .iter()
        .find_map(|kind| addresses.iter().find(|address| address["type"] == **kind))
        .map(|address| text(address, "/address").to_owned())
        .ok_or_else(|| {
            ApiError::internal(format!(
                "no preferred addresses found for node {:?}; known addresses: {}",
                text(node, "/metadata/name"),
                node["status"]["addresses"]
            ))
        })?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    Ok((address, port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).unwrap_or(10250)))
}

/// Encodes what may not stand in a query as it is.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// Translates a query: pairs whose name is in `table`, under the name there. Booleans that are off are left
/// out, since the kubelet's flags are `1` or absent.
fn translated(uri: &Uri, table: &[(&str, &str, bool)]) -> String {
    let mut out = String::new();
    for (key, value) in query(uri) {
        let Some((_, name, is_flag)) = table.iter().find(|(from, ..)| *from == key) else { continue };
        if *is_flag && !flag(&value) {
            continue;
        }
        out.push(if out.is_empty() { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        encode(if *is_flag { "1" } else { &value }, &mut out);
    }
    out
}

/// Query parameters of `pods/exec` and `pods/attach`: name here, name at the kubelet, whether a flag.
const STREAMS: [(&str, &str, bool); 5] = [
    ("stdin", "input", true),
    ("stdout", "output", true),
    ("stderr", "error", true),
    ("tty", "tty", true),
    ("command", "command", false),
];
/// Those of `pods/log`. The kubelet reads `follow=true`, not `follow=1`.
const LOG: [(&str, &str, bool); 9] = [
    ("follow", "follow", false),
    ("previous", "previous", false),
    ("timestamps", "timestamps", false),
    ("sinceSeconds", "sinceSeconds", false),
    ("sinceTime", "sinceTime", false),
    ("tailLines", "tailLines", false),
    ("limitBytes", "limitBytes", false),
    ("stream", "stream", false),
    ("pretty", "pretty", false),
];
const PORTS: [(&str, &str, bool); 1] = [("ports", "port", false)];

/// The kubelet's path and query for a pod's subresource.
pub fn kubelet_path(subresource: &str, pod: &Value, uri: &Uri) -> ApiResult<String> {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    if subresource == "portforward" {
        return Ok(format!("/portForward/{namespace}/{name}{}", translated(uri, &PORTS)));
    }
    let asked = query(uri).find(|(key, _)| key == "container").map(|(_, value)| value.into_owned());
    let container = container(pod, &asked.unwrap_or_default())?;
    Ok(match subresource {
        "log" => format!("/containerLogs/{namespace}/{name}/{container}{}", translated(uri, &LOG)),
        _ => {
            let mut query = translated(uri, &STREAMS);
            // Without a word about streams: the output, as upstream defaults.
            if !["input=", "output=", "error="].iter().any(|stream| query.contains(stream)) {
                query.push_str(if query.is_empty() { "?output=1&error=1" } else { "&output=1&error=1" });
            }
            format!("/{subresource}/{namespace}/{name}/{container}{query}")
        }
    })
}

/// A proxied name taken apart: `[https:]name[:port]`.
pub fn scheme_name_port<'a>(text: &'a str, plural: &str) -> ApiResult<(bool, &'a str, &'a str)> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [name] => Ok((false, *name, "")),
        [name, port] => Ok((false, *name, *port)),
        [scheme @ ("http" | "https" | ""), name, port] => Ok((*scheme == "https", *name, *port)),
        _ => Err(ApiError::bad_request(format!("invalid {} request {text:?}", plural.trim_end_matches('s')))),
    }
}

fn number(port: &str, what: &str) -> ApiResult<u16> {
    port.parse().map_err(|_| ApiError::bad_request(format!("invalid port {port:?} in {what} proxy request")))
}

/// Where `pods/proxy` goes.
pub fn pod_proxy(pod: &Value, https: bool, port: &str, path: String) -> ApiResult<Target> {
    let host = text(pod, "/status/podIP").to_owned();
    if host.is_empty() {
        return Err(ApiError::bad_request("address not allowed"));
    }
    let first = || {
        let containers = pod["spec"]["containers"].as_array()?;
        containers.iter().find_map(|c| u16::try_from(c["ports"][0]["containerPort"].as_u64()?).ok())
    };
    let default = if https { 443 } else { 80 };
    let port = if port.is_empty() { first().unwrap_or(default) } else { number(port, "pod")? };
    let transport = if https { Transport::Https } else { Transport::Http };
    Ok(Target { transport, host, port, path })
}

/// The name of the port of a Service that a request means by name or number.
pub fn service_port(service: &Value, port: &str) -> ApiResult<String> {
    match port.parse::<u64>() {
        Ok(number) => port_name(service, number).map(str::to_owned),
        Err(_) => Ok(port.to_owned()),
    }
}

/// Where `services/proxy` goes: one of the port's ready endpoints. `pick` chooses below a bound.
pub fn service_proxy(
    service: &Value,
    mut endpoints: Vec<(String, u16)>,
    https: bool,
    path: String,
    pick: impl Fn(usize) -> usize,
) -> ApiResult<Target> {
    if endpoints.is_empty() {
        let name = text(service, "/metadata/name");
        return Err(ApiError::unavailable(format!("no endpoints available for service {name:?}")));
    }
    let (host, port) = endpoints.swap_remove(pick(endpoints.len()));
    let transport = if https { Transport::Https } else { Transport::Http };
    Ok(Target { transport, host, port, path })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(containers: &[&str], init: &[&str]) -> Value {
        let list = |names: &[&str]| names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>();
        json!({
            "metadata": { "name": "web", "namespace": "default" },
            "spec": { "containers": list(containers), "initContainers": list(init) },
        })
    }

    #[test]
    fn a_request_names_its_container_or_means_the_only_one() {
        let table = [
            (pod(&["a"], &[]), "", Ok("a")),
            (pod(&["a", "b"], &[]), "b", Ok("b")),
            (pod(&["a"], &["i"]), "i", Ok("i")),
            (pod(&["a"], &[]), "x", Err("container x is not valid for pod web")),
            (pod(&["a", "b"], &[]), "", Err("a container name must be specified for pod web, choose one of: [a b]")),
            (
                pod(&["a", "b"], &["i"]),
                "",
                Err(
                    "a container name must be specified for pod web, choose one of: [a b] or one of the init containers: [i]",
                ),
            ),
        ];
        for (pod, asked, expected) in table {
            let result = container(&pod, asked).map_err(|e| e.message);
            assert_eq!(result, expected.map(str::to_owned).map_err(str::to_owned));
        }
        let mut annotated = pod(&["a", "b"], &[]);
        annotated["metadata"]["annotations"] = json!({ "kubectl.kubernetes.io/default-container": "b" });
        assert_eq!(container(&annotated, "").unwrap(), "b");
    }

    #[test]
    fn parameters_become_the_kubelets() {
        let table = [
            (
                "exec",
                "?command=ls&command=-l&command=a%20b%26c&stdin=true&stdout=true&tty=false",
                "/exec/default/web/a?command=ls&command=-l&command=a%20b%26c&input=1&output=1",
            ),
            ("exec", "?command=ls", "/exec/default/web/a?command=ls&output=1&error=1"),
            ("attach", "?container=a&stdin=1&tty=true", "/attach/default/web/a?input=1&tty=1"),
            (
                "log",
                "?follow=true&tailLines=5&container=a&insecureSkipTLSVerifyBackend=true",
                "/containerLogs/default/web/a?follow=true&tailLines=5",
            ),
            ("portforward", "?ports=80", "/portForward/default/web?port=80"),
            ("portforward", "", "/portForward/default/web"),
        ];
        for (subresource, query, expected) in table {
            let uri = format!("/x{query}").parse().unwrap();
            assert_eq!(kubelet_path(subresource, &pod(&["a"], &[]), &uri).unwrap(), expected);
        }
    }

    #[test]
    fn a_kubelet_listens_at_its_nodes_internal_address() {
        let node = json!({ "metadata": { "name": "n" }, "status": {
            "addresses": [{ "type": "Hostname", "address": "n" }, { "type": "InternalIP", "address": "10.244.1.1" }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": 10251 } },
        } });
        assert_eq!(kubelet(&node).unwrap(), ("10.244.1.1".into(), 10251));
        assert!(
            kubelet(&json!({ "metadata": { "name": "n" } })).unwrap_err().message.contains("no preferred addresses")
        );
    }

    #[test]
    fn a_service_is_proxied_to_one_of_its_ready_endpoints() {
        let service = json!({ "metadata": { "name": "web" }, "spec": { "ports": [{ "name": "http", "port": 80 }] } });
        let slice = json!({
            "metadata": { "labels": { "kubernetes.io/service-name": "web" } },
            "ports": [{ "name": "http", "port": 8080 }],
            "endpoints": [
                { "addresses": ["10.244.1.2"], "conditions": { "ready": false } },
                { "addresses": ["10.244.1.3"], "conditions": { "ready": true } },
            ],
        });
        let go = |slices: &[Value], port: &str| {
            let port = service_port(&service, port).map_err(|e| e.message)?;
            let endpoints = crate::webhook::resolve::in_slices(slices, "web", &port);
            service_proxy(&service, endpoints, false, "/x".into(), |_| 0).map(|t| t.url()).map_err(|e| e.message)
        };
        assert_eq!(go(std::slice::from_ref(&slice), "80"), Ok("http://10.244.1.3:8080/x".into()));
        assert_eq!(go(&[slice], "http"), Ok("http://10.244.1.3:8080/x".into()));
        assert_eq!(go(&[], "http"), Err("no endpoints available for service \"web\"".into()));
        assert_eq!(go(&[], "81"), Err("no service port 81 found for service \"web\"".into()));
    }

    #[test]
    fn a_proxied_name_may_carry_scheme_and_port() {
        assert_eq!(scheme_name_port("web", "services").unwrap(), (false, "web", ""));
        assert_eq!(scheme_name_port("web:80", "services").unwrap(), (false, "web", "80"));
        assert_eq!(scheme_name_port("https:web:", "services").unwrap(), (true, "web", ""));
        let error = scheme_name_port("ftp:web:80", "services").unwrap_err();
        assert_eq!(error.message, "invalid service request \"ftp:web:80\"");
    }
}
