//! What the API says of itself: discovery, OpenAPI, health, version, metrics.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use serde_json::{Value, json};

/// Discovery of Kubernetes v1.36: each group and version, then a line per resource (name, singular, kind, scope,
/// short names, categories, verbs, storage version hash).
const DISCOVERY: &str = include_str!("data/discovery.txt");
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

fn words(list: &Value) -> String {
    let words: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if words.is_empty() { "-".into() } else { words.join(",") }
}

/// `Pod`, or `policy/v1/Eviction` where it is not of the resource's own group.
fn kind(kind: &Value) -> String {
    let part = |name: &str| kind[name].as_str().unwrap_or_default();
    match (part("group"), part("version")) {
        ("", "") => part("kind").to_owned(),
        (group, version) => format!("{group}/{version}/{}", part("kind")),
    }
}

fn or_dash(text: &Value) -> &str {
    text.as_str().filter(|text| !text.is_empty()).unwrap_or("-")
}

/// The older documents, as lines.
async fn legacy(server: &Server) -> String {
    let mut text = String::new();
    let groups = server.get("/apis").await.expect(200);
    let mut paths: Vec<String> = server.get("/api").await.expect(200)["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| format!("/api/{}", v.as_str().unwrap()))
        .collect();
    for group in groups["groups"].as_array().unwrap() {
        assert_eq!(group["preferredVersion"], group["versions"][0]);
        let own = server.get(&format!("/apis/{}", group["name"].as_str().unwrap())).await.expect(200);
        assert_eq!((&own["versions"], &own["kind"]), (&group["versions"], &json!("APIGroup")));
        paths.extend(
            group["versions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|v| format!("/apis/{}", v["groupVersion"].as_str().unwrap())),
        );
    }
    for path in paths {
        let list = server.get(&path).await.expect(200);
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("APIResourceList"), &json!("v1")));
        text.push_str(&format!("{}\n", list["groupVersion"].as_str().unwrap()));
        for r in list["resources"].as_array().unwrap() {
            let scope = if r["namespaced"] == true { "Namespaced" } else { "Cluster" };
            let line = [
                r["name"].as_str().unwrap(),
                or_dash(&r["singularName"]),
                &kind(r),
                scope,
                &words(&r["shortNames"]),
                &words(&r["categories"]),
                &words(&r["verbs"]),
                r["storageVersionHash"].as_str().unwrap_or_default(),
            ]
            .join(" ");
            text.push_str(&format!("  {}\n", line.trim_end()));
        }
    }
    text
}

/// The aggregated documents, as lines; they have no hashes.
async fn aggregated(server: &Server, accept: &str) -> String {
    let mut text = String::new();
    for path in ["/api", "/apis"] {
        let answer = server.send("GET", path, &[("accept", accept)], b"").await;
        assert!(answer.headers["content-type"].to_str().unwrap().ends_with(";as=APIGroupDiscoveryList"));
        for group in answer.expect(200)["items"].as_array().unwrap() {
            for version in group["versions"].as_array().unwrap() {
                assert_eq!(version["freshness"], "Current");
                let (group, version_name) = (group["metadata"]["name"].as_str(), version["version"].as_str().unwrap());
                text.push_str(&group.map_or(format!("{version_name}\n"), |group| format!("{group}/{version_name}\n")));
                for r in version["resources"].as_array().unwrap() {
                    let (name, scope) = (r["resource"].as_str().unwrap(), r["scope"].as_str().unwrap());
                    let (short, categories) = (words(&r["shortNames"]), words(&r["categories"]));
                    let (kind_of_it, verbs) = (kind(&r["responseKind"]), words(&r["verbs"]));
                    let singular = or_dash(&r["singularResource"]);
                    text.push_str(&format!("  {name} {singular} {kind_of_it} {scope} {short} {categories} {verbs}\n"));
                    for s in r["subresources"].as_array().into_iter().flatten() {
                        let (sub, verbs) = (s["subresource"].as_str().unwrap(), words(&s["verbs"]));
                        text.push_str(&format!("  {name}/{sub} - {} {scope} - - {verbs}\n", kind(&s["responseKind"])));
                    }
                }
            }
        }
    }
    text
}

#[test]
fn discovery_is_upstreams() {
    served(async |server| {
        assert_eq!(legacy(&server).await, DISCOVERY);
    });
}

/// Conformance: AggregatedDiscovery should support raw aggregated discovery endpoint Accept headers.
#[test]
fn aggregated_discovery_should_support_raw_endpoint_accept_headers() {
    served(async |server| {
        let without_hash =
            |line: &str| line.strip_suffix('=').map_or(line, |line| line.rsplit_once(' ').unwrap().0).to_owned();
        let expected: Vec<String> = DISCOVERY.lines().map(without_hash).collect();
        for accept in [AGGREGATED, "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"] {
            assert_eq!(aggregated(&server, accept).await.lines().collect::<Vec<_>>(), expected);
        }
        let plain = server.send("GET", "/apis", &[("accept", "application/json")], b"").await.expect(200);
        assert_eq!(plain["kind"], "APIGroupList");
    });
}

#[test]
fn a_client_that_has_aggregated_discovery_is_not_sent_it_again() {
    served(async |server| {
        let first = server.send("GET", "/apis", &[("accept", AGGREGATED)], b"").await;
        let tag = first.headers["etag"].to_str().unwrap();
        let second = server.send("GET", "/apis", &[("accept", AGGREGATED), ("if-none-match", tag)], b"").await;
        assert_eq!((second.code, second.bytes.len(), &second.headers["etag"]), (304, 0, &first.headers["etag"]));
    });
}

/// Conformance: AggregatedDiscovery should support aggregated discovery interface.
#[test]
fn aggregated_discovery_should_support_aggregated_discovery_interface() {
    served(async |server| {
        let discovery = kube::Discovery::new(server.client()).run_aggregated().await.unwrap();
        for resource in coracle_api::registry::builtin() {
            let group = discovery.get(&resource.group).unwrap_or_else(|| panic!("{}", resource.group));
            let found = group.versioned_resources(&resource.version);
            let found = found.iter().find(|(found, _)| found.plural == resource.plural);
            assert_eq!(found.unwrap().0.kind, resource.kind);
        }
    });
}

/// Conformance: Discovery should locate the groupVersion and a resource within each APIGroup;
/// Discovery should validate PreferredVersion for each APIGroup.
#[test]
fn discovery_should_locate_the_group_version_and_a_resource_within_each_api_group() {
    served(async |server| {
        let groups = server.get("/apis").await.expect(200);
        for group in groups["groups"].as_array().unwrap() {
            let versions = group["versions"].as_array().unwrap();
            assert!(versions.contains(&group["preferredVersion"]), "{group}");
            for version in versions {
                let name = version["groupVersion"].as_str().unwrap();
                let list = server.get(&format!("/apis/{name}")).await.expect(200);
                assert_eq!(list["groupVersion"], name);
                assert!(!list["resources"].as_array().unwrap().is_empty(), "{name}");
            }
        }
    });
}

/// Conformance: CustomResourceDefinition resources should include custom resource definition resources in discovery
/// documents.
#[test]
fn custom_resource_definitions_are_in_all_three_discovery_documents() {
    served(async |server| {
        let groups = server.get("/apis").await.expect(200);
        let of = |group: &&Value| group["name"] == "apiextensions.k8s.io";
        let group = groups["groups"].as_array().unwrap().iter().find(of).unwrap();
        assert_eq!(group["versions"], json!([{ "groupVersion": "apiextensions.k8s.io/v1", "version": "v1" }]));
        assert_eq!(server.get("/apis/apiextensions.k8s.io").await.expect(200)["versions"], group["versions"]);
        let list = server.get("/apis/apiextensions.k8s.io/v1").await.expect(200);
        assert!(list["resources"].as_array().unwrap().iter().any(|r| r["name"] == "customresourcedefinitions"));
    });
}

/// Conformance: server version should find the server version.
#[test]
fn server_version_should_find_the_server_version() {
    simulate(async || {
        let version = Server::start().await.get("/version").await.expect(200);
        for part in ["major", "minor"] {
            assert!(version[part].as_str().unwrap().parse::<u32>().is_ok(), "{version}");
        }
        assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.36."));
    });
}

#[test]
fn a_document_of_openapi_v3_may_be_kept_for_ever_under_its_hash() {
    served(async |server| {
        let index = server.get("/openapi/v3").await;
        let url = index.expect(200)["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
        let document = server.get(&url).await;
        assert!(document.expect(200)["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
        assert_eq!(document.headers["cache-control"], "public, immutable");
        assert_eq!(document.headers["expires"], "Fri, 01 Jan 2027 00:00:00 GMT");
        let tag = document.headers["etag"].to_str().unwrap();
        assert!(url.ends_with(tag.trim_matches('"')));
        let again = server.send("GET", &url, &[("if-none-match", tag)], b"").await;
        assert_eq!((again.code, again.bytes.len()), (304, 0));
        let packed = server.send("GET", &url, &[("accept-encoding", "gzip")], b"").await;
        assert_eq!(packed.headers["content-encoding"], "gzip");
        assert!(packed.bytes.len() * 5 < document.bytes.len());
        let old = server.get("/openapi/v3/apis/apps/v1?hash=ABC").await;
        assert_eq!((old.code, old.headers["location"].to_str().unwrap()), (301, url.as_str()));
        let plain = server.get("/openapi/v3/apis/apps/v1").await;
        assert_eq!((plain.code, plain.headers["cache-control"].to_str().unwrap()), (200, "no-cache, private"));
        let tag = index.headers["etag"].to_str().unwrap();
        assert_eq!(server.send("GET", "/openapi/v3", &[("if-none-match", tag)], b"").await.code, 304);
        assert_eq!(server.get("/openapi/v3/apis/none/v1").await.expect(404)["reason"], "NotFound");
    });
}

#[test]
fn openapi_v2_is_served_as_json_and_as_protobuf() {
    served(async |server| {
        let json = server.get("/openapi/v2").await;
        assert_eq!(json.expect(200)["swagger"], "2.0");
        let tag = json.headers["etag"].to_str().unwrap();
        assert_eq!(server.send("GET", "/openapi/v2", &[("if-none-match", tag)], b"").await.code, 304);
        for accept in [
            "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
            "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
        ] {
            let answer = server.send("GET", "/openapi/v2", &[("accept", accept)], b"").await;
            assert_eq!(answer.headers["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
            assert_eq!(&answer.bytes[..5], b"\x0a\x032.0");
        }
        assert_eq!(server.send("GET", "/openapi/v2", &[("accept", "text/csv")], b"").await.code, 406);
    });
}

#[test]
fn health_checks_say_what_upstreams_say() {
    served(async |server| {
        let text = async |path: &str| {
            let answer = server.get(path).await;
            (answer.code, String::from_utf8(answer.bytes.to_vec()).unwrap())
        };
        assert_eq!(text("/livez").await, (200, "ok".into()));
        assert_eq!(
            text("/livez?verbose").await,
            (200, "[+]ping ok\n[+]log ok\n[+]etcd ok\nlivez check passed\n".into())
        );
        assert_eq!(text("/readyz/etcd").await, (200, "ok".into()));
        assert_eq!(text("/livez/nothing").await.0, 404);
        server.api.start_hooks.begin("rbac/bootstrap-roles");
        let all = "[+]ping ok\n[+]log ok\n[+]etcd ok\n[+]etcd-readiness ok\n[+]informer-sync ok\n";
        let hook = "poststarthook/rbac/bootstrap-roles";
        let failing = format!("{all}[-]{hook} failed: reason withheld\n[+]shutdown ok\nreadyz check failed\n");
        assert_eq!(text("/readyz").await, (500, failing));
        let excluded = format!("{all}[+]{hook} excluded: ok\n[+]shutdown ok\n");
        let wrong = "warn: some health checks cannot be excluded: no matches for \"x\"\n";
        assert_eq!(
            text(&format!("/readyz?verbose&exclude={hook}&exclude=x")).await,
            (200, format!("{excluded}{wrong}readyz check passed\n"))
        );
        assert_eq!(text(&format!("/readyz?exclude={hook}")).await, (200, "ok".into()));
        // What was excluded, or asked for alone, is not counted.
        let counted = text("/metrics/slis").await.1;
        let of = |name: &str, endpoint: &str| format!("{{name=\"{name}\",type=\"{endpoint}\"");
        for (labels, count) in [(of("etcd", "livez"), 2), (of("etcd", "readyz"), 3)] {
            assert!(counted.contains(&format!("kubernetes_healthcheck{labels}}} 1\n")), "{counted}");
            let total = format!("kubernetes_healthchecks_total{labels},status=\"success\"}} {count}\n");
            assert!(counted.contains(&total), "{total} of {counted}");
        }
        let failed = of(hook, "readyz");
        assert!(counted.contains(&format!("kubernetes_healthcheck{failed}}} 0\n")), "{counted}");
        assert!(
            counted.contains(&format!("kubernetes_healthchecks_total{failed},status=\"error\"}} 1\n")),
            "{counted}"
        );
        server.api.start_hooks.finish("rbac/bootstrap-roles");
        assert_eq!(text("/readyz").await, (200, "ok".into()));
        server.api.config.storage.stop();
        assert!(text("/readyz").await.1.contains("[-]shutdown failed: reason withheld\n"));
    });
}

#[test]
fn the_root_lists_all_paths() {
    simulate(async || {
        let root = Server::start().await.get("/").await.expect(200);
        let paths: Vec<&str> = root["paths"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert!(paths.is_sorted());
        for path in
            ["/api/v1", "/apis/apps", "/apis/apps/v1", "/livez/ping", "/readyz/shutdown", "/openapi/v3", "/version"]
        {
            assert!(paths.contains(&path), "{path}");
        }
    });
}
