//! The etcd v3 API, from both sides.
//!
//! [`EtcdServer`] puts it in front of any [`Store`](coracle_store::Store), so that `etcdctl` and whatever else knows
//! etcd can look into a cluster. Read `proto` (the messages), `wire` (what they are in the store's terms, and every refusal), then
//! `server`: `kv`, `watch`, `lease`, `maintenance`. A [`SnapshotFile`] is what `etcdctl snapshot` saves and restores;
//! `bolt` is the form of the file.
//!
//! [`EtcdStore`] is the other side: a store that is an etcd cluster. That is `client`.

mod bolt;
mod client;
mod proto;
mod server;
mod snapshot;
mod wire;

pub use client::{EtcdConfig, EtcdStore, Prefixed, REGISTRY};
pub use server::EtcdServer;
pub use snapshot::{SnapshotError, SnapshotFile};
