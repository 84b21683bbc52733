//! What containers use, from their control groups, else by the engine's one-shot samples.

use std::path::Path;

use bollard::models::ContainerStatsResponse;
use bollard::query_parameters::{ListContainersOptions, StatsOptions};
use futures::{StreamExt, stream};

use super::error::translate;
use super::labels::{self, Identity};
use super::{DockerRuntime, cgroup};
use crate::runtime::{ContainerStats, PodRef, Result, RuntimeError};

/// A sample keeps the engine busy for a while; so many are taken at once.
const SAMPLE_CONCURRENCY: usize = 4;

impl DockerRuntime {
    pub(super) async fn container_stats_impl(&self, container_id: &str) -> Result<ContainerStats> {
        let inspected = self.docker.inspect_container(container_id, None).await;
        let config = inspected.map_err(|error| translate(container_id, error))?.config.unwrap_or_default();
        self.sample(container_id, Identity::read(config.labels.unwrap_or_default())).await
    }

    pub(super) async fn list_stats_impl(&self) -> Result<Vec<ContainerStats>> {
        let labels = self.owner.filter(Some(labels::KIND_CONTAINER));
        let filters = Some([("label".to_string(), labels)].into());
        let options = ListContainersOptions { filters, ..Default::default() };
        let running = self.docker.list_containers(Some(options)).await;
        let running = running.map_err(|error| translate("containers", error))?;
        let samples = stream::iter(running)
            .map(|container| async move {
                let identity = Identity::read(container.labels.unwrap_or_default());
                self.sample(&container.id.unwrap_or_default(), identity).await
            })
            .buffered(SAMPLE_CONCURRENCY)
            .collect::<Vec<_>>()
            .await;
        // One that ended meanwhile has no sample.
        Ok(samples.into_iter().filter_map(Result::ok).collect())
    }

    async fn sample(&self, id: &str, identity: Identity) -> Result<ContainerStats> {
        let (pod, name) = (identity.pod, identity.container.unwrap_or_default());
        if let Some(usage) = cgroup::read(Path::new(cgroup::ROOT), id) {
            return Ok(of_group(id, pod, name, &usage));
        }
        let options = StatsOptions { stream: false, one_shot: true };
        let sample = self.docker.stats(id, Some(options)).next().await;
        let sample = sample.ok_or_else(|| RuntimeError::NotRunning(id.into()))?;
        let sample = sample.map_err(|error| translate(id, error))?;
        Ok(of_engine(id, pod, name, &sample))
    }
}

fn of_group(id: &str, pod: PodRef, name: String, usage: &cgroup::Usage) -> ContainerStats {
    ContainerStats {
        id: id.into(),
        pod,
        name,
        at: coracle_clock::now(),
        cpu_usage_nanos: usage.cpu_nanos,
        pids: usage.pids,
        ..ContainerStats::default()
    }
    .with_memory(usage.memory_bytes, |name| cgroup::line(&usage.memory, name))
}

fn of_engine(id: &str, pod: PodRef, name: String, sample: &ContainerStatsResponse) -> ContainerStats {
    let cpu = sample.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage);
    let memory = sample.memory_stats.as_ref();
    let usage = memory.and_then(|memory| memory.usage).unwrap_or_default();
    let details = memory.and_then(|memory| memory.stats.as_ref());
    ContainerStats {
        id: id.into(),
        pod,
        name,
        at: sample.read.as_deref().and_then(|time| time.parse().ok()).unwrap_or_else(coracle_clock::now),
        cpu_usage_nanos: cpu.unwrap_or_default(),
        pids: sample.pids_stats.as_ref().and_then(|pids| pids.current).unwrap_or_default(),
        ..ContainerStats::default()
    }
    .with_memory(usage, |name| details?.get(name).copied())
}

impl ContainerStats {
    /// With the lines of `memory.stat`: version 1 counts descendants under `total_…`, version 2 always does.
    fn with_memory(self, usage: u64, line: impl Fn(&str) -> Option<u64>) -> Self {
        let detail = |names: [&str; 2]| names.into_iter().find_map(&line).unwrap_or_default();
        ContainerStats {
            memory_usage_bytes: usage,
            memory_working_set_bytes: usage.saturating_sub(detail(["total_inactive_file", "inactive_file"])),
            memory_rss_bytes: detail(["total_rss", "anon"]),
            page_faults: detail(["total_pgfault", "pgfault"]),
            major_page_faults: detail(["total_pgmajfault", "pgmajfault"]),
            ..self
        }
    }
}
