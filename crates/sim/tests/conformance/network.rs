//! Services, their endpoints, and the objects around them.

use kube::api::Patch;
use serde_json::{Value, json};

use crate::lifecycle::takes_every_verb;
use crate::objects::Objects;
use crate::support::*;

#[test]
fn the_kubernetes_service_leads_to_the_api_server_securely() {
    api(async |cluster| {
        let service = Objects::find(cluster, "v1", "Service").await?.get("kubernetes").await?;
        let ports = service["spec"]["ports"].as_array().expect("it has ports");
        assert!(ports.iter().any(|port| port["port"] == 443 && port["name"] == "https"), "{ports:?}");
        Ok(())
    });
}

#[test]
fn the_kubernetes_service_has_endpoints_and_slices_that_name_the_api_server() {
    api(async |cluster| {
        let endpoints = Objects::find(cluster, "v1", "Endpoints").await?.get("kubernetes").await?;
        let slices = Objects::find(cluster, "discovery.k8s.io/v1", "EndpointSlice").await?;
        let slices = slices.list("kubernetes.io/service-name=kubernetes").await?;
        let (subset, slice) = (&endpoints["subsets"][0], &slices[0]);
        assert_eq!(endpoints["subsets"].as_array().map(Vec::len), Some(1));
        assert_eq!(slices.len(), 1);
        assert_eq!(subset["addresses"][0]["ip"], slice["endpoints"][0]["addresses"][0]);
        assert_eq!(slice["endpoints"][0]["conditions"]["ready"], true);
        for field in ["name", "port", "protocol"] {
            assert_eq!(subset["ports"][0][field], slice["ports"][0][field]);
        }
        Ok(())
    });
}

#[test]
fn an_endpoint_slice_takes_every_verb() {
    takes_every_verb(
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": { "name": "e2e-example-ing" },
            "addressType": "IPv4",
            "endpoints": [{ "addresses": ["1.2.3.4", "5.6.7.8"] }, { "addresses": ["2.2.3.4", "6.6.7.8"] }],
        }),
        json!({ "endpoints": [{ "addresses": ["1.2.3.4"], "conditions": { "ready": true } }], "ports": [{ "port": 80 }] }),
        Value::Null,
    );
}

#[test]
fn endpoints_take_every_verb() {
    takes_every_verb(
        json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": "testservice" },
            "subsets": [{ "addresses": [{ "ip": "10.0.0.24" }], "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }] }],
        }),
        json!({ "subsets": [{ "addresses": [{ "ip": "10.0.0.25" }], "ports": [{ "name": "http-test", "port": 8080, "protocol": "TCP" }] }] }),
        Value::Null,
    );
}

#[test]
fn hand_made_endpoints_are_mirrored_to_slices_updated_and_removed() {
    control_plane(async |cluster| {
        let services = Objects::find(cluster, "v1", "Service").await?;
        let endpoints = Objects::find(cluster, "v1", "Endpoints").await?;
        let slices = Objects::find(cluster, "discovery.k8s.io/v1", "EndpointSlice").await?;
        services
            .create(&json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": "example-custom-endpoints" },
                "spec": { "ports": [{ "name": "example", "port": 80, "protocol": "TCP" }] },
            }))
            .await?;
        let mut custom = json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": "example-custom-endpoints" },
            "subsets": [{ "ports": [{ "port": 80 }], "addresses": [{ "ip": "10.1.2.3" }] }],
        });
        let mirrored = async |address: &str| {
            until("a slice mirrors the endpoints", async || {
                let slices = slices.list("kubernetes.io/service-name=example-custom-endpoints").await?;
                let [slice] = slices.as_slice() else { return Ok(false) };
                let managed_by = &slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
                assert_eq!(managed_by, "endpointslicemirroring-controller.k8s.io");
                assert_eq!(slice["ports"].as_array().map(Vec::len), Some(1));
                assert_eq!(slice["ports"][0]["port"], 80);
                let endpoints = slice["endpoints"].as_array().expect("it has endpoints");
                Ok(endpoints.len() == 1 && endpoints[0]["addresses"] == json!([address]))
            })
            .await
        };
        endpoints.create(&custom).await?;
        mirrored("10.1.2.3").await?;
        custom["subsets"][0]["addresses"] = json!([{ "ip": "10.2.3.4" }]);
        endpoints.replace(&custom).await?;
        mirrored("10.2.3.4").await?;
        endpoints.delete("example-custom-endpoints").await?;
        until("the slice goes", async || {
            Ok(slices.list("kubernetes.io/service-name=example-custom-endpoints").await?.is_empty())
        })
        .await
    });
}

#[test]
fn an_ingress_and_its_status_take_every_verb() {
    let backend = json!({ "service": { "name": "default-backend", "port": { "name": "", "number": 8080 } } });
    takes_every_verb(
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": "e2e-example-ing" },
            "spec": {
                "defaultBackend": { "service": { "name": "default-backend", "port": { "number": 8080 } } },
                "rules": [{ "host": "foo.bar.com", "http": { "paths": [{
                    "path": "/", "pathType": "Prefix",
                    "backend": { "service": { "name": "test-backend", "port": { "number": 8080 } } },
                }] } }],
            },
        }),
        json!({ "spec": { "rules": [{ "host": "a.bar.com", "http": { "paths": [{
            "path": "/", "pathType": "Exact",
            "backend": { "service": { "name": backend["service"]["name"], "port": { "number": 8081 } } },
        }] } }] } }),
        json!({ "loadBalancer": { "ingress": [{ "ip": "169.1.1.1" }] } }),
    );
}

#[test]
fn an_ingress_class_takes_every_verb() {
    takes_every_verb(
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": { "name": "e2e-example-class" },
            "spec": { "controller": "example.com/controller" },
        }),
        json!({ "spec": { "parameters": { "kind": "Parameters", "name": "p", "scope": "Cluster" } } }),
        Value::Null,
    );
}

#[test]
fn an_ip_address_takes_every_verb() {
    api(async |cluster| {
        let addresses = Objects::find(cluster, "networking.k8s.io/v1", "IPAddress").await?;
        let address = |name: &str, kind: &str| {
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
                "metadata": { "name": name, "labels": { "type": kind } },
                "spec": { "parentRef": { "group": "mygroup", "resource": "myresources", "namespace": "foo", "name": "bar" } },
            })
        };
        let broadcast = addresses.create(&address("255.255.255.255", "broadcast")).await?;
        addresses.create(&address("fe80::42:1dff:fe84:f9e2", "link-local")).await?;
        let refusal = refused(addresses.create(&address("fe80::0042:1dff:fe84:f9e3", "bad")).await, 422, "Invalid");
        assert!(refusal.message.contains("metadata.name"), "only the canonical form is a name: {}", refusal.message);
        let mut watch = addresses.watch("type=broadcast", text(&broadcast, "/metadata/resourceVersion")).await?;

        let patch = json!({ "metadata": { "annotations": { "patched": "true" } } });
        let patched = addresses.merge("255.255.255.255", patch.clone()).await?;
        assert_contains(&patched, &patch);
        assert!(version(&patched) > version(&broadcast));
        let mut update = patched.clone();
        update["metadata"]["annotations"]["updated"] = "true".into();
        let updated = addresses.replace(&update).await?;
        assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
        let mut moved = updated.clone();
        moved["spec"]["parentRef"]["name"] = "other".into();
        refused(addresses.replace(&moved).await, 422, "Invalid");
        assert_eq!(addresses.get("255.255.255.255").await?, updated);
        assert_eq!(addresses.list("type=broadcast").await?.len(), 1);
        addresses.delete("255.255.255.255").await?;
        for event in ["MODIFIED", "MODIFIED", "DELETED"] {
            assert_eq!(watch.next().await?.0, event);
        }
        addresses.delete_collection("type=link-local").await?;
        assert!(addresses.list("type=link-local").await?.is_empty());
        Ok(())
    });
}

#[test]
fn the_default_service_cidr_is_there_with_its_status() {
    api(async |cluster| {
        let ranges = Objects::find(cluster, "networking.k8s.io/v1", "ServiceCIDR").await?;
        let default = ranges.get("kubernetes").await?;
        assert_eq!(default["spec"]["cidrs"], json!(["10.96.0.0/12"]));
        assert_eq!(ranges.get_sub("status", "kubernetes").await?, default);
        assert!(ranges.list("").await?.iter().any(|range| name(range) == "kubernetes"));
        let mut watch = ranges.watch("", "0").await?;
        assert_eq!(watch.next().await?.0, "ADDED");
        Ok(())
    });
}

#[test]
fn a_service_cidr_and_its_status_take_every_verb() {
    takes_every_verb(
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": { "name": "test-svc-cidr" },
            "spec": { "cidrs": ["203.0.113.0/24"] },
        }),
        json!({ "metadata": { "labels": { "range": "documentation" } } }),
        json!({ "conditions": [{
            "type": "Ready", "status": "True", "reason": "Test", "message": "by a test",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }] }),
    );
}

fn service(name: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "type": kind, "ports": [{ "name": "http", "protocol": "TCP", "port": 80, "targetPort": 80 }] },
    })
}

#[test]
fn a_service_and_its_status_take_every_verb() {
    takes_every_verb(
        service("test-service", "LoadBalancer"),
        json!({ "spec": { "sessionAffinity": "ClientIP" } }),
        json!({
            "loadBalancer": { "ingress": [{ "ip": "203.0.113.1", "ipMode": "VIP" }] },
            "conditions": [{
                "type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from e2e test",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        }),
    );
}

#[test]
fn a_services_status_is_patched_without_its_spec() {
    api(async |cluster| {
        let services = Objects::find(cluster, "v1", "Service").await?;
        let created = services.create(&service("test-service", "LoadBalancer")).await?;
        let patch = json!({
            "spec": { "sessionAffinity": "ClientIP" },
            "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.1" }] } },
        });
        let patched = services.patch_sub("status", "test-service", &Patch::Merge(patch)).await?;
        assert_eq!(patched["status"]["loadBalancer"]["ingress"][0]["ip"], "203.0.113.1");
        assert_eq!(patched["spec"], created["spec"]);
        Ok(())
    });
}

#[test]
fn services_are_deleted_as_a_collection() {
    api(async |cluster| {
        let services = Objects::find(cluster, "v1", "Service").await?;
        for (number, label) in [(0, "keep"), (1, "yes"), (2, "yes"), (3, "yes")] {
            let mut service = service(&format!("e2e-svc-{number}"), "ClusterIP");
            service["metadata"]["labels"] = json!({ "e2e": label });
            services.create(&service).await?;
        }
        services.delete_collection("e2e=yes").await?;
        assert!(services.list("e2e=yes").await?.is_empty());
        assert_eq!(services.list("e2e=keep").await?.len(), 1);
        Ok(())
    });
}

#[test]
fn the_kubernetes_service_is_found_in_the_list_of_all_namespaces() {
    api(async |cluster| {
        let services = Objects::find(cluster, "v1", "Service").await?.everywhere().list("").await?;
        let found = services
            .iter()
            .any(|service| name(service) == "kubernetes" && text(service, "/metadata/namespace") == "default");
        assert!(found);
        Ok(())
    });
}
