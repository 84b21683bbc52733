//! Lists, their pages, and watches.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::*;
use coracle_store::{MemoryStore, Store};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn labelled(name: &str, app: &str) -> Value {
    let mut map = config_map(name);
    map["metadata"]["labels"] = json!({ "app": app });
    map
}

async fn revision(server: &Server) -> i64 {
    server.get(MAPS).await.expect(200)["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_list_is_ordered_selected_and_as_of_a_revision() {
    served(async |server| {
        for (name, app) in [("b", "x"), ("a", "y"), ("c", "x")] {
            server.post(MAPS, labelled(name, app)).await.expect(201);
        }
        server.post("/api/v1/namespaces/other/configmaps", labelled("z", "x")).await.expect(201);
        let list = server.get(MAPS).await.expect(200);
        assert_eq!((&list["kind"], names(&list)), (&json!("ConfigMapList"), vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(list["metadata"]["resourceVersion"], server.store.revision().to_string());
        assert_eq!(names(&server.get("/api/v1/configmaps?labelSelector=app%3Dx").await.expect(200)), ["b", "c", "z"]);
        assert_eq!(names(&server.get(&format!("{MAPS}?labelSelector=app%20notin%20(x)")).await.expect(200)), ["a"]);
        assert_eq!(names(&server.get(&format!("{MAPS}?fieldSelector=metadata.name%3Db")).await.expect(200)), ["b"]);
        assert_eq!(server.get(&format!("{MAPS}?fieldSelector=spec.x%3D1")).await.code, 400);
        assert_eq!(server.get(&format!("{MAPS}?labelSelector=%3D%3D")).await.code, 400);
    });
}

#[test]
fn pages_show_one_revision_whatever_happens_in_between() {
    served(async |server| {
        for i in 0..5 {
            server.post(MAPS, config_map(&format!("m{i}"))).await.expect(201);
        }
        let first = server.get(&format!("{MAPS}?limit=2")).await.expect(200);
        assert_eq!(names(&first), ["m0", "m1"]);
        assert_eq!(first["metadata"]["remainingItemCount"], 3);
        server.delete(&format!("{MAPS}/m2"), json!({})).await.expect(200);
        server.post(MAPS, config_map("m1b")).await.expect(201);
        let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
        let second = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
        assert_eq!(names(&second), ["m2", "m3"]);
        assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        let next = second["metadata"]["continue"].as_str().unwrap();
        let third = server.get(&format!("{MAPS}?limit=2&continue={next}")).await.expect(200);
        assert_eq!(names(&third), ["m4"]);
        assert!(third["metadata"].get("continue").is_none());

        let exact = format!(
            "{MAPS}?resourceVersionMatch=Exact&resourceVersion={}",
            first["metadata"]["resourceVersion"].as_str().unwrap()
        );
        assert_eq!(names(&server.get(&exact).await.expect(200)).len(), 5);

        assert_eq!(names(&server.get(MAPS).await.expect(200)), ["m0", "m1", "m1b", "m3", "m4"]);
        server.store.compact(server.store.revision()).await.unwrap();
        let expired = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(410);
        assert_eq!(expired["reason"], "Expired");
        assert_eq!(server.get(&format!("{MAPS}?limit=2&continue=nonsense")).await.code, 400);
    });
}

#[test]
fn a_watch_tells_what_happens_from_its_revision_on() {
    served(async |server| {
        server.post(MAPS, config_map("a")).await.expect(201);
        let from = revision(&server).await;
        let mut watch = server.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
        server.post(MAPS, config_map("b")).await.expect(201);
        server.post("/api/v1/namespaces/other/configmaps", config_map("elsewhere")).await.expect(201);
        server.patch(&format!("{MAPS}/a"), MERGE, json!({ "data": { "a": "2" } })).await.expect(200);
        server.delete(&format!("{MAPS}/a"), json!({})).await.expect(200);
        assert_eq!(watch.brief().await.unwrap(), "ADDED b");
        assert_eq!(watch.brief().await.unwrap(), "MODIFIED a");
        let deleted = watch.next().await.unwrap();
        assert_eq!((&deleted["type"], &deleted["object"]["data"]["a"]), (&json!("DELETED"), &json!("2")));
        assert_eq!(deleted["object"]["metadata"]["resourceVersion"], server.store.revision().to_string());
        assert!(watch.next().await.is_none());

        let mut again = server.watch(&format!("{MAPS}?watch=true&resourceVersion={}", from + 1)).await;
        assert_eq!(again.brief().await.unwrap(), "MODIFIED a", "a watch resumes after the revision it names");
        let mut fresh = server.watch(&format!("{MAPS}?watch=true")).await;
        assert_eq!(fresh.brief().await.unwrap(), "ADDED b", "without a revision it begins with what is there");
    });
}

#[test]
fn for_a_selecting_watch_objects_come_and_go_with_their_labels() {
    served(async |server| {
        let from = revision(&server).await;
        let mut watch = server.watch(&format!("{MAPS}?watch=true&labelSelector=app%3Dx&resourceVersion={from}")).await;
        let path = format!("{MAPS}/a");
        server.post(MAPS, labelled("a", "y")).await.expect(201);
        for app in ["x", "x2", "x", "x"] {
            let patch = json!({ "metadata": { "labels": { "app": app } }, "data": { "n": coracle_clock::uuid() } });
            server.patch(&path, MERGE, patch).await.expect(200);
        }
        server.delete(&path, json!({})).await.expect(200);
        for expected in ["ADDED a", "DELETED a", "ADDED a", "MODIFIED a", "DELETED a"] {
            assert_eq!(watch.brief().await.unwrap(), expected);
        }
        let mut bound = server.watch(&format!("{PODS}?watch=true&fieldSelector=spec.nodeName%3Dn1")).await;
        server.post(PODS, pod("p")).await.expect(201);
        server.post(&format!("{PODS}/p/binding"), json!({ "target": { "name": "n1" } })).await.expect(201);
        assert_eq!(bound.brief().await.unwrap(), "ADDED p");
    });
}

#[test]
fn a_kubelets_watch_outlives_what_happens_on_other_nodes() {
    served(async |server| {
        let of = |node: &str| format!("{PODS}?watch=true&fieldSelector=spec.nodeName%3D{node}");
        let (mut idle, mut busy) = (server.watch(&of("n1")).await, server.watch(&of("n2")).await);
        let bind = async |name: &str, node: &str| {
            server.post(PODS, pod(name)).await.expect(201);
            server.post(&format!("{PODS}/{name}/binding"), json!({ "target": { "name": node } })).await.expect(201);
        };
        let happens = async {
            bind("other", "n2").await;
            for n in 0..300 {
                coracle_clock::sleep(std::time::Duration::from_secs(1)).await;
                let patch = json!({ "metadata": { "annotations": { "n": n.to_string() } } });
                server.patch(&format!("{PODS}/other"), MERGE, patch).await.expect(200);
            }
            bind("own", "n1").await;
        };
        let news = async {
            assert_eq!(busy.brief().await.unwrap(), "ADDED other");
            for _ in 0..300 {
                assert_eq!(busy.brief().await.unwrap(), "MODIFIED other");
            }
        };
        let ((), (), first) = tokio::join!(happens, news, idle.within(std::time::Duration::from_secs(600)));
        let first = first.unwrap();
        assert_eq!((&first["type"], &first["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("own")));
        let list = server.get(&format!("{PODS}?fieldSelector=spec.nodeName%3Dn2")).await.expect(200);
        assert_eq!(names(&list), ["other"]);
        let unbound = server.get(&format!("{PODS}?fieldSelector=spec.nodeName%3D")).await.expect(200);
        assert!(names(&unbound).is_empty());
    });
}

#[test]
fn a_watch_from_a_forgotten_revision_is_told_so() {
    simulate(async || {
        let store = MemoryStore::new();
        let server = Server::over(store.clone()).await;
        for i in 0..5 {
            server.post(MAPS, config_map(&format!("m{i}"))).await.expect(201);
        }
        store.compact(store.revision()).await.unwrap();
        drop(server);
        let server = Server::over(store.clone()).await;
        let mut watch = server.watch(&format!("{MAPS}?watch=true&resourceVersion=2")).await;
        let error = watch.next().await.unwrap();
        assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
        assert_eq!(error["object"]["reason"], "Expired");
        assert_eq!(error["object"]["message"], format!("too old resource version: 2 ({})", store.revision()));
        assert!(watch.next().await.is_none());
    });
}

#[test]
fn a_watch_goes_on_over_a_restart_of_the_server() {
    simulate(async || {
        let store = MemoryStore::new();
        let server = Server::over(store.clone()).await;
        server.post(MAPS, config_map("a")).await.expect(201);
        let from = revision(&server).await;
        server.post(MAPS, config_map("b")).await.expect(201);
        drop(server);
        let server = Server::over(store).await;
        let mut watch = server.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
        assert_eq!(watch.brief().await.unwrap(), "ADDED b");
    });
}

#[test]
fn bookmarks_come_every_minute_and_before_the_end() {
    served(async |server| {
        let mut watch = server
            .watch(&format!("{MAPS}?watch=true&allowWatchBookmarks=true&timeoutSeconds=100&resourceVersion=1"))
            .await;
        server.post("/api/v1/namespaces", json!({ "metadata": { "name": "x" } })).await.expect(201);
        let start = coracle_clock::instant();
        for expected_seconds in [60, 98] {
            let bookmark = watch.within(Duration::from_secs(120)).await.unwrap();
            assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
            assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], server.store.revision().to_string());
            assert_eq!(start.elapsed().as_secs(), expected_seconds);
        }
        assert!(watch.within(Duration::from_secs(120)).await.is_none());
        assert_eq!(start.elapsed().as_secs(), 100);
    });
}

#[test]
fn a_streaming_list_ends_with_its_bookmark() {
    served(async |server| {
        server.post(MAPS, config_map("a")).await.expect(201);
        let query = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
        let mut watch = server.watch(&format!("{MAPS}?{query}")).await;
        assert_eq!(watch.brief().await.unwrap(), "ADDED a");
        let end = watch.next().await.unwrap();
        assert_eq!(end["type"], "BOOKMARK");
        assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
        server.post(MAPS, config_map("b")).await.expect(201);
        assert_eq!(watch.brief().await.unwrap(), "ADDED b");
        assert_eq!(server.get(&format!("{MAPS}?watch=true&sendInitialEvents=true")).await.code, 422);
    });
}

#[test]
fn tables_have_columns_and_rows() {
    served(async |server| {
        server.post(MAPS, config_map("a")).await.expect(201);
        let table = server.table(MAPS).await;
        assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
        assert_eq!(table["columnDefinitions"][0]["name"], "Name");
        let row = &table["rows"][0];
        assert_eq!(row["cells"][0], "a");
        assert_eq!(
            (&row["object"]["kind"], &row["object"]["metadata"]["name"]),
            (&json!("PartialObjectMetadata"), &json!("a"))
        );
        assert_eq!(
            server.table(&format!("{MAPS}/a?includeObject=Object")).await["rows"][0]["object"]["kind"],
            "ConfigMap"
        );
        let mut watch = server.watch_as(&format!("{MAPS}?watch=true"), TABLE).await;
        let first = watch.next().await.unwrap();
        assert!(first["object"]["columnDefinitions"].is_array());
        server.post(MAPS, config_map("b")).await.expect(201);
        let second = watch.next().await.unwrap();
        assert_eq!(
            (&second["object"]["columnDefinitions"], &second["object"]["rows"][0]["cells"][0]),
            (&Value::Null, &json!("b"))
        );
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        let list = server.send("GET", MAPS, &[("accept", metadata)], b"").await.expect(200);
        assert_eq!(
            (&list["kind"], &list["items"][0]["kind"]),
            (&json!("PartialObjectMetadataList"), &json!("PartialObjectMetadata"))
        );
        assert!(list["items"][0].get("data").is_none());
    });
}

#[test]
fn large_answers_are_compressed_for_who_understands() {
    served(async |server| {
        let mut map = config_map("big");
        map["data"]["text"] = "x".repeat(200 * 1024).into();
        server.post(MAPS, map).await.expect(201);
        let packed = server.send("GET", MAPS, &[("accept-encoding", "gzip")], b"").await;
        assert_eq!(packed.headers["content-encoding"], "gzip");
        assert!(packed.bytes.len() < 10_000);
        assert!(!server.get(MAPS).await.headers.contains_key("content-encoding"));
    });
}

#[test]
fn a_collection_is_deleted_by_selector() {
    served(async |server| {
        for (name, app) in [("a", "x"), ("b", "y"), ("c", "x")] {
            server.post(MAPS, labelled(name, app)).await.expect(201);
        }
        let deleted = server.delete(&format!("{MAPS}?labelSelector=app%3Dx"), json!({})).await.expect(200);
        assert_eq!(names(&deleted), ["a", "c"]);
        assert_eq!(names(&server.get(MAPS).await.expect(200)), ["b"]);
    });
}

#[test]
fn a_read_does_not_wait_for_keys_outside_the_registry() {
    served(async |server| {
        server.store.txn(coracle_store::Txn::put_if("/elsewhere", 0, "x", 0)).await.unwrap();
        let before = coracle_clock::instant();
        server.get(MAPS).await.expect(200);
        assert_eq!(before.elapsed(), Duration::ZERO);
    });
}

#[test]
fn what_is_acknowledged_is_read_by_everybody_at_once() {
    served(async |server| {
        for i in 0..20 {
            server.post(MAPS, config_map(&format!("m{i:02}"))).await.expect(201);
            server.get(&format!("{MAPS}/m{i:02}")).await.expect(200);
            assert_eq!(names(&server.get(MAPS).await.expect(200)).len(), i + 1);
        }
    });
}
