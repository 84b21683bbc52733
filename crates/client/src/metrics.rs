//! What clients and work queues count, as Prometheus text with upstream's names: `workqueue_…`, `rest_client_…`.
//!
//! Components that share a process share these numbers; whoever serves `/metrics` there [renders](render) them.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{HeaderValue, USER_AGENT};
use http::{Request, Response};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::Service;
use tower::layer::layer_fn;

/// Upper bounds for queues, in seconds; as Go comes to them, by multiplying.
const QUEUE_BOUNDS: [f64; 10] =
    [1e-8, 1e-7, 1e-6, 9.999999999999999e-6, 9.999999999999999e-5, 0.001, 0.01, 0.1, 1.0, 10.0];
/// Upper bounds for requests.
const REQUEST_BOUNDS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

/// How long things took.
#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// How many took at most as long as the bound, and longer than the one before.
    buckets: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    /// Nothing yet; `bounds` are in seconds.
    pub fn new(bounds: &'static [f64]) -> Self {
        Histogram { bounds, buckets: vec![0; bounds.len()], count: 0, sum: 0.0 }
    }

    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// One more.
    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = self.bounds.iter().position(|bound| seconds <= *bound);
        bucket.and_then(|bucket| self.buckets.get_mut(bucket)).into_iter().for_each(|count| *count += 1);
        self.count += 1;
        self.sum += seconds;
    }

    /// What another with the same bounds observed, too.
    fn merge(&mut self, other: &Histogram) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.count += other.count;
        self.sum += other.sum;
    }

    /// Writes it; `labels` are without braces and end with no comma.
    pub fn render(&self, out: &mut String, name: &str, labels: &str) {
        let mut total = 0;
        for (bound, count) in self.bounds.iter().zip(&self.buckets) {
            total += count;
            line(out, &format!("{name}_bucket"), &format!("{labels},le=\"{}\"", go_float(*bound)), total);
        }
        line(out, &format!("{name}_bucket"), &format!("{labels},le=\"+Inf\""), self.count);
        line(out, &format!("{name}_sum"), labels, self.sum);
        line(out, &format!("{name}_count"), labels, self.count);
    }
}

/// A number as Go prints it: `1e-08`, `0.001`.
fn go_float(number: f64) -> String {
    let plain = format!("{number:e}");
    match plain.split_once("e-") {
        Some((digits, exponent)) if number < 1e-4 => format!("{digits}e-{exponent:0>2}"),
        _ => number.to_string(),
    }
}

/// One line of the text.
pub fn line(out: &mut String, name: &str, labels: &str, value: impl Display) {
    // Writing to a string cannot fail.
    let _ = match labels {
        "" => writeln!(out, "{name} {value}"),
        labels => writeln!(out, "{name}{{{labels}}} {value}"),
    };
}

/// The two lines that open a metric.
pub fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// What a work queue counts.
#[derive(Clone, Debug)]
pub(crate) struct QueueStats {
    pub(crate) adds: u64,
    pub(crate) retries: u64,
    pub(crate) waited: Histogram,
    pub(crate) worked: Histogram,
    /// Filled in when asked: how many wait, how long all that is at work has been, and the longest of it.
    pub(crate) depth: usize,
    pub(crate) unfinished: f64,
    pub(crate) longest: f64,
}

impl Default for QueueStats {
    fn default() -> Self {
        let none = Histogram::new(&QUEUE_BOUNDS);
        QueueStats { adds: 0, retries: 0, waited: none.clone(), worked: none, depth: 0, unfinished: 0.0, longest: 0.0 }
    }
}

/// A queue that can be asked.
pub(crate) trait Counted: Send + Sync {
    fn stats(&self) -> QueueStats;
}

/// The queues somebody works on, by upstream's names.
static QUEUES: Mutex<Vec<(String, Weak<dyn Counted>)>> = Mutex::new(Vec::new());

/// Names that upstream's queues have and that do not follow from the controller's.
const QUEUE_NAMES: [(&str, &str); 16] = [
    ("bootstrap-signer-controller", "bootstrap_signer_queue"),
    ("certificatesigningrequest-approving-controller", "certificate"),
    ("certificatesigningrequest-signing-controller", "certificate"),
    ("clusterrole-aggregation-controller", "ClusterRoleAggregator"),
    ("garbage-collector-controller", "garbage_collector_attempt_to_delete"),
    ("node-controller", "node_lifecycle_controller"),
    ("persistentvolume-controller", "claims"),
    ("persistentvolume-protection-controller", "pvprotection"),
    ("persistentvolumeclaim-protection-controller", "pvcprotection"),
    ("replication-controller", "replicationmanager"),
    ("resourcequota-controller", "resourcequota_primary"),
    ("root-ca-certificate-publisher-controller", "root_ca_cert_publisher"),
    ("serviceaccount-token-controller", "serviceaccount_tokens_service"),
    ("taint-eviction-controller", "noexec_taint_pod"),
    ("ttl-after-finished-controller", "ttl_jobs_to_delete"),
    ("validatingadmissionpolicy-status-controller", "validatingadmissionpolicy-status"),
];

/// Counts a controller's queue for as long as it is there.
pub(crate) fn register(controller: &str, queue: Weak<dyn Counted>) {
    let known = QUEUE_NAMES.iter().find(|(name, _)| *name == controller);
    let plain = || controller.trim_end_matches("-controller").replace('-', "_");
    let name = known.map_or_else(plain, |(_, queue)| (*queue).to_owned());
    let mut queues = QUEUES.lock().unwrap_or_else(PoisonError::into_inner);
    queues.retain(|(_, queue)| queue.strong_count() > 0);
    queues.push((name, queue));
}

/// What a client's requests came to.
#[derive(Debug)]
struct Requests {
    /// By labels.
    counts: BTreeMap<String, u64>,
    took: BTreeMap<String, Histogram>,
}

static REQUESTS: Mutex<Requests> = Mutex::new(Requests { counts: BTreeMap::new(), took: BTreeMap::new() });

/// A client by a configuration that says who it is (`User-Agent`, which names field managers), and is counted.
pub fn client(mut config: Config, agent: &'static str) -> kube::Result<Client> {
    config.headers.push((USER_AGENT, HeaderValue::from_static(agent)));
    let host = config.cluster_url.authority().map_or_else(String::new, ToString::to_string);
    let meter = layer_fn(|service| Meter::new(service, &host));
    Ok(ClientBuilder::try_from(config)?.with_layer(&meter).build())
}

/// Counts the requests that go through a client's service.
#[derive(Clone, Debug)]
pub struct Meter<S> {
    service: S,
    host: Arc<str>,
}

impl<S> Meter<S> {
    /// Around a service that leads to that host.
    pub fn new(service: S, host: &str) -> Self {
        Meter { service, host: host.into() }
    }
}

impl<S, A, B> Service<Request<A>> for Meter<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (host, method) = (self.host.clone(), request.method().clone());
        let since = coracle_clock::instant();
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = answer.as_ref().map_or("<error>".to_owned(), |answer| answer.status().as_u16().to_string());
            let mut requests = REQUESTS.lock().unwrap_or_else(PoisonError::into_inner);
            *requests.counts.entry(format!("code=\"{code}\",host=\"{host}\",method=\"{method}\"")).or_default() += 1;
            let took = requests.took.entry(format!("host=\"{host}\",verb=\"{method}\""));
            let took = took.or_insert_with(|| Histogram::new(&REQUEST_BOUNDS));
            took.observe(coracle_clock::instant().duration_since(since));
            drop(requests);
            answer
        })
    }
}

/// Everything that is counted here, as text.
pub fn render(out: &mut String) {
    let name = "rest_client_request_duration_seconds";
    head(out, name, "histogram", "Request latency in seconds. Broken down by verb, and host.");
    let requests = REQUESTS.lock().unwrap_or_else(PoisonError::into_inner);
    for (labels, took) in &requests.took {
        took.render(out, name, labels);
    }
    let name = "rest_client_requests_total";
    head(out, name, "counter", "Number of HTTP requests, partitioned by status code, method, and host.");
    for (labels, count) in &requests.counts {
        line(out, name, labels, count);
    }
    drop(requests);
    let alive: Vec<(String, Arc<dyn Counted>)> = {
        let queues = QUEUES.lock().unwrap_or_else(PoisonError::into_inner);
        queues.iter().filter_map(|(name, queue)| Some((name.clone(), queue.upgrade()?))).collect()
    };
    let mut by_name: BTreeMap<String, QueueStats> = BTreeMap::new();
    for (name, queue) in alive {
        let (total, stats) = (by_name.entry(name).or_default(), queue.stats());
        total.adds += stats.adds;
        total.retries += stats.retries;
        total.depth += stats.depth;
        total.unfinished += stats.unfinished;
        total.longest = total.longest.max(stats.longest);
        total.waited.merge(&stats.waited);
        total.worked.merge(&stats.worked);
    }
    type Number = fn(&QueueStats) -> f64;
    let numbers: [(&str, &str, &str, Number); 5] = [
        ("adds_total", "counter", "Total number of adds handled by workqueue", |s| s.adds as f64),
        ("depth", "gauge", "Current depth of workqueue", |s| s.depth as f64),
        (
            "longest_running_processor_seconds",
            "gauge",
            "How many seconds has the longest running processor for workqueue been running.",
            |s| s.longest,
        ),
        ("retries_total", "counter", "Total number of retries handled by workqueue", |s| s.retries as f64),
        (
            "unfinished_work_seconds",
            "gauge",
            "How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large \
             values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which \
             this increases.",
            |s| s.unfinished,
        ),
    ];
    for (name, kind, help, of) in numbers {
        let name = format!("workqueue_{name}");
        head(out, &name, kind, help);
        for (queue, stats) in &by_name {
            line(out, &name, &format!("name=\"{queue}\""), of(stats));
        }
    }
    type Times = fn(&QueueStats) -> &Histogram;
    let times: [(&str, &str, Times); 2] = [
        ("queue", "How long in seconds an item stays in workqueue before being requested.", |s| &s.waited),
        ("work", "How long in seconds processing an item from workqueue takes.", |s| &s.worked),
    ];
    for (name, help, of) in times {
        let name = format!("workqueue_{name}_duration_seconds");
        head(out, &name, "histogram", help);
        for (queue, stats) in &by_name {
            of(stats).render(out, &name, &format!("name=\"{queue}\""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_printed_as_go_prints_them() {
        let shown = QUEUE_BOUNDS.map(go_float);
        let expected = "1e-08 1e-07 1e-06 9.999999999999999e-06 9.999999999999999e-05 0.001 0.01 0.1 1 10";
        assert_eq!(shown.join(" "), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_counts_its_requests_by_what_came_of_them() {
        let service = tower::service_fn(async |request: Request<()>| {
            coracle_clock::sleep(Duration::from_millis(50)).await;
            let code = if request.uri().path() == "/a" { 200 } else { 404 };
            Response::builder().status(code).body(())
        });
        let mut metered = Meter::new(service, "metered.test");
        for path in ["/a", "/b", "/a"] {
            let request = Request::get(path).body(()).unwrap();
            metered.call(request).await.unwrap();
        }
        let mut text = String::new();
        render(&mut text);
        for expected in [
            "rest_client_requests_total{code=\"200\",host=\"metered.test\",method=\"GET\"} 2\n",
            "rest_client_requests_total{code=\"404\",host=\"metered.test\",method=\"GET\"} 1\n",
            "rest_client_request_duration_seconds_bucket{host=\"metered.test\",verb=\"GET\",le=\"0.025\"} 0\n",
            "rest_client_request_duration_seconds_bucket{host=\"metered.test\",verb=\"GET\",le=\"0.1\"} 3\n",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
