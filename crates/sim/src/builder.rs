//! How a simulated cluster is described and started.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coracle_controller_manager::VolumeDirectory;
use coracle_kubelet::runtime::simulated::SimulatedConfig;

use crate::Cluster;

/// A description of a cluster; [`Builder::run`] brings it to life.
#[derive(Clone)]
pub struct Builder {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) machine: SimulatedConfig,
    pub(crate) manager: coracle_controller_manager::Config,
    pub(crate) scheduler: bool,
    pub(crate) metrics: bool,
    pub(crate) real_time: bool,
    pub(crate) keep_history: bool,
    pub(crate) heartbeats_when_looked_at: bool,
}

/// Volumes that take no room.
struct NoVolumes;

impl VolumeDirectory for NoVolumes {
    fn remove(&self, _: &Path) -> std::io::Result<()> {
        Ok(())
    }
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            seed: 0,
            nodes: 1,
            machine: SimulatedConfig::default(),
            manager: coracle_controller_manager::Config { volumes: Arc::new(NoVolumes), ..Default::default() },
            scheduler: true,
            metrics: true,
            real_time: false,
            keep_history: true,
            heartbeats_when_looked_at: false,
        }
    }
}

impl Builder {
    /// From which number all chance follows.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How many nodes there are at the start: `coracle-1`, `coracle-2`, ….
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// What the nodes' machines are like, and what containers do on them.
    pub fn machine(mut self, machine: SimulatedConfig) -> Self {
        self.machine = machine;
        self
    }

    /// Which controllers run, as `--controllers` takes them: `*`, `name`, `-name`. None at all: no controller manager.
    pub fn controllers(mut self, controllers: &[&str]) -> Self {
        self.manager.controllers = controllers.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// Changes what else the controller manager is told.
    pub fn controller_manager(mut self, change: impl FnOnce(&mut coracle_controller_manager::Config)) -> Self {
        change(&mut self.manager);
        self
    }

    /// Leaves the scheduler out.
    pub fn without_scheduler(mut self) -> Self {
        self.scheduler = false;
        self
    }

    /// Leaves metrics-server out, and with it every extension server that the API server would ask for news.
    pub fn without_metrics(mut self) -> Self {
        self.metrics = false;
        self
    }

    /// Keeps neither the [history](Cluster::history) nor [who made it](Cluster::authors) nor [what was
    /// asked](Cluster::requests): for clusters that live long. Its [hash](Cluster::history_hash) is there all the same.
    pub fn without_history(mut self) -> Self {
        self.keep_history = false;
        self
    }

    /// Writes nodes' [heartbeats](coracle_kubelet::heartbeat) only when somebody looks: for clusters that live long. Who
    /// is no part of the cluster sees them as ever; faults on lines, once there are any, let them be written in time. A
    /// kubelet that is crashed leaves unwritten what it had put off.
    pub fn heartbeats_when_looked_at(mut self) -> Self {
        self.heartbeats_when_looked_at = true;
        self
    }

    /// On the machine's own clock and chance: for what cannot wait in virtual time, such as a program that also talks to
    /// somebody outside. Waiting then takes as long as it says; [`Cluster::until`] waits no longer than it must.
    pub fn real_time(mut self) -> Self {
        self.real_time = true;
        self.machine.pull_delay = Duration::ZERO;
        self
    }

    /// Starts the cluster, waits until its nodes are ready, and plays a scenario on it.
    ///
    /// # Errors
    /// What the scenario or the cluster's start returns.
    pub fn run<T>(self, scenario: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let paused = !self.real_time;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(paused).build()?;
        runtime.block_on(async {
            let _world = paused.then(|| coracle_clock::Simulation::start(self.seed));
            let mut cluster = Cluster::start(self).await?;
            scenario(&mut cluster).await
        })
    }
}
