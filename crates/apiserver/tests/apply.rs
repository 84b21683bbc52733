//! Server-side apply, and who owns what after every write.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use coracle_apiserver::{Attributes, Authorizer, Config, Decision, UserInfo};
use coracle_store::MemoryStore;
use serde_json::{Value, json};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[test]
fn a_configuration_to_apply_is_taken_as_it_was_sent_or_refused() {
    served(async |server| {
        let path = "/apis/node.k8s.io/v1/runtimeclasses/rc";
        let class = json!({ "metadata": { "name": "rc" }, "handler": "h" });
        server.post("/apis/node.k8s.io/v1/runtimeclasses", class).await.expect(201);
        let apply = async |query: &str, path: &str, body: &str| {
            let headers = [("content-type", APPLY)];
            server.send("PATCH", &format!("{path}?fieldManager=m{query}"), &headers, body.as_bytes()).await
        };
        let head = "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: rc, annotations: {a: b}}\n";
        let annotated = apply("", path, head).await.expect(200);
        assert_eq!((&annotated["handler"], &annotated["metadata"]["annotations"]["a"]), (&json!("h"), &json!("b")));
        let unknown = apply("", path, &format!("{head}foo: 1\n")).await.expect(500);
        assert_eq!(
            unknown["message"],
            "failed to create typed patch object (/rc; node.k8s.io/v1, Kind=RuntimeClass): .foo: field not declared in \
             schema"
        );
        let twice = format!("{head}scheduling:\n  tolerations: []\n  tolerations: []\n");
        let refused = apply("&fieldValidation=Strict", path, &twice).await.expect(400);
        assert_eq!(
            refused["message"],
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 6: key \
             \"tolerations\" already set in map"
        );
        let warned = apply("", path, &twice).await;
        assert_eq!(warned.headers["warning"], "299 - \"line 6: key \\\"tolerations\\\" already set in map\"");
        let keyless = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{image: i}]}\n";
        let message = apply("", &format!("{PODS}/p"), keyless).await.expect(500)["message"].clone();
        assert!(message.as_str().unwrap().contains(".spec.containers: element 0: associative list"), "{message}");
        let forced = server.patch(&format!("{path}?force=true"), MERGE, json!({})).await.expect(422);
        assert_eq!(forced["details"]["causes"][0]["field"], "force");
        let unfit = server.patch(path, MERGE, json!({ "handler": 5 })).await.expect(422);
        assert_eq!((&unfit["reason"], &unfit["details"]["causes"][0]["field"]), (&json!("Invalid"), &json!("patch")));
    });
}

#[test]
fn every_write_says_who_owns_what() {
    served(async |server| {
        let path = format!("{DEPLOYMENTS}/web");
        let created = server.post(&format!("{DEPLOYMENTS}?fieldManager=creator"), deployment("web")).await.expect(201);
        let owners = |object: &Value| {
            let entries = object["metadata"]["managedFields"].as_array().unwrap().iter();
            entries.map(|e| format!("{} {} {}", e["manager"], e["operation"], e["subresource"])).collect::<Vec<_>>()
        };
        assert_eq!(owners(&created), [r#""creator" "Update" null"#]);
        assert!(created["metadata"]["managedFields"][0]["fieldsV1"].get("f:status").is_none());
        let status = json!({ "status": { "replicas": 2, "observedGeneration": 1 } });
        server.patch(&format!("{path}/status?fieldManager=controller"), MERGE, status).await.expect(200);
        server.patch(&format!("{path}/scale?fieldManager=scaler"), MERGE, json!({ "spec": { "replicas": 9 } })).await;
        let label = json!({ "metadata": { "labels": { "x": "y" } } });
        let last = server.patch(&format!("{path}?fieldManager=labeller"), STRATEGIC, label).await.expect(200);
        assert_eq!(
            owners(&last),
            [
                r#""controller" "Update" "status""#,
                r#""creator" "Update" null"#,
                r#""labeller" "Update" null"#,
                r#""scaler" "Update" "scale""#,
            ]
        );
        let spec = &last["metadata"]["managedFields"][1]["fieldsV1"]["f:spec"];
        assert!(spec.get("f:replicas").is_none() && spec.get("f:selector").is_some());
    });
}

#[test]
fn an_apply_that_creates_needs_the_right_to_create() {
    simulate(async || {
        let patch_only = |config: &mut Config| config.authorizers = vec![Box::new(PatchOnly)];
        let server = Server::with(MemoryStore::new(), patch_only).await;
        let client = server.api.client_as(UserInfo::new("patcher", &[]));
        let maps = kube::Api::<k8s_openapi::api::core::v1::ConfigMap>::namespaced(client, "default");
        let apply = kube::api::Patch::Apply(config_map("m"));
        let refused = maps.patch("m", &kube::api::PatchParams::apply("m"), &apply).await.unwrap_err();
        let kube::Error::Api(status) = refused else { panic!("{refused}") };
        assert_eq!(status.code, 403);
        assert!(status.message.contains("cannot create resource \"configmaps\""), "{}", status.message);
    });
}

/// Lets everybody patch, and nothing else.
#[derive(Debug)]
struct PatchOnly;

#[async_trait::async_trait]
impl Authorizer for PatchOnly {
    async fn authorize(&self, _: &UserInfo, wanted: &Attributes) -> Decision {
        if wanted.verb == "patch" { Decision::Allow } else { Decision::NoOpinion }
    }
}

#[test]
fn server_side_apply_creates_merges_and_guards_what_others_own() {
    served(async |server| {
        let path = format!("{DEPLOYMENTS}/web");
        let apply =
            async |query: &str, config: &Value| server.patch(&format!("{path}?{query}"), APPLY, config.clone()).await;
        let config = deployment("web");
        assert_eq!(apply("", &config).await.expect(422)["details"]["causes"][0]["field"], "fieldManager");
        let created = apply("fieldManager=one", &config).await.expect(201);
        assert_eq!(created["metadata"]["managedFields"][0]["manager"], "one");
        let same = apply("fieldManager=one", &config).await.expect(200);
        assert_eq!(same, created);

        server.patch(&format!("{path}/scale"), MERGE, json!({ "spec": { "replicas": 7 } })).await.expect(200);
        assert_eq!(apply("fieldManager=one", &config).await.expect(409)["reason"], "Conflict");
        let mut without = config.clone();
        without["spec"].as_object_mut().unwrap().remove("replicas");
        assert_eq!(apply("fieldManager=one", &without).await.expect(200)["spec"]["replicas"], 7);
        assert_eq!(apply("fieldManager=one&force=true", &config).await.expect(200)["spec"]["replicas"], 2);
    });
}

#[test]
fn a_configuration_needs_a_name_only_for_what_it_creates() {
    served(async |server| {
        let path = "/api/v1/namespaces/default/configmaps/a?fieldManager=m";
        let config =
            |meta: Value| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": { "b": "2" } });
        let refused = server.patch(path, APPLY, config(json!({}))).await.expect(400);
        let why = "the name of the object (a based on URL) was undeterminable: name must be provided";
        assert_eq!(refused["message"], why);
        server.post("/api/v1/namespaces/default/configmaps", config_map("a")).await.expect(201);
        let applied = server.patch(path, APPLY, config(json!({}))).await.expect(200);
        assert_eq!((&applied["metadata"]["name"], &applied["data"]), (&json!("a"), &json!({ "a": "1", "b": "2" })));
        let other = server.patch(path, APPLY, config(json!({ "name": "c" }))).await.expect(400);
        assert_eq!(other["message"], "the name of the object (c) does not match the name on the URL (a)");
        let other = server.patch(path, APPLY, config(json!({ "namespace": "other" }))).await.expect(400);
        assert_eq!(
            other["message"],
            "the namespace of the provided object does not match the namespace sent on the request"
        );
    });
}

#[test]
fn a_scale_is_applied_and_owns_the_number_of_the_object() {
    served(async |server| {
        server.post(&format!("{DEPLOYMENTS}?fieldManager=creator"), deployment("web")).await.expect(201);
        let path = format!("{DEPLOYMENTS}/web/scale");
        let apply = async |query: &str, spec: Value| {
            let scale =
                json!({ "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": { "name": "web" }, "spec": spec });
            server.patch(&format!("{path}?{query}"), APPLY, scale).await
        };
        assert_eq!(apply("", json!({})).await.expect(422)["details"]["causes"][0]["field"], "fieldManager");
        let unknown = apply("fieldManager=one", json!({ "n": 1 })).await.expect(500);
        assert_eq!(
            unknown["message"],
            "failed to create typed patch object (default/web; autoscaling/v1, Kind=Scale): .spec.n: field not declared \
             in schema"
        );
        let conflict = apply("fieldManager=one", json!({ "replicas": 5 })).await.expect(409);
        assert_eq!(
            conflict["message"],
            "Apply failed with 1 conflict: conflict with \"creator\" using autoscaling/v1: .spec.replicas"
        );
        let scale = apply("fieldManager=one&force=true", json!({ "replicas": 5 })).await.expect(200);
        assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(5)));
        let table = server.table(&path).await;
        let names = table["columnDefinitions"].as_array().unwrap().iter().map(|column| column["name"].clone());
        assert_eq!(names.collect::<Value>(), json!(["Name", "Desired", "Available", "Age"]));
        assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("web"), json!(5), json!(0)]);
        let object = server.get(&format!("{DEPLOYMENTS}/web")).await.expect(200);
        let entry = &object["metadata"]["managedFields"][0];
        let owner = ["manager", "operation", "subresource", "apiVersion"].map(|field| entry[field].clone());
        assert_eq!(owner, ["one", "Apply", "scale", "apps/v1"]);
        assert_eq!(entry["fieldsV1"], json!({ "f:spec": { "f:replicas": {} } }));
        assert!(object["metadata"]["managedFields"][1]["fieldsV1"]["f:spec"].get("f:replicas").is_none());
        let negative = apply("fieldManager=one", json!({ "replicas": -1 })).await.expect(422);
        assert_eq!(negative["details"]["causes"][0]["field"], "spec.replicas");
        // What is applied no longer is nothing: none.
        let scale = apply("fieldManager=one", json!({})).await.expect(200);
        assert_eq!(scale["spec"]["replicas"], 0);
    });
}
