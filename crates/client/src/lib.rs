//! What client-go is to Go components.
//!
//! Every component of Kubernetes but the API server is the same machine: it *watches* some kinds,
//! keeps a cache of them, turns each change into a *key* on a *work queue*, and for each key looks at
//! the cache and makes the world a little more like the spec. These are the parts of that machine:
//!
//! - [`Informers`] and [`Informer`]: one watch and one cache per kind, shared by all who ask;
//! - [`WorkQueue`] and [`run_workers`]: each key at most once in the queue and never twice at work,
//!   with delays and per-key back-off;
//! - [`EventRecorder`]: the Events that `kubectl describe` shows;
//! - [`LeaderElector`]: one active instance among several;
//! - [`metrics`]: what queues and clients count;
//! - [`scheduling`]: which nodes a pod may be on;
//! - [`delegated`]: who asks a component, and whether they may;
//! - [`written`]: writes whose answers need no decoding;
//! - [`transport`]: whom a TLS connection trusts, and failures worded as Go words them.
//!
//! Order is deterministic throughout (ordered maps, first in first out, one task per informer), so
//! that a cluster in virtual time repeats itself exactly.

pub mod delegated;
mod events;
mod informer;
mod leader;
pub mod metrics;
mod object;
mod queue;
mod raw;
pub mod scheduling;
pub mod transport;
pub mod written;

pub use events::{EventRecorder, EventType};
pub use informer::{Change, Informable, Informer, Informers};
pub use leader::{LeaderElectionConfig, LeaderElector};
pub use object::{ObjectKey, controlled_by, controller_of, controller_reference, object_reference};
pub use queue::{Requeue, WorkQueue, run_workers};
