use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::testing::{in_simulation, put, storage};

async fn allocator(storage: &Arc<Storage>, cidr: &str, ports: RangeInclusive<u16>) -> ServiceAllocator {
    put(storage, NETWORKING, "servicecidrs", json!({ "metadata": { "name": "r" }, "spec": { "cidrs": [cidr] } })).await;
    ServiceAllocator::new(storage.clone(), ports)
}

/// Stores what becomes of a Service, as the handler does.
async fn keep(storage: &Arc<Storage>, name: &str, new: &Value) {
    let row = storage.table().find_any("", "services").unwrap().clone();
    let stored = row.cache.get(&suffix("default", name));
    let (old, revision) = stored.map_or((Value::Null, 0), |entry| (entry.parse(), entry.revision));
    let (key, beside) = (row.key("default", name), addresses(storage, &old, new));
    let revision = match new.is_null() {
        true => storage.remove_with(&key, revision, beside).await.unwrap().unwrap(),
        false => storage.put_with(&key, revision, new, 0, beside).await.unwrap().unwrap().revision,
    };
    storage.wait_for(revision).await.unwrap();
}

fn service(name: &str, spec: Value) -> Value {
    json!({ "metadata": { "name": name, "namespace": "default" }, "spec": spec })
}

fn give(allocator: &ServiceAllocator, service: &mut Value, old: &Value) -> ApiResult<()> {
    let name = service["metadata"]["name"].as_str().unwrap().to_owned();
    allocator.allocate(service, old, ("default", &name), false)
}

/// Gives a new Service of this spec what it needs, in a cluster where 10.96.0.10 and 30080 are taken.
fn given(spec: Value, old: Value) -> Result<Value, String> {
    let taken = Taken { ip: &|ip| ip == Ipv4Addr::new(10, 96, 0, 10), ports: &|| [30080].into() };
    let ranges = Ranges { cluster_ips: vec!["10.96.0.0/12".parse().unwrap()], node_ports: 30000..=32767 };
    let mut service = service("web", spec);
    assign(&mut service, &old, taken, &ranges).map_err(|e| e.message)?;
    Ok(service["spec"].take())
}

#[test]
fn a_service_gets_a_cluster_ip_outside_the_band_for_chosen_ones() {
    let spec = given(json!({ "ports": [{ "port": 80 }], "selector": { "a": "b" } }), Value::Null).unwrap();
    let ip: Ipv4Addr = spec["clusterIP"].as_str().unwrap().parse().unwrap();
    assert!(ip > Ipv4Addr::new(10, 96, 1, 0) && ip < Ipv4Addr::new(10, 111, 255, 255), "{ip}");
    assert_eq!(spec["clusterIPs"], json!([ip.to_string()]));
    assert_eq!((&spec["ipFamilies"], &spec["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
    assert!(spec["ports"][0]["nodePort"].is_null());
}

#[test]
fn headless_and_external_services_get_no_address() {
    let spec = given(json!({ "clusterIP": "None", "selector": { "a": "b" } }), Value::Null).unwrap();
    assert_eq!((&spec["clusterIPs"], &spec["ipFamilies"]), (&json!(["None"]), &json!(["IPv4"])));
    let spec = given(json!({ "clusterIP": "None" }), Value::Null).unwrap();
    assert_eq!(spec["ipFamilyPolicy"], "RequireDualStack");
    let spec = given(json!({ "type": "ExternalName", "externalName": "example.com" }), Value::Null).unwrap();
    assert!(spec["clusterIP"].is_null());
}

#[test]
fn requests_that_cannot_be_met_are_refused_in_upstreams_words() {
    let table = [
        (
            json!({ "clusterIP": "10.96.0.10" }),
            r#"Service "web" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.10"]: failed to allocate IP 10.96.0.10: provided IP is already allocated"#,
        ),
        (
            json!({ "clusterIP": "192.168.0.1" }),
            "failed to allocate IP 192.168.0.1: the provided network does not match the current range",
        ),
        (
            json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30080 }] }),
            "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
        ),
        (
            json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 80 }] }),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
        ),
        (
            json!({ "ipFamilyPolicy": "RequireDualStack", "selector": { "a": "b" } }),
            "this cluster is not configured for dual-stack services",
        ),
    ];
    for (spec, expected) in table {
        let message = given(spec, Value::Null).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn an_update_keeps_what_it_leaves_out_and_drops_what_the_new_type_does_not_need() {
    let old = given(json!({ "type": "NodePort", "ports": [{ "port": 80 }, { "port": 443 }] }), Value::Null).unwrap();
    let old = service("web", old);
    let ports = json!([{ "port": 443 }, { "port": 80 }]);
    let new = given(json!({ "type": "LoadBalancer", "ports": ports }), old.clone()).unwrap();
    assert_eq!(new["clusterIP"], old["spec"]["clusterIP"]);
    assert_eq!(new["ports"][0]["nodePort"], old["spec"]["ports"][1]["nodePort"]);
    let mut spec = old["spec"].clone();
    spec["type"] = "ClusterIP".into();
    let new = given(spec, old).unwrap();
    assert!(new["ports"][0]["nodePort"].is_null());
}

#[test]
fn a_service_that_is_no_longer_external_loses_what_only_those_have() {
    let fields = json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{ "port": 80 }],
        "allocateLoadBalancerNodePorts": true });
    let old = given(fields, Value::Null).unwrap();
    let mut spec = old.clone();
    spec["type"] = "ClusterIP".into();
    let new = given(spec, service("web", old.clone())).unwrap();
    for field in ["externalTrafficPolicy", "allocateLoadBalancerNodePorts", "healthCheckNodePort"] {
        assert!(new[field].is_null(), "{field}");
    }
    assert_eq!(new["clusterIP"], old["clusterIP"]);
    let mut spec = old.clone();
    spec["type"] = "ExternalName".into();
    assert!(given(spec, service("web", old)).unwrap()["clusterIPs"].is_null());
}

#[test]
fn a_load_balancer_with_local_traffic_gets_a_health_check_port() {
    let spec = json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{ "port": 80 }] });
    let spec = given(spec, Value::Null).unwrap();
    assert!(spec["healthCheckNodePort"].as_u64().unwrap() >= 30000);
    assert_ne!(spec["healthCheckNodePort"], spec["ports"][0]["nodePort"]);
}

#[test]
fn what_a_deleted_service_had_is_free_at_once() {
    in_simulation(async || {
        let storage = storage().await;
        let allocator = allocator(&storage, "10.96.0.0/30", 30000..=30000).await;
        let spec = json!({ "type": "NodePort", "ports": [{ "port": 80 }], "clusterIP": "10.96.0.1" });
        let mut first = service("first", spec.clone());
        give(&allocator, &mut first, &Value::Null).unwrap();
        let mut second = service("second", spec);
        assert!(give(&allocator, &mut second, &Value::Null).is_err(), "given, though not stored yet");
        keep(&storage, "first", &first).await;
        assert!(give(&allocator, &mut second, &Value::Null).is_err());
        keep(&storage, "first", &Value::Null).await;
        give(&allocator, &mut second, &Value::Null).unwrap();
    });
}

#[test]
fn an_ip_address_comes_and_goes_with_its_service_and_peoples_own_reserve_theirs() {
    in_simulation(async || {
        let storage = storage().await;
        let allocator = allocator(&storage, "10.96.0.0/30", 30000..=30000).await;
        let reserved = json!({ "metadata": { "name": "10.96.0.1" },
            "spec": { "parentRef": { "group": "example.com", "resource": "gateways", "name": "g" } } });
        put(&storage, NETWORKING, "ipaddresses", reserved).await;
        let mut web = service("web", json!({}));
        give(&allocator, &mut web, &Value::Null).unwrap();
        assert_eq!(web["spec"]["clusterIP"], "10.96.0.2");
        keep(&storage, "web", &web).await;
        let address = async || storage.get(NETWORKING, "ipaddresses", "", "10.96.0.2").await.unwrap();
        let found = address().await.unwrap();
        let parent = json!({ "resource": "services", "namespace": "default", "name": "web" });
        assert_eq!(found["spec"]["parentRef"], parent);
        let labels = json!({ "ipaddress.kubernetes.io/ip-family": "IPv4",
            "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io" });
        assert_eq!(found["metadata"]["labels"], labels);
        let full = give(&allocator, &mut service("more", json!({})), &Value::Null).unwrap_err();
        assert!(full.message.ends_with("failed to allocate a serviceIP: range is full"), "{}", full.message);
        put(
            &storage,
            NETWORKING,
            "servicecidrs",
            json!({ "metadata": { "name": "second" },
            "spec": { "cidrs": ["10.100.0.0/30"] } }),
        )
        .await;
        let mut more = service("more", json!({}));
        give(&allocator, &mut more, &Value::Null).unwrap();
        assert!(more["spec"]["clusterIP"].as_str().unwrap().starts_with("10.100."));
        keep(&storage, "web", &service("web", json!({ "type": "ExternalName" }))).await;
        assert!(address().await.is_none());
    });
}

#[test]
fn a_service_cidr_that_is_going_or_not_ready_gives_nothing() {
    in_simulation(async || {
        let storage = storage().await;
        let allocator = allocator(&storage, "10.96.0.0/30", 30000..=30000).await;
        let condition = json!({ "conditions": [{ "type": "Ready", "status": "False" }] });
        for (meta, status) in
            [(json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" }), json!({})), (json!({}), condition)]
        {
            let mut range = json!({ "metadata": meta, "spec": { "cidrs": ["10.96.0.0/30"] }, "status": status });
            range["metadata"]["name"] = "r".into();
            put(&storage, NETWORKING, "servicecidrs", range).await;
            give(&allocator, &mut service("web", json!({})), &Value::Null).unwrap_err();
        }
    });
}

#[test]
fn an_address_that_is_taken_between_choice_and_storing_is_not_shared() {
    in_simulation(async || {
        let storage = storage().await;
        let allocator = allocator(&storage, "10.96.0.0/12", 30000..=30000).await;
        let mut web = service("web", json!({ "clusterIP": "10.96.0.7" }));
        give(&allocator, &mut web, &Value::Null).unwrap();
        put(&storage, NETWORKING, "ipaddresses", json!({ "metadata": { "name": "10.96.0.7" } })).await;
        let beside = addresses(&storage, &Value::Null, &web);
        let refused = storage.put_with("/registry/services/specs/default/web", 0, &web, 0, beside).await.unwrap_err();
        assert_eq!(refused.code, 504);
        assert!(storage.get("", "services", "default", "web").await.unwrap().is_none());
    });
}

#[test]
fn what_is_given_and_what_cannot_be_is_counted_by_range_and_by_whose_choice_it_was() {
    in_simulation(async || {
        let storage = storage().await;
        let allocator = allocator(&storage, "10.0.0.0/30", 30000..=30001).await;
        let mut chosen = service("chosen", json!({ "type": "NodePort", "ports": [{ "port": 80 }] }));
        give(&allocator, &mut chosen, &Value::Null).unwrap();
        keep(&storage, "chosen", &chosen).await;
        // Half of the ranges is left: what somebody has is not given, and what is no longer there neither.
        let taken = json!({ "clusterIP": chosen["spec"]["clusterIP"], "ports": [{ "port": 80 }] });
        give(&allocator, &mut service("taken", taken), &Value::Null).unwrap_err();
        let free = cluster_ips(&storage, true)[0];
        let free = (0..2).map(|index| free.address(index).to_string()).find(|ip| chosen["spec"]["clusterIP"] != **ip);
        let named = json!({ "clusterIP": free, "ports": [{ "port": 80, "nodePort": 30009 }], "type": "NodePort" });
        give(&allocator, &mut service("wrong-port", named.clone()), &Value::Null).unwrap_err();
        let mut named = service("named", named);
        named["spec"]["type"] = "ClusterIP".into();
        named["spec"]["ports"][0].as_object_mut().unwrap().remove("nodePort");
        give(&allocator, &mut named, &Value::Null).unwrap();
        keep(&storage, "named", &named).await;
        give(&allocator, &mut service("late", json!({})), &Value::Null).unwrap_err();
        // An update that changes nothing is given nothing.
        give(&allocator, &mut chosen.clone(), &chosen).unwrap();
        let mut text = String::new();
        AdmissionPlugin::metrics(&allocator, &mut text);
        for line in [
            r#"clusterip_allocator_allocation_total{cidr="10.0.0.0/30",scope="dynamic"} 1"#,
            r#"clusterip_allocator_allocation_total{cidr="10.0.0.0/30",scope="static"} 1"#,
            r#"clusterip_allocator_allocation_errors_total{cidr="10.0.0.0/30",scope="dynamic"} 1"#,
            r#"clusterip_allocator_allocation_errors_total{cidr="10.0.0.0/30",scope="static"} 1"#,
            r#"clusterip_allocator_allocation_duration_seconds_count{cidr="10.0.0.0/30"} 2"#,
            r#"clusterip_allocator_allocated_ips{cidr="10.0.0.0/30"} 2"#,
            r#"clusterip_allocator_available_ips{cidr="10.0.0.0/30"} 0"#,
            r#"nodeport_allocator_allocation_total{scope="dynamic"} 1"#,
            r#"nodeport_allocator_allocation_errors_total{scope="static"} 1"#,
            "nodeport_allocator_allocated_ports 1",
            "nodeport_allocator_available_ports 1",
        ] {
            assert!(text.contains(&format!("\nkube_apiserver_{line}\n")), "{line} of\n{text}");
        }
    });
}

#[test]
fn what_was_given_to_a_service_that_was_never_stored_comes_back() {
    in_simulation(async || {
        let storage = storage().await;
        let allocator = allocator(&storage, "10.96.0.0/12", 30000..=32767).await;
        let spec = json!({ "clusterIP": "10.96.0.1" });
        give(&allocator, &mut service("refused", spec.clone()), &Value::Null).unwrap();
        give(&allocator, &mut service("refused", spec.clone()), &Value::Null).unwrap();
        coracle_clock::sleep(KEEP).await;
        give(&allocator, &mut service("other", spec), &Value::Null).unwrap();
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn no_two_services_ever_share_an_address_or_a_port(steps in prop::collection::vec((0usize..12, 0usize..3, any::<bool>()), 1..40)) {
        in_simulation(async || {
            let storage = storage().await;
            let allocator = allocator(&storage, "10.96.0.0/27", 30000..=30040).await;
            let mut alive: std::collections::BTreeMap<String, Value> = Default::default();
            for (name, kind, store) in steps {
                let name = format!("s{name}");
                if alive.remove(&name).is_some() {
                    if storage.get("", "services", "default", &name).await.unwrap().is_some() {
                        keep(&storage, &name, &Value::Null).await;
                    }
                    allocator.release("default", &name);
                    continue;
                }
                let kind = ["ClusterIP", "NodePort", "LoadBalancer"][kind];
                let mut new = service(&name, json!({ "type": kind, "ports": [{ "port": 80 }, { "port": 443 }] }));
                give(&allocator, &mut new, &Value::Null).unwrap();
                if store {
                    keep(&storage, &name, &new).await;
                }
                alive.insert(name, new);
                let all: Vec<Used> = alive.values().map(Used::of).collect();
                let (ips, ports): (usize, usize) = (all.iter().map(|u| u.ips.len()).sum(), all.iter().map(|u| u.ports.len()).sum());
                let different = |count, of: BTreeSet<String>| assert_eq!(of.len(), count, "{alive:?}");
                different(ips, all.iter().flat_map(|used| &used.ips).map(ToString::to_string).collect());
                different(ports, all.iter().flat_map(|used| &used.ports).map(ToString::to_string).collect());
            }
        });
    }
}
