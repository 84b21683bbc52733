//! Two API servers on one store are one cluster.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{RealEtcd, available};
use coracle_apiserver::assembly::assemble;
use coracle_apiserver::auth::jwt::TokenKey;
use coracle_apiserver::pki::Pki;
use coracle_apiserver::security::SecurityConfig;
use coracle_apiserver::{ApiServer, UserInfo};
use coracle_client::{LeaderElectionConfig, LeaderElector};
use coracle_etcd::EtcdStore;
use coracle_store::{MemoryStore, SharedStore};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{PostParams, WatchEvent, WatchParams};
use kube::client::Body;
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

async fn server(store: SharedStore, pki: &Pki) -> Arc<ApiServer> {
    let key = TokenKey::from_pem(pki.service_account_key()).unwrap();
    let security = SecurityConfig::new(key, "10.96.0.0/16".parse().unwrap());
    assemble(store, security, ("127.0.0.1".parse().unwrap(), 6443), None).await.unwrap()
}

/// Two servers, each with a connection of its own, and clients of theirs.
async fn two_on_etcd() -> Option<(RealEtcd, [Arc<ApiServer>; 2], [Client; 2])> {
    if !available(&["etcd", "etcdctl"]) {
        return None;
    }
    let etcd = RealEtcd::start_empty().await;
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::ensure(dir.path(), &[], &[]).unwrap();
    let config = etcd.config();
    let store = || async { EtcdStore::connect(&config).await.unwrap() };
    // At once: they make the cluster's first objects together.
    let (a, b) = tokio::join!(async { server(store().await, &pki).await }, async { server(store().await, &pki).await });
    let clients = [&a, &b].map(admin);
    Some((etcd, [a, b], clients))
}

fn admin(server: &Arc<ApiServer>) -> Client {
    server.client_as(UserInfo::new("admin", &["system:masters"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_writes_the_other_reads_at_once_and_its_watches_see() {
    let Some((_etcd, _servers, clients)) = two_on_etcd().await else { return };
    let [a, b] = clients.map(Api::<ConfigMap>::default_namespaced);
    let start = b.list(&Default::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut events = b.watch(&WatchParams::default(), &start).await.unwrap().boxed();
    for number in 0..50 {
        let name = format!("m{number}");
        let map = serde_json::from_value(json!({ "metadata": { "name": name }, "data": { "n": number.to_string() } }));
        let made = a.create(&PostParams::default(), &map.unwrap()).await.unwrap();
        let mut read = b.get(&name).await.unwrap();
        assert_eq!(read, made);
        assert!(b.list(&Default::default()).await.unwrap().items.contains(&made));
        read.data.get_or_insert_default().insert("by".into(), "b".into());
        let changed = b.replace(&name, &PostParams::default(), &read).await.unwrap();
        assert_eq!(a.get(&name).await.unwrap(), changed);
        assert!(a.replace(&name, &PostParams::default(), &made).await.is_err(), "it was changed meanwhile");
        a.delete(&name, &Default::default()).await.unwrap();
        assert!(b.get_opt(&name).await.unwrap().is_none());
        for expected in ["added", "modified", "deleted"] {
            let seen = match events.try_next().await.unwrap().unwrap() {
                WatchEvent::Added(map) => ("added", map),
                WatchEvent::Modified(map) => ("modified", map),
                WatchEvent::Deleted(map) => ("deleted", map),
                other => panic!("{other:?}"),
            };
            assert_eq!((seen.0, seen.1.metadata.name.as_deref()), (expected, Some(&name[..])));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_address_or_port_is_given_twice() {
    let Some((_etcd, _servers, clients)) = two_on_etcd().await else { return };
    let apis = clients.map(Api::<Service>::default_namespaced);
    let service = |name: String, port: Option<u16>| -> Service {
        let ports = json!([{ "port": 80, "nodePort": port }]);
        serde_json::from_value(json!({ "metadata": { "name": name }, "spec": { "type": "NodePort", "ports": ports } }))
            .unwrap()
    };
    for port in 30000..30020 {
        let params = PostParams::default();
        let (a, b) = (service(format!("a{port}"), Some(port)), service(format!("b{port}"), Some(port)));
        let (a, b) = tokio::join!(apis[0].create(&params, &a), apis[1].create(&params, &b));
        assert_eq!(usize::from(a.is_ok()) + usize::from(b.is_ok()), 1, "{port}: {a:?} {b:?}");
    }
    let all = (0..60).map(|number| {
        let (api, service) = (&apis[number % 2], service(format!("s{number}"), None));
        async move { api.create(&PostParams::default(), &service).await }
    });
    futures::future::join_all(all).await;
    let services = apis[0].list(&Default::default()).await.unwrap().items;
    let ips: BTreeSet<_> = services.iter().filter_map(|service| service.spec.as_ref()?.cluster_ip.clone()).collect();
    let ports = services.iter().flat_map(|service| service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()));
    let ports: Vec<_> = ports.filter_map(|port| port.node_port).collect();
    assert_eq!(ips.len(), services.len());
    assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len());
    assert!(services.len() > 70, "{}", services.len());
}

/// What leaders wrote: at which second, who.
type Writes = Arc<Mutex<Vec<(u64, &'static str)>>>;

/// Leads while it may, and tries to write every half second: only what the server took is noted.
async fn candidate(client: Client, name: &'static str, writes: Writes, since: coracle_clock::Instant) {
    let elector = LeaderElector::new(client, LeaderElectionConfig::new("kube-scheduler", name));
    let lead = async |client: Client, leading: CancellationToken| {
        let api = Api::<ConfigMap>::default_namespaced(client);
        // One that was cut off does not notice by itself that it was told to stop.
        for number in 0.. {
            let map = serde_json::from_value(json!({ "metadata": { "name": format!("{name}-{number}") } })).unwrap();
            if api.create(&PostParams::default(), &map).await.is_ok() {
                writes.lock().unwrap().push((since.elapsed().as_secs(), name));
            } else if leading.is_cancelled() {
                break;
            }
            coracle_clock::sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    };
    _ = elector.run(CancellationToken::new(), lead).await;
}

/// A client whose every question about Leases stays without an answer once that is `cut`.
fn cuttable(client: Client, cut: CancellationToken) -> Client {
    Client::new(
        tower::service_fn(move |request: http::Request<Body>| {
            let (client, cut) = (client.clone(), cut.clone());
            async move {
                if cut.is_cancelled() && request.uri().path().contains("/leases/") {
                    std::future::pending::<()>().await;
                }
                client.send(request).await
            }
        }),
        "default",
    )
}

/// When the second of two leaders wrote first, after what happened to the first of them a minute in, and how often the
/// first wrote after that.
async fn failover(happens: impl FnOnce(&tokio::task::JoinHandle<()>, &CancellationToken)) -> (u64, usize) {
    let (store, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
    let pki = Pki::ensure(dir.path(), &[], &[]).unwrap();
    let (a, b) = (server(store.clone(), &pki).await, server(store, &pki).await);
    let (writes, cut, since) = (Writes::default(), CancellationToken::new(), coracle_clock::instant());
    let first = tokio::spawn(candidate(cuttable(admin(&a), cut.clone()), "first", writes.clone(), since));
    coracle_clock::sleep(Duration::from_secs(5)).await;
    let _second = tokio::spawn(candidate(admin(&b), "second", writes.clone(), since));
    coracle_clock::sleep(Duration::from_secs(55)).await;
    assert!(writes.lock().unwrap().iter().all(|(_, name)| *name == "first"));
    happens(&first, &cut);
    coracle_clock::sleep(Duration::from_secs(60)).await;
    let writes = writes.lock().unwrap();
    let taken = writes.iter().position(|(_, name)| *name == "second").expect("the second leads");
    assert!(writes[taken..].iter().all(|(_, name)| *name == "second"), "never two at once: {writes:?}");
    (writes[taken].0 - 60, writes[..taken].iter().filter(|(at, _)| *at > 60).count())
}

#[tokio::test(start_paused = true)]
async fn when_a_leader_dies_another_leads_within_15_seconds() {
    let (seconds, _) = failover(|first, _| first.abort()).await;
    // It lasts eleven seconds from when it was renewed, at most two seconds before and a little.
    assert!((8..15).contains(&seconds), "a leader that is only slow keeps its Lease: {seconds}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_writes_nothing_before_another_leads() {
    let (seconds, writes) = failover(|_, cut| cut.cancel()).await;
    assert!((8..15).contains(&seconds), "{seconds}");
    assert!((8..=16).contains(&writes), "it writes for seven seconds after it renewed last: {writes}");
}
