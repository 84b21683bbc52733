//! Where the API is served: the endpoints of the Service `kubernetes`, kept by all servers together.
//!
//! As upstream's lease endpoint reconciler has it: each server keeps a key of its address that vanishes unless it is
//! renewed in time, and each makes the endpoints say what keys there are. So they lead to the servers that live.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::ApiResult;
use coracle_store::{KeyRange, LeaseId, Op, RangeRequest, Txn};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::bootstrap::ensure_endpoints;
use crate::storage::{Storage, codec, refusal};

/// Upstream's key, and the times it has for it.
const PREFIX: &str = "/registry/masterleases/";
const TTL: Duration = Duration::from_secs(15);
const INTERVAL: Duration = Duration::from_secs(10);

/// Keeps this server among the endpoints until `stop`, and takes it out then.
pub async fn run(storage: Arc<Storage>, (ip, port): (Ipv4Addr, u16), stop: CancellationToken) {
    let mut lease = 0;
    loop {
        let stopped = stop.is_cancelled();
        let done = match stopped {
            false => keep(&storage, ip, &mut lease).await,
            true => storage.store().lease_revoke(lease).await.map_err(refusal),
        };
        let done = async {
            done?;
            ensure_endpoints(&storage, &live(&storage).await?, port).await
        };
        if let Err(error) = done.await {
            tracing::warn!(%error, "the endpoints of the Service kubernetes are not up to date");
        }
        if stopped {
            return;
        }
        stop.run_until_cancelled(coracle_clock::sleep(INTERVAL)).await;
    }
}

/// Renews the key, or writes it.
async fn keep(storage: &Storage, ip: Ipv4Addr, lease: &mut LeaseId) -> ApiResult<()> {
    let store = storage.store();
    if *lease != 0 && store.lease_keep_alive(*lease).await.is_ok() {
        return Ok(());
    }
    *lease = store.lease_grant(0, TTL).await.map_err(refusal)?;
    let object = json!({ "kind": "Endpoints", "apiVersion": "v1", "subsets": [{ "addresses": [{ "ip": ip }] }] });
    let put = Op::Put { key: format!("{PREFIX}{ip}").into(), value: codec::encode(&object).into(), lease: *lease };
    store.txn(Txn { success: vec![put], ..Txn::default() }).await.map_err(refusal)?;
    Ok(())
}

/// The addresses of the servers that live.
async fn live(storage: &Storage) -> ApiResult<Vec<String>> {
    let request = RangeRequest { keys_only: true, ..RangeRequest::new(KeyRange::prefix(PREFIX)) };
    let found = storage.store().range(request).await.map_err(refusal)?;
    let ip = |key: &[u8]| std::str::from_utf8(key.strip_prefix(PREFIX.as_bytes())?).ok().map(str::to_owned);
    Ok(found.kvs.iter().filter_map(|kv| ip(&kv.key)).collect())
}

#[cfg(test)]
mod tests {
    use coracle_clock::sleep;
    use coracle_store::{MemoryStore, Store};

    use super::*;
    use crate::testing::in_simulation;

    /// The addresses and the port that the endpoints have, and that the slice has.
    async fn endpoints(storage: &Storage) -> String {
        let endpoints = storage.get("", "endpoints", "default", "kubernetes").await.unwrap().unwrap();
        let slice = storage.get("discovery.k8s.io", "endpointslices", "default", "kubernetes").await.unwrap().unwrap();
        let ips: Vec<_> =
            endpoints["subsets"][0]["addresses"].as_array().into_iter().flatten().map(|a| &a["ip"]).collect();
        let sliced: Vec<_> = slice["endpoints"].as_array().unwrap().iter().map(|e| &e["addresses"][0]).collect();
        assert_eq!(ips, sliced);
        format!("{ips:?} {}", endpoints["subsets"][0]["ports"][0]["port"])
    }

    #[test]
    fn the_endpoints_are_the_servers_that_live() {
        in_simulation(async || {
            let store = MemoryStore::new();
            let server = async || Storage::start(store.clone(), coracle_api::registry::builtin()).await.unwrap();
            let start = |storage: &Arc<Storage>, last: u8| {
                let stop = CancellationToken::new();
                let running = run(storage.clone(), (Ipv4Addr::new(10, 0, 0, last), 6443), stop.clone());
                (stop, tokio::spawn(running))
            };
            let (first, second) = (server().await, server().await);
            let _first = start(&first, 1);
            sleep(Duration::from_secs(1)).await;
            assert_eq!(endpoints(&second).await, r#"[String("10.0.0.1")] 6443"#);
            let (stop, _) = start(&second, 2);
            sleep(Duration::from_secs(60)).await;
            let both = r#"[String("10.0.0.1"), String("10.0.0.2")] 6443"#;
            assert_eq!(endpoints(&first).await, both);
            let quiet = store.revision();
            sleep(Duration::from_secs(60)).await;
            assert_eq!(store.revision(), quiet, "to live on changes nothing");

            stop.cancel();
            sleep(Duration::from_secs(1)).await;
            assert_eq!(endpoints(&first).await, r#"[String("10.0.0.1")] 6443"#, "it took itself out");

            let (_, third) = start(&second, 3);
            sleep(Duration::from_secs(1)).await;
            third.abort();
            sleep(Duration::from_secs(5)).await;
            assert!(endpoints(&first).await.contains("10.0.0.3"));
            sleep(TTL + INTERVAL).await;
            assert_eq!(endpoints(&first).await, r#"[String("10.0.0.1")] 6443"#, "it died");
        });
    }
}
