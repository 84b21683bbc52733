//! Reading what kubelets say of themselves: `/metrics/resource`, in the text format of Prometheus.

use std::time::Duration;

use futures::future::join_all;
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt};

use crate::usage::Batch;

/// How long a kubelet may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks all nodes' kubelets at once. One that does not answer is left out.
pub(crate) async fn all(client: &Client) -> Batch {
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = match nodes.list_metadata(&Default::default()).await {
        Ok(nodes) => nodes.items,
        Err(error) => {
            tracing::warn!(%error, "nodes cannot be listed");
            return Batch::default();
        }
    };
    let answers = join_all(nodes.iter().map(|node| async {
        let name = node.name_any();
        let asked = coracle_clock::timeout(PATIENCE, one(client, &name)).await;
        (name, asked.unwrap_or_else(|_| Err("no answer in time".into())))
    }));
    let mut batch = Batch::default();
    for (node, answer) in answers.await {
        match answer {
            Ok(text) => read(&mut batch, &node, &text),
            Err(why) => tracing::debug!(node, why, "a kubelet does not say what it uses"),
        }
    }
    batch
}

async fn one(client: &Client, node: &str) -> Result<String, String> {
    let request = Request::get(format!("/api/v1/nodes/{node}/proxy/metrics/resource"));
    let request = request.body(Vec::new()).map_err(|error| error.to_string())?;
    client.request_text(request).await.map_err(|error| error.to_string())
}

/// Adds what a node's kubelet says.
fn read(batch: &mut Batch, node: &str, text: &str) {
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((metric, labels, value, at)) = parse(line) else { continue };
        let point = match metric.split_once('_') {
            Some(("node", _)) => batch.nodes.entry(node.to_owned()).or_default(),
            Some(("container", _)) => {
                let label = |name| find(labels, name).unwrap_or_default().to_owned();
                let containers = batch.pods.entry((label("namespace"), label("pod"))).or_default();
                containers.entry(label("container")).or_default()
            }
            _ => continue,
        };
        match metric.split_once('_').unwrap_or_default().1 {
            "start_time_seconds" => point.started = Timestamp::from_millisecond((value * 1e3) as i64).ok(),
            "cpu_usage_seconds_total" => {
                point.cpu_nanos = (value * 1e9) as u64;
                point.at = at.and_then(|at| Timestamp::from_millisecond(at).ok()).unwrap_or_else(coracle_clock::now);
            }
            "memory_working_set_bytes" => point.memory_bytes = value as u64,
            _ => {}
        }
    }
    // Upstream takes what has no memory or no processor time for not measured yet.
    for containers in batch.pods.values_mut() {
        containers.retain(|_, point| point.memory_bytes > 0 && point.at != Timestamp::UNIX_EPOCH);
    }
    batch.pods.retain(|_, containers| !containers.is_empty());
}

/// `name{labels} value time`, the labels and the time (in milliseconds) optional.
fn parse(line: &str) -> Option<(&str, &str, f64, Option<i64>)> {
    let (metric, labels, rest) = match line.split_once('{') {
        Some((metric, rest)) => {
            let (labels, rest) = rest.rsplit_once('}')?;
            (metric, labels, rest)
        }
        None => line.split_once(' ').map(|(metric, rest)| (metric, "", rest))?,
    };
    let mut rest = rest.split_whitespace();
    Some((metric, labels, rest.next()?.parse().ok()?, rest.next().and_then(|at| at.parse().ok())))
}

/// The value of a label. Names of containers, pods and namespaces need no escaping.
fn find<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Point;

    #[test]
    fn what_a_kubelet_says_becomes_points() {
        let mut batch = Batch::default();
        read(
            &mut batch,
            "n1",
            "# TYPE node_cpu_usage_seconds_total counter\n\
             container_start_time_seconds{container=\"a\",namespace=\"ns\",pod=\"web\"} 1.5\n\
             container_cpu_usage_seconds_total{container=\"a\",namespace=\"ns\",pod=\"web\"} 2.5 9000\n\
             container_memory_working_set_bytes{container=\"a\",namespace=\"ns\",pod=\"web\"} 1024 9000\n\
             container_cpu_usage_seconds_total{container=\"b\",namespace=\"ns\",pod=\"half\"} 2.5 9000\n\
             node_cpu_usage_seconds_total 3 9000\nnode_memory_working_set_bytes 4096 9000\n\
             pod_memory_working_set_bytes{namespace=\"ns\",pod=\"web\"} 1024 9000\nnonsense\n",
        );
        let at = Timestamp::from_second(9).unwrap();
        let started = Timestamp::from_millisecond(1500).ok();
        let web = Point { at, started, cpu_nanos: 2_500_000_000, memory_bytes: 1024 };
        let expected = Batch {
            nodes: [("n1".to_owned(), Point { started: None, cpu_nanos: 3_000_000_000, memory_bytes: 4096, ..web })]
                .into(),
            pods: [(("ns".to_owned(), "web".to_owned()), [("a".to_owned(), web)].into())].into(),
        };
        assert_eq!(batch, expected);
    }
}
