//! The kubelet: runs a node's pods through one runtime trait.

pub mod runtime;
