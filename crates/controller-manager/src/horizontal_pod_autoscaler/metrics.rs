//! Where metrics come from: `metrics.k8s.io`, `custom.metrics.k8s.io`, `external.metrics.k8s.io`, whoever serves them.

use std::time::Duration;

use coracle_api::quantity::Quantity;
use http::Request;
use jiff::Timestamp;
use kube::Client;
use serde_json::Value;
use url::form_urlencoded::Serializer;

use super::replicas::{Sample, Samples};
use crate::Error;

/// The window of a custom metric that does not tell its own.
const DEFAULT_WINDOW: Duration = Duration::from_secs(60);
const CUSTOM: &str = "custom.metrics.k8s.io";

fn url(path: &str, query: &[(&str, &str)]) -> String {
    let given = query.iter().filter(|(_, value)| !value.is_empty());
    format!("{path}?{}", Serializer::new(String::new()).extend_pairs(given).finish())
}

async fn get(client: &Client, path: &str, query: &[(&str, &str)], what: &str) -> Result<Value, String> {
    let request = Request::get(url(path, query)).body(Vec::new()).map_err(|error| error.to_string())?;
    client.request(request).await.map_err(|error| match &error {
        // As client-go says it of a server that does not know the group.
        kube::Error::Api(status)
            if status.code == 404 && status.details.as_ref().is_none_or(|details| details.name.is_empty()) =>
        {
            format!("the server could not find the requested resource ({what})")
        }
        kube::Error::Api(status) if status.code == 503 => {
            format!("the server is currently unable to handle the request ({what})")
        }
        _ => Error::from(error).to_string(),
    })
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn millis(value: &Value) -> Option<i64> {
    Quantity::from_json(value).ok().map(Quantity::to_millis)
}

fn at(value: &Value) -> Timestamp {
    value["timestamp"].as_str().and_then(|at| at.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// What pods, or one container of each, use of a resource.
pub(super) async fn resource(
    client: &Client,
    namespace: &str,
    selector: &str,
    resource: &str,
    container: Option<&str>,
) -> Result<Samples, String> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
    let list = get(client, &path, &[("labelSelector", selector)], "get pods.metrics.k8s.io").await;
    let list = list.map_err(|error| format!("unable to fetch metrics from resource metrics API: {error}"))?;
    if items(&list).next().is_none() {
        return Err("no metrics returned from resource metrics API".into());
    }
    of_pods(&list, resource, container)
}

fn of_pods(list: &Value, resource: &str, container: Option<&str>) -> Result<Samples, String> {
    let mut samples = Samples::new();
    for pod in items(list) {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
        let mut containers = pod["containers"].as_array().into_iter().flatten().peekable();
        let value = match container {
            Some(name) => {
                let found = containers.find(|container| container["name"] == name).ok_or_else(|| {
                    let pod = format!("{}/{}", text("namespace"), text("name"));
                    format!("failed to get container metrics: container {name} not present in metrics for pod {pod}")
                })?;
                millis(&found["usage"][resource])
            }
            None if containers.peek().is_none() => None,
            None => containers.map(|container| millis(&container["usage"][resource])).sum(),
        };
        if let Some(value) = value {
            let window = pod["window"].as_str().and_then(go_duration).unwrap_or_default();
            samples.insert(text("name").to_owned(), Sample { at: at(pod), window, value });
        }
    }
    Ok(samples)
}

/// The preferred version of the custom metrics API that is served.
async fn custom_version(client: &Client) -> Result<String, String> {
    let group = get(client, &format!("/apis/{CUSTOM}"), &[], CUSTOM).await;
    let group = group.map_err(|_| format!("no custom metrics API ({CUSTOM}) registered"))?;
    let versions = group["versions"].as_array().into_iter().flatten().filter_map(|version| version["version"].as_str());
    let version = versions.into_iter().find(|version| ["v1beta2", "v1beta1"].contains(version));
    version.map(str::to_owned).ok_or_else(|| format!("no custom metrics API ({CUSTOM}) registered"))
}

async fn custom(client: &Client, within: &str, metric: &str, selectors: [&str; 2]) -> Result<Value, String> {
    let version = custom_version(client).await?;
    let path = format!("/apis/{CUSTOM}/{version}/{within}/{metric}");
    let query = [("labelSelector", selectors[0]), ("metricLabelSelector", selectors[1])];
    let list = get(client, &path, &query, &format!("get {metric}.{CUSTOM}")).await?;
    if items(&list).next().is_none() { Err("no metrics returned from custom metrics API".into()) } else { Ok(list) }
}

/// A metric of each pod.
pub(super) async fn pods(
    client: &Client,
    namespace: &str,
    selector: &str,
    metric: &str,
    metric_selector: &str,
) -> Result<Samples, String> {
    let list = custom(client, &format!("namespaces/{namespace}/pods/*"), metric, [selector, metric_selector]).await;
    let list = list.map_err(|error| format!("unable to fetch metrics from custom metrics API: {error}"))?;
    let sample = |item: &Value| {
        let seconds = item["windowSeconds"].as_u64().or(item["window"].as_u64());
        let window = seconds.map_or(DEFAULT_WINDOW, Duration::from_secs);
        let name = item["describedObject"]["name"].as_str()?.to_owned();
        Some((name, Sample { at: at(item), window, value: millis(&item["value"])? }))
    };
    Ok(items(&list).filter_map(sample).collect())
}

/// A metric of one object, which `within` names: `namespaces/ns/services/web`, `namespaces/ns/metrics`.
pub(super) async fn object(client: &Client, within: &str, metric: &str, metric_selector: &str) -> Result<i64, String> {
    let list = custom(client, within, metric, ["", metric_selector]).await;
    let list = list.map_err(|error| format!("unable to fetch metrics from custom metrics API: {error}"))?;
    Ok(items(&list).find_map(|item| millis(&item["value"])).unwrap_or_default())
}

/// The sum of a metric of something outside.
pub(super) async fn external(client: &Client, namespace: &str, metric: &str, selector: &str) -> Result<i64, String> {
    let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{metric}");
    let list =
        get(client, &path, &[("labelSelector", selector)], &format!("get {metric}.external.metrics.k8s.io")).await;
    let list = list.map_err(|error| format!("unable to fetch metrics from external metrics API: {error}"))?;
    if items(&list).next().is_none() {
        return Err("no metrics returned from external metrics API".into());
    }
    Ok(items(&list).filter_map(|item| millis(&item["value"])).fold(0, i64::saturating_add))
}

/// A duration as Go prints it: `15.003s`, `1m0.5s`, `250ms`.
fn go_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 4] = [("ms", 1e-3), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let (unit, factor) = UNITS.iter().find(|(unit, _)| rest[end..].starts_with(unit))?;
        seconds += number * factor;
        rest = &rest[end + unit.len()..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_uses_what_its_containers_use_together() {
        let pod = |name: &str, containers: Value| json!({ "metadata": { "name": name, "namespace": "ns" }, "timestamp": "1970-01-01T00:00:09Z", "window": "1m0.5s", "containers": containers });
        let of = |name: &str, usage: Value| json!({ "name": name, "usage": usage });
        let list = json!({ "items": [
            pod("a", json!([of("x", json!({ "cpu": "1500u" })), of("y", json!({ "cpu": "2500u" }))])),
            pod("b", json!([of("x", json!({ "cpu": "1" })), of("y", json!({}))])),
            pod("c", json!([])),
        ]});
        let values = |container| {
            of_pods(&list, "cpu", container)
                .map(|of| of.into_iter().map(|(name, it)| (name, it.value)).collect::<Vec<_>>())
        };
        assert_eq!(values(None), Ok(vec![("a".to_owned(), 5)]));
        assert_eq!(
            values(Some("x")).unwrap_err(),
            "failed to get container metrics: container x not present in metrics for pod ns/c"
        );
        let sample = of_pods(&list, "cpu", None).unwrap().remove("a").unwrap();
        assert_eq!((sample.at.as_second(), sample.window.as_millis()), (9, 60_500));
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in [("15.003s", 15_003), ("250ms", 250), ("1h2m3s", 3_723_000), ("0s", 0)] {
            assert_eq!(go_duration(text).map(|it| it.as_millis()), Some(millis), "{text}");
        }
        assert_eq!((go_duration("5"), go_duration("x")), (None, None));
    }
}
