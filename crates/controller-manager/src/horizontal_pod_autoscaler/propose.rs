//! What each metric calls for: where it is asked for, by which rule it counts, and how it is told.

use coracle_api::quantity::Quantity;
use coracle_api::selector::Selector;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, CrossVersionObjectReference, ExternalMetricStatus, MetricIdentifier, MetricSpec,
    MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::plan::{Failed, Proposal};
use super::replicas::{Scaled, millis};
use super::{Controller, group_kind, metrics};

/// The text form of a metric's selector.
fn selector_text(selector: Option<&LabelSelector>) -> Result<String, String> {
    let Some(selector) = selector else { return Ok(String::new()) };
    Ok(Selector::from_label_selector(selector)?.to_string())
}

/// An amount in thousandths, for the status.
fn amount(millis: i64) -> Option<Amount> {
    Some(Amount(Quantity::from_millis(millis).to_string()))
}

/// What is asked of metrics for one autoscaler.
pub(super) struct Asked<'a> {
    pub(super) controller: &'a Controller,
    pub(super) namespace: &'a str,
    pub(super) selector: &'a str,
    pub(super) scaled: Scaled<'a>,
    pub(super) status_replicas: i32,
}

impl Asked<'_> {
    /// What one metric calls for.
    pub(super) async fn propose(&self, spec: &MetricSpec) -> Result<Proposal, Failed> {
        let kind = spec.type_.as_str();
        let failed = |reason: &'static str, what: String| {
            move |why: String| Failed { reason, error: format!("failed to get {what} metric value: {why}"), why }
        };
        match (kind, &spec.resource, &spec.container_resource, &spec.pods, &spec.object, &spec.external) {
            ("Resource", Some(source), ..) => {
                let proposed = self.resource(&source.name, None, &source.target).await;
                let (replicas, metric, current) =
                    proposed.map_err(failed("FailedGetResourceMetric", format!("{} resource", source.name)))?;
                let status = ResourceMetricStatus { name: source.name.clone(), current };
                Ok(Proposal {
                    replicas,
                    metric,
                    status: MetricStatus { type_: kind.into(), resource: Some(status), ..Default::default() },
                })
            }
            ("ContainerResource", _, Some(source), ..) => {
                let proposed = self.resource(&source.name, Some(&source.container), &source.target).await;
                let (replicas, metric, current) = proposed
                    .map_err(failed("FailedGetContainerResourceMetric", format!("{} container", source.container)))?;
                let (name, container) = (source.name.clone(), source.container.clone());
                let status = ContainerResourceMetricStatus { name, container, current };
                Ok(Proposal {
                    replicas,
                    metric,
                    status: MetricStatus { type_: kind.into(), container_resource: Some(status), ..Default::default() },
                })
            }
            ("Pods", _, _, Some(source), ..) => {
                let proposed = self.of_pods(&source.metric, &source.target).await;
                let (replicas, value) = proposed.map_err(failed("FailedGetPodsMetric", "pods".into()))?;
                let current = MetricValueStatus { average_value: amount(value), ..Default::default() };
                let metric = format!("pods metric {}", source.metric.name);
                let status = PodsMetricStatus { metric: source.metric.clone(), current };
                Ok(Proposal {
                    replicas,
                    metric,
                    status: MetricStatus { type_: kind.into(), pods: Some(status), ..Default::default() },
                })
            }
            ("Object", _, _, _, Some(source), _) => {
                let proposed = self.of_object(&source.described_object, &source.metric, &source.target).await;
                let (replicas, current) = proposed.map_err(failed("FailedGetObjectMetric", "object".into()))?;
                let metric = match current.value {
                    Some(_) => format!("{} metric {}", source.described_object.kind, source.metric.name),
                    None => format!("external metric {}", described(&source.metric)),
                };
                let described_object = source.described_object.clone();
                let status = ObjectMetricStatus { described_object, metric: source.metric.clone(), current };
                Ok(Proposal {
                    replicas,
                    metric,
                    status: MetricStatus { type_: kind.into(), object: Some(status), ..Default::default() },
                })
            }
            ("External", _, _, _, _, Some(source)) => {
                let proposed = self.of_external(&source.metric, &source.target).await;
                let what = format!("{} external", source.metric.name);
                let (replicas, current) = proposed.map_err(failed("FailedGetExternalMetric", what))?;
                let metric = format!("external metric {}", described(&source.metric));
                let status = ExternalMetricStatus { metric: source.metric.clone(), current };
                Ok(Proposal {
                    replicas,
                    metric,
                    status: MetricStatus { type_: kind.into(), external: Some(status), ..Default::default() },
                })
            }
            _ => {
                let why = format!("unknown metric source type {kind:?}");
                Err(Failed { reason: "InvalidMetricSourceType", error: why.clone(), why })
            }
        }
    }

    async fn resource(
        &self,
        name: &str,
        container: Option<&str>,
        target: &MetricTarget,
    ) -> Result<(i32, String, MetricValueStatus), String> {
        let client = &self.controller.client;
        let samples = async {
            let samples = metrics::resource(client, self.namespace, self.selector, name, container).await;
            samples.map_err(|error| format!("unable to get metrics for resource {name}: {error}"))
        };
        if let Some(wanted) = &target.average_value {
            let proposed = samples.await.and_then(|samples| self.scaled.by_average(samples, name, millis(wanted)));
            let (replicas, value) = proposed.map_err(|error| format!("failed to get {name} usage: {error}"))?;
            let status = MetricValueStatus { average_value: amount(value), ..Default::default() };
            return Ok((replicas, format!("{name} resource"), status));
        }
        let wanted = target.average_utilization.ok_or(
            "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set",
        )?;
        let proposed = samples.await.and_then(|samples| self.scaled.by_utilization(samples, name, container, wanted));
        let (replicas, percent, value) =
            proposed.map_err(|error| format!("failed to get {name} utilization: {error}"))?;
        let of = if container.is_some() { "container resource" } else { "resource" };
        let status = MetricValueStatus {
            average_utilization: Some(percent),
            average_value: amount(value),
            ..Default::default()
        };
        Ok((replicas, format!("{name} {of} utilization (percentage of request)"), status))
    }

    async fn of_pods(&self, metric: &MetricIdentifier, target: &MetricTarget) -> Result<(i32, i64), String> {
        let (client, selector) = (&self.controller.client, selector_text(metric.selector.as_ref())?);
        let samples = metrics::pods(client, self.namespace, self.selector, &metric.name, &selector).await;
        let samples = samples.map_err(|error| format!("unable to get metric {}: {error}", metric.name))?;
        self.scaled.by_average(samples, "", target.average_value.as_ref().map_or(0, millis))
    }

    async fn of_object(
        &self,
        object: &CrossVersionObjectReference,
        metric: &MetricIdentifier,
        target: &MetricTarget,
    ) -> Result<(i32, MetricValueStatus), String> {
        let usage = async {
            let selector = selector_text(metric.selector.as_ref())?;
            let namespace = self.namespace;
            // A namespace is its own, whatever the reference says.
            let within = if object.kind == "Namespace" && group_kind(object).0.is_empty() {
                format!("namespaces/{namespace}/metrics")
            } else {
                let resource = self.controller.resource(object).await.map_err(|error| error.to_string())?;
                let group = if resource.group.is_empty() { String::new() } else { format!(".{}", resource.group) };
                format!("namespaces/{namespace}/{}{group}/{}", resource.plural, object.name)
            };
            let usage = metrics::object(&self.controller.client, &within, &metric.name, &selector).await;
            usage.map_err(|error| {
                format!("unable to get metric {}: {} on {} {namespace}/{error}", metric.name, object.kind, object.name)
            })
        };
        self.one_value(target, usage, "object", &format!("failed to get {} object metric", metric.name)).await
    }

    async fn of_external(
        &self,
        metric: &MetricIdentifier,
        target: &MetricTarget,
    ) -> Result<(i32, MetricValueStatus), String> {
        let usage = async {
            let selector = selector_text(metric.selector.as_ref())?;
            let usage = metrics::external(&self.controller.client, self.namespace, &metric.name, &selector).await;
            usage.map_err(|error| {
                let selector = go_selector(metric.selector.as_ref());
                format!("unable to get external metric {}/{}/{selector}: {error}", self.namespace, metric.name)
            })
        };
        self.one_value(target, usage, "external", &format!("failed to get {} external metric", metric.name)).await
    }

    /// By a value that is one for all replicas, or is to be shared among them.
    async fn one_value(
        &self,
        target: &MetricTarget,
        usage: impl Future<Output = Result<i64, String>>,
        kind: &str,
        failure: &str,
    ) -> Result<(i32, MetricValueStatus), String> {
        match (&target.value, &target.average_value) {
            (_, Some(wanted)) => {
                let usage = usage.await.map_err(|error| format!("{failure}: {error}"))?;
                let (replicas, share) = self.scaled.by_share(usage, millis(wanted), self.status_replicas);
                Ok((replicas, MetricValueStatus { average_value: amount(share), ..Default::default() }))
            }
            (Some(wanted), None) => {
                let usage = usage.await?;
                let replicas = self.scaled.by_value(usage, millis(wanted))?;
                Ok((replicas, MetricValueStatus { value: amount(usage), ..Default::default() }))
            }
            (None, None) => {
                Err(format!("invalid {kind} metric source: neither a value target nor an average value target was set"))
            }
        }
    }
}

/// A metric as messages call it.
fn described(metric: &MetricIdentifier) -> String {
    format!("{}({})", metric.name, go_selector(metric.selector.as_ref()))
}

/// A selector as Go prints it.
fn go_selector(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".into() };
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},"));
    let expressions = selector.match_expressions.iter().flatten().map(|expression| {
        let values = expression.values.clone().unwrap_or_default().join(" ");
        format!(
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
            expression.key, expression.operator
        )
    });
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{}}},MatchExpressions:[]LabelSelectorRequirement{{{}}},}}",
        labels.collect::<String>(),
        expressions.collect::<String>()
    )
}
