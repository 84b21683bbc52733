//! Persistent volumes: claims are bound to volumes, which are made when a class says how.
//!
//! Watches claims, volumes and classes. Keys are claims and volumes; the change of a claim is also its volume's,
//! and of a volume its claim's. A new volume or class may suit any claim that waits, so these are looked at again.
//! A binding has two sides, `volume.spec.claimRef` and `claim.spec.volumeName`, written in this order; whoever
//! finds one side without the other completes it. One worker, because two claims may want the same volume.

pub(crate) mod ephemeral;
pub(crate) mod expand;
mod plan;
pub(crate) mod protection;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use coracle_client::{
    EventRecorder, EventType, Informer, ObjectKey, Requeue, WorkQueue, object_reference, run_workers,
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, ResourceExt};

use crate::context::Context;
use crate::error::{Error, IgnoreNotFound, Result};
use plan::{ClaimAction, HOST_PATH, STORAGE_PROVISIONER, VolumeAction};

const NAME: &str = "persistentvolume-controller";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Claim(ObjectKey),
    Volume(String),
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    if let Err(error) = create_standard_class(&context.client).await {
        tracing::warn!(%error, "the StorageClass standard was not created");
    }
    let queue: WorkQueue<Key> = WorkQueue::new();
    let binder = Binder {
        claims: context.informer(),
        volumes: context.informer(),
        classes: context.informer(),
        client: context.client.clone(),
        recorder: context.recorder(NAME),
        queue: queue.clone(),
        context: context.clone(),
    };
    let to = queue.clone();
    binder.claims.on_change(move |change| {
        to.add(Key::Claim(change.key()));
        let volume = change.object().spec.as_ref().and_then(|spec| spec.volume_name.clone());
        volume.into_iter().for_each(|name| to.add(Key::Volume(name)));
        if change.new.is_none() {
            // A volume made for a claim that went before it was bound.
            to.add(Key::Volume(format!("pvc-{}", change.object().uid().unwrap_or_default())));
        }
    });
    let (claims, to) = (binder.claims.clone(), queue.clone());
    binder.volumes.on_change(move |change| {
        to.add(Key::Volume(change.object().name_any()));
        let reference = change.object().spec.as_ref().and_then(|spec| spec.claim_ref.clone());
        match reference {
            Some(claim) => {
                to.add(Key::Claim(ObjectKey::new(claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default())))
            }
            None => enqueue_waiting(&claims, &to),
        }
    });
    let (claims, to) = (binder.claims.clone(), queue.clone());
    binder.classes.on_change(move |_| enqueue_waiting(&claims, &to));
    binder.claims.wait_for_sync().await;
    binder.volumes.wait_for_sync().await;
    binder.classes.wait_for_sync().await;
    run_workers(NAME, &queue, 1, &context.shutdown, |key| binder.sync(key)).await;
}

fn enqueue_waiting(claims: &Informer<PersistentVolumeClaim>, queue: &WorkQueue<Key>) {
    for claim in claims.list() {
        if claim.spec.as_ref().is_some_and(|spec| spec.volume_name.as_deref().unwrap_or_default().is_empty()) {
            queue.add(Key::Claim(ObjectKey::of(claim.as_ref())));
        }
    }
}

/// The class `standard`, default, of our own provisioner. The data of all nodes lies on one host, so there is
/// nothing to wait for and binding is immediate.
async fn create_standard_class(client: &Client) -> Result<()> {
    let class = StorageClass {
        metadata: ObjectMeta {
            name: Some("standard".into()),
            annotations: Some([("storageclass.kubernetes.io/is-default-class".into(), "true".into())].into()),
            ..Default::default()
        },
        provisioner: HOST_PATH.into(),
        reclaim_policy: Some("Delete".into()),
        volume_binding_mode: Some("Immediate".into()),
        allow_volume_expansion: Some(true),
        ..Default::default()
    };
    let created = Api::<StorageClass>::all(client.clone()).create(&PostParams::default(), &class).await;
    match created.map_err(Error::from) {
        Err(error) if error.reason() != "AlreadyExists" => Err(error),
        _ => Ok(()),
    }
}

struct Binder {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    client: Client,
    recorder: EventRecorder,
    queue: WorkQueue<Key>,
    context: Context,
}

impl Binder {
    async fn sync(&self, key: Key) -> Result<Requeue> {
        match key {
            Key::Claim(key) => self.sync_claim(key).await?,
            Key::Volume(name) => self.sync_volume(name).await?,
        }
        Ok(Requeue::Never)
    }

    fn claim_api(&self, claim: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), &claim.namespace().unwrap_or_default())
    }

    fn volume_api(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    fn tell(&self, claim: &PersistentVolumeClaim, kind: EventType, reason: &str, message: impl Into<String>) {
        self.recorder.event(&object_reference(claim), kind, reason, message);
    }

    async fn sync_claim(&self, key: ObjectKey) -> Result<()> {
        let Some(claim) = self.claims.get(&key) else { return Ok(()) };
        let mut claim = claim.as_ref().clone();
        let (volumes, classes) = (self.volumes.list(), self.classes.list());
        let action = plan::World { volumes: &volumes, classes: &classes }.claim(&claim);
        // A claim on its way out that was never bound needs no volume any more.
        if claim.metadata.deletion_timestamp.is_some() && !matches!(action, ClaimAction::Bind(_)) {
            return Ok(());
        }
        match action {
            ClaimAction::Nothing => Ok(()),
            ClaimAction::SetClass(class) => {
                claim.spec.get_or_insert_default().storage_class_name = Some(class);
                self.claim_api(&claim).replace(&key.name, &PostParams::default(), &claim).await?;
                Ok(())
            }
            ClaimAction::Bind(volume) => self.bind(claim, *volume).await,
            ClaimAction::Provision(class) => self.provision(claim, &class).await,
            ClaimAction::AskProvisioner(provisioner) => self.ask(claim, &provisioner).await,
            ClaimAction::Wait { warning, reason, message } => {
                let kind = if warning { EventType::Warning } else { EventType::Normal };
                self.tell(&claim, kind, reason, message);
                self.set_claim_phase(claim, "Pending").await
            }
            ClaimAction::Lost { reason, message } => {
                if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Lost") {
                    self.tell(&claim, EventType::Warning, reason, message);
                }
                self.set_claim_phase(claim, "Lost").await
            }
        }
    }

    async fn set_claim_phase(&self, mut claim: PersistentVolumeClaim, phase: &str) -> Result<()> {
        let status = claim.status.get_or_insert_default();
        if status.phase.as_deref() == Some(phase) {
            return Ok(());
        }
        status.phase = Some(phase.into());
        if phase != "Bound" {
            (status.access_modes, status.capacity) = (None, None);
        }
        self.claim_api(&claim).replace_status(&claim.name_any(), &PostParams::default(), &claim).await?;
        Ok(())
    }

    async fn bind(&self, mut claim: PersistentVolumeClaim, mut volume: PersistentVolume) -> Result<()> {
        let name = volume.name_any();
        if !plan::is_bound_to(&volume, &claim) {
            plan::bind_volume(&mut volume, &claim);
            volume = self.volume_api().replace(&name, &PostParams::default(), &volume).await?;
        }
        self.set_volume_phase(volume.clone(), "Bound", None).await?;
        let before = claim.clone();
        plan::bind_claim(&mut claim, &volume);
        let api = self.claim_api(&claim);
        if claim != before {
            claim = api.replace(&claim.name_any(), &PostParams::default(), &claim).await?;
        }
        plan::bound_status(&mut claim, &volume);
        api.replace_status(&claim.name_any(), &PostParams::default(), &claim).await?;
        Ok(())
    }

    async fn provision(&self, mut claim: PersistentVolumeClaim, class: &StorageClass) -> Result<()> {
        if claim.annotations().get(STORAGE_PROVISIONER).is_none_or(|by| by != HOST_PATH) {
            claim = self.annotate_provisioner(claim, HOST_PATH).await?;
        }
        let volume = plan::provisioned(&claim, class, &self.context.config.volume_dir);
        let name = volume.name_any();
        match self.volume_api().create(&PostParams::default(), &volume).await.map_err(Error::from) {
            Ok(_) => {
                let message = format!("Successfully provisioned volume {name} using {HOST_PATH}");
                self.tell(&claim, EventType::Normal, "ProvisioningSucceeded", message);
            }
            // Made before a restart, or a moment ago: the watch brings it.
            Err(error) if error.reason() == "AlreadyExists" => {}
            Err(error) => {
                let message = format!("Failed to provision volume with StorageClass {:?}: {error}", class.name_any());
                self.tell(&claim, EventType::Warning, "ProvisioningFailed", message);
                return Err(error);
            }
        }
        self.set_claim_phase(claim, "Pending").await
    }

    async fn annotate_provisioner(
        &self,
        mut claim: PersistentVolumeClaim,
        provisioner: &str,
    ) -> Result<PersistentVolumeClaim> {
        for key in [STORAGE_PROVISIONER, "volume.beta.kubernetes.io/storage-provisioner"] {
            claim.annotations_mut().insert(key.into(), provisioner.into());
        }
        Ok(self.claim_api(&claim).replace(&claim.name_any(), &PostParams::default(), &claim).await?)
    }

    async fn ask(&self, mut claim: PersistentVolumeClaim, provisioner: &str) -> Result<()> {
        if claim.annotations().get(STORAGE_PROVISIONER).is_none_or(|by| by != provisioner) {
            claim = self.annotate_provisioner(claim, provisioner).await?;
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by \
             the system administrator. If volume creation is delayed, please verify that the provisioner is running \
             and correctly registered."
        );
        self.tell(&claim, EventType::Normal, "ExternalProvisioning", message);
        self.set_claim_phase(claim, "Pending").await
    }

    async fn sync_volume(&self, name: String) -> Result<()> {
        let Some(volume) = self.volumes.get(&ObjectKey::new("", &name)) else { return Ok(()) };
        let volume = volume.as_ref().clone();
        let claim = match volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone()) {
            None => None,
            Some(reference) => {
                let (namespace, name) = (reference.namespace.unwrap_or_default(), reference.name.unwrap_or_default());
                match self.claims.get(&ObjectKey::new(&namespace, &name)) {
                    Some(claim) => Some(claim),
                    // Data hangs on this: ask the API itself before taking a claim for gone.
                    None => {
                        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace);
                        api.get_opt(&name).await?.map(Arc::new)
                    }
                }
            }
        };
        match plan::volume(&volume, claim.as_deref()) {
            VolumeAction::Nothing => Ok(()),
            VolumeAction::SetPhase(phase) => self.set_volume_phase(volume, phase, None).await,
            VolumeAction::Delete => self.delete(volume).await,
            VolumeAction::FailDelete(message) => self.fail_delete(volume, message).await,
            VolumeAction::Unbind => {
                let mut volume = volume;
                plan::unbind(&mut volume);
                let volume = self.volume_api().replace(&name, &PostParams::default(), &volume).await?;
                self.set_volume_phase(volume, "Available", None).await
            }
        }
    }

    async fn set_volume_phase(&self, mut volume: PersistentVolume, phase: &str, message: Option<String>) -> Result<()> {
        let status = volume.status.get_or_insert_default();
        if status.phase.as_deref() == Some(phase) && status.message == message {
            return Ok(());
        }
        if status.phase.as_deref() != Some(phase) {
            let now = coracle_clock::now_seconds();
            status.last_phase_transition_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        }
        (status.phase, status.message) = (Some(phase.into()), message);
        self.volume_api().replace_status(&volume.name_any(), &PostParams::default(), &volume).await?;
        Ok(())
    }

    async fn delete(&self, volume: PersistentVolume) -> Result<()> {
        let name = volume.name_any();
        let path =
            volume.spec.as_ref().and_then(|spec| Some(spec.host_path.as_ref()?.path.clone())).unwrap_or_default();
        // The path is from an object that users may write: only what lies in our own directory is removed.
        let directory = self.context.config.volume_dir.join(&name);
        if directory != std::path::Path::new(&path) {
            return self
                .fail_delete(volume, format!("host_path deleter only supports {directory:?} but received {path}"))
                .await;
        }
        let volumes = self.context.config.volumes.clone();
        let removed = tokio::task::spawn_blocking(move || volumes.remove(&directory)).await;
        if let Err(error) = removed.map_err(std::io::Error::other).and_then(|result| result) {
            self.fail_delete(volume, format!("{path}: {error}")).await?;
            self.queue.add_rate_limited(Key::Volume(name));
            return Ok(());
        }
        self.volume_api().delete(&name, &DeleteParams::default()).await.ignore_not_found()?;
        Ok(())
    }

    async fn fail_delete(&self, volume: PersistentVolume, message: String) -> Result<()> {
        self.recorder.event(&object_reference(&volume), EventType::Warning, "VolumeFailedDelete", message.clone());
        self.set_volume_phase(volume, "Failed", Some(message)).await
    }
}
