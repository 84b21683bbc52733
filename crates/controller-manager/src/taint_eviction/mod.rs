//! Taint eviction: pods leave nodes, and devices, with NoExecute taints that they do not tolerate (any longer).

mod devices;
mod nodes;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use coracle_client::{EventRecorder, EventType, ObjectKey, Requeue, object_reference};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::context::Context;
use crate::error::{IgnoreNotFound, Result};

pub(crate) use devices::run as run_devices;
pub(crate) use nodes::run as run_nodes;

/// How an eviction is told: the events' reason and texts (`{}` is the pod), and the condition's.
struct Words {
    event: &'static str,
    marking: &'static str,
    cancelling: &'static str,
    reason: &'static str,
    message: &'static str,
}

/// Sees pods off when their time has come.
struct Evictor {
    client: Client,
    recorder: EventRecorder,
    words: Words,
    /// Those whose time will come, and since when that is known.
    leaving: Mutex<BTreeMap<ObjectKey, Timestamp>>,
}

impl Evictor {
    fn new(context: &Context, name: &'static str, words: Words) -> Evictor {
        let (client, recorder) = (context.client.clone(), context.recorder(name));
        Evictor { client, recorder, words, leaving: Mutex::default() }
    }

    /// A pod may stay so much longer: none is forever, zero is no longer.
    async fn settle(&self, key: &ObjectKey, pod: &Pod, left: Option<Duration>) -> Result<Requeue> {
        let tell = |text: &str| {
            let text = text.replace("{}", &key.to_string());
            self.recorder.event(&object_reference(pod), EventType::Normal, self.words.event, text);
        };
        match left {
            None if self.forget(key) => tell(self.words.cancelling),
            None => {}
            Some(left) if !left.is_zero() => {
                let since = self.since(key);
                self.leaving.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), since);
                return Ok(Requeue::After(left));
            }
            Some(_) => {
                self.forget(key);
                tell(self.words.marking);
                self.evict(key, pod).await?;
            }
        }
        Ok(Requeue::Never)
    }

    /// There is nothing more to do about a pod. Whether there was.
    fn forget(&self, key: &ObjectKey) -> bool {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).remove(key).is_some()
    }

    /// Since when a pod is to leave: from now on, if that is news.
    fn since(&self, key: &ObjectKey) -> Timestamp {
        let leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.get(key).copied().unwrap_or_else(coracle_clock::now)
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": self.words.reason, "message": self.words.message,
            "lastTransitionTime": Time(coracle_clock::now_seconds()),
        });
        let patch =
            Patch::Strategic(json!({ "metadata": { "uid": pod.uid() }, "status": { "conditions": [condition] } }));
        api.patch_status(&key.name, &PatchParams::default(), &patch).await.ignore_not_found()?;
        let params = DeleteParams::default().preconditions(Preconditions { uid: pod.uid(), resource_version: None });
        api.delete(&key.name, &params).await.ignore_not_found()?;
        Ok(())
    }
}
