//! Whole clusters in virtual time: each test is a behaviour that only all components together have.

mod admission;
mod autoscaling;
mod chaos;
mod daemon_sets;
mod deployments;
mod determinism;
mod idle;
mod jobs;
mod nodes;
mod pods;
mod resource_claims;
mod scheduling;
mod services;
mod stateful_sets;
mod support;
