//! Whole clusters in virtual time: each test is a behaviour that only all components together have.

mod admission;
mod autoscaling;
mod bad_input;
mod chaos;
mod daemon_sets;
mod deployments;
mod determinism;
mod faults;
mod idle;
mod jobs;
mod nodes;
mod normal;
mod pods;
mod random;
mod resource_claims;
mod scenarios;
mod scheduling;
mod services;
mod sieve;
mod stateful_sets;
mod support;

/// A tenth faster than the system's: clusters in tests allocate a lot.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
