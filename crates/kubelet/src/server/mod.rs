//! The kubelet's HTTPS server.

mod lookup;
pub mod spdy;

pub use lookup::{LookupError, PodLookup};
