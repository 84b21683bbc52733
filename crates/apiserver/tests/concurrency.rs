//! Many clients at once: nothing is lost, and who was slower is told or tried again for.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use futures::future::join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams, PostParams};
use proptest::prelude::*;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Adds one to the counter in `data.n`, starting again whenever somebody else was faster.
async fn increment(maps: Api<ConfigMap>) {
    loop {
        let mut map = maps.get("counter").await.unwrap();
        let data = map.data.as_mut().unwrap();
        let n: u32 = data["n"].parse().unwrap();
        data.insert("n".into(), (n + 1).to_string());
        tokio::task::yield_now().await;
        match maps.replace("counter", &PostParams::default(), &map).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("{error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn concurrent_patches_of_one_object_all_land(clients in 1usize..24) {
        served(async |server| {
            server.post(MAPS, config_map("a")).await.expect(201);
            let patches = (0..clients).map(|i| {
                let maps = Api::<ConfigMap>::namespaced(server.client(), "default");
                async move {
                    let patch = json!({ "data": { format!("k{i}"): i.to_string() } });
                    tokio::task::yield_now().await;
                    maps.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
                }
            });
            join_all(patches).await;
            let data = server.get(&format!("{MAPS}/a")).await.expect(200)["data"].as_object().unwrap().len();
            assert_eq!(data, clients + 1);
        });
    }

    #[test]
    fn concurrent_read_modify_write_loops_lose_no_increment(clients in 1usize..12) {
        served(async |server| {
            let map = json!({ "metadata": { "name": "counter" }, "data": { "n": "0" } });
            server.post(MAPS, map).await.expect(201);
            join_all((0..clients).map(|_| increment(Api::namespaced(server.client(), "default")))).await;
            let counter = server.get(&format!("{MAPS}/counter")).await.expect(200);
            assert_eq!(counter["data"]["n"], clients.to_string());
        });
    }

    /// What a watch told, applied to an empty map, is what a list shows.
    #[test]
    fn a_watch_tells_all_that_a_list_shows(steps in proptest::collection::vec((0usize..6, 0usize..3), 1..60)) {
        served(async |server| {
            let mut watch = server.watch(&format!("{MAPS}?watch=true&resourceVersion=1")).await;
            for (object, action) in steps {
                let path = format!("{MAPS}/m{object}");
                match action {
                    0 => drop(server.post(MAPS, config_map(&format!("m{object}"))).await),
                    1 => drop(server.patch(&path, MERGE, json!({ "data": { "r": coracle_clock::uuid() } })).await),
                    _ => drop(server.delete(&path, json!({})).await),
                }
            }
            let mut seen = std::collections::BTreeMap::new();
            while let Some(event) = watch.next().await {
                let name = event["object"]["metadata"]["name"].as_str().unwrap().to_owned();
                let known = seen.contains_key(&name);
                match event["type"].as_str().unwrap() {
                    "DELETED" => assert!(seen.remove(&name).is_some()),
                    kind => {
                        assert_eq!(kind, if known { "MODIFIED" } else { "ADDED" });
                        seen.insert(name, event["object"].clone());
                    }
                }
            }
            let list = server.get(MAPS).await.expect(200);
            assert_eq!(Value::from_iter(seen.into_values()), list["items"]);
        });
    }
}

#[test]
fn a_typed_client_needs_no_socket() {
    served(async |server| {
        let maps = Api::<ConfigMap>::namespaced(server.client(), "default");
        let map: ConfigMap = serde_json::from_value(config_map("a")).unwrap();
        let created = maps.create(&PostParams::default(), &map).await.unwrap();
        assert_eq!(maps.list(&Default::default()).await.unwrap().items, [created]);
        assert_eq!(server.client().apiserver_version().await.unwrap().minor, "36");
        let discovery = kube::discovery::Discovery::new(server.client()).run_aggregated().await.unwrap();
        assert!(discovery.groups().count() > 15);
    });
}
