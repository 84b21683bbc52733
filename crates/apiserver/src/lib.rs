//! The API server: the REST front of the cluster and the only component that talks to the store.
//!
//! It is a [`tower::Service`] of HTTP requests ([`ApiServer::service`]); a listener with TLS or an
//! in-process [`kube::Client`] ([`ApiServer::client_as`]) sits right on it. The way of a request, as [`server`] goes it:
//!
//! | step | module |
//! |---|---|
//! | a connection, and requests on it | [`serve`] |
//! | what is asked | [`request_info`] |
//! | who asks, and for whom | [`auth`] |
//! | to be written down? | [`audit`] |
//! | is there room | [`flow_control`] |
//! | may they | [`rbac`] |
//! | is it another server's | [`aggregator`] |
//! | a document: which kinds there are, how the server is | [`discovery`], [`openapi`], [`health`], [`metrics`] |
//! | an object: in which form, with which options | [`negotiate`], [`options`] |
//! | one file a verb: decode, admit, default, validate | `handler`, [`admission`] |
//! | from version to version | [`webhook`] |
//! | to and from the store, and whoever watches | [`storage`], [`watch`] |
//! | a container's or a Service's connection | [`kubelet_proxy`] |
//! | the answer | [`render`], [`body`] |
//!
//! Policy plugs in through [`hooks`]; [`security`] and [`assembly`] put a server together.

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
pub mod pages;
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
