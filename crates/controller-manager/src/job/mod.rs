//! Job: pods that are to run to their end, so and so many times.
//!
//! Watches Jobs and pods; a pod's change is its Job's key. Each look counts the pods that ended ([`plan`]), writes
//! the status, and only then takes their finalizer off: a pod cannot vanish uncounted. A finished Job with
//! `ttlSecondsAfterFinished` is deleted when that has passed.

mod plan;
mod policy;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use coracle_client::{
    EventType, Informer, ObjectKey, Requeue, WorkQueue, controller_of, controller_reference, object_reference,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};

use crate::claim;
use crate::context::{Context, enqueue_changes};
use crate::error::{IgnoreNotFound, Result};
use crate::pod_control::PodControl;
use crate::pods;
pub(crate) use plan::finished;
use plan::{INDEX, Step, TRACKING};

const NAME: &str = "job-controller";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = JobController {
        jobs: context.informer(),
        pods: context.informer(),
        control: PodControl::new(context.client.clone(), context.recorder(NAME)),
    };
    claim::index_by_controller(&controller.pods);
    enqueue_changes(&controller.jobs, &queue);
    controller.control.follow(
        &controller.pods,
        &controller.jobs,
        &queue,
        |_, _| false,
        |job, pod| {
            let selector = job.spec.as_ref().and_then(|spec| claim::selector(spec.selector.as_ref()?).ok());
            selector.is_some_and(|selector| claim::matches(&selector, pod))
        },
    );
    controller.jobs.wait_for_sync().await;
    controller.pods.wait_for_sync().await;
    context.work(NAME, &queue, |key| controller.sync(key)).await;
}

/// The Job that a pod belongs to.
fn key_of(pod: &Pod) -> Option<ObjectKey> {
    let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == "Job")?;
    Some(ObjectKey::new(pod.namespace().unwrap_or_default(), &owner.name))
}

/// Runs the TTL-after-finished controller: it deletes finished Jobs in their time.
pub(crate) async fn run_ttl(context: Context) {
    let queue = WorkQueue::new();
    let jobs: Informer<Job> = context.informer();
    enqueue_changes(&jobs, &queue);
    jobs.wait_for_sync().await;
    let sync = async |key: ObjectKey| -> Result<Requeue> {
        let Some(job) = jobs.get(&key).filter(|job| job.metadata.deletion_timestamp.is_none()) else {
            return Ok(Requeue::Never);
        };
        let Some(left) = ttl_left(&job, coracle_clock::now()) else { return Ok(Requeue::Never) };
        if !left.is_zero() {
            return Ok(Requeue::After(left));
        }
        let api: Api<Job> = Api::namespaced(context.client.clone(), &key.namespace);
        let uid = Preconditions { uid: job.uid(), resource_version: None };
        api.delete(&key.name, &DeleteParams::foreground().preconditions(uid)).await.ignore_not_found()?;
        Ok(Requeue::Never)
    };
    context.work("ttl-after-finished-controller", &queue, sync).await;
}

/// How much longer a finished Job stays; none if it is not finished or stays for good.
fn ttl_left(job: &Job, now: jiff::Timestamp) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let ended = plan::finished(job.status.as_ref()?)?.last_transition_time.as_ref()?.0;
    Some(pods::until(ended + Duration::from_secs(ttl.max(0).unsigned_abs().into()), now))
}

struct JobController {
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    control: PodControl,
}

impl JobController {
    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        let Some(job) = self.jobs.get(&key) else {
            self.control.expectations.forget(&key);
            // Its pods outlive it for a moment, or for good when they were orphaned; nobody will count them now.
            let left = self.pods.list_namespace(&key.namespace).into_iter();
            let left: Vec<_> = left
                .filter(|pod| controller_of(&pod.metadata).is_none() || key_of(pod).as_ref() == Some(&key))
                .collect();
            return self.release(&key, &left).await;
        };
        if !self.control.expectations.is_current(&key, &job.metadata) {
            // Pods may be seen already that were counted, but not the count: its own change will bring the key back.
            return Ok(Requeue::Never);
        }
        let managed_elsewhere = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
        if managed_elsewhere.is_some_and(|by| by != "kubernetes.io/job-controller") {
            return Ok(Requeue::Never);
        }
        let selector = job.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
        let pods = claim::claim(&self.control.client, job.as_ref(), &claim::selector(&selector)?, &self.pods).await?;
        if job.metadata.deletion_timestamp.is_some() {
            return self.release(&key, &pods).await;
        }
        let may_create = self.control.expectations.satisfied(&key);
        let step = plan::step(&job, &pods, may_create, coracle_clock::now_seconds());
        let again = step.again;
        self.execute(&key, &job, &pods, step).await?;
        Ok(again.map_or(Requeue::Never, Requeue::After))
    }

    /// A Job that is going counts nobody any more: its pods are free to go.
    async fn release(&self, key: &ObjectKey, pods: &[Arc<Pod>]) -> Result<Requeue> {
        for pod in pods {
            self.remove_finalizer(key, pod).await?;
        }
        Ok(Requeue::Never)
    }

    async fn execute(&self, key: &ObjectKey, job: &Arc<Job>, all: &[Arc<Pod>], step: Step) -> Result<()> {
        let about = object_reference(job.as_ref());
        if !step.delete.is_empty() && self.control.expectations.satisfied(key) {
            self.control.delete(key, &about, &step.delete).await?;
        }
        if job.status.as_ref() != Some(&step.status) {
            let mut changed = job.as_ref().clone();
            changed.status = Some(step.status);
            let api: Api<Job> = Api::namespaced(self.control.client.clone(), &key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await?;
            self.control.expectations.wrote(key, &written.metadata);
            if let Some((warning, reason, message)) = step.tell {
                let kind = if warning { EventType::Warning } else { EventType::Normal };
                self.control.recorder.event(&about, kind, reason, message);
            }
        }
        for pod in &step.counted {
            self.remove_finalizer(key, pod).await?;
        }
        if step.create.is_empty() {
            return Ok(());
        }
        let pods = step.create.into_iter().map(|index| new_pod(job, index, all)).collect();
        self.control.create(key, &about, pods).await
    }

    async fn remove_finalizer(&self, key: &ObjectKey, pod: &Pod) -> Result<()> {
        let kept: Vec<_> = pod.finalizers().iter().filter(|finalizer| *finalizer != TRACKING).cloned().collect();
        if kept.len() == pod.finalizers().len() {
            return Ok(());
        }
        let mut changed = pod.clone();
        *changed.finalizers_mut() = kept;
        let api: Api<Pod> = Api::namespaced(self.control.client.clone(), &key.namespace);
        api.replace(&pod.name_any(), &PostParams::default(), &changed).await.ignore_not_found()?;
        Ok(())
    }
}

fn new_pod(job: &Job, index: Option<i32>, all: &[Arc<Pod>]) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let prefix = index.map_or(job.name_any(), |index| format!("{}-{index}", job.name_any()));
    let mut pod = pods::from_template(&template, &prefix, controller_reference(job));
    pod.finalizers_mut().push(TRACKING.into());
    let Some(index) = index else { return pod };
    pod.annotations_mut().insert(INDEX.into(), index.to_string());
    pod.annotations_mut().extend(job.spec.iter().flat_map(|spec| policy::carry_on(spec, all, index)));
    pod.labels_mut().insert(INDEX.into(), index.to_string());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = spec.hostname.take().or(Some(prefix));
    let from_annotation = EnvVar {
        name: "JOB_COMPLETION_INDEX".into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.annotations['{INDEX}']"),
                api_version: None,
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        container.env.get_or_insert_default().push(from_annotation.clone());
    }
    pod
}
