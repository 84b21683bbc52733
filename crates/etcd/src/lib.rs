//! The etcd v3 API, from both sides.
//!
//! [`EtcdServer`] puts it in front of any [`Store`](coracle_store::Store), so that `etcdctl` and whatever else knows etcd can look into a
//! cluster. Read `proto` (the messages), `wire` (what they are in the store's terms, and every refusal), then
//! `server`: `kv`, `watch`, `lease`, `maintenance`, and `snapshot` with `bolt`, the
//! form of its file.

mod bolt;
mod proto;
mod server;
mod wire;

pub use server::EtcdServer;
