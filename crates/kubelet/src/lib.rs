//! The kubelet: runs a node's pods through one runtime trait.
//!
//! One kubelet stands for one node; a process may have many. To the API server it is an ordinary client that
//! registers its Node, watches the pods bound to it and reports their statuses. To a [`runtime::Runtime`] it is the
//! one who says what runs.
//!
//! Where to begin reading: [`plan`] decides what to do next about a pod, [`status`] what to say of it; both are pure.
//! `pod_worker` carries plans out, one task for each pod; `kubelet` gives each pod its worker. The other modules
//! each know one thing: [`volumes`], [`probes`], [`env`](mod@env), [`dns`], [`security`], [`resources`], [`images`],
//! [`hooks`], [`node`].
//!
//! # Architecture invariant
//! The kubelet remembers nothing that the API server and the runtime do not tell again: killed at any line and
//! started anew, it adopts what runs and goes on.

pub mod admission;
mod backoff;
pub mod config;
pub mod container;
pub mod dns;
pub mod env;
pub mod expansion;
pub mod fields;
pub mod heartbeat;
pub mod hooks;
pub mod images;
pub mod ips;
mod kubelet;
mod lookup;
pub mod node;
pub mod objects;
pub mod observed;
pub mod plan;
mod pod_worker;
mod preemption;
pub mod probes;
pub mod resources;
pub mod runtime;
pub mod security;
pub mod server;
mod shared;
pub mod status;
#[cfg(test)]
mod testing;
pub mod text;
pub mod verdicts;
pub mod volumes;

pub use config::Config;
pub use kubelet::Kubelet;
pub use lookup::Lookup;
