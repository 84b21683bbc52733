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
