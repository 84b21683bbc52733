//! The conformance suite's behaviours about reading: watchers, chunks, Tables, field validation.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn labelled(name: &str, label: &str) -> Value {
    let mut map = config_map(name);
    map["metadata"]["labels"] = json!({ "watch-this-configmap": label });
    map
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

async fn mutate(server: &Server, name: &str, number: u32) -> Value {
    let change = json!({ "data": { "mutation": number.to_string() } });
    server.patch(&format!("{MAPS}/{name}"), MERGE, change).await.expect(200)
}

#[test]
fn watchers_should_observe_add_update_and_delete_watch_notifications_on_configmaps() {
    served(async |server| {
        let select = |labels: &str| format!("{MAPS}?watch=true&labelSelector=watch-this-configmap+in+({labels})");
        let mut a = server.watch(&select("a")).await;
        let mut b = server.watch(&select("b")).await;
        let mut both = server.watch(&select("a,b")).await;
        server.post(MAPS, labelled("a", "a")).await.expect(201);
        mutate(&server, "a", 1).await;
        mutate(&server, "a", 2).await;
        server.delete(&format!("{MAPS}/a"), json!({})).await.expect(200);
        server.post(MAPS, labelled("b", "b")).await.expect(201);
        server.delete(&format!("{MAPS}/b"), json!({})).await.expect(200);
        for expected in ["ADDED a", "MODIFIED a", "MODIFIED a", "DELETED a"] {
            assert_eq!(a.brief().await.unwrap(), expected);
            assert_eq!(both.brief().await.unwrap(), expected);
        }
        for expected in ["ADDED b", "DELETED b"] {
            assert_eq!(b.brief().await.unwrap(), expected);
            assert_eq!(both.brief().await.unwrap(), expected);
        }
        assert!(a.next().await.is_none() && b.next().await.is_none());
    });
}

#[test]
fn watchers_should_be_able_to_start_watching_from_a_specific_resource_version() {
    served(async |server| {
        server.post(MAPS, labelled("m", "x")).await.expect(201);
        let first = mutate(&server, "m", 1).await;
        let second = mutate(&server, "m", 2).await;
        server.delete(&format!("{MAPS}/m"), json!({})).await.expect(200);
        let mut watch = server.watch(&format!("{MAPS}?watch=true&resourceVersion={}", version(&first))).await;
        let event = watch.next().await.unwrap();
        assert_eq!((&event["type"], &event["object"]), (&json!("MODIFIED"), &second));
        assert_eq!(watch.brief().await.unwrap(), "DELETED m");
        assert!(watch.next().await.is_none());
    });
}

#[test]
fn watchers_should_be_able_to_restart_watching_from_the_last_resource_version_observed_by_the_previous_watch() {
    served(async |server| {
        let mut watch = server.watch(&format!("{MAPS}?watch=true")).await;
        server.post(MAPS, labelled("m", "x")).await.expect(201);
        mutate(&server, "m", 1).await;
        assert_eq!(watch.brief().await.unwrap(), "ADDED m");
        let last = watch.next().await.unwrap();
        drop(watch);
        let second = mutate(&server, "m", 2).await;
        server.delete(&format!("{MAPS}/m"), json!({})).await.expect(200);
        let mut again = server.watch(&format!("{MAPS}?watch=true&resourceVersion={}", version(&last["object"]))).await;
        assert_eq!(again.next().await.unwrap()["object"], second);
        assert_eq!(again.brief().await.unwrap(), "DELETED m");
        assert!(again.next().await.is_none());
    });
}

#[test]
fn watchers_should_observe_an_object_deletion_if_it_stops_meeting_the_requirements_of_the_selector() {
    served(async |server| {
        let relabel = async |label: &str| {
            let change = json!({ "metadata": { "labels": { "watch-this-configmap": label } } });
            server.patch(&format!("{MAPS}/m"), MERGE, change).await.expect(200)
        };
        let mut watch = server.watch(&format!("{MAPS}?watch=true&labelSelector=watch-this-configmap%3Dx")).await;
        server.post(MAPS, labelled("m", "x")).await.expect(201);
        mutate(&server, "m", 1).await;
        let left = relabel("y").await;
        mutate(&server, "m", 2).await;
        relabel("x").await;
        mutate(&server, "m", 3).await;
        server.delete(&format!("{MAPS}/m"), json!({})).await.expect(200);
        assert_eq!(watch.brief().await.unwrap(), "ADDED m");
        assert_eq!(watch.brief().await.unwrap(), "MODIFIED m");
        let deleted = watch.next().await.unwrap();
        assert_eq!(deleted["type"], "DELETED");
        assert_eq!(deleted["object"]["data"]["mutation"], "1", "its last state that was selected");
        assert_eq!(version(&deleted["object"]), version(&left), "with the version of the change");
        for expected in ["ADDED m", "MODIFIED m", "DELETED m"] {
            assert_eq!(watch.brief().await.unwrap(), expected);
        }
    });
}

#[test]
fn watchers_should_receive_events_on_concurrent_watches_in_same_order() {
    served(async |server| {
        let mut history = Vec::new();
        for number in 0..100_u32 {
            let name = format!("m{}", number % 7);
            let answer = match number / 7 % 3 {
                0 => server.post(MAPS, config_map(&name)).await.expect(201),
                1 => mutate(&server, &name, number).await,
                _ => server.delete(&format!("{MAPS}/{name}"), json!({})).await.expect(200),
            };
            let _ = answer;
            history.push(server.store.revision());
        }
        let mut orders = Vec::new();
        for from in &history {
            let mut watch = server.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
            let mut seen = Vec::new();
            while let Some(event) = watch.next().await {
                seen.push(version(&event["object"]).parse::<i64>().unwrap());
            }
            orders.push(seen);
        }
        for (at, seen) in orders.iter().enumerate() {
            assert_eq!(seen, &history[at + 1..], "from the {at}th on");
        }
    });
}

#[test]
fn servers_with_support_for_api_chunking_should_return_chunks_of_results_for_list_calls() {
    served(async |server| {
        let total = 400;
        for number in 0..total {
            let pod = json!({ "spec": { "containers": [{ "name": "test", "image": "test2" }] } });
            let template = json!({ "metadata": { "name": format!("template-{number:04}") }, "template": pod });
            server.post("/api/v1/namespaces/default/podtemplates", template).await.expect(201);
        }
        let path = "/api/v1/namespaces/default/podtemplates";
        for limit in [17, 133, 399, 400, 401] {
            let (mut found, mut token, mut first) = (0, String::new(), String::new());
            loop {
                let list = server.get(&format!("{path}?limit={limit}&continue={token}")).await.expect(200);
                for item in list["items"].as_array().unwrap() {
                    assert_eq!(item["metadata"]["name"], format!("template-{found:04}"));
                    found += 1;
                }
                if first.is_empty() {
                    first = version(&list).to_owned();
                }
                assert_eq!(version(&list), first);
                let Some(next) = list["metadata"]["continue"].as_str() else { break };
                assert_eq!(list["metadata"]["remainingItemCount"], total - found);
                token = next.to_owned();
            }
            assert_eq!(found, total);
        }
        let selected = server.get(&format!("{path}?limit=1&labelSelector=!x")).await.expect(200);
        assert!(selected["metadata"]["remainingItemCount"].is_null(), "unknown where selectors select");
    });
}

#[test]
fn servers_with_support_for_api_chunking_should_support_continue_listing_from_the_last_key_after_compaction() {
    served(async |server| {
        for number in 0..40 {
            server.post(MAPS, config_map(&format!("m{number:02}"))).await.expect(201);
        }
        let first = server.get(&format!("{MAPS}?limit=10")).await.expect(200);
        let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
        server.delete(&format!("{MAPS}/m20"), json!({})).await.expect(200);
        server.get(MAPS).await.expect(200); // the cache has seen it
        server.store.compact(server.store.revision()).await.unwrap();
        let expired = server.get(&format!("{MAPS}?limit=10&continue={token}")).await.expect(410);
        assert_eq!((&expired["reason"], &expired["code"]), (&json!("Expired"), &json!(410)));
        let start = "The provided continue parameter is too old to display a consistent list result. You can start \
                     a new list without the continue parameter, or use the continue token in this response";
        assert!(expired["message"].as_str().unwrap().starts_with(start), "{expired}");
        let fresh = expired["metadata"]["continue"].as_str().unwrap();
        let rest = server.get(&format!("{MAPS}?continue={fresh}")).await.expect(200);
        let names: Vec<_> = rest["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
        assert_eq!((names.len(), names[0]), (29, &json!("m10")), "as of now, from the last key on");
        assert_eq!(version(&rest), server.store.revision().to_string());
    });
}

#[test]
fn servers_with_support_for_table_transformation_should_return_pod_details() {
    served(async |server| {
        server.post("/api/v1/namespaces/default/pods", pod("p")).await.expect(201);
        for version in ["v1", "v1beta1"] {
            let accept = format!("application/json;as=Table;v={version};g=meta.k8s.io");
            let table = async |path: &str| server.send("GET", path, &[("accept", &accept)], b"").await.expect(200);
            let one = table("/api/v1/namespaces/default/pods/p").await;
            assert_eq!((&one["kind"], &one["apiVersion"]), (&json!("Table"), &json!(format!("meta.k8s.io/{version}"))));
            assert_eq!(one["columnDefinitions"][0]["name"], "Name");
            assert_eq!(one["rows"][0]["cells"][0], "p");
            assert_eq!(one["rows"][0]["object"]["kind"], "PartialObjectMetadata");
            assert_eq!(one["rows"][0]["object"]["apiVersion"], format!("meta.k8s.io/{version}"));
            let none = table("/api/v1/namespaces/default/pods?includeObject=None").await;
            assert!(none["rows"][0]["object"].is_null());
            let whole = table("/api/v1/namespaces/default/pods?includeObject=Object").await;
            assert_eq!(whole["rows"][0]["object"]["spec"]["containers"][0]["name"], "c");
        }
    });
}

#[test]
fn servers_with_support_for_table_transformation_should_return_chunks_of_table_results_for_list_calls() {
    served(async |server| {
        for number in 0..20 {
            server.post(MAPS, config_map(&format!("m{number:02}"))).await.expect(201);
        }
        let (mut rows, mut token) = (0, String::new());
        loop {
            let table = server.table(&format!("{MAPS}?limit=6&continue={token}")).await;
            rows += table["rows"].as_array().unwrap().len();
            let Some(next) = table["metadata"]["continue"].as_str() else { break };
            assert_eq!(table["metadata"]["remainingItemCount"], 20 - rows);
            token = next.to_owned();
        }
        assert_eq!(rows, 20);
    });
}

#[test]
fn servers_with_support_for_table_transformation_should_return_a_406_for_a_backend_which_does_not_implement_metadata() {
    served(async |server| {
        let review = json!({
            "kind": "SelfSubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "spec": { "nonResourceAttributes": { "path": "/", "verb": "get" } },
        });
        let headers =
            [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"), ("content-type", "application/json")];
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let refused = server.send("POST", path, &headers, review.to_string().as_bytes()).await.expect(406);
        assert_eq!(refused["reason"], "NotAcceptable");
    });
}

fn deployment_text(meta: &str, spec: &str) -> String {
    format!(
        r#"{{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {{"name": "my-dep", {meta} "labels": {{"app": "nginx"}}}},
            "spec": {{{spec} "selector": {{"matchLabels": {{"app": "nginx"}}}}, "template": {{"metadata": {{"labels":
            {{"app": "nginx"}}}}, "spec": {{"containers": [{{"name": "nginx", "image": "nginx:latest"}}]}}}}}}}}"#
    )
}

#[test]
fn field_validation_should_detect_unknown_and_duplicate_fields_of_a_typed_object() {
    served(async |server| {
        let path = "/apis/apps/v1/namespaces/default/deployments?fieldManager=m&fieldValidation=Strict";
        let headers = [("content-type", "application/json")];
        let body = deployment_text("", r#""unknownField": "foo", "replicas": 2, "replicas": 3,"#);
        let refused = server.send("POST", path, &headers, body.as_bytes()).await.expect(400);
        let message = refused["message"].as_str().unwrap();
        let wanted = r#"strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas""#;
        assert!(message.contains(wanted), "{message}");
    });
}

#[test]
fn field_validation_should_detect_unknown_metadata_fields_of_a_typed_object() {
    served(async |server| {
        let path = "/apis/apps/v1/namespaces/default/deployments?fieldManager=m&fieldValidation=Strict";
        let headers = [("content-type", "application/json")];
        let body = deployment_text(r#""unknownMeta": "foo","#, "");
        let refused = server.send("POST", path, &headers, body.as_bytes()).await.expect(400);
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains(r#"strict decoding error: unknown field "metadata.unknownMeta""#), "{message}");
    });
}
