//! The fallback where nftables may not be used: listeners of our own that carry bytes to pods.
//!
//! They serve TCP NodePorts and load balancer addresses; ClusterIPs need the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, RwLock};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::model::{Endpoint, Entry};

type Targets = Arc<RwLock<Vec<Endpoint>>>;

struct Listening {
    targets: Targets,
    stop: CancellationToken,
}

/// The listeners, by address.
#[derive(Default)]
pub struct Listeners {
    open: BTreeMap<SocketAddr, Listening>,
}

impl std::fmt::Debug for Listeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.open.keys()).finish()
    }
}

const LOCK: &str = "no code panics while it holds the targets";

/// The addresses to listen on, and where each leads.
pub fn wanted(entries: &[Entry]) -> BTreeMap<SocketAddr, Vec<Endpoint>> {
    let mut wanted = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.protocol == "tcp") {
        let targets: Vec<_> = entry.external.iter().copied().collect();
        let loopback = entry.external_ips.iter().filter(|ip| ip.is_loopback());
        for ip in loopback {
            wanted.insert(SocketAddr::new(IpAddr::V4(*ip), entry.port), targets.clone());
        }
        if let Some(port) = entry.node_port {
            wanted.insert(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), targets);
        }
    }
    wanted
}

impl Listeners {
    /// Opens, closes and re-targets listeners until they are what `entries` want.
    pub async fn set(&mut self, entries: &[Entry]) {
        let wanted = wanted(entries);
        let gone: BTreeSet<_> = self.open.keys().filter(|address| !wanted.contains_key(address)).copied().collect();
        for address in gone {
            if let Some(listening) = self.open.remove(&address) {
                listening.stop.cancel();
            }
        }
        for (address, targets) in wanted {
            if let Some(listening) = self.open.get(&address) {
                *listening.targets.write().expect(LOCK) = targets;
                continue;
            }
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    let listening =
                        Listening { targets: Arc::new(RwLock::new(targets)), stop: CancellationToken::new() };
                    tokio::spawn(accept(listener, listening.targets.clone(), listening.stop.clone()));
                    self.open.insert(address, listening);
                }
                Err(error) => tracing::warn!(%address, %error, "cannot listen for a Service"),
            }
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        for listening in self.open.values() {
            listening.stop.cancel();
        }
    }
}

async fn accept(listener: TcpListener, targets: Targets, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let mut candidates = targets.read().expect(LOCK).clone();
        let first = coracle_clock::random_below(candidates.len());
        candidates.rotate_left(first);
        tokio::spawn(carry(stream, candidates));
    }
}

/// Connects to the first candidate that answers and copies both ways. No candidate: the connection is closed.
async fn carry(mut client: TcpStream, candidates: Vec<Endpoint>) {
    for endpoint in candidates {
        if let Ok(mut pod) = TcpStream::connect((endpoint.ip, endpoint.port)).await {
            let _ = tokio::io::copy_bidirectional(&mut client, &mut pod).await;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn pod(answer: &'static str) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Endpoint { ip: Ipv4Addr::LOCALHOST, port }
    }

    #[tokio::test]
    async fn a_connection_reaches_a_pod_even_if_another_is_dead() {
        let alive = pod("hello").await;
        let dead = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            Endpoint { ip: Ipv4Addr::LOCALHOST, port: listener.local_addr().unwrap().port() }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, Arc::new(RwLock::new(vec![dead, alive])), stop.clone()));
        for _ in 0..8 {
            let mut text = String::new();
            TcpStream::connect(address).await.unwrap().read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "hello");
        }
        stop.cancel();
    }
}
