//! The kubelet: runs a node's pods through one runtime trait.

pub mod backoff;
pub mod observed;
pub mod plan;
pub mod quantity;
pub mod resources;
pub mod runtime;
pub mod server;
pub mod status;
#[cfg(test)]
mod testing;
pub mod text;
pub mod verdicts;
