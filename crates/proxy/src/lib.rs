//! kube-proxy: Services to pods.
//!
//! A Service's address belongs to nobody; it exists only as a rule that sends what is addressed to it
//! to one of the pods behind it. The loop:
//!
//! ```text
//! Services, EndpointSlices ──► model (pure) ──► nftables (pure) ──► what differs, by `nft -f -`
//!                                         └───► or user-space listeners, where nftables may not be used
//! ```
//!
//! Read in this order: [`model`] (which address leads where), [`nft`] (the same as rules of the
//! kernel), [`host`] (what the host must be told once), [`userspace`] (the fallback), [`run`](run()).

pub mod host;
pub mod model;
pub mod nft;
mod run;
pub mod userspace;

pub use run::{Config, Health, Mode, remove, run};
