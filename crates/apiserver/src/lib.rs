//! The API server: the REST front of the cluster and the only component that talks to the store.
//!
//! It is a [`tower::Service`] of HTTP requests ([`ApiServer::service`]); a listener with TLS or an
//! in-process [`kube::Client`] ([`ApiServer::client_as`]) sits right on it. The way of a request, one
//! module a step: [`request_info`] → authentication ([`auth`]) → [`flow_control`] → authorisation → negotiation → handler
//! (decode, admission, default, validate) → [`storage`] → watch. Policy plugs in through [`hooks`].

pub mod admission;
pub mod aggregator;
pub mod allocate;
pub mod assembly;
pub mod audit;
pub mod auth;
pub mod body;
pub mod bootstrap;
pub mod component;
pub mod discovery;
pub mod endpoints;
pub mod filter;
pub mod flow_control;
mod handler;
pub mod health;
pub mod hooks;
pub mod kubelet_proxy;
pub mod metrics;
pub mod negotiate;
pub mod openapi;
pub mod options;
pub mod pki;
pub mod rbac;
pub mod render;
pub mod request_info;
pub mod security;
pub mod serve;
pub mod server;
pub mod storage;
#[cfg(test)]
mod testing;
pub mod version;
pub mod watch;
pub mod webhook;

pub use body::{Body, RequestBody};
pub use handler::AuditAnnotations;
pub use hooks::{
    AdmissionContext, AdmissionPlugin, AdmissionRequest, Attributes, Authenticator, Authorizer, Connector, Decision,
    Notes, Operation, Reinvocation, UserInfo, VirtualResource,
};
pub use request_info::RequestInfo;
pub use server::{ApiServer, Config};
pub use storage::Storage;
