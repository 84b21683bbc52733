//! HorizontalPodAutoscaler: as many replicas as the load calls for.
//!
//! ```text
//! every 15 s: scale of the target ─► metrics ─► replicas ─► behaviour ─► scale of the target
//!                                   (metrics)  (replicas)  (behaviour)
//! ```
//!
//! An autoscaler is looked at when it has been there for one period, and then once in each: unlike other controllers it
//! follows what no watch tells. [`plan`] decides by what [`propose`] says of each metric, [`replicas`] has the documented
//! algorithm, [`behaviour`] what is remembered. The target may be of any kind that has a scale.

mod behaviour;
mod metrics;
mod plan;
mod propose;
mod replicas;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coracle_api::selector::Selector;
use coracle_client::{
    EventRecorder, EventType, Informer, ObjectKey, Requeue, WorkQueue, object_reference, run_workers,
};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus,
};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::PostParams;
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt, core::DynamicObject};

use crate::Config;
use crate::context::Context;
use crate::discovery;
use crate::error::{Error, Result};
use behaviour::Memory;
use plan::{Conditions, Failed, First};
use propose::Asked;
use replicas::Scaled;

const NAME: &str = "horizontal-pod-autoscaler";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = Controller {
        autoscalers: context.informer(),
        pods: context.informer(),
        client: context.client.clone(),
        recorder: context.recorder(NAME),
        config: context.config.clone(),
        known: Mutex::default(),
    };
    let (to, period) = (queue.clone(), context.config.autoscaler.sync_period);
    controller.autoscalers.on_change(move |change| match (change.old, change.new) {
        (None, Some(_)) => to.add_after(change.key(), period),
        (_, None) => to.add(change.key()),
        _ => {}
    });
    controller.autoscalers.wait_for_sync().await;
    controller.pods.wait_for_sync().await;
    let workers = context.config.autoscaler.concurrent_syncs;
    run_workers(NAME, &queue, workers, &context.shutdown, |key| controller.sync(key)).await;
}

struct Controller {
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    client: Client,
    recorder: EventRecorder,
    config: Arc<Config>,
    known: Mutex<Known>,
}

/// What is remembered between two looks.
#[derive(Default)]
struct Known {
    memories: BTreeMap<ObjectKey, Memory>,
    /// Which pods each autoscaler's target has.
    selectors: BTreeMap<ObjectKey, Selector>,
    /// What a group and kind is called in URLs.
    resources: BTreeMap<(String, String), ApiResource>,
}

/// One look at one autoscaler.
struct Look<'a> {
    autoscaler: &'a HorizontalPodAutoscaler,
    about: ObjectReference,
    key: &'a ObjectKey,
    conditions: Conditions,
}

/// What comes of it: the status, and what went wrong.
struct Outcome {
    status: HorizontalPodAutoscalerStatus,
    error: Option<String>,
}

impl Controller {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        let Some(autoscaler) = self.autoscalers.get(&key) else {
            let mut known = self.known();
            known.memories.remove(&key);
            known.selectors.remove(&key);
            return Ok(Requeue::Never);
        };
        let old = autoscaler.status.clone().unwrap_or_default();
        let conditions =
            Conditions { list: old.conditions.clone().unwrap_or_default(), now: coracle_clock::now_seconds() };
        let about = object_reference(autoscaler.as_ref());
        let mut look = Look { autoscaler: &autoscaler, about, key: &key, conditions };
        let Outcome { mut status, error } = self.look(&mut look, &old).await;
        status.conditions = Some(look.conditions.list);
        if let Some(error) = error {
            tracing::debug!(controller = NAME, ?key, error, "not all is known");
        }
        if status != old {
            let mut changed = autoscaler.as_ref().clone();
            changed.status = Some(status);
            let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.client.clone(), &key.namespace);
            if let Err(error) =
                api.replace_status(&key.name, &PostParams::default(), &changed).await.map_err(Error::from)
            {
                self.recorder.event(&look.about, EventType::Warning, "FailedUpdateStatus", error.to_string());
            }
        }
        // Whatever came of it, the next look is due in its time: load that cannot be seen is no reason to hurry.
        Ok(Requeue::After(self.config.autoscaler.sync_period))
    }

    async fn look(&self, look: &mut Look<'_>, old: &HorizontalPodAutoscalerStatus) -> Outcome {
        let spec = &look.autoscaler.spec;
        let unchanged = |current: i32, metrics: Option<Vec<MetricStatus>>, error: String| Outcome {
            status: HorizontalPodAutoscalerStatus {
                current_replicas: Some(current),
                current_metrics: metrics,
                ..old.clone()
            },
            error: Some(error),
        };
        let target = &spec.scale_target_ref;
        let (api, scale) = match self.scale(&look.key.namespace, target).await {
            Ok(found) => found,
            Err(error) => {
                let error = error.to_string();
                self.recorder.event(&look.about, EventType::Warning, "FailedGetScale", error.clone());
                let message = format!("the HPA controller was unable to get the target's current scale: {error}");
                look.conditions.set("AbleToScale", false, "FailedGetScale", message);
                return Outcome { status: old.clone(), error: Some(error) };
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        look.conditions.set("AbleToScale", true, "SucceededGetScale", message);
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
        let mut memory = self.known().memories.remove(look.key).unwrap_or_default();
        memory.begin(current, look.conditions.now);

        let (mut metrics, mut error) = (None, None);
        let (desired, why) = match plan::first(plan::range(spec), current) {
            First::Disabled => {
                let message = "scaling is disabled since the replica count of the target is zero";
                look.conditions.set("ScalingActive", false, "ScalingDisabled", message);
                (current, String::new())
            }
            First::Outside(desired, why) => (desired, why.to_owned()),
            First::ByMetrics => {
                let (statuses, combined) =
                    self.by_metrics(look, &scale, &spec.metrics.clone().unwrap_or_default()).await;
                metrics = statuses;
                match combined {
                    Ok((wanted, failed)) => {
                        error = failed;
                        let sizes = (current, wanted);
                        plan::decide(spec, &self.config, &mut memory, sizes, &mut look.conditions)
                    }
                    Err(error) => {
                        self.known().memories.insert(look.key.clone(), memory);
                        self.recorder.event(
                            &look.about,
                            EventType::Warning,
                            "FailedComputeMetricsReplicas",
                            error.clone(),
                        );
                        return unchanged(current, metrics, error);
                    }
                }
            }
        };
        let mut last_scale_time = old.last_scale_time.clone();
        if desired != current {
            if let Err(error) = rescale(&api, scale, desired).await {
                self.known().memories.insert(look.key.clone(), memory);
                let message = format!("New size: {desired}; reason: {why}; error: {error}");
                self.recorder.event(&look.about, EventType::Warning, "FailedRescale", message);
                let message = format!("the HPA controller was unable to update the target scale: {error}");
                look.conditions.set("AbleToScale", false, "FailedUpdateScale", message);
                return unchanged(current, metrics, error.to_string());
            }
            let message = format!("the HPA controller was able to update the target scale to {desired}");
            look.conditions.set("AbleToScale", true, "SucceededRescale", message);
            let message = format!("New size: {desired}; reason: {why}");
            self.recorder.event(&look.about, EventType::Normal, "SuccessfulRescale", message);
            memory.rescaled(spec.behavior.as_ref(), (current, desired), look.conditions.now);
            last_scale_time = Some(Time(look.conditions.now));
        }
        self.known().memories.insert(look.key.clone(), memory);
        let status = HorizontalPodAutoscalerStatus {
            current_replicas: Some(current),
            desired_replicas: desired,
            current_metrics: metrics,
            last_scale_time,
            ..Default::default()
        };
        Outcome { status, error }
    }

    /// The scale of the target, and where it is.
    async fn scale(
        &self,
        namespace: &str,
        target: &CrossVersionObjectReference,
    ) -> Result<(Api<DynamicObject>, Scale)> {
        let resource = self.resource(target).await?;
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let scale = api.get_scale(&target.name).await;
        if scale.is_err() {
            // A definition may have changed.
            self.known().resources.remove(&group_kind(target));
        }
        let scale = serde_json::to_value(scale?).and_then(serde_json::from_value);
        Ok((api, scale.map_err(|error| Error::Other(error.to_string()))?))
    }

    /// The resource of a kind, as discovery tells it; the group is what matters, not the version.
    async fn resource(&self, of: &CrossVersionObjectReference) -> Result<ApiResource> {
        let key = group_kind(of);
        if let Some(known) = self.known().resources.get(&key) {
            return Ok(known.clone());
        }
        let found = discovery::of_kind(&self.client, &key.0, &key.1).await?;
        let found = found.ok_or_else(|| {
            let within = if key.0.is_empty() { "version \"v1\"".to_owned() } else { format!("group {:?}", key.0) };
            Error::Other(format!("no matches for kind {:?} in {within}", key.1))
        })?;
        self.known().resources.insert(key, found.clone());
        Ok(found)
    }

    /// What the metrics call for, each for itself and together; together with an error about some of them.
    async fn by_metrics(
        &self,
        look: &mut Look<'_>,
        scale: &Scale,
        specs: &[MetricSpec],
    ) -> (Option<Vec<MetricStatus>>, Result<((i32, String), Option<String>), String>) {
        let text = scale.status.as_ref().and_then(|status| status.selector.clone()).unwrap_or_default();
        let pods = match self.selected(look, &text) {
            Ok(pods) => pods,
            Err(error) => return (None, Err(error)),
        };
        let behavior = look.autoscaler.spec.behavior.as_ref();
        let config = &self.config.autoscaler;
        let scaled = Scaled {
            pods: &pods,
            current: scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default(),
            tolerance: plan::tolerance(behavior, config.tolerance),
            now: look.conditions.now,
            cpu_initialization: config.cpu_initialization_period,
            initial_readiness: config.initial_readiness_delay,
        };
        let status_replicas = scale.status.as_ref().map_or(0, |status| status.replicas);
        let asked =
            Asked { controller: self, namespace: &look.key.namespace, selector: &text, scaled, status_replicas };
        let mut proposals = Vec::new();
        for spec in specs {
            let proposal = asked.propose(spec).await;
            if let Err(Failed { reason, why, .. }) = &proposal {
                self.recorder.event(&look.about, EventType::Warning, reason, why.clone());
            }
            proposals.push(proposal);
        }
        let statuses = proposals
            .iter()
            .map(|proposal| proposal.as_ref().map_or_else(|_| MetricStatus::default(), |it| it.status.clone()));
        let statuses = Some(statuses.collect());
        let combined = plan::combine(&proposals, scaled.current, &mut look.conditions);
        let failed = proposals.iter().find_map(|proposal| Some(proposal.as_ref().err()?.error.clone()));
        (statuses, combined.map(|wanted| (wanted, failed)))
    }

    /// The pods of the target, if they are this autoscaler's alone.
    fn selected(&self, look: &mut Look<'_>, text: &str) -> Result<Vec<Arc<Pod>>, String> {
        let mut refuse = |event: &str, reason: &str, why: String, message: String| {
            self.recorder.event(&look.about, EventType::Warning, event, why.clone());
            look.conditions.set("ScalingActive", false, reason, message);
            Err(why)
        };
        if text.is_empty() {
            let message = "the HPA target's scale is missing a selector";
            return refuse("SelectorRequired", "InvalidSelector", "selector is required".into(), message.into());
        }
        let selector = match Selector::parse(text) {
            Ok(selector) => selector,
            Err(error) => {
                let why = format!("couldn't convert selector into a corresponding internal selector object: {error}");
                return refuse("InvalidSelector", "InvalidSelector", why.clone(), why);
            }
        };
        let mut pods = self.pods.list_namespace(&look.key.namespace);
        pods.retain(|pod| selector.matches(&pod.metadata.labels));
        let mut known = self.known();
        known.selectors.insert(look.key.clone(), selector);
        let rivals: BTreeSet<&ObjectKey> = known
            .selectors
            .iter()
            .filter(|(key, other)| {
                key.namespace == look.key.namespace && pods.iter().any(|pod| other.matches(&pod.metadata.labels))
            })
            .map(|(key, _)| key)
            .collect();
        if rivals.len() > 1 {
            let rivals: Vec<String> = rivals.iter().map(|key| format!("{{{} {}}}", key.name, key.namespace)).collect();
            let why = format!("pods by selector {text} are controlled by multiple HPAs: [{}]", rivals.join(" "));
            drop(known);
            return refuse("AmbiguousSelector", "AmbiguousSelector", why.clone(), why);
        }
        Ok(pods)
    }
}

fn group_kind(of: &CrossVersionObjectReference) -> (String, String) {
    let version = of.api_version.as_deref().unwrap_or_default();
    (version.split_once('/').map_or("", |(group, _)| group).to_owned(), of.kind.clone())
}

async fn rescale(api: &Api<DynamicObject>, mut scale: Scale, replicas: i32) -> Result<()> {
    let name = scale.name_any();
    scale.spec.get_or_insert_default().replicas = Some(replicas);
    api.replace_scale(&name, &PostParams::default(), &scale).await?;
    Ok(())
}
