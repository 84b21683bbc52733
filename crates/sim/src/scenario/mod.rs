//! Scenarios: a cluster's life in a file, played in virtual time, with expectations that make it a test.
//!
//! ```text
//! file ─► [spec] ─► [check] ─► [run] ─┬─► cluster: nodes of [fleet], pods' rules, [traffic], [autoscaler]
//!         [place]: file:line          └─► [view] ─► [expect] ─► [report]
//! ```
//!
//! ```
//! use coracle_sim::{Pace, Scenario};
//!
//! let text = r#"
//! apiVersion: simulation.coracle.dev/v1
//! kind: Scenario
//! metadata: { name: least }
//! spec:
//!   duration: 5m
//!   cluster: { nodeGroups: [{ name: web, instanceType: m5.large, zones: [a, b], count: 2 }] }
//!   manifests:
//!   - objects:
//!     - apiVersion: v1
//!       kind: Pod
//!       metadata: { name: alone }
//!       spec: { containers: [{ name: main, image: nginx:1 }] }
//!   events:
//!   - at: 1m
//!     nodeCrash: { group: web, count: 2 }
//!   expect:
//!   - pods ready == 1 within 30s
//!   - nodes ready == 0
//! "#;
//! let scenario = Scenario::parse("least.yaml", text, std::path::Path::new(".")).unwrap();
//! let report = scenario.run(&mut Pace::default()).unwrap();
//! assert!(report.met(), "{}", report.text());
//! ```

pub mod autoscaler;
mod check;
pub mod expect;
mod fleet;
mod manifests;
pub mod object;
mod pace;
pub mod place;
mod report;
mod run;
pub mod spec;
pub mod traffic;
mod view;

pub use check::Scenario;
pub use pace::{Pace, Watch};
pub use report::{Pending, Report, Requests, Sample};
pub use view::{Disruption, HpaStep, Line, Sort};

use crate::{Builder, Cluster};

impl Scenario {
    /// The cluster in which it plays.
    fn builder(&self) -> Builder {
        Cluster::builder().seed(self.spec.seed).nodes(0).without_history().heartbeats_when_looked_at()
    }

    /// Plays it from the beginning to the end.
    ///
    /// # Errors
    /// The cluster does not start, or the API server refuses a manifest or an event for good.
    pub fn run(&self, pace: &mut Pace) -> anyhow::Result<Report> {
        self.run_with(pace, async |_| Ok(()))
    }

    /// As [`Scenario::run`]; `before` is done with the cluster before its time begins, such as to serve its API.
    ///
    /// # Errors
    /// As [`Scenario::run`], or that of `before`.
    pub fn run_with(
        &self,
        pace: &mut Pace,
        before: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>,
    ) -> anyhow::Result<Report> {
        self.builder().run(async |cluster| {
            pace.watch.begin(cluster);
            before(cluster).await?;
            run::Player::begin(self, cluster).await?.play(pace).await
        })
    }
}
