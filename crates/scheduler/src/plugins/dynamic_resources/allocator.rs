//! Finds devices for claims: a search that goes back when it cannot go on.
//!
//! Every request of every claim needs one device or several. They are given out one by one, each the first in the
//! order of drivers, pools and slices that suits the request (its class's and its own selectors, taints) and what was
//! given out before (each device once, the claim's constraints, counters that devices of a pool share). Where none
//! suits, the one before is taken back and the next tried; a request with `firstAvailable` tries its next alternative.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_api::quantity::Quantity;
use coracle_cel::{Env, Meter, PER_CALL_LIMIT, Program, Type, Value};
use coracle_client::scheduling::{selector_matches, tolerates};
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};
use k8s_openapi::api::resource::v1::{
    AllocationResult, Device, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceAttribute, DeviceClass,
    DeviceConstraint, DeviceRequest, DeviceRequestAllocationResult, DeviceSubRequest, DeviceTaint, DeviceToleration,
    ResourceClaim, ResourceSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::capacity::{Amounts, consumed, quantity, suffices};
use super::extended::Extended;
use crate::node::NodeInfo;
use crate::snapshot::Snapshot;

/// Driver, pool and device.
type DeviceId<'a> = (&'a str, &'a str, &'a str);
/// Driver, pool, counter set and counter.
type CounterId<'a> = (&'a str, &'a str, &'a str, &'a str);

/// What a claim asks for, and of which devices.
pub(super) struct Allocator<'a> {
    claims: Vec<Arc<ResourceClaim>>,
    /// All requests of all claims, in order.
    requests: Vec<Request<'a>>,
    /// Which requests a node meets by itself.
    extended: Option<Arc<Extended>>,
    devices: Vec<Published<'a>>,
    /// The devices of each node, by their places, and those that are not one node's.
    of_node: BTreeMap<&'a str, Vec<usize>>,
    elsewhere: Vec<usize>,
    /// The devices that claims have.
    taken: BTreeSet<usize>,
    /// What claims have of devices that many may use.
    shared: BTreeMap<usize, Amounts<'a>>,
    /// What is left of shared counters.
    counters: BTreeMap<CounterId<'a>, Quantity>,
    /// Pools of which not all slices are known: of them not all devices can be had.
    incomplete: BTreeSet<(&'a str, &'a str)>,
    /// Whether a device suits an ask, by both their places; selectors are evaluated once.
    suits: RefCell<BTreeMap<(usize, usize, usize), bool>>,
}

/// A device and where it is published.
struct Published<'a> {
    id: DeviceId<'a>,
    device: &'a Device,
    slice: &'a ResourceSlice,
}

struct Request<'a> {
    claim: usize,
    name: String,
    /// The alternatives, the best first; one that is not an alternative has no name of its own.
    asks: Vec<Ask<'a>>,
}

struct Ask<'a> {
    wanted: DeviceSubRequest,
    class: &'a DeviceClass,
    selectors: Vec<Program>,
    admin: bool,
}

/// A node, and the devices that can be used there.
struct Here<'a> {
    node: &'a NodeInfo,
    devices: Vec<usize>,
}

/// What was given out so far: request, ask and device, by their places.
#[derive(Clone, Default)]
struct Given(Vec<(usize, usize, usize)>);

impl<'a> Allocator<'a> {
    /// Looks at what the claims ask for, and at all devices.
    ///
    /// # Errors
    /// A class that they name is not there, or a selector is no good.
    pub(super) fn new(
        claims: Vec<Arc<ResourceClaim>>,
        extended: Option<Arc<Extended>>,
        snapshot: &'a Snapshot,
    ) -> Result<Self, String> {
        let mut requests = Vec::new();
        for (claim, object) in claims.iter().enumerate() {
            for request in object.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten()) {
                let asks = alternatives(request).map(|(wanted, admin)| Ask::new(request, wanted, admin, snapshot));
                requests.push(Request { claim, name: request.name.clone(), asks: asks.collect::<Result<_, _>>()? });
            }
        }
        let slices = current(snapshot);
        let mut counted: BTreeMap<(&str, &str), i64> = BTreeMap::new();
        slices.iter().for_each(|slice| *counted.entry(pool(slice)).or_default() += 1);
        let missing = slices.iter().filter(|slice| counted[&pool(slice)] < slice.spec.pool.resource_slice_count);
        let incomplete = missing.map(|slice| pool(slice)).collect();
        let counters = slices.iter().flat_map(|slice| {
            let (driver, pool) = pool(slice);
            slice.spec.shared_counters.iter().flatten().flat_map(move |set| {
                let counters = set.counters.iter();
                counters
                    .map(move |(name, counter)| ((driver, pool, &set.name[..], &name[..]), quantity(&counter.value)))
            })
        });
        let mut all = Allocator {
            claims,
            requests,
            extended,
            counters: counters.collect(),
            devices: slices.iter().flat_map(|slice| published(slice)).collect(),
            of_node: BTreeMap::new(),
            elsewhere: Vec::new(),
            taken: BTreeSet::new(),
            shared: BTreeMap::new(),
            incomplete,
            suits: RefCell::default(),
        };
        for (at, device) in all.devices.iter().enumerate() {
            match device.place() {
                (Some(node), ..) => all.of_node.entry(node).or_default().push(at),
                _ => all.elsewhere.push(at),
            }
        }
        all.set_aside(snapshot);
        Ok(all)
    }

    /// Sets aside what claims have.
    fn set_aside(&mut self, snapshot: &'a Snapshot) {
        let places: BTreeMap<_, _> = self.devices.iter().enumerate().map(|(at, device)| (device.id, at)).collect();
        for result in held(snapshot) {
            let Some(at) = places.get(&(&result.driver[..], &result.pool[..], &result.device[..])) else { continue };
            if result.share_id.is_none() {
                self.taken.insert(*at);
                continue;
            }
            let used = self.shared.entry(*at).or_default();
            for (name, amount) in result.consumed_capacity.iter().flatten() {
                *used.entry(name).or_default() += quantity(amount);
            }
        }
        for at in self.taken.iter().chain(self.shared.keys()) {
            for (id, used) in self.devices[*at].consumed() {
                self.counters.entry(id).and_modify(|left| *left -= used);
            }
        }
    }

    /// Devices that can be used on a node for all claims, a result for each claim; none if there are not enough.
    pub(super) fn allocate(&self, node: &NodeInfo) -> Option<Vec<AllocationResult>> {
        let elsewhere = self.elsewhere.iter().filter(|at| self.devices[**at].is_on(node));
        let mut devices: Vec<_> =
            self.of_node.get(&node.name[..]).into_iter().flatten().chain(elsewhere).copied().collect();
        devices.sort_unstable();
        let mut given = Given::default();
        self.give(0, &Here { node, devices }, &mut given).then(|| self.results(node, &given))
    }

    /// Gives devices to the request and all after it.
    fn give(&self, request: usize, here: &Here<'_>, given: &mut Given) -> bool {
        let Some(wanted) = self.requests.get(request) else { return true };
        if self.extended.as_ref().is_some_and(|extended| !extended.needs(&wanted.name, here.node)) {
            return self.give(request + 1, here, given);
        }
        (0..wanted.asks.len()).any(|ask| match wanted.asks[ask].count() {
            Some(count) => self.give_some((request, ask), (count, 0), here, given),
            None => self.give_all((request, ask), here, given),
        })
    }

    /// Devices of one request are interchangeable: the next comes after those before, from `from` on.
    fn give_some(
        &self,
        (request, ask): (usize, usize),
        (count, from): (usize, usize),
        here: &Here<'_>,
        given: &mut Given,
    ) -> bool {
        if count == 0 {
            return self.give(request + 1, here, given);
        }
        for (at, device) in here.devices.iter().enumerate().skip(from) {
            if self.is_free((request, ask, *device), given) {
                given.0.push((request, ask, *device));
                if self.give_some((request, ask), (count - 1, at + 1), here, given) {
                    return true;
                }
                given.0.pop();
            }
        }
        false
    }

    fn give_all(&self, (request, ask): (usize, usize), here: &Here<'_>, given: &mut Given) -> bool {
        let suiting: Vec<_> = here.devices.iter().filter(|device| self.suits((request, ask, **device))).collect();
        let whole =
            |device: &usize| !self.incomplete.contains(&(self.devices[*device].id.0, self.devices[*device].id.1));
        if suiting.is_empty() || !suiting.iter().all(|device| whole(device)) {
            return false;
        }
        let before = given.0.len();
        for device in suiting {
            if !self.is_free((request, ask, *device), given) {
                given.0.truncate(before);
                return false;
            }
            given.0.push((request, ask, *device));
        }
        let done = self.give(request + 1, here, given);
        if !done {
            given.0.truncate(before);
        }
        done
    }

    fn is_admin(&self, (request, ask, _): &(usize, usize, usize)) -> bool {
        self.requests[*request].asks[*ask].admin
    }

    /// Whether a device suits a request and what was given out before.
    fn is_free(&self, new: (usize, usize, usize), given: &Given) -> bool {
        let device = new.2;
        if self.is_admin(&new) {
            // Whoever administers devices may look at those that others have, at each once for a request.
            let again = given.0.iter().any(|other| other.0 == new.0 && other.2 == device);
            return !again && self.suits(new) && self.constrained(new, given);
        }
        let twice = || given.0.iter().any(|other| other.2 == device && !self.is_admin(other));
        let free = !self.taken.contains(&device) && (self.devices[device].is_shared() || !twice());
        free && self.suits(new)
            && self.capacity_suffices(new, given)
            && self.constrained(new, given)
            && self.counters_suffice(device, given)
    }

    /// Whether a device has what the request takes of it, besides what others take.
    fn capacity_suffices(&self, new: (usize, usize, usize), given: &Given) -> bool {
        let device = &self.devices[new.2];
        let takes = |(request, ask, _): &(usize, usize, usize)| {
            consumed(self.requests[*request].asks[*ask].wanted.capacity.as_ref(), device.device)
        };
        let Some(mut used) = takes(&new) else { return false };
        if device.is_shared() {
            let others = given.0.iter().filter(|other| other.2 == new.2 && !self.is_admin(other)).filter_map(takes);
            for (name, amount) in others.chain(self.shared.get(&new.2).cloned()).flatten() {
                *used.entry(name).or_default() += amount;
            }
        }
        suffices(device.device, &used)
    }

    fn suits(&self, (request, ask, device): (usize, usize, usize)) -> bool {
        *self.suits.borrow_mut().entry((request, ask, device)).or_insert_with(|| {
            let (ask, device) = (&self.requests[request].asks[ask], &self.devices[device]);
            let variables = BTreeMap::from([("device", device.value())]);
            // An expression that fails on a device says that the device is not meant.
            let says = |program: &Program| {
                matches!(program.evaluate(&variables, &Meter::new(PER_CALL_LIMIT)), Ok(Value::Bool(true)))
            };
            device.tolerated(ask.tolerations()) && ask.selectors.iter().all(says)
        })
    }

    /// Whether the devices that a constraint of the claim is about have the same value of its attribute.
    fn constrained(&self, (request, ask, device): (usize, usize, usize), given: &Given) -> bool {
        let claim = self.requests[request].claim;
        let constraints =
            self.claims[claim].spec.devices.iter().flat_map(|devices| devices.constraints.iter().flatten());
        constraints.into_iter().all(|constraint| {
            if !self.is_about(constraint, request, ask) {
                return true;
            }
            let others = given.0.iter().filter(|(request, ask, _)| {
                self.requests[*request].claim == claim && self.is_about(constraint, *request, *ask)
            });
            let mut others = others.map(|(.., device)| &self.devices[*device]);
            match (&constraint.match_attribute, &constraint.distinct_attribute) {
                (Some(name), _) => {
                    let own = self.devices[device].attribute(name);
                    own.is_some() && others.all(|other| other.attribute(name) == own)
                }
                (None, Some(name)) => {
                    let own = self.devices[device].attribute(name);
                    own.is_some() && others.all(|other| other.attribute(name) != own)
                }
                (None, None) => true,
            }
        })
    }

    fn is_about(&self, constraint: &DeviceConstraint, request: usize, ask: usize) -> bool {
        let wanted = &self.requests[request];
        constraint.requests.as_ref().is_none_or(|names| {
            names.is_empty() || names.iter().any(|name| *name == wanted.name || *name == self.name(request, ask))
        })
    }

    fn counters_suffice(&self, device: usize, given: &Given) -> bool {
        let mut needed: BTreeMap<CounterId<'_>, Quantity> = BTreeMap::new();
        // One that is shared already needs nothing more.
        let all: BTreeSet<_> = given.0.iter().map(|(.., device)| *device).chain([device]).collect();
        let all = all.into_iter().filter(|device| !self.shared.contains_key(device));
        for (id, amount) in all.flat_map(|device| self.devices[device].consumed()) {
            let entry = needed.entry(id).or_default();
            *entry += amount;
        }
        needed.iter().all(|(id, amount)| self.counters.get(id).is_some_and(|left| amount <= left))
    }

    fn results(&self, node: &NodeInfo, given: &Given) -> Vec<AllocationResult> {
        let claims = self.claims.iter().enumerate().map(|(claim, object)| {
            let ours = || given.0.iter().filter(move |(request, ..)| self.requests[*request].claim == claim);
            let results = ours().map(|(request, ask, device)| self.result(*request, *ask, *device)).collect();
            let mut config = Vec::new();
            let mut seen = BTreeSet::new();
            for (request, ask, _) in ours().filter(|(request, ask, _)| seen.insert((*request, *ask))) {
                let own = &self.requests[*request].asks[*ask];
                config.extend(own.class.spec.config.iter().flatten().map(|config| DeviceAllocationConfiguration {
                    opaque: config.opaque.clone(),
                    requests: Some(vec![self.name(*request, *ask)]),
                    source: "FromClass".into(),
                }));
            }
            let own = object.spec.devices.iter().flat_map(|devices| devices.config.iter().flatten());
            config.extend(own.map(|config| DeviceAllocationConfiguration {
                opaque: config.opaque.clone(),
                requests: config.requests.clone(),
                source: "FromClaim".into(),
            }));
            AllocationResult {
                allocation_timestamp: Some(Time(coracle_clock::now_seconds())),
                devices: Some(DeviceAllocationResult {
                    config: (!config.is_empty()).then_some(config),
                    results: Some(results),
                }),
                node_selector: node_selector(node, ours().map(|(.., device)| &self.devices[*device])),
            }
        });
        claims.collect()
    }

    fn result(&self, request: usize, ask: usize, device: usize) -> DeviceRequestAllocationResult {
        let (device, own) = (&self.devices[device], &self.requests[request].asks[ask]);
        let (driver, pool, name) = device.id;
        let shared = (device.is_shared() && !own.admin).then(|| consumed(own.wanted.capacity.as_ref(), device.device));
        let shared = shared.flatten();
        DeviceRequestAllocationResult {
            request: self.name(request, ask),
            driver: driver.to_owned(),
            pool: pool.to_owned(),
            device: name.to_owned(),
            admin_access: own.admin.then_some(true),
            binding_conditions: device.device.binding_conditions.clone(),
            binding_failure_conditions: device.device.binding_failure_conditions.clone(),
            tolerations: (!own.tolerations().is_empty()).then(|| own.tolerations().to_vec()),
            share_id: shared.is_some().then(coracle_clock::uuid),
            consumed_capacity: shared
                .map(|used| used.into_iter().map(|(name, used)| (name.into(), used.to_wire())).collect()),
        }
    }

    fn name(&self, request: usize, ask: usize) -> String {
        let request = &self.requests[request];
        match &request.asks[ask].wanted.name[..] {
            "" => request.name.clone(),
            sub => format!("{}/{sub}", request.name),
        }
    }
}

/// What a request asks for, the best first, and whether it is an administrator's. Only alternatives have names.
fn alternatives(request: &DeviceRequest) -> impl Iterator<Item = (DeviceSubRequest, bool)> {
    let exactly = request.exactly.iter().map(|exact| {
        let wanted = DeviceSubRequest {
            name: String::new(),
            allocation_mode: exact.allocation_mode.clone(),
            capacity: exact.capacity.clone(),
            count: exact.count,
            device_class_name: exact.device_class_name.clone(),
            selectors: exact.selectors.clone(),
            tolerations: exact.tolerations.clone(),
        };
        (wanted, exact.admin_access == Some(true))
    });
    exactly.chain(request.first_available.iter().flatten().map(|wanted| (wanted.clone(), false)))
}

impl<'a> Ask<'a> {
    fn new(
        request: &DeviceRequest,
        wanted: DeviceSubRequest,
        admin: bool,
        snapshot: &'a Snapshot,
    ) -> Result<Self, String> {
        let class = snapshot.device_classes.named(&wanted.device_class_name).ok_or_else(|| {
            let separator = if wanted.name.is_empty() { "" } else { "/" };
            let (request, class) = (&request.name, &wanted.device_class_name);
            format!("request {request}{separator}{}: device class {class} does not exist", wanted.name)
        })?;
        let env = Env::default().with_type("device", Type::Dyn);
        let all = class.spec.selectors.iter().flatten().chain(wanted.selectors.iter().flatten());
        let programs = all.filter_map(|selector| selector.cel.as_ref()).map(|selector| {
            env.compile(&selector.expression).map_err(|error| format!("selector {:?}: {error}", selector.expression))
        });
        Ok(Ask { selectors: programs.collect::<Result<_, _>>()?, wanted, class, admin })
    }

    /// None for all that suit.
    fn count(&self) -> Option<usize> {
        let some = self.wanted.allocation_mode.as_deref() != Some("All");
        some.then(|| self.wanted.count.and_then(|count| usize::try_from(count).ok()).unwrap_or(1))
    }

    fn tolerations(&self) -> &[DeviceToleration] {
        self.wanted.tolerations.as_deref().unwrap_or_default()
    }
}

impl<'a> Published<'a> {
    /// Where it can be used: on one node, on those that are selected, or on all.
    fn place(&self) -> (Option<&'a str>, Option<&'a NodeSelector>, bool) {
        let (spec, device) = (&self.slice.spec, self.device);
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
    fn is_shared(&self) -> bool {
        self.device.allow_multiple_allocations == Some(true)
    }

    /// Whether its taints that keep pods away are all tolerated.
    fn tolerated(&self, tolerations: &[DeviceToleration]) -> bool {
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
        let tolerations: Vec<_> = tolerations.iter().map(as_toleration).collect();
        let mut taints = self.device.taints.iter().flatten().filter(|taint| taint.effect != "None").map(as_taint);
        taints.all(|taint| tolerations.iter().any(|toleration| tolerates(toleration, &taint)))
    }

    /// An attribute by its qualified name; one without a domain is the driver's.
    fn attribute(&self, name: &str) -> Option<&'a DeviceAttribute> {
        let attributes = self.device.attributes.as_ref()?;
        let own = || attributes.get(name.strip_prefix(self.id.0)?.strip_prefix('/')?);
        attributes.get(name).or_else(own)
    }

    fn consumed(&self) -> impl Iterator<Item = (CounterId<'a>, Quantity)> {
        let (driver, pool, _) = self.id;
        self.device.consumes_counters.iter().flatten().flat_map(move |consumed| {
            let counters = consumed.counters.iter();
            counters.map(move |(name, counter)| {
                ((driver, pool, &consumed.counter_set[..], &name[..]), quantity(&counter.value))
            })
        })
    }

    /// `device` in selectors: its driver, and attributes and capacity by domain and name.
    fn value(&self) -> Value {
        let by_domain = |entries: Vec<(&String, Value)>| {
            let mut domains: BTreeMap<&str, Vec<(String, Value)>> = BTreeMap::from([(self.id.0, Vec::new())]);
            for (name, value) in entries {
                let (domain, name) = name.split_once('/').unwrap_or((self.id.0, name));
                domains.entry(domain).or_default().push((name.to_owned(), value));
            }
            domains
                .into_iter()
                .map(|(domain, values)| (domain.to_owned(), values.into_iter().collect()))
                .collect::<Value>()
        };
        let attributes =
            self.device.attributes.iter().flatten().filter_map(|(name, attribute)| Some((name, plain(attribute)?)));
        let capacity = self.device.capacity.iter().flatten();
        let capacity = capacity.map(|(name, capacity)| (name, Value::Quantity(quantity(&capacity.value))));
        [
            ("driver".to_owned(), self.id.0.into()),
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

/// The slices of each pool's newest generation.
fn current(snapshot: &Snapshot) -> Vec<&ResourceSlice> {
    let mut newest: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for (_, slice) in snapshot.resource_slices.iter() {
        let generation = newest.entry(pool(slice)).or_insert(i64::MIN);
        *generation = (*generation).max(slice.spec.pool.generation);
    }
    let all = snapshot.resource_slices.iter().map(|(_, slice)| slice.as_ref());
    let mut slices: Vec<_> = all.filter(|slice| newest[&pool(slice)] == slice.spec.pool.generation).collect();
    slices.sort_by_key(|slice| (pool(slice), &slice.metadata.name));
    slices
}

fn published(slice: &ResourceSlice) -> impl Iterator<Item = Published<'_>> {
    let (driver, pool) = pool(slice);
    let devices = slice.spec.devices.iter().flatten();
    devices.map(move |device| Published { id: (driver, pool, &device.name), device, slice })
}

/// What claims have got, but for administrators' looks.
fn held(snapshot: &Snapshot) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let claims = snapshot.resource_claims.iter().filter_map(|(_, claim)| claim.status.as_ref()?.allocation.as_ref());
    let results =
        claims.flat_map(|allocation| allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten()));
    results.filter(|result| result.admin_access != Some(true))
}

/// Where all the devices can be used: on this node, if one of them is this node's, else where their selectors say.
fn node_selector<'a>(node: &NodeInfo, devices: impl Iterator<Item = &'a Published<'a>>) -> Option<NodeSelector> {
    let mut selectors = Vec::new();
    for device in devices {
        let (name, selector, _) = device.place();
        if name.is_some() {
            let field = NodeSelectorRequirement {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: Some(vec![node.name.clone()]),
            };
            let term = NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
            return Some(NodeSelector { node_selector_terms: vec![term] });
        }
        // A slice's selector has one term; those of all devices hold together.
        selectors.extend(selector.iter().flat_map(|selector| selector.node_selector_terms.first()));
    }
    let mut term = NodeSelectorTerm::default();
    for other in selectors {
        for (all, own) in
            [(&mut term.match_expressions, &other.match_expressions), (&mut term.match_fields, &other.match_fields)]
        {
            for requirement in own.iter().flatten() {
                let all = all.get_or_insert_default();
                if !all.contains(requirement) {
                    all.push(requirement.clone());
                }
            }
        }
    }
    (term != NodeSelectorTerm::default()).then(|| NodeSelector { node_selector_terms: vec![term] })
}
