//! What pods ask for and nodes offer, as whole numbers.

use std::collections::BTreeMap;

use coracle_api::quantity;
use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::is_sidecar;

/// Amounts of resources: cpu in thousandths of a core, everything else in whole units (bytes).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Those of [`CORE`]: a decision asks every node for them, so they are found without a search.
    core: [Option<i64>; CORE.len()],
    others: BTreeMap<String, i64>,
}

/// The name of the CPU resource, which is counted in thousandths.
pub const CPU: &str = "cpu";
/// The name of the memory resource.
pub const MEMORY: &str = "memory";
/// The name of the resource that limits how many pods a node takes.
pub const PODS: &str = "pods";
const CORE: [&str; 4] = [CPU, MEMORY, PODS, "ephemeral-storage"];

impl Resources {
    /// The amounts of a resource list, such as a node's allocatable.
    pub fn from_list(list: &BTreeMap<String, Quantity>) -> Self {
        let mut all = Resources::default();
        for (name, quantity) in list {
            all.set(name, amount(name, quantity));
        }
        all
    }

    /// The amount of one resource; 0 if it is not named.
    pub fn get(&self, name: &str) -> i64 {
        self.named(name).unwrap_or_default()
    }

    /// Whether the resource is named at all.
    pub fn has(&self, name: &str) -> bool {
        self.named(name).is_some()
    }

    /// CPU, in thousandths of a core.
    pub fn cpu(&self) -> i64 {
        self.core[0].unwrap_or_default()
    }

    /// Memory, in bytes.
    pub fn memory(&self) -> i64 {
        self.core[1].unwrap_or_default()
    }

    /// How many pods.
    pub fn pods(&self) -> i64 {
        self.core[2].unwrap_or_default()
    }

    /// Sets the amount of one resource.
    pub fn set(&mut self, name: &str, amount: i64) {
        *self.entry(name) = amount;
    }

    /// The resources and their amounts: CPU, memory, pods and ephemeral storage, then the others by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        let core = CORE.into_iter().zip(self.core).filter_map(|(name, amount)| Some((name, amount?)));
        core.chain(self.others.iter().map(|(name, amount)| (name.as_str(), *amount)))
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: &Resources) {
        self.combine(other, |own, other| own + other);
    }

    /// Subtracts all of `other`.
    pub fn subtract(&mut self, other: &Resources) {
        self.combine(other, |own, other| own - other);
    }

    /// Raises each amount to that of `other`, where that is higher.
    pub fn raise_to(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }

    /// What `other` names becomes what `how` makes of both amounts.
    fn combine(&mut self, other: &Resources, how: impl Fn(i64, i64) -> i64) {
        for (own, other) in self.core.iter_mut().zip(other.core) {
            if let Some(amount) = other {
                *own = Some(how(own.unwrap_or_default(), amount));
            }
        }
        for (name, amount) in &other.others {
            let own = self.entry(name);
            *own = how(*own, *amount);
        }
    }

    fn named(&self, name: &str) -> Option<i64> {
        match core(name) {
            Some(at) => self.core[at],
            None => self.others.get(name).copied(),
        }
    }

    fn entry(&mut self, name: &str) -> &mut i64 {
        match core(name) {
            Some(at) => self.core[at].get_or_insert(0),
            None => self.others.entry(name.to_owned()).or_default(),
        }
    }
}

fn core(name: &str) -> Option<usize> {
    CORE.iter().position(|core| *core == name)
}

fn amount(name: &str, quantity: &Quantity) -> i64 {
    // The API server let only well-formed quantities in; what is not is not there.
    let parsed = quantity.0.parse::<quantity::Quantity>().unwrap_or_default();
    if name == CPU { parsed.to_millis() } else { parsed.to_value() }
}

fn requests(resources: Option<&ResourceRequirements>) -> Resources {
    resources.and_then(|r| r.requests.as_ref()).map(Resources::from_list).unwrap_or_default()
}

/// What a pod asks for: the larger of its containers' sum and the peak of its init containers (a sidecar, once
/// started, counts beside all that follow), plus the runtime's overhead. Pod-level requests go first.
pub fn pod_requests(spec: &PodSpec) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&requests(container.resources.as_ref()));
    }
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let own = requests(container.resources.as_ref());
        if is_sidecar(container) {
            running.add(&own);
            sidecars.add(&own);
            peak.raise_to(&sidecars);
        } else {
            let mut with_sidecars = own;
            with_sidecars.add(&sidecars);
            peak.raise_to(&with_sidecars);
        }
    }
    running.raise_to(&peak);
    for (name, amount) in requests(spec.resources.as_ref()).iter() {
        running.set(name, amount);
    }
    if let Some(overhead) = &spec.overhead {
        running.add(&Resources::from_list(overhead));
    }
    running
}

/// CPU and memory as scores count them: containers that ask for nothing count as 100m and 200 MiB each,
/// so that they spread too.
pub fn nonzero_requests(spec: &PodSpec) -> (i64, i64) {
    const DEFAULT_MILLI_CPU: i64 = 100;
    const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;
    let sum = spec.containers.iter().fold((0, 0), |(cpu, memory), container| {
        let own = requests(container.resources.as_ref());
        let or = |name: &str, default| own.named(name).unwrap_or(default);
        (cpu + or(CPU, DEFAULT_MILLI_CPU), memory + or(MEMORY, DEFAULT_MEMORY))
    });
    let whole = pod_requests(spec);
    (sum.0.max(whole.get(CPU)), sum.1.max(whole.get(MEMORY)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_asks_for_the_larger_of_its_containers_and_its_init_peak() {
        let container = |name: &str, cpu: &str, restart: Option<&str>| json!({ "name": name, "restartPolicy": restart, "resources": { "requests": { "cpu": cpu } } });
        let spec: PodSpec = serde_json::from_value(json!({
            "initContainers": [container("sidecar", "100m", Some("Always")), container("migrate", "2", None)],
            "containers": [container("a", "500m", None), container("b", "1", None)],
        }))
        .unwrap();
        // Containers and sidecar: 1600m; the migration runs beside the sidecar: 2100m.
        assert_eq!(pod_requests(&spec).get(CPU), 2100);
    }
}
