//! The decision: what the target's size is to be, and what the status says of it.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec, MetricStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::behaviour::{Memory, Range};
use super::replicas::Tolerance;
use crate::Config;

/// What one metric calls for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// How events and conditions call the metric.
    pub(super) metric: String,
    pub(super) status: MetricStatus,
}

/// Why a metric calls for nothing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failed {
    /// Such as `FailedGetResourceMetric`.
    pub(super) reason: &'static str,
    pub(super) why: String,
    /// The same, as part of a sentence about all metrics.
    pub(super) error: String,
}

/// Whether metrics decide.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum First {
    /// The target has no replicas, which is how people switch an autoscaler off.
    Disabled,
    /// The size is not one that the autoscaler may choose.
    Outside(i32, &'static str),
    ByMetrics,
}

pub(super) fn range(spec: &HorizontalPodAutoscalerSpec) -> Range {
    Range { min: spec.min_replicas.unwrap_or(1), max: spec.max_replicas }
}

pub(super) fn first(range: Range, current: i32) -> First {
    if current == 0 && range.min != 0 {
        First::Disabled
    } else if current > range.max {
        First::Outside(range.max, "Current number of replicas above Spec.MaxReplicas")
    } else if current < range.min {
        First::Outside(range.min, "Current number of replicas below Spec.MinReplicas")
    } else {
        First::ByMetrics
    }
}

/// How far usage may be from the target, by the rules or else by the flag.
pub(super) fn tolerance(behavior: Option<&HorizontalPodAutoscalerBehavior>, default: f64) -> Tolerance {
    let of = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
        let tolerance = rules.and_then(|rules| rules.tolerance.as_ref());
        let parsed = tolerance.and_then(|amount| amount.0.parse::<coracle_api::quantity::Quantity>().ok());
        parsed.map_or(default, coracle_api::quantity::Quantity::to_f64)
    };
    Tolerance {
        down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
        up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
    }
}

/// The conditions of an autoscaler.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Conditions {
    pub(super) list: Vec<HorizontalPodAutoscalerCondition>,
    pub(super) now: Timestamp,
}

impl Conditions {
    /// Sets one; the time of a status that stays is kept.
    pub(super) fn set(&mut self, type_: &str, status: bool, reason: &str, message: impl Into<String>) {
        let status = if status { "True" } else { "False" };
        let at = self.list.iter().position(|condition| condition.type_ == type_).unwrap_or_else(|| {
            self.list.push(HorizontalPodAutoscalerCondition { type_: type_.into(), ..Default::default() });
            self.list.len() - 1
        });
        let condition = &mut self.list[at];
        if condition.status != status {
            condition.last_transition_time = Some(Time(self.now));
        }
        condition.status = status.into();
        condition.reason = Some(reason.into());
        condition.message = Some(message.into());
    }
}

/// The most that any metric calls for. A metric that says nothing does no harm unless there would be fewer replicas.
pub(super) fn combine(
    proposals: &[Result<Proposal, Failed>],
    current: i32,
    conditions: &mut Conditions,
) -> Result<(i32, String), String> {
    let (mut replicas, mut metric) = (0, String::new());
    for proposal in proposals.iter().flatten() {
        if replicas == 0 || proposal.replicas > replicas {
            (replicas, metric) = (proposal.replicas, proposal.metric.clone());
        }
    }
    let failures: Vec<&Failed> = proposals.iter().filter_map(|proposal| proposal.as_ref().err()).collect();
    if let Some(first) = failures.first()
        && (failures.len() == proposals.len() || replicas < current)
    {
        let message = format!("the HPA was unable to compute the replica count: {}", first.why);
        conditions.set("ScalingActive", false, first.reason, message);
        let (failed, all) = (failures.len(), proposals.len());
        return Err(format!("invalid metrics ({failed} invalid out of {all}), first error is: {}", first.error));
    }
    let message = format!("the HPA was able to successfully calculate a replica count from {metric}");
    conditions.set("ScalingActive", true, "ValidMetricFound", message);
    Ok((replicas, metric))
}

/// The size to be, and why if it changes.
pub(super) fn decide(
    spec: &HorizontalPodAutoscalerSpec,
    config: &Config,
    memory: &mut Memory,
    (current, (wanted, metric)): (i32, (i32, String)),
    conditions: &mut Conditions,
) -> (i32, String) {
    let why = if wanted > current { format!("{metric} above target") } else { "All metrics below target".to_owned() };
    let (behavior, window) = (spec.behavior.as_ref(), config.autoscaler.downscale_stabilization);
    let normalized = memory.normalize(behavior, window, range(spec), (current, wanted), conditions.now);
    conditions.set("AbleToScale", true, normalized.able.0, normalized.able.1);
    let (limited, (reason, message)) = normalized.limited;
    conditions.set("ScalingLimited", limited, reason, message);
    (normalized.replicas, why)
}
