//! The scheduler: which node a pod runs on, and why.
//!
//! It is an ordinary client of the API server. It watches pods and nodes, takes one pending pod at a
//! time, and answers one question: on which node? The answer is written as a Binding; the kubelet of
//! that node does the rest.
//!
//! ```text
//!            ┌───────── queue ─────────┐      ┌──────────── cycle (pure) ────────────┐
//!  new pod ─►│ active ◄─ back-off      │─pod─►│ filter every node ─► score ─► winner │─► assume ─► bind
//!            │    ▲                    │      │        └─ none fits ─► preempt?      │
//!            │    └── unschedulable ◄──┼──────┤           FailedScheduling           │
//!            └─────────────────────────┘      └──────────────────────────────────────┘
//! ```
//!
//! Read in this order: [`framework`] (what a plugin is), any file of `plugins`, [`cycle`] (one decision),
//! [`queue`] (whose turn it is), [`snapshot`], [`alike`], [`devices`] and [`cache`] (what is known), `run` (the loop); then
//! [`config`] and [`profile`] (which plugins there are) and [`explain`] (why).

pub mod alike;
pub mod cache;
pub mod config;
pub mod cycle;
pub mod devices;
pub mod explain;
pub mod framework;
pub mod node;
mod plugins;
pub mod pod;
pub mod profile;
pub mod queue;
mod run;
pub mod snapshot;
pub mod topology;
mod volumes;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod testing;

pub use run::{Config, run};
