//! Putting a server together: the parts of this crate, joined as upstream's `kube-apiserver` joins them.
//!
//! The one place that knows which authenticators are asked in which order, which authorizers decide,
//! which admission plugins run, and which resources are answered by code.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use coracle_api::{ApiError, registry};
use coracle_store::{SharedStore, StoreError};
use serde_json::to_value;

use crate::admission::{self, UnknownPlugin};
use crate::allocate::{Ipv4Cidr, ServiceAllocator};
use crate::auth::impersonate::Impersonation;
use crate::auth::jwt::TokenKey;
use crate::auth::reviews::{AccessReviews, RulesReviews, SelfSubjectReviews, Subject, TokenReviews};
use crate::auth::static_token::StaticTokens;
use crate::auth::token::ServiceAccountTokens;
use crate::auth::x509::X509Authenticator;
use crate::bootstrap::{self, BootstrapConfig};
use crate::hooks::{Authenticator, Authorizer, VirtualResource};
use crate::kubelet_proxy::{CONNECTORS, KubeletProxy};
use crate::pki::CertKey;
use crate::rbac::{AlwaysAllow, EscalationCheck, NodeAuthorizer, Privileged, RbacAuthorizer, Union};
use crate::serve::ServeError;
use crate::{ApiServer, Config, Storage};

/// One of the ways to decide who may do what, by upstream's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorizationMode {
    /// Everybody may do everything.
    AlwaysAllow,
    /// What kubelets need for the pods on their node.
    Node,
    /// What Roles and their bindings permit.
    Rbac,
}

/// What a server can be told; the names are those of upstream's flags.
#[derive(Debug)]
pub struct Options {
    /// The range of Services' cluster IPs.
    pub service_cluster_ip_range: Ipv4Cidr,
    /// The range of node ports.
    pub service_node_port_range: RangeInclusive<u16>,
    /// Where pods reach this server.
    pub advertise: (Ipv4Addr, u16),
    /// Who decides, in order.
    pub authorization_mode: Vec<AuthorizationMode>,
    /// Whether requests without credentials are taken as `system:anonymous`.
    pub anonymous_auth: bool,
    /// The users of the token file.
    pub static_tokens: Option<StaticTokens>,
    /// Admission plugins to run besides the default ones.
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins not to run.
    pub disable_admission_plugins: Vec<String>,
    /// Signs and verifies ServiceAccounts' tokens.
    pub service_account_key: TokenKey,
    /// What is shown to kubelets, and the authority (PEM) that signed theirs; without it there is no `exec` and no `log`.
    pub kubelet: Option<(CertKey, String)>,
    /// The authority (PEM) that signs client certificates.
    pub client_ca_pem: Option<String>,
}

impl Options {
    /// The defaults, with this range and key.
    pub fn new(service_cluster_ip_range: Ipv4Cidr, service_account_key: TokenKey) -> Self {
        Options {
            service_cluster_ip_range,
            service_node_port_range: 30_000..=32_767,
            advertise: (Ipv4Addr::LOCALHOST, 6443),
            authorization_mode: vec![AuthorizationMode::Node, AuthorizationMode::Rbac],
            anonymous_auth: true,
            static_tokens: None,
            enable_admission_plugins: Vec::new(),
            disable_admission_plugins: Vec::new(),
            service_account_key,
            kubelet: None,
            client_ca_pem: None,
        }
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A flag names an admission plugin that does not exist.
    #[error(transparent)]
    Admission(#[from] UnknownPlugin),
    /// The certificates are no good.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The first objects could not be written.
    #[error("the cluster's first objects: {0}")]
    Bootstrap(ApiError),
}

/// Puts a server together on a store, and makes sure that the cluster's first objects are there.
pub async fn assemble(store: SharedStore, options: Options) -> Result<Arc<ApiServer>, AssemblyError> {
    let storage = Storage::start(store, registry::builtin()).await?;
    let bootstrap = BootstrapConfig {
        advertise_ip: options.advertise.0,
        advertise_port: options.advertise.1,
        service_cidr: options.service_cluster_ip_range,
        client_ca_pem: options.client_ca_pem,
    };
    bootstrap::ensure(&storage, &bootstrap).await.map_err(AssemblyError::Bootstrap)?;

    let rbac = RbacAuthorizer::new(storage.clone());
    let authorizers = options.authorization_mode.iter().map(|mode| match mode {
        AuthorizationMode::AlwaysAllow => Arc::new(AlwaysAllow) as Arc<dyn Authorizer>,
        AuthorizationMode::Node => Arc::new(NodeAuthorizer::new(storage.clone())),
        AuthorizationMode::Rbac => rbac.clone(),
    });
    let authorizer = Union(std::iter::once(Arc::new(Privileged) as Arc<dyn Authorizer>).chain(authorizers).collect());

    let tokens = ServiceAccountTokens::new(options.service_account_key, storage.clone());
    let static_tokens = options.static_tokens.map(Arc::new);
    let mut authenticators: Vec<Arc<dyn Authenticator>> = vec![Arc::new(X509Authenticator)];
    authenticators.extend(static_tokens.clone().map(|tokens| tokens as Arc<dyn Authenticator>));
    authenticators.push(tokens.clone());

    let mut config = Config::new(storage.clone());
    config.anonymous_auth = options.anonymous_auth;
    config.advertise = format!("{}:{}", options.advertise.0, options.advertise.1);
    config.authenticators = vec![Box::new(Impersonation::new(authenticators, authorizer.clone()))];
    config.authorizers = vec![Box::new(authorizer.clone())];
    config.admission = admission::plugins(&options.enable_admission_plugins, &options.disable_admission_plugins)?;
    config.admission.push(Box::new(EscalationCheck::new(rbac.clone())));
    config.admission.push(Box::new(ServiceAllocator::new(
        storage.clone(),
        options.service_cluster_ip_range,
        options.service_node_port_range,
    )));

    let access = |subject| Arc::new(AccessReviews { authorizer: authorizer.clone(), subject });
    let virtual_resources: [(&str, Arc<dyn VirtualResource>); 7] = [
        ("serviceaccounts/token", tokens.clone()),
        (
            "tokenreviews.authentication.k8s.io",
            Arc::new(TokenReviews { service_accounts: tokens.clone(), static_tokens }),
        ),
        ("selfsubjectreviews.authentication.k8s.io", Arc::new(SelfSubjectReviews)),
        ("subjectaccessreviews.authorization.k8s.io", access(Subject::Named)),
        ("localsubjectaccessreviews.authorization.k8s.io", access(Subject::NamedLocally)),
        ("selfsubjectaccessreviews.authorization.k8s.io", access(Subject::Asker)),
        ("selfsubjectrulesreviews.authorization.k8s.io", Arc::new(RulesReviews { rbac })),
    ];
    config.virtual_resources = virtual_resources.into_iter().map(|(name, code)| (name.to_owned(), code)).collect();

    if let Some((client, ca_pem)) = options.kubelet {
        let proxy = KubeletProxy::new(storage.clone(), &client, &ca_pem)?;
        config.connectors = CONNECTORS.iter().map(|name| ((*name).to_owned(), proxy.clone() as _)).collect();
    }
    config.documents.insert("/openid/v1/jwks".into(), to_value(tokens.jwks()).unwrap_or_default());
    config.documents.insert("/.well-known/openid-configuration".into(), tokens.openid_configuration());
    Ok(ApiServer::new(config))
}
