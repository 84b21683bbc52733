//! Reading and writing objects through the API server, as clients see it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

#[test]
fn an_object_is_created_read_replaced_and_deleted() {
    served(async |server| {
        let created = server.post(MAPS, config_map("a")).await.expect(201);
        assert_eq!(created["metadata"]["namespace"], "default");
        assert_eq!(created["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
        assert_eq!(created["metadata"]["uid"].as_str().unwrap().len(), 36);
        assert!(created["metadata"].get("generation").is_none());
        let path = format!("{MAPS}/a");
        assert_eq!(server.get(&path).await.expect(200), created);

        let mut changed = created.clone();
        changed["data"]["a"] = "2".into();
        let replaced = server.put(&path, changed.clone()).await.expect(200);
        assert_eq!(replaced["data"]["a"], "2");
        assert_ne!(replaced["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
        let conflict = server.put(&path, changed).await.expect(409);
        assert_eq!(conflict["reason"], "Conflict");
        assert_eq!(
            conflict["message"],
            "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
             changes to the latest version and try again"
        );

        let gone = server.delete(&path, json!({ "propagationPolicy": "Background" })).await.expect(200);
        assert_eq!((&gone["status"], &gone["details"]["kind"]), (&json!("Success"), &json!("configmaps")));
        let missing = server.get(&path).await.expect(404);
        assert_eq!(missing["message"], "configmaps \"a\" not found");
        assert_eq!(missing["details"], json!({ "name": "a", "kind": "configmaps" }));
    });
}

#[test]
fn refusals_are_upstreams() {
    served(async |server| {
        server.post(MAPS, config_map("a")).await.expect(201);
        let twice = server.post(MAPS, config_map("a")).await.expect(409);
        assert_eq!(
            (&twice["reason"], &twice["message"]),
            (&json!("AlreadyExists"), &json!("configmaps \"a\" already exists"))
        );

        let mut elsewhere = config_map("b");
        elsewhere["metadata"]["namespace"] = "other".into();
        assert_eq!(
            server.post(MAPS, elsewhere).await.expect(400)["message"],
            "the namespace of the provided object does not match the namespace sent on the request"
        );
        let bad = server.post(MAPS, config_map("Not_A_Name")).await.expect(422);
        assert_eq!(bad["reason"], "Invalid");
        assert_eq!(bad["details"]["causes"][0]["field"], "metadata.name");

        let renamed = server.put(&format!("{MAPS}/a"), config_map("b")).await.expect(400);
        assert_eq!(renamed["message"], "the name of the object (b) does not match the name on the URL (a)");
        let wrong_uid = json!({ "metadata": { "name": "a", "uid": "x" } });
        assert_eq!(server.patch(&format!("{MAPS}/a"), MERGE, wrong_uid).await.code, 409);

        for path in ["/api/v1/namespaces/default/nothings", "/apis/nothing/v1/things", "/api/v2/pods", "/nothing"] {
            assert_eq!(
                server.get(path).await.expect(404)["message"],
                "the server could not find the requested resource",
                "{path}"
            );
        }
        let statuses = "/api/v1/componentstatuses";
        assert_eq!(server.post(statuses, json!({})).await.expect(405)["reason"], "MethodNotAllowed");
        assert_eq!(server.get(statuses).await.expect(200)["items"][0]["conditions"][0]["status"], "True");
        assert_eq!(server.table(statuses).await["rows"][0]["cells"], json!(["etcd-0", "Healthy", "ok", ""]));
        assert_eq!(server.get(&format!("{statuses}/etcd-0")).await.expect(200)["kind"], "ComponentStatus");
        server.get(&format!("{statuses}/none")).await.expect(404);
        let text = server.send("POST", MAPS, &[("content-type", "text/csv")], b"a,b").await;
        assert_eq!(text.expect(415)["reason"], "UnsupportedMediaType");
        let large = server.send("POST", MAPS, &[], &vec![b' '; 4 << 20]).await;
        assert_eq!(large.expect(413)["reason"], "RequestEntityTooLarge");
        assert_eq!(server.send("GET", PODS, &[("accept", "text/csv")], b"").await.code, 406);
    });
}

#[test]
fn unknown_fields_are_refused_dropped_with_a_warning_or_dropped() {
    served(async |server| {
        let with_unknown = |name| {
            let mut map = config_map(name);
            map["dta"] = json!({});
            map
        };
        let strict = server.post(&format!("{MAPS}?fieldValidation=Strict"), with_unknown("a")).await.expect(400);
        assert_eq!(
            strict["message"],
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dta\""
        );
        let warned = server.post(MAPS, with_unknown("b")).await;
        assert!(warned.expect(201).get("dta").is_none());
        assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"dta\\\"\"");
        let silent = server.post(&format!("{MAPS}?fieldValidation=Ignore"), with_unknown("c")).await;
        assert!(silent.expect(201).get("dta").is_none());
        assert!(!silent.headers.contains_key("warning"));
    });
}

#[test]
fn a_dry_run_answers_as_if_and_changes_nothing() {
    served(async |server| {
        let created = server.post(&format!("{MAPS}?dryRun=All"), config_map("a")).await.expect(201);
        assert!(created["metadata"]["uid"].is_string());
        assert_eq!(server.get(&format!("{MAPS}/a")).await.code, 404);
        server.post(MAPS, config_map("a")).await.expect(201);
        assert_eq!(server.post(&format!("{MAPS}?dryRun=All"), config_map("a")).await.code, 409);
        let path = format!("{MAPS}/a?dryRun=All");
        let patched = server.patch(&path, MERGE, json!({ "data": { "b": "2" } })).await.expect(200);
        assert_eq!(patched["data"], json!({ "a": "1", "b": "2" }));
        assert_eq!(server.delete(&path, json!({})).await.code, 200);
        assert_eq!(server.get(&format!("{MAPS}/a")).await.expect(200)["data"], json!({ "a": "1" }));
    });
}

#[test]
fn each_type_of_patch_changes_in_its_way() {
    served(async |server| {
        let created = server.post(DEPLOYMENTS, deployment("web")).await.expect(201);
        assert_eq!(created["metadata"]["generation"], 1);
        assert_eq!(created["spec"]["strategy"]["type"], "RollingUpdate");
        let path = format!("{DEPLOYMENTS}/web");
        let images = |object: &Value| {
            let containers = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
            containers.iter().map(|c| c["image"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };

        let change =
            json!({ "spec": { "template": { "spec": { "containers": [{ "name": "d", "image": "envoy:2" }] } } } });
        let strategic = server.patch(&path, STRATEGIC, change).await.expect(200);
        assert_eq!(images(&strategic), ["nginx", "envoy:2"]);
        assert_eq!(strategic["metadata"]["generation"], 2);

        let change = json!([{ "op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "nginx:3" }]);
        assert_eq!(images(&server.patch(&path, JSON_PATCH, change).await.expect(200)), ["nginx:3", "envoy:2"]);
        let failing = json!([{ "op": "test", "path": "/spec/replicas", "value": 9 }]);
        assert_eq!(server.patch(&path, JSON_PATCH, failing).await.code, 422);

        let labelled = server.patch(&path, MERGE, json!({ "metadata": { "labels": { "x": "y" } } })).await.expect(200);
        assert_eq!(labelled["metadata"]["generation"], 3);
        let same = server.patch(&path, MERGE, json!({ "metadata": { "labels": { "x": "y" } } })).await.expect(200);
        assert_eq!(same, labelled, "a patch that changes nothing writes nothing");

        let stale = json!({ "metadata": { "resourceVersion": created["metadata"]["resourceVersion"] } });
        assert_eq!(server.patch(&path, MERGE, stale).await.expect(409)["reason"], "Conflict");
        assert_eq!(server.patch(&path, "application/json", json!({})).await.code, 415);
    });
}

#[test]
fn status_and_object_are_updated_apart() {
    served(async |server| {
        let mut with_status = deployment("web");
        with_status["status"] = json!({ "replicas": 7 });
        let created = server.post(DEPLOYMENTS, with_status).await.expect(201);
        assert_eq!(created["status"], json!({}), "a creator has no say about status");
        let path = format!("{DEPLOYMENTS}/web");
        let patch = json!({ "spec": { "replicas": 9 }, "status": { "replicas": 2 } });
        let status = server.patch(&format!("{path}/status"), MERGE, patch.clone()).await.expect(200);
        assert_eq!((&status["spec"]["replicas"], &status["status"]["replicas"]), (&json!(2), &json!(2)));
        assert_eq!(status["metadata"]["generation"], 1);
        let object =
            server.patch(&path, MERGE, json!({ "spec": { "replicas": 9 }, "status": { "replicas": 5 } })).await;
        let object = object.expect(200);
        assert_eq!((&object["spec"]["replicas"], &object["status"]["replicas"]), (&json!(9), &json!(2)));
    });
}

#[test]
fn scale_shows_and_sets_the_replicas() {
    served(async |server| {
        server.post(DEPLOYMENTS, deployment("web")).await.expect(201);
        let path = format!("{DEPLOYMENTS}/web/scale");
        let scale = server.get(&path).await.expect(200);
        assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
        assert_eq!(scale["status"]["selector"], "app=web");
        let patched = server.patch(&path, MERGE, json!({ "spec": { "replicas": 5 } })).await.expect(200);
        assert_eq!(patched["spec"]["replicas"], 5);
        // kubectl scale --current-replicas sends no content type.
        let put = server.send("PUT", &path, &[], scale.to_string().as_bytes()).await;
        assert_eq!(put.expect(409)["reason"], "Conflict");
        let mut fresh = patched;
        fresh["spec"]["replicas"] = 3.into();
        server.send("PUT", &path, &[], fresh.to_string().as_bytes()).await.expect(200);
        assert_eq!(server.get(&format!("{DEPLOYMENTS}/web")).await.expect(200)["spec"]["replicas"], 3);
        let negative = server.patch(&path, MERGE, json!({ "spec": { "replicas": -1 } })).await.expect(422);
        assert_eq!(
            negative["message"],
            "Scale.autoscaling \"web\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
    });
}

#[test]
fn a_pod_is_bound_once() {
    served(async |server| {
        server.post(PODS, pod("p")).await.expect(201);
        let binding = json!({ "metadata": { "name": "p" }, "target": { "kind": "Node", "name": "n1" } });
        let path = format!("{PODS}/p/binding");
        assert_eq!(server.post(&path, binding.clone()).await.expect(201)["status"], "Success");
        let bound = server.get(&format!("{PODS}/p")).await.expect(200);
        assert_eq!(bound["spec"]["nodeName"], "n1");
        let condition = &bound["status"]["conditions"][0];
        assert_eq!((&condition["type"], &condition["status"]), (&json!("PodScheduled"), &json!("True")));
        assert!(bound["status"].get("nominatedNodeName").is_none());
        let mut gated = pod("gated");
        gated["spec"]["schedulingGates"] = json!([{ "name": "wait" }]);
        server.post(PODS, gated).await.expect(201);
        let refused =
            server.post(&format!("{PODS}/gated/binding"), json!({ "target": { "name": "n1" } })).await.expect(409);
        assert_eq!(
            refused["message"],
            "Operation cannot be fulfilled on pods/binding \"gated\": pod gated has non-empty .spec.schedulingGates"
        );
        let again = server.post(&path, binding).await.expect(409);
        assert!(again["message"].as_str().unwrap().ends_with("pod p is already assigned to node \"n1\""), "{again}");
    });
}

#[test]
fn a_running_pod_is_deleted_gracefully() {
    served(async |server| {
        let path = format!("{PODS}/p");
        server.post(PODS, pod("p")).await.expect(201);
        let unscheduled = server.delete(&path, json!({})).await.expect(200);
        assert_eq!(unscheduled["kind"], "Pod");
        assert_eq!(server.get(&path).await.code, 404, "a pod that runs nowhere goes at once");

        server.post(PODS, pod("p")).await.expect(201);
        let binding = json!({ "target": { "kind": "Node", "name": "n1" } });
        server.post(&format!("{path}/binding"), binding).await.expect(201);
        let marked = server.delete(&path, json!({})).await.expect(200);
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
        let again = server.delete(&path, json!({})).await.expect(200);
        assert_eq!(again["metadata"]["resourceVersion"], marked["metadata"]["resourceVersion"]);
        let shorter = server.delete(&path, json!({ "gracePeriodSeconds": 5 })).await.expect(200);
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
        server.delete(&path, json!({ "gracePeriodSeconds": 0 })).await.expect(200);
        assert_eq!(server.get(&path).await.code, 404);
    });
}

#[test]
fn finalizers_hold_an_object_until_the_last_is_removed() {
    served(async |server| {
        let path = format!("{MAPS}/a");
        let mut held = config_map("a");
        held["metadata"]["finalizers"] = json!(["example.com/hold"]);
        server.post(MAPS, held).await.expect(201);
        let pending = server.delete(&path, json!({})).await.expect(200);
        assert!(pending["metadata"]["deletionTimestamp"].is_string());
        assert!(
            server.post(MAPS, config_map("a")).await.expect(409)["message"]
                .as_str()
                .unwrap()
                .starts_with("object is being deleted")
        );
        let more = json!({ "metadata": { "finalizers": ["example.com/hold", "example.com/more"] } });
        assert_eq!(server.patch(&path, MERGE, more).await.code, 422);
        server.patch(&path, MERGE, json!({ "metadata": { "finalizers": null } })).await.expect(200);
        assert_eq!(server.get(&path).await.code, 404);

        server.post(MAPS, config_map("a")).await.expect(201);
        let foreground = server.delete(&path, json!({ "propagationPolicy": "Foreground" })).await.expect(200);
        assert_eq!(foreground["metadata"]["finalizers"], json!(["foregroundDeletion"]));
        let wrong = json!({ "preconditions": { "uid": "x" } });
        assert_eq!(server.delete(&path, wrong).await.expect(409)["reason"], "Conflict");
    });
}

#[test]
fn a_namespace_terminates_until_it_is_finalized() {
    served(async |server| {
        let namespace = json!({ "metadata": { "name": "team" } });
        let created = server.post("/api/v1/namespaces", namespace).await.expect(201);
        assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(created["status"]["phase"], "Active");
        let deleted = server.delete("/api/v1/namespaces/team", json!({})).await.expect(200);
        assert_eq!(deleted["status"]["phase"], "Terminating");
        let mut finalized = deleted;
        finalized["spec"]["finalizers"] = json!([]);
        server.put("/api/v1/namespaces/team/finalize", finalized).await.expect(200);
        assert_eq!(server.get("/api/v1/namespaces/team").await.code, 404);
    });
}

#[test]
fn an_eviction_respects_the_budget() {
    served(async |server| {
        let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
        let budget = json!({ "metadata": { "name": "b" }, "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "p" } } } });
        server.post(budgets, budget).await.expect(201);
        let status = |allowed| json!({ "status": { "observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1 } });
        server.patch(&format!("{budgets}/b/status"), MERGE, status(0)).await.expect(200);
        server.post(PODS, pod("p")).await.expect(201);
        let running =
            json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
        server.patch(&format!("{PODS}/p/status"), MERGE, running).await.expect(200);
        let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "p" } });
        let path = format!("{PODS}/p/eviction");
        let refused = server.post(&path, eviction.clone()).await.expect(429);
        assert_eq!(refused["message"], "Cannot evict pod as it would violate the pod's disruption budget.");
        assert_eq!(
            refused["details"]["causes"][0]["message"],
            "The disruption budget b needs 1 healthy pods and has 1 currently"
        );
        server.patch(&format!("{budgets}/b/status"), MERGE, status(1)).await.expect(200);
        for (options, code) in [
            (json!({ "dryRun": ["All"] }), 201),
            (json!({ "preconditions": { "uid": "another" } }), 409),
            (json!({ "preconditions": { "resourceVersion": "1" } }), 409),
        ] {
            let mut unspent = eviction.clone();
            unspent["deleteOptions"] = options;
            server.post(&path, unspent).await.expect(code);
            let budget = server.get(&format!("{budgets}/b")).await.expect(200);
            assert_eq!(budget["status"]["disruptionsAllowed"], 1, "{code}");
            server.get(&format!("{PODS}/p")).await.expect(200);
        }
        server.post(&path, eviction).await.expect(201);
        assert_eq!(server.get(&format!("{PODS}/p")).await.code, 404);
        let spent = server.get(&format!("{budgets}/b")).await.expect(200);
        assert_eq!(spent["status"]["disruptionsAllowed"], 0);
    });
}

#[test]
fn generated_names_differ_and_fit() {
    served(async |server| {
        let body = json!({ "metadata": { "generateName": "job-" } });
        let name = |answer: Answer| answer.expect(201)["metadata"]["name"].as_str().unwrap().to_owned();
        let first = name(server.post(MAPS, body.clone()).await);
        let second = name(server.post(MAPS, body).await);
        assert!(first.starts_with("job-") && first.len() == 9 && first != second);
        assert_eq!(server.post(MAPS, json!({})).await.expect(422)["details"]["causes"][0]["field"], "metadata.name");
    });
}

#[test]
fn events_are_one_set_of_objects_in_two_versions_and_live_an_hour() {
    served(async |server| {
        let event = json!({
            "metadata": { "name": "e", "namespace": "default" },
            "involvedObject": { "kind": "Pod", "name": "p", "namespace": "default" },
            "reason": "Started", "message": "Started container c", "type": "Normal", "count": 1,
        });
        server.post("/api/v1/namespaces/default/events", event).await.expect(201);
        let path = "/apis/events.k8s.io/v1/namespaces/default/events";
        let other = server.get(&format!("{path}/e")).await.expect(200);
        assert_eq!((&other["apiVersion"], &other["regarding"]["name"]), (&json!("events.k8s.io/v1"), &json!("p")));
        assert_eq!(other["note"], "Started container c");
        let selected = server.get(&format!("{path}?fieldSelector=regarding.name%3Dp")).await.expect(200);
        assert_eq!(selected["items"].as_array().unwrap().len(), 1);
        let refused = server.patch(&format!("{path}/e"), MERGE, json!({ "note": "changed" })).await.expect(422);
        assert_eq!(refused["details"]["causes"][0]["field"], "message");
        let series = json!({ "series": { "count": 2, "lastObservedTime": "2026-01-01T00:00:00.000000Z" } });
        server.patch(&format!("{path}/e"), MERGE, series).await.expect(200);
        let core = server.get("/api/v1/namespaces/default/events/e").await.expect(200);
        assert_eq!(core["series"]["count"], 2);
        coracle_clock::sleep(std::time::Duration::from_secs(3800)).await;
        assert_eq!(server.get("/api/v1/namespaces/default/events/e").await.code, 404);
    });
}

#[test]
fn yaml_and_protobuf_bodies_are_understood() {
    served(async |server| {
        let yaml = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\ndata: {a: '1'}\n";
        server.send("POST", MAPS, &[("content-type", "application/yaml")], yaml).await.expect(201);
        let body = coracle_api::protobuf::encode(&config_map("pb")).unwrap();
        let headers = [
            ("content-type", "application/vnd.kubernetes.protobuf"),
            ("accept", "application/vnd.kubernetes.protobuf,application/json"),
        ];
        let created = server.send("POST", MAPS, &headers, &body).await;
        assert_eq!(coracle_api::protobuf::decode(&created.bytes).unwrap()["data"], json!({ "a": "1" }));
        let shown = server.send("GET", &format!("{MAPS}/y"), &[("accept", "application/yaml")], b"").await;
        assert!(String::from_utf8_lossy(&shown.bytes).contains("name: y\n"));
    });
}

#[test]
fn who_may_not_is_told_what() {
    simulate(async || {
        let storage =
            coracle_apiserver::Storage::start(coracle_store::MemoryStore::new(), coracle_api::registry::builtin());
        let api = coracle_apiserver::ApiServer::new(coracle_apiserver::Config::new(storage.await.unwrap()));
        let client = api.client_as(coracle_apiserver::UserInfo::new("x", &[]));
        let pods = kube::Api::<k8s_openapi::api::core::v1::Pod>::namespaced(client, "default");
        let kube::Error::Api(status) = pods.list(&kube::api::ListParams::default()).await.unwrap_err() else {
            panic!()
        };
        assert_eq!(
            (status.code, status.message.as_str()),
            (
                403,
                "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
            )
        );
    });
}
