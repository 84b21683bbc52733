//! What is written: bindings, statuses, evictions, events. Each write is a task beside the loop.

use std::sync::Arc;

use coracle_client::written::patch_status;
use coracle_client::{EventType, ObjectKey, object_reference};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};

use super::Scheduler;
use crate::framework::{Placement, Point, Work};
use crate::plugins::{PREEMPTED, is_for_extended};
use crate::pod::PodInfo;
use crate::profile::Profile;

/// How a binding ended.
pub(super) struct Bound {
    pub(super) placement: Placement,
    /// The claims of devices that were written on the way.
    pub(super) result: anyhow::Result<Vec<Arc<ResourceClaim>>>,
}

/// What comes back from work at the API server.
pub(super) enum Done {
    Bound(Box<Bound>),
    /// Room could not be made for this pod.
    Failed(ObjectKey),
    /// All victims but the last have been sent away for this pod.
    Evicted {
        preemptor: Arc<PodInfo>,
        last: Arc<PodInfo>,
    },
    Nothing,
}

impl Scheduler {
    /// Takes from a claim what was allocated for it; one that the scheduler made goes altogether.
    pub(super) fn give_back(&mut self, claim: Arc<ResourceClaim>) {
        let key = ObjectKey::of(claim.as_ref());
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut idle = claim.as_ref().clone();
        idle.status = None;
        self.work.spawn(Box::pin(async move {
            let given_back = async {
                if !is_for_extended(&claim) {
                    return api.replace_status(&key.name, &PostParams::default(), &idle).await.map(drop);
                }
                let mut unprotected = claim.as_ref().clone();
                unprotected.metadata.finalizers = None;
                api.replace(&key.name, &PostParams::default(), &unprotected).await?;
                api.delete(&key.name, &DeleteParams::default()).await.map(drop)
            };
            if let Err(error) = given_back.await {
                tracing::debug!(claim = %key, %error, "claim not given back");
            }
            Done::Nothing
        }));
    }

    pub(super) fn tell_failure(&self, pod: &PodInfo, message: &str) {
        // As long as upstream's event note may be.
        const LONGEST: usize = 1024;
        let text = match message.char_indices().nth(LONGEST) {
            None => message.to_owned(),
            Some(_) => message.chars().take(LONGEST - 4).chain(" ...".chars()).collect(),
        };
        let object = object_reference(pod.pod.as_ref());
        self.recorder.event(&object, EventType::Warning, "FailedScheduling", text);
    }

    pub(super) fn evict(&self, pod: &PodInfo, victim: Arc<PodInfo>) -> Work<Done> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &victim.key.namespace);
        let by = pod.spec().scheduler_name.clone().unwrap_or_default();
        let message = format!("{by}: preempting to accommodate a higher priority pod");
        let preemptor = pod.key.clone();
        Box::pin(async move {
            let status = json!({ "status": { "conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": PREEMPTED,
                "message": message, "lastTransitionTime": Time(coracle_clock::now_seconds()),
            }] } });
            let _ = api.patch_status(&victim.key.name, &PatchParams::default(), &Patch::Strategic(&status)).await;
            let same = Preconditions { uid: victim.pod.metadata.uid.clone(), ..Default::default() };
            let parameters = DeleteParams { preconditions: Some(same), ..Default::default() };
            match api.delete(&victim.key.name, &parameters).await {
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Done::Nothing,
                Err(error) => {
                    tracing::debug!(pod = %victim.key, %error, "victim not deleted");
                    Done::Failed(preemptor)
                }
                Ok(_) => Done::Nothing,
            }
        })
    }

    pub(super) fn patch_status(&mut self, pod: &PodInfo, status: Value) {
        if says(&pod.pod, &status) {
            return;
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.key.namespace);
        let name = pod.key.name.clone();
        self.work.spawn(async move {
            let patch = json!({ "status": status });
            if let Err(error) = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
                tracing::debug!(name, %error, "status not written");
            }
            Done::Nothing
        });
    }
}

/// Permit, PreBind and Bind.
pub(super) fn bind(profile: &Profile, placement: Placement) -> Work<Done> {
    let permits: Vec<_> = profile.at(Point::Permit).filter_map(|plugin| plugin.permit(&placement)).collect();
    let writes: Vec<_> =
        profile.at(Point::PreBind).filter_map(|plugin| Some((plugin.name(), plugin.pre_bind(&placement)?))).collect();
    let expects = (!permits.is_empty() || !writes.is_empty()).then(|| placement.clone());
    let binding = profile.at(Point::Bind).find_map(|plugin| Some((plugin.name(), plugin.bind(&placement)?)));
    Box::pin(async move {
        let result = async {
            if let Some(placement) = expects {
                expect(&placement).await;
            }
            for permit in permits {
                permit.await.map_err(|refusal| anyhow::anyhow!(refusal.message()))?;
            }
            let mut written = Vec::new();
            for (plugin, write) in writes {
                let claims = write.await.map_err(|error| error.context(format!("running PreBind plugin {plugin:?}")));
                written.extend(claims?);
            }
            let Some((plugin, bind)) = binding else { anyhow::bail!("no plugin binds") };
            bind.await.map_err(|error| error.context(format!("running Bind plugin {plugin:?}")))?;
            Ok(written)
        };
        let result = result.await;
        Done::Bound(Box::new(Bound { placement, result }))
    })
}

/// Says on which node a pod is expected to run: what is between it and its binding may take long, and who makes nodes
/// or volumes ready wants to know. The binding takes it away again.
async fn expect(Placement { client, pod, node, .. }: &Placement) {
    if pod.nominated_node() == Some(node) {
        return;
    }
    let patch = json!({ "metadata": { "uid": pod.uid() }, "status": { "nominatedNodeName": node } });
    let namespace = &pod.key.namespace;
    // A hint that is not there hinders nobody.
    if let Err(error) = patch_status::<Pod>(client, namespace, &pod.key.name, &Patch::Strategic(patch)).await {
        tracing::debug!(pod = %pod.key, %error, "the expected node was not written");
    }
}

/// The status part that says why a pod is not scheduled. The time of transition stays if only the words change.
pub(super) fn scheduled_condition(pod: &Pod, reason: &str, message: String) -> Value {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let since = conditions
        .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .find_map(|condition| condition.last_transition_time.clone())
        .unwrap_or_else(|| Time(coracle_clock::now_seconds()));
    json!({ "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message, "lastTransitionTime": since,
    }] })
}

/// Whether the pod's status says so already.
fn says(pod: &Pod, status: &Value) -> bool {
    let said = serde_json::to_value(&pod.status).unwrap_or_default();
    let new = |condition: &Value| !said["conditions"].as_array().is_some_and(|all| all.contains(condition));
    let nominated = status.get("nominatedNodeName");
    !status["conditions"].as_array().is_some_and(|conditions| conditions.iter().any(new))
        && nominated.is_none_or(|nominated| *nominated == said["nominatedNodeName"])
}
