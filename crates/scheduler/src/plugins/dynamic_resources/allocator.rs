//! Finds devices for claims: a search that goes back when it cannot go on.
//!
//! Every request of every claim needs one device or several. They are given out one by one, each the first in the
//! order of drivers, pools and slices that suits the request (its class's and its own selectors, taints) and what was
//! given out before (each device once, the claim's constraints, counters that devices of a pool share). Where none
//! suits, the one before is taken back and the next tried; a request with `firstAvailable` tries its next alternative.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceClass, DeviceConstraint,
    DeviceRequest, DeviceRequestAllocationResult, DeviceSubRequest, DeviceToleration, ResourceClaim,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::capacity::{consumed, suffices};
use super::extended::Extended;
use crate::devices::{CounterId, DeviceInfo, Devices, Held, Selector, Use};
use crate::node::NodeInfo;
use crate::snapshot::Snapshot;

/// What a claim asks for, and of which devices.
pub(super) struct Allocator<'a> {
    claims: Vec<Arc<ResourceClaim>>,
    /// All requests of all claims, in order.
    requests: Vec<Request<'a>>,
    /// Which requests a node meets by itself.
    extended: Option<Arc<Extended>>,
    devices: &'a Devices,
    /// What claims have.
    held: &'a Held,
    /// What is left of shared counters.
    counters: BTreeMap<CounterId<'a>, Quantity>,
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
    selectors: Vec<Arc<Selector>>,
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
    /// Looks at what the claims ask for.
    ///
    /// # Errors
    /// A class that they name is not there, or a selector is no good.
    pub(super) fn new(
        claims: Vec<Arc<ResourceClaim>>,
        extended: Option<Arc<Extended>>,
        snapshot: &'a Snapshot,
    ) -> Result<Self, String> {
        let (devices, held) = (snapshot.devices(), snapshot.resource_claims.index());
        let mut requests = Vec::new();
        for (claim, object) in claims.iter().enumerate() {
            for request in object.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten()) {
                let asks = alternatives(request).map(|(wanted, admin)| Ask::new(request, wanted, admin, snapshot));
                requests.push(Request { claim, name: request.name.clone(), asks: asks.collect::<Result<_, _>>()? });
            }
        }
        Ok(Allocator { claims, requests, extended, devices, held, counters: devices.counters(held) })
    }

    /// Devices that can be used on a node for all claims, a result for each claim; none if there are not enough.
    pub(super) fn allocate(&self, node: &NodeInfo) -> Option<Vec<AllocationResult>> {
        let mut given = Given::default();
        self.give(0, &Here { node, devices: self.devices.on(node) }, &mut given).then(|| self.results(node, &given))
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
        if suiting.is_empty() || !suiting.iter().all(|device| self.devices.is_whole(**device)) {
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
        let held = self.held.of(self.devices.at(device).id()).is_some_and(Use::is_whole);
        let free = !held && (self.devices.at(device).is_shared() || !twice());
        free && self.suits(new)
            && self.capacity_suffices(new, given)
            && self.constrained(new, given)
            && self.counters_suffice(device, given)
    }

    /// Whether a device has what the request takes of it, besides what others take.
    fn capacity_suffices(&self, new: (usize, usize, usize), given: &Given) -> bool {
        let device = self.devices.at(new.2);
        if !device.is_shared() && self.requests[new.0].asks[new.1].wanted.capacity.is_none() {
            return true; // it gets all there is
        }
        let takes = |(request, ask, _): &(usize, usize, usize)| {
            consumed(self.requests[*request].asks[*ask].wanted.capacity.as_ref(), device.device())
        };
        let Some(mut used) = takes(&new) else { return false };
        if device.is_shared() {
            let others = given.0.iter().filter(|other| other.2 == new.2 && !self.is_admin(other)).filter_map(takes);
            let held = self.held.of(device.id()).map(Use::amounts).into_iter().flatten();
            for (name, amount) in others.flatten().chain(held.map(|(name, amount)| (&name[..], *amount))) {
                *used.entry(name).or_default() += amount;
            }
        }
        suffices(device.device(), &used)
    }

    fn suits(&self, (request, ask, device): (usize, usize, usize)) -> bool {
        let ask = &self.requests[request].asks[ask];
        self.devices.at(device).is_tolerated(ask.tolerations())
            && ask.selectors.iter().all(|selector| self.devices.is_meant(selector, device))
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
            let mut others = others.map(|(.., device)| self.devices.at(*device));
            match (&constraint.match_attribute, &constraint.distinct_attribute) {
                (Some(name), _) => {
                    let own = self.devices.at(device).attribute(name);
                    own.is_some() && others.all(|other| other.attribute(name) == own)
                }
                (None, Some(name)) => {
                    let own = self.devices.at(device).attribute(name);
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
        let all = all.into_iter().map(|device| self.devices.at(device));
        let new = all.filter(|device| !self.held.of(device.id()).is_some_and(Use::is_shared));
        for (id, amount) in new.flat_map(DeviceInfo::consumed) {
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
                node_selector: node_selector(node, ours().map(|(.., device)| self.devices.at(*device))),
            }
        });
        claims.collect()
    }

    fn result(&self, request: usize, ask: usize, device: usize) -> DeviceRequestAllocationResult {
        let (device, own) = (self.devices.at(device), &self.requests[request].asks[ask]);
        let (driver, pool, name) = device.id();
        let shared =
            (device.is_shared() && !own.admin).then(|| consumed(own.wanted.capacity.as_ref(), device.device()));
        let shared = shared.flatten();
        DeviceRequestAllocationResult {
            request: self.name(request, ask),
            driver: driver.to_owned(),
            pool: pool.to_owned(),
            device: name.to_owned(),
            admin_access: own.admin.then_some(true),
            binding_conditions: device.device().binding_conditions.clone(),
            binding_failure_conditions: device.device().binding_failure_conditions.clone(),
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
        let devices = snapshot.devices();
        let all = class.spec.selectors.iter().flatten().chain(wanted.selectors.iter().flatten());
        let expressions = all.filter_map(|selector| selector.cel.as_ref()).map(|selector| &selector.expression[..]);
        let selectors = expressions.map(|expression| devices.selector(expression)).collect::<Result<_, _>>()?;
        Ok(Ask { selectors, wanted, class, admin })
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

/// Where all the devices can be used: on this node, if one of them is this node's, else where their selectors say.
fn node_selector<'a>(node: &NodeInfo, devices: impl Iterator<Item = &'a DeviceInfo>) -> Option<NodeSelector> {
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
