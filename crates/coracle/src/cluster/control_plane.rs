//! The control plane's front: the API server on its store, behind TLS.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Context;
use coracle_apiserver::assembly::assemble;
use coracle_apiserver::auth::front_proxy::RequestHeaders;
use coracle_apiserver::auth::jwt::TokenKey;
use coracle_apiserver::pki::{FRONT_PROXY, Pki};
use coracle_apiserver::security::SecurityConfig;
use coracle_apiserver::serve;
use coracle_apiserver::{ApiServer, endpoints};
use coracle_store::SharedStore;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::data_dir::ClusterConfig;

/// An assembled API server.
#[derive(Debug)]
pub struct ControlPlane {
    /// The server.
    pub api: Arc<ApiServer>,
    advertise: (Ipv4Addr, u16),
}

impl ControlPlane {
    /// Puts the API server together and makes sure that the cluster's first objects are there.
    pub async fn assemble(store: SharedStore, config: &ClusterConfig, pki: &Pki) -> anyhow::Result<Self> {
        let key = TokenKey::from_pem(pki.service_account_key())?;
        let mut security = SecurityConfig::new(key, config.service_cidr().parse()?);
        let ca = pki.ca_pem().to_owned();
        security.kubelet_client = Some((pki.kubelet_client().clone(), ca.clone()));
        security.request_headers = Some(RequestHeaders::new(pki.front_proxy_ca_pem(), FRONT_PROXY));
        security.proxy_client = Some(pki.front_proxy_client().clone());
        let advertise = (config.gateway(), config.port);
        let api = assemble(store, security, advertise, Some(ca)).await.context("the API server")?;
        Ok(ControlPlane { api, advertise })
    }

    /// Keeps this server among the endpoints of the Service `kubernetes` until shutdown.
    pub fn keep_endpoints(&self, shutdown: &CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        endpoints::run(self.api.config.storage.clone(), self.advertise, shutdown.clone())
    }

    /// Serves a listener until shutdown.
    pub fn serve(
        &self,
        listener: TcpListener,
        pki: &Pki,
        shutdown: &CancellationToken,
        components: &mut JoinSet<()>,
    ) -> anyhow::Result<()> {
        let authorities = format!("{}{}", pki.ca_pem(), pki.front_proxy_ca_pem());
        let tls = serve::tls(pki.server(), &authorities)?;
        components.spawn(serve::serve(listener, tls, self.api.service(), shutdown.clone()));
        Ok(())
    }
}
