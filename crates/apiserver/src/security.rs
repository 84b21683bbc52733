//! Puts authentication, authorisation, admission and connections together, as the flags of
//! `kube-apiserver` choose them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use coracle_client::transport::TransportError;
use coracle_client::transport::peer::Authorities;

use crate::admission::{AdmissionConfiguration, UnknownPlugin, plugins};
use crate::aggregator::Aggregator;
use crate::allocate::{Ipv4Cidr, ServiceAllocator};
use crate::audit::Audit;
use crate::auth::bootstrap_token::BootstrapTokens;
use crate::auth::front_proxy::{FrontProxy, RequestHeaders};
use crate::auth::jwt::TokenKey;
use crate::auth::reviews::{AccessReviews, RulesReviews, SelfSubjectReviews, Subject, TokenReviews};
use crate::auth::static_token::StaticTokens;
use crate::auth::token::ServiceAccountTokens;
use crate::auth::x509::X509Authenticator;
use crate::flow_control::FlowControl;
use crate::flow_control::in_flight::InFlight;
use crate::hooks::{Authenticator, Authorizer, Connector, VirtualResource};
use crate::kubelet_proxy::{CONNECTORS, KubeletProxy};
use crate::pki::CertKey;
use crate::rbac::{AlwaysAllow, AlwaysDeny, EscalationCheck, NodeAuthorizer, Privileged, RbacAuthorizer, Union};
use crate::server::{Config, Overload};

/// One of `--authorization-mode`'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorizationMode {
    /// Everybody may do everything.
    AlwaysAllow,
    /// Nobody may do anything.
    AlwaysDeny,
    /// Kubelets may do their node's business.
    Node,
    /// By Roles and bindings.
    Rbac,
}

impl FromStr for AuthorizationMode {
    type Err = SecurityError;

    fn from_str(text: &str) -> Result<Self, SecurityError> {
        match text {
            "AlwaysAllow" => Ok(AuthorizationMode::AlwaysAllow),
            "AlwaysDeny" => Ok(AuthorizationMode::AlwaysDeny),
            "Node" => Ok(AuthorizationMode::Node),
            "RBAC" => Ok(AuthorizationMode::Rbac),
            other => Err(SecurityError::UnknownMode(other.to_owned())),
        }
    }
}

/// Why a server cannot be put together so.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// `--authorization-mode` names something else.
    #[error("authorization mode {0:?} is unknown; known are AlwaysAllow, AlwaysDeny, Node, RBAC")]
    UnknownMode(String),
    /// `--enable-admission-plugins` or `--disable-admission-plugins` names something else.
    #[error(transparent)]
    UnknownPlugin(#[from] UnknownPlugin),
    /// The certificates for kubelets are no good.
    #[error(transparent)]
    Tls(#[from] TransportError),
}

/// Who may come in, what they may do, and what happens to what they write.
#[derive(Debug)]
pub struct SecurityConfig {
    /// Asked in order; the group `system:masters` may do everything in any case.
    pub authorization: Vec<AuthorizationMode>,
    /// Whether requests without credentials go on as `system:anonymous`.
    pub anonymous_auth: bool,
    /// Signs ServiceAccount tokens.
    pub token_key: TokenKey,
    /// The tokens of `--token-auth-file`.
    pub static_tokens: Option<StaticTokens>,
    /// Whether bootstrap tokens are taken.
    pub bootstrap_tokens: bool,
    /// Whether priority and fairness decide who waits; otherwise there are the two limits alone.
    pub priority_and_fairness: bool,
    /// How many requests that read are under way at once, at most.
    pub max_requests_inflight: u32,
    /// How many that write.
    pub max_mutating_requests_inflight: u32,
    /// Writes down who did what.
    pub audit: Option<Arc<Audit>>,
    /// Admission plugins to run besides the default ones.
    pub enable_admission: Vec<String>,
    /// Admission plugins not to run.
    pub disable_admission: Vec<String>,
    /// What admission plugins are told.
    pub admission: AdmissionConfiguration,
    /// The range of cluster IPs.
    pub service_cidr: Ipv4Cidr,
    /// The range of NodePorts.
    pub node_ports: RangeInclusive<u16>,
    /// Whom to believe when they speak for others, by headers.
    pub request_headers: Option<RequestHeaders>,
    /// The certificate shown to extension servers, by which they know this server.
    pub proxy_client: Option<CertKey>,
    /// The certificate shown to kubelets and the authority (PEM) that signed theirs. Without it there is
    /// no way to logs and exec.
    pub kubelet_client: Option<(CertKey, String)>,
    /// The way to kubelets of this process, by subresource (`nodes/proxy`); instead of that with a certificate.
    pub connectors: BTreeMap<String, Arc<dyn Connector>>,
}

/// The NodePorts unless told otherwise.
pub const DEFAULT_NODE_PORTS: RangeInclusive<u16> = 30000..=32767;

impl SecurityConfig {
    /// Node and RBAC authorisation, default plugins and ranges, no way to kubelets.
    pub fn new(token_key: TokenKey, service_cidr: Ipv4Cidr) -> Self {
        SecurityConfig {
            authorization: vec![AuthorizationMode::Node, AuthorizationMode::Rbac],
            anonymous_auth: true,
            token_key,
            static_tokens: None,
            bootstrap_tokens: true,
            priority_and_fairness: true,
            max_requests_inflight: 400,
            max_mutating_requests_inflight: 200,
            audit: None,
            enable_admission: Vec::new(),
            disable_admission: Vec::new(),
            admission: AdmissionConfiguration::default(),
            service_cidr,
            node_ports: DEFAULT_NODE_PORTS,
            request_headers: None,
            proxy_client: None,
            kubelet_client: None,
            connectors: BTreeMap::new(),
        }
    }

    /// Fills in a server's configuration. `client_ca_pem` is the authority of users' certificates.
    pub fn apply(self, config: &mut Config, client_ca_pem: Option<&str>) -> Result<(), SecurityError> {
        let storage = config.storage.clone();
        let rbac = RbacAuthorizer::new(storage.clone());
        let mut authorizers: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Privileged)];
        for mode in &self.authorization {
            authorizers.push(match mode {
                AuthorizationMode::AlwaysAllow => Arc::new(AlwaysAllow),
                AuthorizationMode::AlwaysDeny => Arc::new(AlwaysDeny),
                AuthorizationMode::Node => Arc::new(NodeAuthorizer::new(storage.clone())),
                AuthorizationMode::Rbac => rbac.clone(),
            });
        }
        let authorizer = Union(authorizers.into());

        let tokens = ServiceAccountTokens::new(self.token_key, storage.clone());
        let front_proxy = self.request_headers.map(FrontProxy::new).transpose()?;
        let users = client_ca_pem.map(Authorities::new).transpose()?;
        config.aggregator = Aggregator::new(storage.clone(), self.proxy_client);
        let static_tokens = self.static_tokens.map(Arc::new);
        let bootstrap_tokens = self.bootstrap_tokens.then(|| BootstrapTokens::new(storage.clone()));
        config.anonymous_auth = self.anonymous_auth;
        let authenticators = [
            front_proxy.map(|proxy| Arc::new(proxy) as Arc<dyn Authenticator>),
            users.map(|authorities| Arc::new(X509Authenticator { authorities }) as Arc<dyn Authenticator>),
            static_tokens.clone().map(|tokens| tokens as Arc<dyn Authenticator>),
            bootstrap_tokens.clone().map(|tokens| tokens as Arc<dyn Authenticator>),
            Some(tokens.clone()),
        ];
        config.authenticators = authenticators.into_iter().flatten().collect();
        config.authorizers = vec![Box::new(authorizer.clone())];
        config.audit = self.audit;
        let (reading, writing) = (self.max_requests_inflight, self.max_mutating_requests_inflight);
        config.overload = match self.priority_and_fairness {
            true => Overload::Fair(FlowControl::new(storage.clone(), reading + writing)),
            false => Overload::InFlight(InFlight::new(reading, writing)),
        };

        config.admission = plugins(&self.enable_admission, &self.disable_admission, &self.admission)?;
        if self.authorization.contains(&AuthorizationMode::Rbac) {
            config.admission.push(Box::new(EscalationCheck::new(rbac.clone())));
        }
        config.admission.push(Box::new(ServiceAllocator::new(storage.clone(), self.node_ports)));

        config.documents.insert("/openid/v1/jwks".into(), tokens.jwks());
        config.documents.insert("/.well-known/openid-configuration".into(), tokens.openid_configuration());
        let access = |subject| -> Arc<dyn VirtualResource> {
            Arc::new(AccessReviews { authorizer: authorizer.clone(), subject })
        };
        let reviews: [(&str, Arc<dyn VirtualResource>); 7] = [
            ("serviceaccounts/token", tokens.clone()),
            (
                "tokenreviews.authentication.k8s.io",
                Arc::new(TokenReviews { service_accounts: tokens, static_tokens, bootstrap_tokens }),
            ),
            ("selfsubjectreviews.authentication.k8s.io", Arc::new(SelfSubjectReviews)),
            ("subjectaccessreviews.authorization.k8s.io", access(Subject::Named)),
            ("localsubjectaccessreviews.authorization.k8s.io", access(Subject::NamedLocally)),
            ("selfsubjectaccessreviews.authorization.k8s.io", access(Subject::Asker)),
            ("selfsubjectrulesreviews.authorization.k8s.io", Arc::new(RulesReviews { rbac })),
        ];
        config.virtual_resources.extend(reviews.map(|(name, resource)| (name.to_owned(), resource)));

        if let Some((client, ca_pem)) = &self.kubelet_client {
            let proxy = KubeletProxy::new(storage, client, ca_pem)?;
            let connector = |name: &str| (name.to_owned(), proxy.clone() as Arc<dyn Connector>);
            config.connectors.extend(CONNECTORS.map(connector));
        }
        config.connectors.extend(self.connectors);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
