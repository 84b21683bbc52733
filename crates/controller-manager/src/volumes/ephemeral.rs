//! Ephemeral volumes: claims that are made for one pod, by the template in its spec, and go with it.
//!
//! Watches pods with such volumes, and the deletion of claims they use; a key is a pod.

use coracle_client::{
    EventRecorder, EventType, Informer, ObjectKey, Requeue, WorkQueue, controlled_by, controller_reference,
    object_reference,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::pods;

const NAME: &str = "ephemeral-volume-controller";
const BY_CLAIM: &str = "ephemeral-claim";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let (pods, claims): (Informer<Pod>, Informer<PersistentVolumeClaim>) = (context.informer(), context.informer());
    pods.add_index(BY_CLAIM, |pod| {
        let namespace = pod.namespace().unwrap_or_default();
        claims_of(pod).iter().map(|(_, claim)| format!("{namespace}/{}", claim.name_any())).collect()
    });
    let to = queue.clone();
    pods.on_change(move |change| {
        if change.new.is_some_and(|pod| !claims_of(pod).is_empty()) {
            to.add(change.key());
        }
    });
    let (users, to) = (pods.clone(), queue.clone());
    claims.on_change(move |change| {
        if change.new.is_none() {
            let users = users.by_index(BY_CLAIM, &change.key().to_string());
            users.iter().for_each(|pod| to.add(ObjectKey::of(pod.as_ref())));
        }
    });
    pods.wait_for_sync().await;
    claims.wait_for_sync().await;
    let recorder = context.recorder(NAME);
    context.work(NAME, &queue, |key| sync(&context, &recorder, &pods, &claims, key)).await;
}

/// The pod's ephemeral volumes and the claims they are to have.
fn claims_of(pod: &Pod) -> Vec<(String, PersistentVolumeClaim)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claim = |volume: &k8s_openapi::api::core::v1::Volume| {
        let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
        let meta = template.metadata.clone().unwrap_or_default();
        let metadata = ObjectMeta {
            name: Some(format!("{}-{}", pod.name_any(), volume.name)),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..Default::default()
        };
        let spec = Some(template.spec.clone());
        Some((volume.name.clone(), PersistentVolumeClaim { metadata, spec, status: None }))
    };
    volumes.filter_map(claim).collect()
}

async fn sync(
    context: &Context,
    recorder: &EventRecorder,
    pods: &Informer<Pod>,
    claims: &Informer<PersistentVolumeClaim>,
    key: ObjectKey,
) -> Result<Requeue> {
    let Some(pod) = pods.get(&key).filter(|pod| !pods::is_terminating(pod)) else { return Ok(Requeue::Never) };
    let uid = pod.uid().unwrap_or_default();
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &key.namespace);
    for (volume, claim) in claims_of(&pod) {
        let name = claim.name_any();
        let why = match claims.get(&ObjectKey::new(&key.namespace, &name)) {
            Some(there) if controlled_by(&there.metadata, &uid) => continue,
            Some(_) => format!("PVC {}/{name} was not created for pod {key} (pod is not owner)", key.namespace),
            None => match api.create(&PostParams::default(), &claim).await.map_err(Error::from) {
                Ok(_) => continue,
                // Made a moment ago, and the cache has not seen it yet.
                Err(error) if error.reason() == "AlreadyExists" || error.namespace_is_terminating() => continue,
                Err(error) => format!("create PVC {name}: {error}"),
            },
        };
        let message = format!("ephemeral volume {volume}: {why}");
        recorder.event(&object_reference(pod.as_ref()), EventType::Warning, "FailedBinding", message.clone());
        return Err(Error::Other(format!("pod {key}, {message}")));
    }
    Ok(Requeue::Never)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_ephemeral_volume_has_a_claim_named_after_pod_and_volume() {
        let template = json!({ "metadata": { "labels": { "a": "b" } }, "spec": { "volumeName": "v" } });
        let pod = serde_json::from_value(json!({
            "metadata": { "name": "web", "uid": "1" },
            "spec": { "containers": [], "volumes": [
                { "name": "tmp", "emptyDir": {} }, { "name": "data", "ephemeral": { "volumeClaimTemplate": template } },
            ] },
        }));
        let claims = claims_of(&pod.unwrap());
        let [(volume, claim)] = claims.as_slice() else { panic!("{claims:?}") };
        assert_eq!(
            (volume.as_str(), claim.name_any().as_str(), &claim.labels()["a"]),
            ("data", "web-data", &"b".into())
        );
        assert!(controlled_by(&claim.metadata, "1"));
        assert_eq!(claim.spec.as_ref().unwrap().volume_name.as_deref(), Some("v"));
    }
}
