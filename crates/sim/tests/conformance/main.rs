//! The behaviours of the official conformance suite that need nothing but a control plane, each as a test of ours, by
//! area. A real client (kube-rs) does and asserts what upstream's test does, in virtual time.
//!
//! `covered.tsv` lists all 148 official names, the 25 of webhooks and those of workloads, and which test covers each,
//! here or in another crate; [`covered`] holds the list to that.

mod apimachinery;
mod apps;
mod covered;
mod daemon_sets;
mod evictions;
mod instrumentation;
mod jobs;
mod lifecycle;
mod network;
mod node;
mod objects;
mod quota;
mod replicas;
mod scheduling;
mod stateful_sets;
mod storage;
mod support;
mod workloads;
