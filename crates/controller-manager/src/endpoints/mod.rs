//! Endpoints: where a Service's traffic goes.
//!
//! Two controllers say the same thing in two forms: [`slices`] writes EndpointSlices, which kube-proxy and DNS
//! read; [`legacy`] writes the older Endpoints objects. Both watch Services and pods and look at a Service when
//! it changes or when a pod that its selector matches does. What they share stands in [`backends`].

mod backends;
pub(crate) mod legacy;
pub(crate) mod mirroring;
pub(crate) mod slices;

use std::sync::Arc;

use coracle_client::{Change, Informer, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;

/// Turns pods' changes into the keys of the Services whose selector matches what they were or are.
fn enqueue_services_of_pods(pods: &Informer<Pod>, services: &Informer<Service>, queue: &WorkQueue<ObjectKey>) {
    let (services, queue) = (services.clone(), queue.clone());
    pods.on_change(move |change| {
        if !is_relevant(&change) {
            return;
        }
        let states: Vec<_> = [change.old, change.new].into_iter().flatten().collect();
        for service in services.list_namespace(&change.object().namespace().unwrap_or_default()) {
            if states.iter().any(|pod| backends::selects(&service, pod)) {
                queue.add(ObjectKey::of(service.as_ref()));
            }
        }
    });
}

/// Most of a pod's changes (a restart count, a probe's time) move no traffic.
fn is_relevant(change: &Change<'_, Pod>) -> bool {
    let view = |pod: &Arc<Pod>| {
        (
            pod.metadata.labels.clone(),
            pod.metadata.deletion_timestamp.clone(),
            backends::addresses(pod),
            crate::pods::is_ready(pod),
            crate::pods::is_finished(pod),
            crate::pods::node_name(pod).to_owned(),
        )
    };
    change.old.map(view) != change.new.map(view)
}
