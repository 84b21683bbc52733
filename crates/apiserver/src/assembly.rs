//! Putting a server together on a store: storage, the cluster's first objects, security.

use std::net::Ipv4Addr;
use std::sync::Arc;

use coracle_api::{ApiError, registry};
use coracle_store::{SharedStore, StoreError};

use crate::bootstrap::{self, BootstrapConfig};
use crate::security::{SecurityConfig, SecurityError};
use crate::{ApiServer, Config, Storage, aggregator, allocate};

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Authentication, authorisation or admission cannot be as they were asked for.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The first objects could not be written.
    #[error("the cluster's first objects: {0}")]
    Bootstrap(ApiError),
}

/// Puts a server together, and makes sure that the cluster's first objects are there.
///
/// `advertise` is the address by which pods reach the server; `client_ca_pem` the authority that signs
/// client certificates, published to the cluster.
pub async fn assemble(
    store: SharedStore,
    security: SecurityConfig,
    advertise: (Ipv4Addr, u16),
    client_ca_pem: Option<String>,
) -> Result<Arc<ApiServer>, AssemblyError> {
    let storage = Storage::start(store, registry::builtin()).await?;
    let first = BootstrapConfig {
        advertise_ip: advertise.0,
        advertise_port: advertise.1,
        service_cidr: security.service_cidr,
        client_ca_pem: client_ca_pem.clone(),
        request_headers: security.request_headers.clone(),
    };
    bootstrap::ensure(&storage, &first).await.map_err(AssemblyError::Bootstrap)?;
    let mut config = Config::new(storage);
    config.advertise = format!("{}:{}", advertise.0, advertise.1);
    security.apply(&mut config, client_ca_pem.as_deref())?;
    let server = ApiServer::new(config);
    tokio::spawn(aggregator::run(Arc::downgrade(&server)));
    tokio::spawn(allocate::repair::run(Arc::downgrade(&server)));
    Ok(server)
}
