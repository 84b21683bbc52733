//! Cluster DNS: Services and pods by name.
//!
//! Kubernetes' DNS specification in one small server. Names under the cluster's domain are answered
//! from a watch on Services and EndpointSlices; every other question goes to the host's resolvers.
//!
//! ```text
//! wordpress.default.svc.cluster.local        A    the Service's address
//! wordpress-mysql.default.svc.cluster.local  A    the pods' addresses (headless)
//! db-0.db.default.svc.cluster.local          A    the pod with that host name
//! _http._tcp.web.default.svc.cluster.local   SRV  port and name
//! 10-244-1-2.default.pod.cluster.local       A    10.244.1.2
//! 2.1.244.10.in-addr.arpa                    PTR  back to the name
//! ```
//!
//! Read [`records`] (names to answers, pure), then [`server`] (sockets and forwarding), then [`run`](run()).

pub mod records;
mod register;
mod run;
pub mod server;

pub use run::{Config, run};
