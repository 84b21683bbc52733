//! Devices: which ones drivers publish, and which of them claims have.
//!
//! Both are kept beside the objects they are read from, so that a decision looks only at the devices of the nodes it
//! considers, not at all slices and claims of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use coracle_api::quantity::Quantity;
use coracle_cel::{Env, Meter, PER_CALL_LIMIT, Program, Type, Value};
use coracle_client::scheduling::{selector_matches, tolerates};
use k8s_openapi::api::core::v1::{NodeSelector, Taint, Toleration};
use k8s_openapi::api::resource::v1::{
    Device, DeviceAttribute, DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim, ResourceSlice,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

use crate::node::NodeInfo;
use crate::snapshot::Index;

/// Driver, pool and device.
pub type DeviceId<'a> = (&'a str, &'a str, &'a str);
/// Driver, pool, counter set and counter.
pub type CounterId<'a> = (&'a str, &'a str, &'a str, &'a str);

/// More selectors than this are not remembered.
const MAX_SELECTORS: usize = 64;

/// What all slices publish; put together when somebody asks, and again after a slice changed.
#[derive(Debug, Default)]
pub struct Published(OnceLock<Devices>);

impl Index<ResourceSlice> for Published {
    fn replace(&mut self, _: Option<&Arc<ResourceSlice>>, _: Option<&Arc<ResourceSlice>>) {
        self.0.take();
    }
}

impl Published {
    /// The devices of each pool's newest generation, of all slices there are.
    pub fn devices<'a>(&self, slices: impl Iterator<Item = &'a Arc<ResourceSlice>>) -> &Devices {
        self.0.get_or_init(|| Devices::new(&slices.collect::<Vec<_>>()))
    }
}

/// All devices that can be had, in the order of drivers, pools and slices; each is known by its place.
#[derive(Debug)]
pub struct Devices {
    all: Vec<DeviceInfo>,
    of_node: BTreeMap<String, Vec<usize>>,
    /// Those that are not one node's.
    elsewhere: Vec<usize>,
    /// Those that consume counters which devices of a pool share.
    consumers: Vec<usize>,
    /// The slices that say how much of these there is.
    counting: Vec<Arc<ResourceSlice>>,
    /// Pools of which not all slices are known: of them not all devices can be had.
    incomplete: BTreeSet<(String, String)>,
    selectors: Mutex<BTreeMap<String, Arc<Selector>>>,
}

impl Devices {
    fn new(slices: &[&Arc<ResourceSlice>]) -> Devices {
        let mut newest: BTreeMap<(&str, &str), i64> = BTreeMap::new();
        for slice in slices {
            let generation = newest.entry(pool(slice)).or_insert(i64::MIN);
            *generation = (*generation).max(slice.spec.pool.generation);
        }
        let mut slices: Vec<_> =
            slices.iter().copied().filter(|slice| newest[&pool(slice)] == slice.spec.pool.generation).collect();
        slices.sort_by_key(|slice| (pool(slice), &slice.metadata.name));
        let mut counted: BTreeMap<(&str, &str), i64> = BTreeMap::new();
        slices.iter().for_each(|slice| *counted.entry(pool(slice)).or_default() += 1);
        let missing = slices.iter().filter(|slice| counted[&pool(slice)] < slice.spec.pool.resource_slice_count);
        let incomplete = missing.map(|slice| (slice.spec.driver.clone(), slice.spec.pool.name.clone())).collect();
        let published = slices.iter().flat_map(|slice| {
            let count = slice.spec.devices.as_ref().map_or(0, Vec::len);
            (0..count).map(|at| DeviceInfo { slice: Arc::clone(slice), at })
        });
        let counting = slices.iter().filter(|slice| slice.spec.shared_counters.is_some());
        let mut devices = Devices {
            all: published.collect(),
            of_node: BTreeMap::new(),
            elsewhere: Vec::new(),
            consumers: Vec::new(),
            counting: counting.map(|slice| Arc::clone(slice)).collect(),
            incomplete,
            selectors: Mutex::default(),
        };
        for (place, device) in devices.all.iter().enumerate() {
            match device.place() {
                (Some(node), ..) => devices.of_node.entry(node.to_owned()).or_default().push(place),
                _ => devices.elsewhere.push(place),
            }
            if device.device().consumes_counters.is_some() {
                devices.consumers.push(place);
            }
        }
        devices
    }

    /// The device at a place.
    pub fn at(&self, place: usize) -> &DeviceInfo {
        &self.all[place]
    }

    /// The places of those that can be used on a node.
    pub fn on(&self, node: &NodeInfo) -> Vec<usize> {
        let elsewhere = self.elsewhere.iter().filter(|place| self.all[**place].is_on(node));
        let own = self.of_node.get(&node.name).into_iter().flatten();
        let mut places: Vec<_> = own.chain(elsewhere).copied().collect();
        places.sort_unstable();
        places
    }

    /// Whether all devices of the pool that the device is of are known.
    pub fn is_whole(&self, place: usize) -> bool {
        self.incomplete.is_empty() || {
            let (driver, pool, _) = self.all[place].id();
            !self.incomplete.contains(&(driver.to_owned(), pool.to_owned()))
        }
    }

    /// What is left of the counters that devices share, besides what those consume that claims have.
    pub fn counters(&self, held: &Held) -> BTreeMap<CounterId<'_>, Quantity> {
        let all = self.counting.iter().flat_map(|slice| {
            let (driver, pool) = pool(slice);
            slice.spec.shared_counters.iter().flatten().flat_map(move |set| {
                let counters = set.counters.iter();
                counters
                    .map(move |(name, counter)| ((driver, pool, &set.name[..], &name[..]), quantity(&counter.value)))
            })
        });
        let mut counters: BTreeMap<_, _> = all.collect();
        let held = self.consumers.iter().map(|place| &self.all[*place]).filter(|device| held.of(device.id()).is_some());
        for (id, used) in held.flat_map(DeviceInfo::consumed) {
            counters.entry(id).and_modify(|left| *left -= used);
        }
        counters
    }

    /// A selector, compiled.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn selector(&self, expression: &str) -> Result<Arc<Selector>, String> {
        let mut known = self.selectors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(selector) = known.get(expression) {
            return Ok(selector.clone());
        }
        let program = Env::default().with_type("device", Type::Dyn).compile(expression);
        let program = program.map_err(|error| format!("selector {expression:?}: {error}"))?;
        let selector = Arc::new(Selector { program, says: self.all.iter().map(|_| OnceLock::new()).collect() });
        if known.len() >= MAX_SELECTORS {
            known.clear();
        }
        known.insert(expression.to_owned(), selector.clone());
        Ok(selector)
    }

    /// Whether a selector of these devices means the one at a place.
    pub fn is_meant(&self, selector: &Selector, place: usize) -> bool {
        *selector.says[place].get_or_init(|| {
            let variables = BTreeMap::from([("device", self.all[place].value())]);
            // An expression that fails on a device says that the device is not meant.
            matches!(selector.program.evaluate(&variables, &Meter::new(PER_CALL_LIMIT)), Ok(Value::Bool(true)))
        })
    }
}

/// An expression over a device, and what it said of each.
#[derive(Debug)]
pub struct Selector {
    program: Program,
    says: Vec<OnceLock<bool>>,
}

/// A device and where it is published.
#[derive(Debug)]
pub struct DeviceInfo {
    slice: Arc<ResourceSlice>,
    at: usize,
}

impl DeviceInfo {
    /// What its driver publishes of it.
    pub fn device(&self) -> &Device {
        &self.slice.spec.devices.as_deref().unwrap_or_default()[self.at]
    }

    /// Its driver, its pool and its name.
    pub fn id(&self) -> DeviceId<'_> {
        let (driver, pool) = pool(&self.slice);
        (driver, pool, &self.device().name)
    }

    /// Where it can be used: on one node, on those that are selected, or on all.
    pub fn place(&self) -> (Option<&str>, Option<&NodeSelector>, bool) {
        let (spec, device) = (&self.slice.spec, self.device());
        let (name, selector, all) = match spec.per_device_node_selection {
            Some(true) => (&device.node_name, &device.node_selector, device.all_nodes),
            _ => (&spec.node_name, &spec.node_selector, spec.all_nodes),
        };
        (name.as_deref(), selector.as_ref(), all == Some(true))
    }

    fn is_on(&self, node: &NodeInfo) -> bool {
        let (name, selector, all) = self.place();
        all || name == Some(&node.name) || selector.is_some_and(|selector| selector_matches(selector, &node.node))
    }

    /// Whether many may use it.
    pub fn is_shared(&self) -> bool {
        self.device().allow_multiple_allocations == Some(true)
    }

    /// Whether its taints that keep pods away are all tolerated.
    pub fn is_tolerated(&self, tolerations: &[DeviceToleration]) -> bool {
        let as_taint = |taint: &DeviceTaint| Taint {
            key: taint.key.clone(),
            value: taint.value.clone(),
            effect: taint.effect.clone(),
            time_added: None,
        };
        let as_toleration = |toleration: &DeviceToleration| Toleration {
            key: toleration.key.clone(),
            value: toleration.value.clone(),
            effect: toleration.effect.clone(),
            operator: toleration.operator.clone(),
            toleration_seconds: None,
        };
        let mut taints = self.device().taints.iter().flatten().filter(|taint| taint.effect != "None").map(as_taint);
        taints.all(|taint| tolerations.iter().any(|toleration| tolerates(&as_toleration(toleration), &taint)))
    }

    /// An attribute by its qualified name; one without a domain is the driver's.
    pub fn attribute(&self, name: &str) -> Option<&DeviceAttribute> {
        let attributes = self.device().attributes.as_ref()?;
        let own = || attributes.get(name.strip_prefix(self.id().0)?.strip_prefix('/')?);
        attributes.get(name).or_else(own)
    }

    /// How much it consumes of which shared counters.
    pub fn consumed(&self) -> impl Iterator<Item = (CounterId<'_>, Quantity)> {
        let (driver, pool, _) = self.id();
        self.device().consumes_counters.iter().flatten().flat_map(move |consumed| {
            let counters = consumed.counters.iter();
            counters.map(move |(name, counter)| {
                ((driver, pool, &consumed.counter_set[..], &name[..]), quantity(&counter.value))
            })
        })
    }

    /// `device` in selectors: its driver, and attributes and capacity by domain and name.
    fn value(&self) -> Value {
        let (driver, ..) = self.id();
        let by_domain = |entries: Vec<(&String, Value)>| {
            let mut domains: BTreeMap<&str, Vec<(String, Value)>> = BTreeMap::from([(driver, Vec::new())]);
            for (name, value) in entries {
                let (domain, name) = name.split_once('/').unwrap_or((driver, name));
                domains.entry(domain).or_default().push((name.to_owned(), value));
            }
            domains
                .into_iter()
                .map(|(domain, values)| (domain.to_owned(), values.into_iter().collect()))
                .collect::<Value>()
        };
        let attributes = self.device().attributes.iter().flatten();
        let attributes = attributes.filter_map(|(name, attribute)| Some((name, plain(attribute)?)));
        let capacity = self.device().capacity.iter().flatten();
        let capacity = capacity.map(|(name, capacity)| (name, Value::Quantity(quantity(&capacity.value))));
        [
            ("driver".to_owned(), driver.into()),
            ("attributes".to_owned(), by_domain(attributes.collect())),
            ("capacity".to_owned(), by_domain(capacity.collect())),
            ("allowMultipleAllocations".to_owned(), Value::Bool(self.is_shared())),
        ]
        .into_iter()
        .collect()
    }
}

fn plain(attribute: &DeviceAttribute) -> Option<Value> {
    let text = attribute.string.as_deref().map(Value::from);
    let version = || Value::semver(attribute.version.as_deref()?);
    text.or_else(|| attribute.int.map(Value::Int)).or_else(|| attribute.bool.map(Value::Bool)).or_else(version)
}

fn pool(slice: &ResourceSlice) -> (&str, &str) {
    (&slice.spec.driver, &slice.spec.pool.name)
}

/// A quantity as the API has it; what is none is zero.
pub fn quantity(wire: &Wire) -> Quantity {
    wire.0.parse().unwrap_or_default()
}

/// Which devices claims have, but for administrators' looks: by driver, pool and name.
#[derive(Debug, Default)]
pub struct Held(BTreeMap<String, BTreeMap<String, BTreeMap<String, Use>>>);

/// The use of a device.
#[derive(Debug, Default)]
pub struct Use {
    /// How many have all of it.
    whole: usize,
    /// How many have a share.
    shares: usize,
    /// How much all shares are of each of its capacities.
    amounts: BTreeMap<String, Quantity>,
}

impl Use {
    /// Whether nobody else can have it.
    pub fn is_whole(&self) -> bool {
        self.whole > 0
    }

    /// Whether there are shares of it.
    pub fn is_shared(&self) -> bool {
        self.shares > 0
    }

    /// How much all shares are of each of its capacities.
    pub fn amounts(&self) -> &BTreeMap<String, Quantity> {
        &self.amounts
    }

    fn count(&mut self, result: &DeviceRequestAllocationResult, more: bool) {
        let number = if result.share_id.is_some() { &mut self.shares } else { &mut self.whole };
        *number = if more { *number + 1 } else { number.saturating_sub(1) };
        let amounts = result.consumed_capacity.iter().flatten().filter(|_| result.share_id.is_some());
        for (name, amount) in amounts {
            let amount = quantity(amount);
            let total = self.amounts.entry(name.clone()).or_default();
            if more { *total += amount } else { *total -= amount }
        }
    }
}

impl Held {
    /// The use of a device; none if it is free.
    pub fn of(&self, (driver, pool, device): DeviceId<'_>) -> Option<&Use> {
        self.0.get(driver)?.get(pool)?.get(device)
    }

    fn count(&mut self, claim: &ResourceClaim, more: bool) {
        for result in results(claim).filter(|result| result.admin_access != Some(true)) {
            let pool = self.0.entry(result.driver.clone()).or_default().entry(result.pool.clone()).or_default();
            let used = pool.entry(result.device.clone()).or_default();
            used.count(result, more);
            if !used.is_whole() && !used.is_shared() {
                pool.remove(&result.device);
            }
        }
    }
}

impl Index<ResourceClaim> for Held {
    fn replace(&mut self, old: Option<&Arc<ResourceClaim>>, new: Option<&Arc<ResourceClaim>>) {
        if let Some(old) = old {
            self.count(old, false);
        }
        if let Some(new) = new {
            self.count(new, true);
        }
    }
}

/// What a claim has got.
pub fn results(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
    devices.into_iter().flat_map(|devices| devices.results.iter().flatten())
}

#[cfg(test)]
mod tests {
    use coracle_client::ObjectKey;
    use serde_json::json;

    use super::*;
    use crate::snapshot::Listed;

    fn claim(version: u64, results: serde_json::Value) -> Arc<ResourceClaim> {
        let metadata = json!({ "name": "c", "namespace": "default", "resourceVersion": version.to_string() });
        let status = json!({ "allocation": { "devices": { "results": results } } });
        Arc::new(serde_json::from_value(json!({ "metadata": metadata, "spec": {}, "status": status })).unwrap())
    }

    #[test]
    fn what_claims_have_follows_every_state_of_theirs() {
        let result = |device: &str| json!({ "request": "r", "driver": "d", "pool": "p", "device": device });
        let share = |amount: &str| {
            let mut share = result("shared");
            (share["shareID"], share["consumedCapacity"]) = ("1".into(), json!({ "memory": amount }));
            share
        };
        let mut admin = result("looked-at");
        admin["adminAccess"] = true.into();
        let (mut claims, key) = (Listed::<ResourceClaim, Held>::default(), ObjectKey::new("default", "c"));
        let whole = |claims: &Listed<ResourceClaim, Held>, device: &str| {
            claims.index().of(("d", "p", device)).is_some_and(Use::is_whole)
        };
        claims.set(key.clone(), Some(claim(1, json!([]))));
        let assumed = claim(1, json!([result("a"), admin]));
        claims.assume(key.clone(), assumed.clone(), false);
        assert!(whole(&claims, "a") && !whole(&claims, "looked-at") && !whole(&claims, "b"));
        claims.forget(&key, &assumed);
        assert!(claims.index().of(("d", "p", "a")).is_none());
        claims.set(key.clone(), Some(claim(2, json!([result("b"), share("1Gi"), share("2Gi")]))));
        assert!(whole(&claims, "b"));
        let shared = claims.index().of(("d", "p", "shared")).unwrap();
        assert!(shared.is_shared() && !shared.is_whole());
        assert_eq!(shared.amounts()["memory"], "3Gi".parse().unwrap());
        claims.set(key.clone(), Some(claim(3, json!([share("2Gi")]))));
        assert!(!whole(&claims, "b"));
        assert_eq!(claims.index().of(("d", "p", "shared")).unwrap().amounts()["memory"], "2Gi".parse().unwrap());
        claims.set(key, None);
        assert!(claims.index().of(("d", "p", "shared")).is_none());
    }
}
