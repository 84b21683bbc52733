//! What the client of an etcd does when members come and go.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

mod common;

use common::{RealEtcd, available};
use coracle_etcd::{EtcdConfig, EtcdStore};
use coracle_store::{KeyRange, MemoryStore, Op, RangeRequest, Revision, Store, StoreError, Txn, WatchRequest};
use futures::StreamExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A way to a server that can be cut.
struct Way {
    address: String,
    cut: CancellationToken,
}

impl Way {
    async fn to(server: &str) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (server, cut) = (server.trim_start_matches("http://").to_owned(), CancellationToken::new());
        tokio::spawn(cut.clone().run_until_cancelled_owned(accept(listener, server, cut.clone())));
        Way { address, cut }
    }
}

async fn accept(listener: TcpListener, server: String, cut: CancellationToken) {
    while let Ok((mut client, _)) = listener.accept().await {
        let mut server = TcpStream::connect(&server).await.unwrap();
        tokio::spawn(cut.clone().run_until_cancelled_owned(async move {
            _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }));
    }
}

async fn connect(endpoints: &[&str]) -> coracle_store::Result<std::sync::Arc<EtcdStore>> {
    let endpoints = endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect();
    EtcdStore::connect(&EtcdConfig { endpoints, ..EtcdConfig::default() }).await
}

async fn put(store: &dyn Store, value: &'static str) -> Revision {
    let success = vec![Op::Put { key: "a".into(), value: value.into(), lease: 0 }];
    store.txn(Txn { success, ..Txn::default() }).await.unwrap().revision
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_costs_neither_changes_nor_duplicates() {
    if !available(&["etcd", "etcdctl"]) {
        return;
    }
    let etcd = RealEtcd::start_empty().await;
    let writer = connect(&[etcd.url()]).await.unwrap();
    let mut ways = Vec::new();
    for _ in 0..3 {
        ways.push(Way::to(etcd.url()).await);
    }
    let store = connect(&[&ways[0].address, &ways[1].address, &ways[2].address]).await.unwrap();
    let mut watch = store.watch(WatchRequest::new(KeyRange::prefix(""), None)).await.unwrap();
    let (mut written, mut seen) = (Vec::new(), Vec::new());
    let mut cuts = ways.iter().take(2).map(|way| &way.cut);
    loop {
        for _ in 0..20 {
            written.push(put(&*writer, "x").await);
        }
        while seen.len() < written.len() - 5 {
            seen.extend(watch.next().await.unwrap().unwrap().events.iter().map(|event| event.kv.mod_revision));
        }
        assert_eq!(store.current().await.unwrap(), *written.last().unwrap(), "reads go to the next member");
        match cuts.next() {
            Some(cut) => cut.cancel(),
            None => break,
        }
    }
    while seen.len() < written.len() {
        seen.extend(watch.next().await.unwrap().unwrap().events.iter().map(|event| event.kv.mod_revision));
    }
    assert_eq!(seen, written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_compaction_overtook_while_it_was_away_is_told() {
    if !available(&["etcd", "etcdctl"]) {
        return;
    }
    let etcd = RealEtcd::start_empty().await;
    let writer = connect(&[etcd.url()]).await.unwrap();
    let (first, second) = (Way::to(etcd.url()).await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let later = second.local_addr().unwrap().to_string();
    let store = connect(&[&first.address, &later]).await.unwrap();
    let mut watch = store.watch(WatchRequest::new(KeyRange::prefix(""), None)).await.unwrap();
    first.cut.cancel();
    for value in ["1", "2", "3"] {
        put(&*writer, value).await;
    }
    writer.compact(4).await.unwrap();
    let server = etcd.url().trim_start_matches("http://").to_owned();
    tokio::spawn(accept(second, server, CancellationToken::new()));
    let told = watch.next().await.unwrap();
    assert!(matches!(told, Err(StoreError::Compacted { compact_revision: 4 })), "{told:?}");
    assert!(watch.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_lost_is_not_made_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = common::Served::start(MemoryStore::new()).await;
    // Everything reaches the server, and nothing comes back once the connection stands.
    let address = listener.local_addr().unwrap();
    let server = served.url().trim_start_matches("https://").to_owned();
    let mute = CancellationToken::new();
    let silence = mute.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = TcpStream::connect(&server).await.unwrap().into_split();
            let silence = silence.clone();
            tokio::spawn(async move {
                _ = silence.run_until_cancelled(tokio::io::copy(&mut from_server, &mut to_client)).await;
                // The request is at the server by the time that its answer comes.
                let mut byte = [0];
                _ = tokio::io::AsyncReadExt::read(&mut from_server, &mut byte).await;
            });
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        }
    });
    let config = EtcdConfig { endpoints: vec![format!("https://{address}")], ..served.config() };
    let store = EtcdStore::connect(&config).await.unwrap();
    store.current().await.unwrap();
    mute.cancel();
    let success = vec![Op::Put { key: "a".into(), value: "1".into(), lease: 0 }];
    let lost = store.txn(Txn { success, ..Txn::default() }).await.unwrap_err().to_string();
    assert!(lost.ends_with("whether the change was made is not known"), "{lost}");
    let found = served.store.range(RangeRequest::new(KeyRange::key("a"))).await.unwrap();
    assert_eq!(found.kvs[0].version, 1, "it was made once");
}

#[tokio::test]
async fn every_member_that_does_not_answer_is_named() {
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (a, b) = (free(), free());
    let error = connect(&[&a, &b]).await.unwrap_err().to_string();
    assert!(error.contains(&format!("http://{a}")) && error.contains(&format!("http://{b}")), "{error}");
    assert!(error.contains("connect: connection refused"), "{error}");
}
