//! What informers see: into the cache, and to the pods in the queue that it may help.

use std::sync::Arc;

use coracle_client::scheduling::resources::Resources;
use coracle_client::{Informable, Informers};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolumeClaim, Pod, Taint, Toleration};
use k8s_openapi::api::resource::v1::ResourceClaim;
use tokio::sync::mpsc;

use super::write::scheduled_condition;
use super::{Scheduler, rank};
use crate::explain::{Outcome, Trace};
use crate::framework::{ClusterEvent, Happening, Object, Point};
use crate::pod::PodInfo;
use crate::snapshot::{Index, Listed, Snapshot};

/// An object's states before and after a change.
pub(super) struct Delta<K> {
    old: Option<Arc<K>>,
    new: Option<Arc<K>>,
}

/// A change seen by an informer.
pub(super) enum Change {
    Node(Delta<Node>),
    Pod(Delta<Pod>),
    Namespace(Delta<Namespace>),
    /// What is only listed: it knows itself where, and which event that is.
    Listed(SetListed),
}

type SetListed = Box<dyn FnOnce(&mut Snapshot) -> Option<Happening> + Send>;

/// All changes from now on, after what there is.
pub(super) async fn changes(informers: &Informers) -> mpsc::UnboundedReceiver<Change> {
    let (sender, changes) = mpsc::unbounded_channel();
    let (pods, nodes, namespaces) = (informers.get::<Pod>(), informers.get::<Node>(), informers.get::<Namespace>());
    let claims = informers.get::<PersistentVolumeClaim>();
    // Everything before pods, so that the first pods find somewhere to go.
    use ClusterEvent::*;
    listed(informers, &sender, |s| &mut s.classes, Some((StorageClassAdd, StorageClassUpdate)), None).await;
    listed(informers, &sender, |s| &mut s.volumes, Some((PersistentVolumeAdd, PersistentVolumeUpdate)), None).await;
    listed(informers, &sender, |s| &mut s.csi_nodes, Some((CSINodeAdd, CSINodeUpdate)), None).await;
    listed(informers, &sender, |s| &mut s.csi_drivers, Some((CSIDriverAdd, CSIDriverUpdate)), None).await;
    let capacity = Some((CSIStorageCapacityAdd, CSIStorageCapacityUpdate));
    listed(informers, &sender, |s| &mut s.capacities, capacity, None).await;
    listed(informers, &sender, |s| &mut s.attachments, None, Some(VolumeAttachmentDelete)).await;
    listed(informers, &sender, |s| &mut s.budgets, None, None).await;
    listed(informers, &sender, |s| &mut s.services, None, None).await;
    let slice = (ResourceSliceAdd, ResourceSliceUpdate);
    listed(informers, &sender, |s| &mut s.resource_slices, Some(slice), None).await;
    listed(informers, &sender, |s| &mut s.device_classes, Some((DeviceClassAdd, DeviceClassUpdate)), None).await;
    let devices = informers.get::<ResourceClaim>();
    devices.wait_for_sync().await;
    let tell = sender.clone();
    devices.on_change(move |change| {
        let (key, old, new) = (change.key(), change.old.cloned(), change.new.cloned());
        drop(tell.send(Change::Listed(Box::new(move |snapshot| {
            snapshot.resource_claims.set(key, new.clone());
            let event = match (&old, &new) {
                (_, None) => ResourceClaimDelete,
                (None, _) => ResourceClaimAdd,
                _ => ResourceClaimUpdate,
            };
            Some(Happening { events: vec![event], object: Object::ResourceClaim(old, new) })
        }))));
    });
    claims.wait_for_sync().await;
    let tell = sender.clone();
    claims.on_change(move |change| {
        let (key, old, new) = (change.key(), change.old.cloned(), change.new.cloned());
        drop(tell.send(Change::Listed(Box::new(move |snapshot| {
            snapshot.claims.set(key, new.clone());
            let event = if old.is_none() { PersistentVolumeClaimAdd } else { PersistentVolumeClaimUpdate };
            new.is_some().then(|| Happening { events: vec![event], object: Object::Claim(old, new) })
        }))));
    });
    namespaces.wait_for_sync().await;
    nodes.wait_for_sync().await;
    pods.wait_for_sync().await;
    let tell = sender.clone();
    namespaces
        .on_change(move |c| drop(tell.send(Change::Namespace(Delta { old: c.old.cloned(), new: c.new.cloned() }))));
    let tell = sender.clone();
    nodes.on_change(move |c| drop(tell.send(Change::Node(Delta { old: c.old.cloned(), new: c.new.cloned() }))));
    pods.on_change(move |c| drop(sender.send(Change::Pod(Delta { old: c.old.cloned(), new: c.new.cloned() }))));
    changes
}

/// Keeps a list of the snapshot current; its events are those of an object that comes or changes, and that goes.
async fn listed<K: Informable, I: Index<K> + 'static>(
    informers: &Informers,
    sender: &mpsc::UnboundedSender<Change>,
    list: fn(&mut Snapshot) -> &mut Listed<K, I>,
    set: Option<(ClusterEvent, ClusterEvent)>,
    gone: Option<ClusterEvent>,
) {
    let informer = informers.get::<K>();
    informer.wait_for_sync().await;
    let tell = sender.clone();
    informer.on_change(move |change| {
        let (key, new, is_new) = (change.key(), change.new.cloned(), change.old.is_none());
        drop(tell.send(Change::Listed(Box::new(move |snapshot| {
            let event = match &new {
                Some(_) => set.map(|(added, changed)| if is_new { added } else { changed }),
                None => gone,
            };
            list(snapshot).set(key, new);
            event.map(|event| Happening { events: vec![event], object: Object::Other })
        }))));
    });
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn scales_down(old: &Resources, new: &Resources) -> bool {
    old.iter().any(|(name, amount)| new.get(name) < amount)
}

impl Scheduler {
    pub(super) fn observe(&mut self, change: Change) {
        match change {
            Change::Node(delta) => self.observe_node(delta),
            Change::Namespace(Delta { old, new }) => {
                let namespace =
                    new.as_ref().or(old.as_ref()).map(|namespace| namespace.metadata.clone()).unwrap_or_default();
                let (name, listed) = (namespace.name.unwrap_or_default(), &mut self.cache.listed().namespaces);
                match new {
                    Some(_) => drop(listed.insert(name, namespace.labels.unwrap_or_default())),
                    None => drop(listed.remove(&name)),
                }
            }
            Change::Pod(Delta { old, new }) => self.observe_pod(old, new),
            Change::Listed(set) => {
                if let Some(happening) = set(self.cache.listed()) {
                    self.happened(happening);
                }
            }
        }
    }

    pub(super) fn happened(&mut self, happening: Happening) {
        for gated in self.queue.happened(happening, &self.profiles, coracle_clock::instant()) {
            self.enqueue(gated);
        }
    }

    fn observe_node(&mut self, Delta { old, new }: Delta<Node>) {
        let events = node_events(old.as_deref(), new.as_deref());
        match &new {
            Some(node) => self.cache.set_node(node.clone()),
            None => {
                let name = old.as_ref().and_then(|node| node.metadata.name.clone());
                self.cache.remove_node(&name.unwrap_or_default());
            }
        }
        // Heartbeats change nothing that a pod waits for.
        if !events.is_empty() {
            self.happened(Happening { events, object: Object::Node(old, new) });
        }
    }

    fn observe_pod(&mut self, old: Option<Arc<Pod>>, new: Option<Arc<Pod>>) {
        let Some(pod) = new.filter(|pod| !has_ended(pod)) else {
            return old.map_or((), |old| self.pod_gone(PodInfo::new(old)));
        };
        let Some(node) = node_of(&pod) else { return self.observe_pending(old, pod) };
        let info = Arc::new(PodInfo::new(pod.clone()));
        self.queue.remove(&info.key);
        self.cache.set_pod(info.clone(), node);
        let old = old.filter(|old| node_of(old).is_some());
        let same = old.as_ref().is_some_and(|old| old.spec == pod.spec && old.metadata.labels == pod.metadata.labels);
        if same {
            return;
        }
        let old = old.map(PodInfo::new);
        let mut events = Vec::new();
        match &old {
            None => events.push(ClusterEvent::AssignedPodAdd),
            Some(old) => {
                events.extend((old.labels() != info.labels()).then_some(ClusterEvent::AssignedPodLabelChange));
                let less = scales_down(&old.requests, &info.requests);
                events.extend(less.then_some(ClusterEvent::AssignedPodScaleDown));
            }
        }
        self.happened(Happening { events, object: Object::Pod(old.map(Arc::new), Some(info)) });
    }

    fn observe_pending(&mut self, old: Option<Arc<Pod>>, pod: Arc<Pod>) {
        let Some(profile) = self.profiles.of(&pod) else { return };
        let info = Arc::new(PodInfo::new(pod.clone()));
        if info.is_terminating() {
            self.cache.drop_nomination(&info.key);
            return self.queue.remove(&info.key);
        }
        if self.cache.assumes(&info.key) {
            return;
        }
        let had = old.as_ref().and_then(|old| old.status.as_ref()?.nominated_node_name.clone());
        match info.nominated_node() {
            Some(node) => self.cache.nominate(info.clone(), node),
            None if had.is_some() => self.cache.drop_nomination(&info.key),
            None => {}
        }
        match self.queue.gate(&info.key) {
            Some(None) => {
                let Some(old) = old else { return self.queue.renew(info) };
                let old = PodInfo::new(old);
                let events = own_events(&old, &info);
                // A status that we wrote ourselves is no reason to try again.
                if events.is_empty() {
                    return self.queue.renew(info);
                }
                let happening = Happening { events, object: Object::Pod(Some(Arc::new(old)), Some(info.clone())) };
                let rank = rank(profile, &info);
                self.queue.update(info, rank, &happening, &self.profiles, coracle_clock::instant());
            }
            _ => self.enqueue(info),
        }
    }

    /// Lets a new or gated pod in, unless a plugin keeps it out.
    pub(super) fn enqueue(&mut self, pod: Arc<PodInfo>) {
        let Some(profile) = self.profiles.of(&pod.pod) else { return };
        let snapshot = self.cache.listed();
        let mut gates = profile.at(Point::PreEnqueue);
        let gate = gates.find_map(|plugin| Some((plugin.name(), plugin.pre_enqueue(&pod, snapshot).err()?)));
        drop(gates);
        let (by, name) = (gate.as_ref().map(|(plugin, _)| *plugin), profile.scheduler_name.clone());
        let known = self.queue.gate(&pod.key) == Some(by);
        self.queue.add(pod.clone(), rank(profile, &pod), by, coracle_clock::instant());
        if let Some((_, refusal)) = gate.filter(|_| !known) {
            self.gated(&pod, &name, refusal.message());
        }
    }

    pub(super) fn gated(&mut self, pod: &Arc<PodInfo>, scheduler: &str, message: String) {
        if pod.spec().scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
            let text = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
            self.patch_status(pod, scheduled_condition(&pod.pod, "SchedulingGated", text));
        }
        if self.decisions.is_on() {
            let trace = Trace { outcome: Outcome::Gated { message }, ..Trace::new(pod, scheduler, 0) };
            self.decisions.push(trace);
        }
    }

    fn pod_gone(&mut self, pod: PodInfo) {
        self.queue.remove(&pod.key);
        self.cache.drop_nomination(&pod.key);
        if self.cache.holds(&pod.key) {
            self.cache.remove_pod(&pod.key);
            let events = vec![ClusterEvent::AssignedPodDelete];
            self.happened(Happening { events, object: Object::Pod(Some(Arc::new(pod)), None) });
        }
    }
}

/// What upstream makes of a change of a node.
fn node_events(old: Option<&Node>, new: Option<&Node>) -> Vec<ClusterEvent> {
    let (Some(old), Some(new)) = (old, new) else {
        return vec![if new.is_some() { ClusterEvent::NodeAdd } else { ClusterEvent::NodeDelete }];
    };
    let offers = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    let taints =
        |node: &Node| -> (Vec<Taint>, bool) { (crate::node::taints(node).to_vec(), crate::node::is_cordoned(node)) };
    [
        (offers(old) != offers(new), ClusterEvent::NodeAllocatableChange),
        (old.metadata.labels != new.metadata.labels, ClusterEvent::NodeLabelChange),
        (taints(old) != taints(new), ClusterEvent::NodeTaintChange),
    ]
    .into_iter()
    .filter_map(|(changed, event)| changed.then_some(event))
    .collect()
}

/// What upstream makes of a change of a pending pod.
fn own_events(old: &PodInfo, new: &PodInfo) -> Vec<ClusterEvent> {
    let tolerations = |pod: &PodInfo| -> Vec<Toleration> { pod.tolerations().to_vec() };
    let claims = |pod: &PodInfo| pod.pod.status.as_ref().and_then(|status| status.resource_claim_statuses.clone());
    [
        (old.labels() != new.labels(), ClusterEvent::PodLabelChange),
        (scales_down(&old.requests, &new.requests), ClusterEvent::PodScaleDown),
        (tolerations(old) != tolerations(new), ClusterEvent::PodTolerationChange),
        (claims(old) != claims(new), ClusterEvent::PodGeneratedResourceClaimChange),
    ]
    .into_iter()
    .filter_map(|(changed, event)| changed.then_some(event))
    .collect()
}
