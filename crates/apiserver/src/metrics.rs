//! `/metrics`: what the server counts, as Prometheus text. Names and labels are upstream's, where the meaning is the
//! same.
//!
//! Label values come from the table of served resources and from closed lists, never from a URL alone: nobody makes
//! the server remember what they ask for.

mod process;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use coracle_client::metrics::{self as client, Histogram, head, line};
use coracle_clock::Instant;
use http::Method;

use crate::request_info::RequestInfo;
use crate::storage::{ResourceTable, Storage};
use crate::version;

/// Upper bounds in seconds, as upstream's for requests.
const BOUNDS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];

/// Durations of operations on the store, by operation.
#[derive(Debug, Default)]
pub struct Operations(Mutex<BTreeMap<&'static str, Histogram>>);

impl Operations {
    /// Notes that an operation that began at `since` is done.
    pub fn observe(&self, operation: &'static str, since: Instant) {
        let took = coracle_clock::instant().duration_since(since);
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(operation)
            .or_insert_with(|| Histogram::new(&BOUNDS))
            .observe(took);
    }
}

/// The requests of one kind.
#[derive(Debug)]
struct Requests {
    codes: BTreeMap<u16, u64>,
    took: Histogram,
}

/// What the server counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// By their labels, as the text has them.
    requests: Mutex<BTreeMap<String, Requests>>,
    reading: Arc<AtomicI64>,
    writing: Arc<AtomicI64>,
    /// Watches, logs and other streams, by their labels.
    long_running: Mutex<BTreeMap<String, Arc<AtomicI64>>>,
}

/// Counts one thing that goes on, for as long as it lives.
#[derive(Debug)]
pub struct Ongoing(Arc<AtomicI64>);

impl Ongoing {
    fn new(gauge: &Arc<AtomicI64>) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Ongoing(gauge.clone())
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request while it is answered.
#[derive(Debug)]
pub struct Request {
    labels: String,
    long_running: bool,
    since: Instant,
    ongoing: Ongoing,
}

impl Metrics {
    /// A request begins.
    pub fn begin(&self, method: &Method, info: &RequestInfo, table: &ResourceTable) -> Request {
        let row = table.find(&info.group, &info.version, &info.resource);
        let subresource = row.and_then(|row| row.resource.subresource(&info.subresource));
        let (group, version, resource) = row.map_or(("", "", ""), |row| {
            (row.resource.group.as_str(), row.resource.version.as_str(), row.resource.plural.as_str())
        });
        let name = subresource.map_or("", |subresource| subresource.name.as_str());
        let connects = subresource.is_some_and(|subresource| subresource.kind.2.ends_with("Options"));
        let verb = if connects { "CONNECT" } else { verb(method, info) };
        let scope = match row {
            None => "",
            Some(_) if !info.name.is_empty() || verb == "POST" => "resource",
            Some(_) if !info.namespace.is_empty() => "namespace",
            Some(_) => "cluster",
        };
        let labels = format!(
            "component=\"apiserver\",group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",\
             subresource=\"{name}\",verb=\"{verb}\",version=\"{version}\""
        );
        let long_running = matches!(verb, "WATCH" | "CONNECT") || name == "log";
        let ongoing = if long_running {
            let mut all = self.long_running.lock().unwrap_or_else(PoisonError::into_inner);
            Ongoing::new(all.entry(labels.clone()).or_default())
        } else {
            Ongoing::new(if matches!(verb, "GET" | "LIST") { &self.reading } else { &self.writing })
        };
        Request { labels, long_running, since: coracle_clock::instant(), ongoing }
    }

    /// The request was answered with that code. What goes on, if it is a stream, goes on as long as what is returned.
    pub fn end(&self, request: Request, code: u16) -> Option<Ongoing> {
        let mut all = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = all
            .entry(request.labels)
            .or_insert_with(|| Requests { codes: BTreeMap::new(), took: Histogram::new(&BOUNDS) });
        *requests.codes.entry(code).or_default() += 1;
        if request.long_running {
            return Some(request.ongoing);
        }
        requests.took.observe(coracle_clock::instant().duration_since(request.since));
        None
    }

    /// All of it as text.
    pub fn render(&self, storage: &Storage) -> String {
        let mut out = String::new();
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let name = "apiserver_request_total";
        head(
            &mut out,
            name,
            "counter",
            "Counter of apiserver requests broken out for each verb, group, version, resource, scope, component, and \
             HTTP response code.",
        );
        for (labels, requests) in requests.iter() {
            for (code, count) in &requests.codes {
                line(&mut out, name, &format!("code=\"{code}\",{labels}"), count);
            }
        }
        let name = "apiserver_request_duration_seconds";
        head(
            &mut out,
            name,
            "histogram",
            "Response latency distribution in seconds for each verb, group, version, resource, subresource, scope and \
             component.",
        );
        for (labels, requests) in requests.iter().filter(|(_, requests)| requests.took.count() > 0) {
            requests.took.render(&mut out, name, labels);
        }
        drop(requests);
        let name = "apiserver_current_inflight_requests";
        head(
            &mut out,
            name,
            "gauge",
            "Maximal number of currently used inflight request limit of this apiserver per request kind in last \
             second.",
        );
        for (kind, gauge) in [("mutating", &self.writing), ("readOnly", &self.reading)] {
            line(&mut out, name, &format!("request_kind=\"{kind}\""), gauge.load(Ordering::Relaxed));
        }
        let name = "apiserver_longrunning_requests";
        head(
            &mut out,
            name,
            "gauge",
            "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope \
             and component. Not all requests are tracked this way.",
        );
        for (labels, gauge) in self.long_running.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            line(&mut out, name, labels, gauge.load(Ordering::Relaxed));
        }
        let name = "apiserver_storage_objects";
        head(&mut out, name, "gauge", "Number of stored objects at the time of last check split by kind.");
        for row in storage.table().rows().iter().filter(|row| row.resource.stored && row.stored_as.is_none()) {
            line(&mut out, name, &format!("resource=\"{}\"", row.resource.qualified()), row.cache.len());
        }
        let name = "etcd_request_duration_seconds";
        head(&mut out, name, "histogram", "Etcd request latency in seconds for each operation.");
        for (operation, took) in storage.operations().0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            took.render(&mut out, name, &format!("operation=\"{operation}\""));
        }
        out.push_str(&of_component());
        out
    }
}

/// What any component tells: what it is, and what its queues, clients and process count.
pub fn of_component() -> String {
    let mut out = String::new();
    let name = "kubernetes_build_info";
    head(
        &mut out,
        name,
        "gauge",
        "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, \
         build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
    );
    let version = version::document();
    let label = |(label, field): (&str, &str)| format!("{label}={}", version[field]);
    let labels = [
        ("build_date", "buildDate"),
        ("compiler", "compiler"),
        ("git_commit", "gitCommit"),
        ("git_tree_state", "gitTreeState"),
        ("git_version", "gitVersion"),
        ("go_version", "goVersion"),
        ("major", "major"),
        ("minor", "minor"),
        ("platform", "platform"),
    ];
    line(&mut out, name, &labels.map(label).join(","), 1);
    client::render(&mut out);
    process::render(&mut out);
    out
}

/// The verb as upstream's metrics have it.
fn verb(method: &Method, info: &RequestInfo) -> &'static str {
    match info.verb.as_str() {
        "get" | "head" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" => "POST",
        "update" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => match *method {
            Method::POST => "POST",
            Method::PUT => "PUT",
            _ => "other",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{in_simulation, storage};

    #[test]
    fn requests_are_counted_by_what_they_ask_and_not_by_what_they_make_up() {
        in_simulation(async || {
            let storage = storage().await;
            let metrics = Metrics::default();
            let count = |method: Method, path: &str, code| {
                let info = RequestInfo::parse(&method, &path.parse().unwrap());
                let request = metrics.begin(&method, &info, &storage.table());
                metrics.end(request, code)
            };
            count(Method::GET, "/api/v1/namespaces/default/pods", 200);
            count(Method::GET, "/api/v1/namespaces/default/pods", 200);
            count(Method::POST, "/apis/apps/v1/namespaces/default/deployments", 201);
            count(Method::GET, "/api/v1/namespaces/default/made-up/x/too", 404);
            let watch = count(Method::GET, "/api/v1/pods?watch=true", 200);
            let text = metrics.render(&storage);
            let pods = |scope: &str, verb: &str| {
                let group = r#"component="apiserver",group="",resource="pods""#;
                format!(r#"{group},scope="{scope}",subresource="",verb="{verb}",version="v1""#)
            };
            let labels = pods("namespace", "LIST");
            assert!(text.contains(&format!("apiserver_request_total{{code=\"200\",{labels}}} 2\n")), "{text}");
            assert!(text.contains(&format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"0.005\"}} 2\n")));
            assert!(
                text.contains(
                    "group=\"apps\",resource=\"deployments\",scope=\"resource\",subresource=\"\",verb=\"POST\""
                )
            );
            assert!(!text.contains("made-up"));
            let watching = format!("apiserver_longrunning_requests{{{}}}", pods("cluster", "WATCH"));
            assert!(text.contains(&format!("{watching} 1\n")));
            drop(watch);
            assert!(metrics.render(&storage).contains(&format!("{watching} 0\n")));
            assert!(text.contains("apiserver_current_inflight_requests{request_kind=\"readOnly\"} 0\n"));
            assert!(text.contains("apiserver_storage_objects{resource=\"deployments.apps\"} 0\n"));
            assert!(text.contains("git_version=\"v1.36."));
        });
    }

    #[test]
    fn the_text_is_prometheus_text() {
        in_simulation(async || {
            let storage = storage().await;
            storage.operations().observe("create", coracle_clock::instant());
            let text = Metrics::default().render(&storage);
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
                let family = name.split('{').next().unwrap();
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|s| family.strip_suffix(s)).unwrap_or(family);
                assert!(text.contains(&format!("# TYPE {base} ")), "{line}");
            }
        });
    }
}
