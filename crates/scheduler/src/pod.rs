//! A pod as decisions see it: what they ask of it again and again is worked out once.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use coracle_api::selector::Selector;
use coracle_client::ObjectKey;
use coracle_client::scheduling::resources::{Resources, nonzero_requests, pod_requests};
use coracle_client::scheduling::{HostPort, host_ports};
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec, Toleration, WeightedPodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// A pod, with what decisions ask of it worked out once.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Namespace and name.
    pub key: ObjectKey,
    /// What it asks for.
    pub requests: Resources,
    /// CPU (thousandths) and memory (bytes) as scores count them.
    pub nonzero: (i64, i64),
    /// Higher goes first and may push lower ones out.
    pub priority: i32,
    /// The UID of the controller that makes it one of a kind; none once it is being deleted.
    pub kind: Option<String>,
    /// Which pods it wants to be near, or away from; none if it does not care.
    pub affinity: Option<Box<PodAffinities>>,
}

/// Whose pods are one kind without being asked.
const KINDS: [&str; 3] = ["ReplicaSet", "StatefulSet", "ReplicationController"];

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

impl PodInfo {
    /// Works out what decisions ask of a pod.
    pub fn new(pod: Arc<Pod>) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        PodInfo {
            key: ObjectKey::of(pod.as_ref()),
            requests: pod_requests(spec),
            nonzero: nonzero_requests(spec),
            priority: spec.priority.unwrap_or_default(),
            kind: kind(&pod),
            affinity: PodAffinities::of(&pod).map(Box::new),
            pod: pod.clone(),
        }
    }

    /// The pod's spec; the API server keeps no pod without one.
    pub fn spec(&self) -> &PodSpec {
        static EMPTY: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&EMPTY)
    }

    /// The pod's UID.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The pod's labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        labels(&self.pod)
    }

    /// The taints it bears.
    pub fn tolerations(&self) -> &[Toleration] {
        self.spec().tolerations.as_deref().unwrap_or_default()
    }

    /// Whether it is being deleted.
    pub fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// The node that was made free for it, by its status.
    pub fn nominated_node(&self) -> Option<&str> {
        let name = self.pod.status.as_ref()?.nominated_node_name.as_deref()?;
        (!name.is_empty()).then_some(name)
    }

    /// The ports it takes on its node.
    pub fn host_ports(&self) -> impl Iterator<Item = HostPort<'_>> {
        host_ports(self.spec())
    }

    /// The claims it uses, and whether they must be its own: an ephemeral volume's is named after pod and volume.
    pub fn claims(&self) -> impl Iterator<Item = (ObjectKey, bool)> {
        let key = |name: String| ObjectKey::new(&self.key.namespace, name);
        self.spec().volumes.iter().flatten().filter_map(move |volume| {
            match (&volume.persistent_volume_claim, &volume.ephemeral) {
                (Some(claim), _) => Some((key(claim.claim_name.clone()), false)),
                (None, Some(_)) => Some((key(format!("{}-{}", self.key.name, volume.name)), true)),
                (None, None) => None,
            }
        })
    }
}

/// A pod's labels.
pub fn labels(pod: &Pod) -> &BTreeMap<String, String> {
    pod.metadata.labels.as_ref().unwrap_or(&NO_LABELS)
}

fn kind(pod: &Pod) -> Option<String> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true) && KINDS.contains(&owner.kind.as_str()))?;
    pod.metadata.deletion_timestamp.is_none().then(|| owner.uid.clone())
}

/// A pod's affinity and anti-affinity to other pods, ready to be matched.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodAffinities {
    /// Where all of these have a pod, it may go.
    pub near: Vec<Term>,
    /// Where any of these has a pod, it may not go.
    pub away: Vec<Term>,
    /// What it would like, with weights; negative for what it would like to be away from.
    pub preferred: Vec<(Term, i64)>,
}

impl PodAffinities {
    fn of(pod: &Pod) -> Option<Self> {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?;
        let (near, away) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
        let required = |terms: Option<&Option<Vec<PodAffinityTerm>>>| {
            terms.into_iter().flatten().flatten().map(|term| Term::new(term, pod)).collect()
        };
        let preferred = |terms: Option<&Option<Vec<WeightedPodAffinityTerm>>>, sign: i64| {
            let terms = terms.into_iter().flatten().flatten();
            terms.map(|w| (Term::new(&w.pod_affinity_term, pod), sign * i64::from(w.weight))).collect::<Vec<_>>()
        };
        let mut wishes = preferred(near.map(|a| &a.preferred_during_scheduling_ignored_during_execution), 1);
        wishes.extend(preferred(away.map(|a| &a.preferred_during_scheduling_ignored_during_execution), -1));
        let all = PodAffinities {
            near: required(near.map(|a| &a.required_during_scheduling_ignored_during_execution)),
            away: required(away.map(|a| &a.required_during_scheduling_ignored_during_execution)),
            preferred: wishes,
        };
        (!(all.near.is_empty() && all.away.is_empty() && all.preferred.is_empty())).then_some(all)
    }
}

/// Which pods a term of affinity means, and what "near" is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// Nodes with the same value of this label are near each other.
    pub key: String,
    selector: Selector,
    namespaces: Vec<String>,
    namespace_selector: Option<Selector>,
}

impl Term {
    fn new(term: &PodAffinityTerm, owner: &Pod) -> Term {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        // Without namespaces and selector a term means the owner's namespace.
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.extend(owner.metadata.namespace.clone());
        }
        let own = labels(owner);
        let narrowed = term.label_selector.clone().map(|selector| {
            let selector = narrowed(selector, own, &term.match_label_keys, "In");
            narrowed(selector, own, &term.mismatch_label_keys, "NotIn")
        });
        Term {
            key: term.topology_key.clone(),
            selector: narrowed.as_ref().map_or_else(Selector::nothing, parsed),
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(parsed),
        }
    }

    /// Whether it means namespaces by their labels.
    pub fn selects_namespaces(&self) -> bool {
        self.namespace_selector.is_some()
    }

    /// Whether it means the pod; namespaces are known by their labels.
    pub fn matches(&self, pod: &PodInfo, namespaces: &BTreeMap<String, BTreeMap<String, String>>) -> bool {
        let namespace = &pod.key.namespace;
        let selected = |selector: &Selector| selector.matches(namespaces.get(namespace).unwrap_or(&NO_LABELS));
        (self.namespaces.contains(namespace) || self.namespace_selector.as_ref().is_some_and(selected))
            && self.selector.matches(pod.labels())
    }
}

/// A selector that the API server accepted; one that it would not matches nothing.
pub fn parsed(selector: &LabelSelector) -> Selector {
    Selector::from_label_selector(selector).unwrap_or_else(|_| Selector::nothing())
}

/// A selector with one more requirement for each of `keys` that the owner has, on the owner's own value.
pub fn narrowed(
    mut selector: LabelSelector,
    own: &BTreeMap<String, String>,
    keys: &Option<Vec<String>>,
    operator: &str,
) -> LabelSelector {
    for (key, value) in keys.iter().flatten().filter_map(|key| Some((key, own.get(key)?))) {
        selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
            key: key.clone(),
            operator: operator.into(),
            values: Some(vec![value.clone()]),
        });
    }
    selector
}
