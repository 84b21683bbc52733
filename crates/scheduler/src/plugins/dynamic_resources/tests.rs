use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::testing::{TestPod, filtered, node, pod, snapshot};

const DRIVER: &str = "gpu.example.com";

fn object<K: DeserializeOwned>(json: Value) -> Option<Arc<K>> {
    Some(Arc::new(serde_json::from_value(json).unwrap()))
}

fn gpu(name: &str, model: &str, memory: &str) -> Value {
    json!({ "name": name, "capacity": { "memory": { "value": memory } },
            "attributes": { "model": { "string": model }, "numa": { "int": name.len() }, "driver": { "version": "1.2.3" } } })
}

/// Node a has a small and a large device, b a large one; the class means all of the driver.
fn cluster() -> Snapshot {
    let mut nodes = snapshot(vec![node("a"), node("b"), node("c")]);
    let class = json!({ "metadata": { "name": "gpus" }, "spec": {
        "selectors": [{ "cel": { "expression": format!("device.driver == '{DRIVER}'") } }],
        "config": [{ "opaque": { "driver": DRIVER, "parameters": { "mode": "shared" } } }] } });
    nodes.device_classes.set(ObjectKey::new("", "gpus"), object(class));
    publish(&mut nodes, "a", json!([gpu("small", "s1", "10Gi"), gpu("large", "l1", "40Gi")]));
    publish(&mut nodes, "b", json!([gpu("large", "l1", "40Gi")]));
    nodes
}

fn publish(snapshot: &mut Snapshot, node: &str, devices: Value) {
    let slice = json!({ "metadata": { "name": node }, "spec": { "driver": DRIVER, "nodeName": node, "devices": devices,
        "pool": { "name": node, "generation": 1, "resourceSliceCount": 1 } } });
    snapshot.resource_slices.set(ObjectKey::new("", node), object(slice));
}

fn exactly(more: Value) -> Value {
    let mut exactly = json!({ "deviceClassName": "gpus" });
    more.as_object().unwrap().iter().for_each(|(key, value)| exactly[key] = value.clone());
    json!([{ "name": "gpu", "exactly": exactly }])
}

fn claim(snapshot: &mut Snapshot, name: &str, devices: Value) {
    let claim =
        json!({ "metadata": { "name": name, "namespace": "default", "uid": name }, "spec": { "devices": devices } });
    snapshot.resource_claims.set(ObjectKey::new("default", name), object(claim));
}

fn using(name: &str, claims: &[&str]) -> TestPod {
    let all: Vec<_> = claims.iter().map(|claim| json!({ "name": claim, "resourceClaimName": claim })).collect();
    pod(name).set("/spec/resourceClaims", all.into())
}

fn verdicts(snapshot: &Snapshot, claims: &[&str]) -> [Result<(), String>; 3] {
    let verdict = |on| filtered(&DynamicResources, using("p", claims), snapshot, on);
    ["a", "b", "c"].map(|on| verdict(on).map_err(|refusal| refusal.message()))
}

/// What the pod gets on a node: request and device.
fn devices(snapshot: &mut Snapshot, pod: TestPod, on: &str) -> Vec<(String, String)> {
    let reserved = DynamicResources.reserve(&pod.info(), snapshot.node(on).unwrap(), snapshot).unwrap();
    reserved.iter().for_each(|assumed| assumed.enter(snapshot));
    let allocation = |assumed: &Assumption| match assumed {
        Assumption::ResourceClaim(claim) => claim.status.clone().unwrap().allocation.unwrap(),
        other => panic!("{other:?}"),
    };
    let results = reserved.iter().flat_map(|assumed| allocation(assumed).devices.unwrap().results.unwrap());
    results.map(|result| (result.request, result.device)).collect()
}

#[test]
fn claims_are_allocated_where_there_are_devices_that_suit_them() {
    let no = || Err(CANNOT_ALLOCATE.to_owned());
    let selector = |expression: &str| exactly(json!({ "selectors": [{ "cel": { "expression": expression } }] }));
    let both = json!([{ "name": "one", "exactly": { "deviceClassName": "gpus" } }, { "name": "two", "exactly": { "deviceClassName": "gpus" } }]);
    let first = json!([{ "name": "gpu", "firstAvailable": [
        { "name": "two", "deviceClassName": "gpus", "count": 2 }, { "name": "one", "deviceClassName": "gpus" }] }]);
    for (what, requests, constraints, expected) in [
        ("one of any sort", exactly(json!({})), json!([]), [Ok(()), Ok(()), no()]),
        ("two", exactly(json!({ "count": 2 })), json!([]), [Ok(()), no(), no()]),
        ("three", exactly(json!({ "count": 3 })), json!([]), [no(), no(), no()]),
        ("all there are", exactly(json!({ "allocationMode": "All" })), json!([]), [Ok(()), Ok(()), no()]),
        (
            "a small one",
            selector("device.attributes['gpu.example.com'].model == 's1'"),
            json!([]),
            [Ok(()), no(), no()],
        ),
        (
            "one with much memory",
            selector("device.capacity['gpu.example.com'].memory.compareTo(quantity('20Gi')) > 0"),
            json!([]),
            [Ok(()), Ok(()), no()],
        ),
        (
            "a driver that is new enough",
            selector("device.attributes['gpu.example.com'].driver.isGreaterThan(semver('1.2.0'))"),
            json!([]),
            [Ok(()), Ok(()), no()],
        ),
        (
            "what no device has",
            selector("device.attributes['gpu.example.com'].colour == 'red'"),
            json!([]),
            [no(), no(), no()],
        ),
        ("two requests", both.clone(), json!([]), [Ok(()), no(), no()]),
        ("two of one model", both.clone(), json!([{ "matchAttribute": "gpu.example.com/model" }]), [no(), no(), no()]),
        (
            "two as far apart as may be",
            both.clone(),
            json!([{ "distinctAttribute": "gpu.example.com/model" }]),
            [Ok(()), no(), no()],
        ),
        (
            "two of one length of name",
            both,
            json!([{ "matchAttribute": "gpu.example.com/numa" }]),
            [Ok(()), no(), no()],
        ),
        ("two or else one", first, json!([]), [Ok(()), Ok(()), no()]),
    ] {
        let mut nodes = cluster();
        claim(&mut nodes, "c", json!({ "requests": requests, "constraints": constraints }));
        assert_eq!(verdicts(&nodes, &["c"]), expected, "{what}");
    }
}

#[test]
fn a_device_is_given_once_and_an_allocated_claim_is_used_where_it_is() {
    let mut nodes = cluster();
    for name in ["x", "y", "z"] {
        claim(&mut nodes, name, json!({ "requests": exactly(json!({})) }));
    }
    assert_eq!(devices(&mut nodes, using("p", &["x"]), "b"), [("gpu".to_owned(), "large".to_owned())]);
    assert_eq!(verdicts(&nodes, &["y"])[1], Err(CANNOT_ALLOCATE.to_owned()));
    let under_way = || Err("resource claim default/x is in the process of being allocated".to_owned());
    assert_eq!(verdicts(&nodes, &["x"]), [under_way(), under_way(), under_way()]);
    let written = nodes.resource_claims.get(&ObjectKey::new("default", "x")).cloned();
    nodes.resource_claims.set(ObjectKey::new("default", "x"), written);
    assert_eq!(verdicts(&nodes, &["x"]), [Err(NOT_HERE.to_owned()), Ok(()), Err(NOT_HERE.to_owned())]);
    let both = [("gpu".to_owned(), "small".to_owned()), ("gpu".to_owned(), "large".to_owned())];
    assert_eq!(devices(&mut nodes, using("q", &["y", "z"]), "a"), both);
}

#[test]
fn the_first_alternative_that_can_be_had_is_taken_and_the_class_configures_it() {
    let mut nodes = cluster();
    let ask = |name: &str, count: u64| json!({ "name": name, "deviceClassName": "gpus", "count": count });
    let requests = json!([{ "name": "gpu", "firstAvailable": [ask("two", 2), ask("one", 1)] }]);
    claim(&mut nodes, "c", json!({ "requests": requests }));
    let reserved = DynamicResources.reserve(&using("p", &["c"]).info(), nodes.node("b").unwrap(), &nodes).unwrap();
    let [Assumption::ResourceClaim(claim)] = &reserved[..] else { panic!("{reserved:?}") };
    assert_eq!(claim.metadata.finalizers, Some(vec![FINALIZER.to_owned()]));
    let mut status = serde_json::to_value(&claim.status).unwrap();
    status["allocation"].as_object_mut().unwrap().remove("allocationTimestamp");
    assert_eq!(
        status,
        json!({
            "allocation": {
                "devices": {
                    "results": [{ "request": "gpu/one", "driver": DRIVER, "pool": "b", "device": "large" }],
                    "config": [{ "source": "FromClass", "requests": ["gpu/one"],
                                 "opaque": { "driver": DRIVER, "parameters": { "mode": "shared" } } }],
                },
                "nodeSelector": { "nodeSelectorTerms": [
                    { "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["b"] }] }] },
            },
            "reservedFor": [{ "resource": "pods", "name": "p", "uid": "p" }],
        })
    );
}

#[test]
fn tainted_devices_and_used_up_counters_keep_claims_away() {
    let mut nodes = cluster();
    let mut tainted = gpu("t", "t1", "1Gi");
    tainted["taints"] = json!([{ "key": "broken", "effect": "NoSchedule" }]);
    publish(&mut nodes, "b", json!([tainted]));
    let part = |name: &str, memory: &str| {
        let counters = json!({ "memory": { "value": memory } });
        json!({ "name": name, "consumesCounters": [{ "counterSet": "whole", "counters": counters }] })
    };
    let slice = json!({ "metadata": { "name": "c" }, "spec": { "driver": DRIVER, "nodeName": "c",
        "sharedCounters": [{ "name": "whole", "counters": { "memory": { "value": "40Gi" } } }],
        "devices": [part("half", "20Gi"), part("other-half", "20Gi"), part("whole", "40Gi")],
        "pool": { "name": "c", "generation": 1, "resourceSliceCount": 1 } } });
    nodes.resource_slices.set(ObjectKey::new("", "c"), object(slice));
    let no = || Err(CANNOT_ALLOCATE.to_owned());
    let tolerations = json!([{ "key": "broken", "operator": "Exists" }]);
    for (requests, expected) in [
        (exactly(json!({})), [Ok(()), no(), Ok(())]),
        (exactly(json!({ "tolerations": tolerations })), [Ok(()), Ok(()), Ok(())]),
        (exactly(json!({ "count": 2 })), [Ok(()), no(), Ok(())]),
        (exactly(json!({ "count": 3 })), [no(), no(), no()]),
    ] {
        claim(&mut nodes, "c", json!({ "requests": requests }));
        assert_eq!(verdicts(&nodes, &["c"]), expected, "{requests}");
    }
}

#[test]
fn a_pool_counts_in_its_newest_generation_only_and_as_a_whole_if_all_is_wanted() {
    let mut nodes = cluster();
    let newer = json!({ "metadata": { "name": "b2" }, "spec": { "driver": DRIVER, "nodeName": "b", "devices": [gpu("new", "n1", "1Gi")],
        "pool": { "name": "b", "generation": 2, "resourceSliceCount": 2 } } });
    nodes.resource_slices.set(ObjectKey::new("", "b2"), object(newer));
    claim(&mut nodes, "c", json!({ "requests": exactly(json!({})) }));
    assert_eq!(devices(&mut nodes, using("p", &["c"]), "b"), [("gpu".to_owned(), "new".to_owned())]);
    let mut nodes = cluster();
    let whole = exactly(json!({ "allocationMode": "All" }));
    claim(&mut nodes, "c", json!({ "requests": whole }));
    let part = json!({ "metadata": { "name": "b" }, "spec": { "driver": DRIVER, "nodeName": "b", "devices": [gpu("x", "x", "1Gi")],
        "pool": { "name": "b", "generation": 1, "resourceSliceCount": 2 } } });
    nodes.resource_slices.set(ObjectKey::new("", "b"), object(part));
    assert_eq!(verdicts(&nodes, &["c"])[1], Err(CANNOT_ALLOCATE.to_owned()));
}

#[test]
fn what_is_wrong_with_a_claim_is_said() {
    let mut nodes = cluster();
    claim(&mut nodes, "classless", json!({ "requests": [{ "name": "r", "exactly": { "deviceClassName": "none" } }] }));
    let going = json!({ "metadata": { "name": "going", "deletionTimestamp": "2026-01-01T00:00:00Z" }, "spec": {} });
    nodes.resource_claims.set(ObjectKey::new("default", "going"), object(going));
    for (name, expected) in [
        ("missing", "resourceclaim.resource.k8s.io \"missing\" not found"),
        ("going", "resourceclaim \"going\" is being deleted"),
        ("classless", "request r: device class none does not exist"),
    ] {
        assert_eq!(verdicts(&nodes, &[name])[0], Err(expected.to_owned()));
    }
    let template = pod("p").set("/spec/resourceClaims", json!([{ "name": "gpu", "resourceClaimTemplateName": "t" }]));
    let verdict = filtered(&DynamicResources, template, &nodes, "a").map_err(|refusal| refusal.message());
    assert_eq!(verdict, Err("pod \"default/p\": ResourceClaim not created yet".into()));
}

#[test]
fn a_pod_enters_the_queue_when_its_claims_are_there() {
    let mut nodes = cluster();
    let refused = |nodes: &Snapshot| DynamicResources.pre_enqueue(&using("p", &["c"]).info(), nodes).is_err();
    assert!(refused(&nodes));
    claim(&mut nodes, "c", json!({ "requests": exactly(json!({})) }));
    assert!(!refused(&nodes));
}

#[test]
fn a_claim_helps_its_pods_and_one_that_is_given_back_helps_all() {
    let state = |name: &str, status: Value| {
        let metadata = json!({ "name": name, "namespace": "default" });
        object::<ResourceClaim>(json!({ "metadata": metadata, "spec": {}, "status": status }))
    };
    let allocated = || json!({ "allocation": {} });
    for (old, new, expected) in [
        (None, state("c", json!({})), true),
        (None, state("other", json!({})), false),
        (state("c", json!({})), state("c", json!({})), false),
        (state("c", json!({})), state("c", allocated()), true),
        (state("other", json!({})), state("other", allocated()), false),
        (state("other", allocated()), state("other", json!({})), true),
        (state("other", allocated()), None, true),
    ] {
        let object = Object::ResourceClaim(old, new);
        let happened = Happening { events: vec![ClusterEvent::ResourceClaimUpdate], object };
        assert_eq!(DynamicResources.hint(&using("p", &["c"]).info(), &happened), expected, "{happened:?}");
    }
}

/// One device, which many may use.
fn shared_device(allocations: Value) -> Snapshot {
    let mut nodes = cluster();
    let memory =
        json!({ "value": "10Gi", "requestPolicy": { "default": "4Gi", "validValues": ["1Gi", "4Gi", "8Gi"] } });
    let device = json!({ "name": "shared", "allowMultipleAllocations": true, "capacity": { "memory": memory } });
    publish(&mut nodes, "c", json!([device]));
    for (at, amount) in allocations.as_array().unwrap().iter().enumerate() {
        let result = json!({ "request": "r", "driver": DRIVER, "pool": "c", "device": "shared",
                             "shareID": format!("s{at}"), "consumedCapacity": { "memory": amount } });
        let status = json!({ "allocation": { "devices": { "results": [result] } } });
        let name = format!("user-{at}");
        let claim = json!({ "metadata": { "name": name, "namespace": "default" }, "spec": {}, "status": status });
        nodes.resource_claims.set(ObjectKey::new("default", &name), object(claim));
    }
    nodes
}

#[test]
fn a_device_that_many_may_use_is_given_until_its_capacity_is_used_up() {
    let memory = |amount: &str| exactly(json!({ "capacity": { "requests": { "memory": amount } } }));
    let two = json!([{ "name": "a", "exactly": { "deviceClassName": "gpus" } }, { "name": "b", "exactly": { "deviceClassName": "gpus" } }]);
    for (what, used, requests, fits) in [
        ("the default", json!([]), exactly(json!({})), true),
        ("the default, of the rest", json!(["4Gi"]), exactly(json!({})), true),
        ("the default, of too little", json!(["4Gi", "4Gi"]), exactly(json!({})), false),
        ("as much as is left", json!(["8Gi", "1Gi"]), memory("1Gi"), true),
        ("what is more when rounded", json!(["4Gi"]), memory("5Gi"), false),
        ("more than one may have", json!([]), memory("9Gi"), false),
        ("what it does not have", json!([]), exactly(json!({ "capacity": { "requests": { "cores": "1" } } })), false),
        ("twice the default", json!([]), two.clone(), true),
        ("twice the default, of too little", json!(["4Gi"]), two, false),
    ] {
        let mut nodes = shared_device(used);
        claim(&mut nodes, "c", json!({ "requests": requests }));
        assert_eq!(verdicts(&nodes, &["c"])[2].is_ok(), fits, "{what}");
    }
    let mut nodes = shared_device(json!([]));
    claim(&mut nodes, "c", json!({ "requests": memory("2Gi") }));
    let reserved = DynamicResources.reserve(&using("p", &["c"]).info(), nodes.node("c").unwrap(), &nodes).unwrap();
    let [Assumption::ResourceClaim(claim)] = &reserved[..] else { panic!("{reserved:?}") };
    let result = allocation(claim).unwrap().devices.as_ref().unwrap().results.as_ref().unwrap()[0].clone();
    assert!(result.share_id.is_some());
    assert_eq!(json!(result.consumed_capacity), json!({ "memory": "4Gi" }));
}

#[test]
fn extended_resources_are_met_by_devices_where_a_node_does_not_offer_them() {
    for (resource, mapped) in
        [("example.com/gpu", json!("example.com/gpu")), ("deviceclass.resource.kubernetes.io/gpus", Value::Null)]
    {
        let mut nodes = cluster();
        let class = json!({ "metadata": { "name": "gpus" }, "spec": { "extendedResourceName": mapped,
            "selectors": [{ "cel": { "expression": format!("device.driver == '{DRIVER}'") } }] } });
        nodes.device_classes.set(ObjectKey::new("", "gpus"), object(class));
        nodes.set_node(
            node("c").set(&format!("/status/allocatable/{}", resource.replace('/', "~1")), "1".into()).info(),
        );
        nodes.arrange();
        let requests = json!({ "cpu": "1", resource: "2" });
        let wanting = || pod("p").set("/spec/containers/0/resources/requests", requests.clone());
        let fit = crate::plugins::build("NodeResourcesFit", json!({})).unwrap().unwrap();
        let verdict =
            |plugin: &dyn Plugin, on: &str| filtered(plugin, wanting(), &nodes, on).map_err(|no| no.message());
        assert_eq!(["a", "b", "c"].map(|on| verdict(&DynamicResources, on).is_ok()), [true, false, true], "{resource}");
        // What a node offers itself must be enough.
        let short = Err(format!("Insufficient {resource}"));
        assert_eq!(["a", "b", "c"].map(|on| verdict(fit.as_ref(), on)), [Ok(()), Ok(()), short]);

        let pod = wanting().info();
        let reserved = DynamicResources.reserve(&pod, nodes.node("a").unwrap(), &nodes).unwrap();
        let [Assumption::ResourceClaim(claim)] = &reserved[..] else { panic!("{reserved:?}") };
        let made = serde_json::to_value(claim.as_ref()).unwrap();
        assert_eq!(made["metadata"]["generateName"], "p-extended-resources-");
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "p");
        assert_eq!(made["spec"]["devices"]["requests"][0]["exactly"]["count"], 2);
        assert_eq!(made["status"]["allocation"]["devices"]["results"].as_array().unwrap().len(), 2);
        assert_eq!(
            extended::pod_status(&pod, claim)["extendedResourceClaimStatus"]["requestMappings"],
            json!([{ "containerName": "c", "resourceName": resource, "requestName": "container-0-request-1" }])
        );
        assert!(DynamicResources.reserve(&pod, nodes.node("c").unwrap(), &nodes).unwrap().is_empty());
        // The claim of an attempt that failed is in the way until it is gone.
        let name = json!({ "metadata": { "name": "p-extended-resources-x" } });
        let mut left_over = made;
        left_over["metadata"]["name"] = name["metadata"]["name"].clone();
        nodes.resource_claims.set(ObjectKey::new("default", "p-extended-resources-x"), object(left_over));
        let verdict = filtered(&DynamicResources, wanting(), &nodes, "a").map_err(|no| no.message());
        assert_eq!(verdict, Err(LEFT_OVER.to_owned()));
    }
}

/// A claim that has got node b's device, and who uses it.
fn allocated_on_b(snapshot: &mut Snapshot, users: Value, conditions: Value) {
    let field = json!({ "key": "metadata.name", "operator": "In", "values": ["b"] });
    let result = json!({ "request": "r", "driver": DRIVER, "pool": "b", "device": "large",
                         "bindingConditions": ["Ready"], "bindingFailureConditions": ["Broken"] });
    let status = json!({
        "allocation": { "devices": { "results": [result] }, "nodeSelector": { "nodeSelectorTerms": [{ "matchFields": [field] }] } },
        "devices": [{ "driver": DRIVER, "pool": "b", "device": "large", "conditions": conditions }], "reservedFor": users,
    });
    let claim = json!({ "metadata": { "name": "c", "namespace": "default" }, "spec": {}, "status": status });
    snapshot.resource_claims.set(ObjectKey::new("default", "c"), object(claim));
}

#[test]
fn a_claim_that_nobody_uses_is_given_back_if_it_keeps_the_pod_from_every_node() {
    let user = |name: &str| json!({ "resource": "pods", "name": name, "uid": name });
    let broken = json!([{ "type": "Broken", "status": "True", "reason": "Smoke", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }]);
    for (what, pod, users, conditions, expected) in [
        ("idle, elsewhere", using("p", &["c"]).cpu("5"), json!([]), json!([]), GIVEN_BACK),
        ("its own, elsewhere", using("p", &["c"]).cpu("5"), json!([user("p")]), json!([]), GIVEN_BACK),
        ("in use", using("p", &["c"]).cpu("5"), json!([user("other")]), json!([]), STILL_NOT),
        ("its own, broken", using("p", &["c"]), json!([user("p")]), broken, GIVEN_BACK),
        ("no claim", pod("p").cpu("10"), json!([]), json!([]), NO_CLAIMS),
    ] {
        let mut nodes = cluster();
        nodes.set_node(node("a").cpu("9").info());
        nodes.arrange();
        allocated_on_b(&mut nodes, users, conditions);
        let (profile, pod) = (crate::profile::default_profile(), pod.info());
        let mut search = crate::cycle::Search { start: 0, tie_break: crate::testing::first };
        let error = crate::cycle::schedule(&profile, &pod, &nodes, &mut search, None).unwrap_err();
        let unfit =
            Unfit { profile: &profile, pod: &pod, snapshot: &nodes, error: &error, chance: crate::testing::first };
        let declined = DynamicResources.post_filter(&unfit).unwrap_err();
        assert_eq!((&declined.message[..], declined.give_back.is_some()), (expected, expected == GIVEN_BACK), "{what}");
    }
}

#[test]
fn devices_are_ready_when_all_their_conditions_are_true() {
    let state = |name: &str, status: &str| {
        json!({ "type": name, "status": status, "reason": "Because", "message": "so",
                                                    "lastTransitionTime": "2026-01-01T00:00:00Z" })
    };
    for (conditions, expected) in [
        (json!([]), Ok(false)),
        (json!([state("Ready", "False")]), Ok(false)),
        (json!([state("Ready", "True")]), Ok(true)),
        (
            json!([state("Ready", "True"), state("Broken", "True")]),
            Err("claim c binding failed: reason=Because, message=\"so\"".to_owned()),
        ),
    ] {
        let mut nodes = cluster();
        allocated_on_b(&mut nodes, json!([]), conditions);
        let claim = nodes.resource_claims.get(&ObjectKey::new("default", "c")).unwrap();
        assert_eq!(readiness(claim), expected);
    }
}
