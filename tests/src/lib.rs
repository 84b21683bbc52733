//! End-to-end tests: the real binary, the real kubectl, real containers.
//!
//! Each file in `tests/` is a specification of one theme. Its sections run in order on one [`Cluster`], for
//! a cluster with a database in it is worth keeping; see [`specification`]. What is waited for is polled
//! ([`wait_until`]), with a deadline and never by a fixed sleep: this is real input and output.
//!
//! Where Docker or kubectl is missing the tests are skipped with a message, unless `CORACLE_TEST_DOCKER=require`.
//! `CORACLE_TEST_BINARY` names another `coracle` to test; `CORACLE_TEST_KEEP=1` leaves the cluster of a failed
//! specification for a look.

pub mod binary;
pub mod certificates;
pub mod cluster;
pub mod http;
pub mod https;
pub mod kubectl;
pub mod parts;
pub mod process;
pub mod python;
pub mod specification;
pub mod terminal;
pub mod wait;

pub use cluster::{Cluster, docker};
pub use http::Session;
pub use kubectl::Kubectl;
pub use parts::Parts;
pub use process::Output;
pub use specification::{Section, specification};
pub use wait::{eventually, wait_until};
