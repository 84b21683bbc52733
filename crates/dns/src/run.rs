//! The loop: watch, rebuild the zone, serve.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::Context;
use coracle_client::Informers;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Client, ResourceExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::records::Zone;
use crate::register::register;
use crate::server::Server;

/// What the DNS server can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; pods must be able to reach it. Port 0 takes any free port.
    pub listen: SocketAddr,
    /// The address of the `kube-dns` Service.
    pub cluster_ip: Ipv4Addr,
    /// The cluster's domain, such as `cluster.local`.
    pub domain: String,
    /// Who is asked about names outside of it.
    pub upstream: Vec<SocketAddr>,
}

/// Changes that come within this time are taken together.
const BATCH: Duration = Duration::from_millis(10);
/// After a failure to register, it is tried again after this time.
const RETRY: Duration = Duration::from_secs(2);

/// Serves names until `shutdown`.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let tcp =
        TcpListener::bind(config.listen).await.with_context(|| format!("DNS cannot listen on {}", config.listen))?;
    let address = tcp.local_addr()?;
    let udp = UdpSocket::bind(address).await.with_context(|| format!("DNS cannot listen on {address} (UDP)"))?;

    let informers = Informers::new(client.clone(), shutdown.clone());
    let (services, slices, namespaces) =
        (informers.get::<Service>(), informers.get::<EndpointSlice>(), informers.get::<Namespace>());
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    services.on_change(move |_| notify.notify_one());
    let notify = changed.clone();
    slices.on_change(move |_| notify.notify_one());
    let notify = changed.clone();
    namespaces.on_change(move |change| {
        if change.old.is_none() || change.new.is_none() {
            notify.notify_one();
        }
    });

    let zone = Arc::new(RwLock::new(Zone::default()));
    let server = Server::new(zone.clone(), config.upstream.clone());
    let serving = server.serve(udp, tcp, shutdown.clone());
    let updating = async {
        services.wait_for_sync().await;
        slices.wait_for_sync().await;
        namespaces.wait_for_sync().await;
        loop {
            let names = namespaces.list().into_iter().map(|namespace| namespace.name_any());
            let next = Zone::new(&config.domain, services.list(), slices.list(), names);
            *zone.write().expect("no code panics while it holds the zone") = next;
            changed.notified().await;
            coracle_clock::sleep(BATCH).await;
        }
    };
    let registering = async {
        while let Err(error) = register(&client, config.cluster_ip, address).await {
            tracing::warn!(%error, "the kube-dns Service is not registered; trying again");
            coracle_clock::sleep(RETRY).await;
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = serving => {}
        ((), ()) = async { tokio::join!(updating, registering) } => {}
    }
    Ok(())
}
