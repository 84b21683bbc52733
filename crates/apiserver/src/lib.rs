//! The API server: the REST front of the cluster and the only component that talks to the store.
pub mod auth;
pub mod pki;
