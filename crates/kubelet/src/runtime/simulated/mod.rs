//! Containers that only pretend: a [`Runtime`] that plays pods by rules, in tokio's time.
//!
//! With a paused clock a day of a cluster's life takes seconds, and with a seed it is always the same day. Each
//! [`Rule`] says what some containers do: how long they run, how they end, when their probes succeed, what they use
//! (a [`SimulationPolicy`] is such rules in YAML); and simple commands (`sleep 5`, `false`) do what they say. What a
//! machine holds, an [`InstanceType`] knows. [`SimulatedRuntime`] is a [`Prober`] too, for there is
//! nothing behind a simulated pod's address.

mod behaviour;
mod curve;
mod exec;
mod instance_type;
pub mod policy;
mod world;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::BroadcastStream;

pub use behaviour::{Behaviour, Rule, SimulatedConfig};
pub use curve::{Amount, Curve, Span};
pub use instance_type::InstanceType;
pub use policy::SimulationPolicy;

use self::world::{Container, World};
use super::{
    ByteStream, ContainerConfig, ContainerEvent, ContainerFilter, ContainerState, ContainerStats, ContainerStatus,
    ExecOptions, ExecOutput, ImageInfo, ImageUser, LogChunk, LogOptions, OutputChunk, OutputStream, PodRef,
    RegistryAuth, Resources, Result, Runtime, RuntimeError, RuntimeVersion, SandboxConfig, SandboxFilter, SandboxState,
    SandboxStatus, Session,
};
use crate::probes::{Check, Outcome, Prober};

/// A runtime that plays pods by rules. Clones share their state.
#[derive(Clone)]
pub struct SimulatedRuntime {
    world: Arc<World>,
}

impl SimulatedRuntime {
    /// A machine on which nothing runs yet.
    pub fn new(config: SimulatedConfig) -> SimulatedRuntime {
        SimulatedRuntime { world: Arc::new(World::new(config)) }
    }

    /// Stops the engine (`true`) or lets it answer again. Containers run on meanwhile.
    pub fn set_down(&self, down: bool) {
        self.world.set_down(down);
    }

    /// Ends the process of a pod's container with an exit code, as if it had crashed. Whether it ran.
    pub fn crash(&self, namespace: &str, pod: &str, container: &str, exit_code: i32) -> bool {
        let found = self.find_running(namespace, pod, container);
        found.iter().for_each(|id| self.world.end(id, exit_code));
        found.is_some()
    }

    /// Lets the probes of a pod's running container fail, or succeed again.
    pub fn set_healthy(&self, namespace: &str, pod: &str, container: &str, healthy: bool) {
        if let Some(id) = self.find_running(namespace, pod, container)
            && let Some(container) = self.world.state().containers.get_mut(&id)
        {
            container.unhealthy = !healthy;
        }
    }

    /// Lets the running containers of a pod use so much each from now on: thousandths of a processor, and bytes.
    pub fn set_use(&self, namespace: &str, pod: &str, cpu_milli: u64, memory_bytes: u64) {
        let mut state = self.world.state();
        let of_pod =
            |c: &&mut Container| (c.status.pod.namespace.as_str(), c.status.pod.name.as_str()) == (namespace, pod);
        state.containers.values_mut().filter(of_pod).for_each(|c| c.set_use(cpu_milli, memory_bytes));
    }

    /// Lets a pod's share of the traffic use so much from now on, in thousandths of a processor, besides what its
    /// behaviour says: its running containers share it.
    pub fn set_load(&self, namespace: &str, pod: &str, cpu_milli: f64) {
        let mut state = self.world.state();
        let running = |c: &&mut Container| {
            c.status.state == ContainerState::Running
                && (c.status.pod.namespace.as_str(), c.status.pod.name.as_str()) == (namespace, pod)
        };
        let containers: Vec<&mut Container> = state.containers.values_mut().filter(running).collect();
        let each = cpu_milli / containers.len().max(1) as f64;
        containers.into_iter().for_each(|container| container.set_load(each));
    }

    /// What the pods here use without the traffic, in thousandths of a processor, by namespace and name.
    pub fn own_use(&self) -> BTreeMap<(String, String), f64> {
        let now = coracle_clock::now();
        let mut used: BTreeMap<_, f64> = BTreeMap::new();
        for container in self.world.state().containers.values() {
            let pod = &container.status.pod;
            *used.entry((pod.namespace.clone(), pod.name.clone())).or_default() += container.own_cpu_milli(now);
        }
        used
    }

    /// What runs here uses now: thousandths of a processor, and bytes.
    pub fn total_use(&self) -> (f64, u64) {
        let now = coracle_clock::now();
        let state = self.world.state();
        let running = state.containers.values().filter(|c| c.status.state == ContainerState::Running);
        running.fold((0.0, 0), |(cpu, memory), c| {
            (cpu + c.own_cpu_milli(now) + c.load_milli, memory + c.memory_bytes(now))
        })
    }

    fn find_running(&self, namespace: &str, pod: &str, container: &str) -> Option<String> {
        let state = self.world.state();
        let mut statuses = state.containers.values().map(|c| &c.status);
        let found = statuses.find(|s| {
            s.state == ContainerState::Running
                && (s.pod.namespace.as_str(), s.pod.name.as_str(), s.name.as_str()) == (namespace, pod, container)
        });
        found.map(|s| s.id.clone())
    }
}

/// What the ids of a pod's things begin with, so that they lie together.
fn id_prefix(pod_uid: &str) -> String {
    let mut hasher = DefaultHasher::new();
    pod_uid.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// An id as long as Docker's.
fn new_id(pod: &PodRef) -> String {
    let random = (0..3).map(|_| format!("{:016x}", coracle_clock::random_u64()));
    std::iter::once(id_prefix(&pod.uid)).chain(random).collect()
}

/// What there is of one pod, or of all.
fn of_pod<'a, T>(all: &'a BTreeMap<String, T>, pod_uid: Option<&String>) -> impl Iterator<Item = &'a T> {
    let prefix = pod_uid.map(|uid| id_prefix(uid)).unwrap_or_default();
    all.range(prefix.clone()..).take_while(move |(id, _)| id.starts_with(&prefix)).map(|(_, thing)| thing)
}

/// A session of a command that has ended.
fn session(output: ExecOutput) -> Session {
    let (resize, _) = mpsc::channel(1);
    let said = [(OutputStream::Stdout, output.stdout), (OutputStream::Stderr, output.stderr)];
    let chunks = said.into_iter().filter(|(_, data)| !data.is_empty());
    let chunks = chunks.map(|(stream, data)| Ok(OutputChunk { stream, data: Bytes::from(data) }));
    let exit_code = Box::pin(async move { Ok(output.exit_code) });
    Session { stdin: None, output: stream::iter(chunks.collect::<Vec<_>>()).boxed(), resize, exit_code }
}

fn not_found(id: &str) -> RuntimeError {
    RuntimeError::NotFound(id.to_owned())
}

fn image_info(image: &str) -> ImageInfo {
    ImageInfo {
        id: format!("sha256:{image}"),
        tags: vec![image.to_owned()],
        digests: Vec::new(),
        size_bytes: 50 << 20,
        user: ImageUser::Uid(1000),
    }
}

#[async_trait]
impl Runtime for SimulatedRuntime {
    async fn version(&self) -> Result<RuntimeVersion> {
        drop(self.world.up()?);
        Ok(RuntimeVersion {
            name: "simulated".into(),
            version: "1.0".into(),
            kernel: "simulated".into(),
            os_image: "Simulated Linux".into(),
            architecture: "amd64".into(),
            cpus: self.world.config.cpus,
            memory_bytes: self.world.config.memory_bytes,
        })
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        drop(self.world.up()?);
        coracle_clock::sleep(self.world.config.sandbox_delay).await;
        let sandbox = SandboxStatus {
            id: new_id(&config.pod),
            pod: config.pod.clone(),
            attempt: config.attempt,
            state: SandboxState::Ready,
            created_at: coracle_clock::now(),
            ip: config.ip,
            host_network: config.host_network,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        };
        let id = sandbox.id.clone();
        self.world.up()?.sandboxes.insert(id.clone(), sandbox);
        Ok(id)
    }

    async fn stop_sandbox(&self, sandbox_id: &str) -> Result<()> {
        self.world.stop_sandbox(sandbox_id)
    }

    async fn remove_sandbox(&self, sandbox_id: &str) -> Result<()> {
        self.world.stop_sandbox(sandbox_id)?;
        let mut state = self.world.up()?;
        state.containers.retain(|_, container| container.status.sandbox_id != sandbox_id);
        state.sandboxes.remove(sandbox_id);
        Ok(())
    }

    async fn sandbox_status(&self, sandbox_id: &str) -> Result<SandboxStatus> {
        self.world.up()?.sandboxes.get(sandbox_id).cloned().ok_or_else(|| not_found(sandbox_id))
    }

    async fn list_sandboxes(&self, filter: &SandboxFilter) -> Result<Vec<SandboxStatus>> {
        let state = self.world.up()?;
        let wanted = |s: &&SandboxStatus| {
            filter.pod_uid.as_ref().is_none_or(|uid| *uid == s.pod.uid)
                && filter.state.is_none_or(|state| state == s.state)
        };
        let mut found: Vec<_> = of_pod(&state.sandboxes, filter.pod_uid.as_ref()).filter(wanted).cloned().collect();
        found.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        Ok(found)
    }

    async fn create_container(&self, sandbox_id: &str, config: &ContainerConfig) -> Result<String> {
        let mut state = self.world.up()?;
        if !state.images.contains(&config.image) {
            return Err(RuntimeError::ImageNotFound(config.image.clone()));
        }
        if state.sandboxes.get(sandbox_id).is_none_or(|sandbox| sandbox.state != SandboxState::Ready) {
            return Err(not_found(sandbox_id));
        }
        let behaviour = self.world.behaviour(&state.sandboxes[sandbox_id].labels, config);
        let status = ContainerStatus {
            id: new_id(&config.pod),
            sandbox_id: sandbox_id.to_owned(),
            pod: config.pod.clone(),
            name: config.name.clone(),
            attempt: config.attempt,
            state: ContainerState::Created,
            created_at: coracle_clock::now(),
            started_at: None,
            finished_at: None,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: config.image.clone(),
            image_id: image_info(&config.image).id,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        };
        let id = status.id.clone();
        state.containers.insert(
            id.clone(),
            Container {
                status,
                behaviour,
                memory_limit: config.resources.memory_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
                env: config.env.clone(),
                unhealthy: false,
                cpu: (0, None),
                load_milli: 0.0,
            },
        );
        Ok(id)
    }

    async fn start_container(&self, container_id: &str) -> Result<()> {
        let delay = {
            let state = self.world.up()?;
            state.containers.get(container_id).ok_or_else(|| not_found(container_id))?.behaviour.start_delay
        };
        coracle_clock::sleep(delay).await;
        self.world.run(container_id)
    }

    async fn stop_container(&self, container_id: &str, grace: Duration) -> Result<()> {
        self.world.stop(container_id, grace).await
    }

    async fn remove_container(&self, container_id: &str) -> Result<()> {
        drop(self.world.up()?);
        self.world.end(container_id, 137);
        self.world.up()?.containers.remove(container_id);
        Ok(())
    }

    async fn container_status(&self, container_id: &str) -> Result<ContainerStatus> {
        let state = self.world.up()?;
        state.containers.get(container_id).map(|c| c.status.clone()).ok_or_else(|| not_found(container_id))
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<ContainerStatus>> {
        let state = self.world.up()?;
        let wanted = |s: &&ContainerStatus| {
            filter.pod_uid.as_ref().is_none_or(|uid| *uid == s.pod.uid)
                && filter.sandbox_id.as_ref().is_none_or(|id| *id == s.sandbox_id)
                && filter.state.is_none_or(|state| state == s.state)
        };
        let statuses = of_pod(&state.containers, filter.pod_uid.as_ref()).map(|c| &c.status);
        let mut found: Vec<_> = statuses.filter(wanted).cloned().collect();
        found.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        Ok(found)
    }

    async fn update_resources(&self, container_id: &str, _: &Resources) -> Result<()> {
        self.container_status(container_id).await.map(drop)
    }

    async fn exec_sync(&self, container_id: &str, _: &[String], _: Option<Duration>) -> Result<ExecOutput> {
        match self.container_status(container_id).await?.state {
            ContainerState::Running => Ok(ExecOutput::default()),
            _ => Err(RuntimeError::NotRunning(container_id.to_owned())),
        }
    }

    async fn exec(&self, container_id: &str, options: &ExecOptions) -> Result<Session> {
        self.exec_sync(container_id, &[], None).await?;
        let state = self.world.up()?;
        let container = state.containers.get(container_id).ok_or_else(|| not_found(container_id))?;
        Ok(session(exec::run(&options.command, &container.status.pod.name, &container.env)))
    }

    async fn attach(&self, container_id: &str, _: &ExecOptions) -> Result<Session> {
        Ok(session(self.exec_sync(container_id, &[], None).await?))
    }

    async fn port_forward(&self, _: &str, port: u16) -> Result<Box<dyn ByteStream>> {
        Err(RuntimeError::Other(format!("nothing listens on port {port}: the pod is simulated")))
    }

    async fn logs(&self, container_id: &str, options: &LogOptions) -> Result<BoxStream<'static, Result<LogChunk>>> {
        let mut events = self.world.subscribe();
        let (lines, status) = {
            let state = self.world.up()?;
            let container = state.containers.get(container_id).ok_or_else(|| not_found(container_id))?;
            (container.behaviour.log_lines.clone(), container.status.clone())
        };
        let skipped = options
            .tail_lines
            .map_or(0, |tail| lines.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX)));
        let at = status.started_at;
        let wanted = at.is_some() && options.since.is_none_or(|since| at >= Some(since));
        let chunks =
            lines.into_iter().skip(skipped).filter(move |_| wanted).map(move |line| {
                Ok(LogChunk { stream: OutputStream::Stdout, at, data: Bytes::from(format!("{line}\n")) })
            });
        let written = stream::iter(chunks);
        if !options.follow || status.state != ContainerState::Running {
            return Ok(written.boxed());
        }
        let until_end = stream::once(async move {
            while let Ok(event) = events.recv().await {
                if event.id == status.id && event.exit_code.is_some() {
                    break;
                }
            }
        });
        Ok(written.chain(until_end.filter_map(async |()| None)).boxed())
    }

    async fn container_stats(&self, container_id: &str) -> Result<ContainerStats> {
        let state = self.world.up()?;
        let container = state.containers.get(container_id).ok_or_else(|| not_found(container_id))?;
        let now = coracle_clock::now();
        let memory = container.memory_bytes(now);
        Ok(ContainerStats {
            id: container_id.to_owned(),
            pod: container.status.pod.clone(),
            name: container.status.name.clone(),
            at: now,
            cpu_usage_nanos: container.cpu_nanos(now),
            memory_usage_bytes: memory,
            memory_working_set_bytes: memory,
            memory_rss_bytes: memory,
            pids: 1,
            ..ContainerStats::default()
        })
    }

    async fn list_stats(&self) -> Result<Vec<ContainerStats>> {
        let running = ContainerFilter { state: Some(ContainerState::Running), ..ContainerFilter::default() };
        let mut all = Vec::new();
        for container in self.list_containers(&running).await? {
            all.push(self.container_stats(&container.id).await?);
        }
        Ok(all)
    }

    async fn pull_image(&self, image: &str, _: Option<&RegistryAuth>) -> Result<String> {
        drop(self.world.up()?);
        coracle_clock::sleep(self.world.config.pull_delay).await;
        if self.world.config.missing_images.iter().any(|missing| image.contains(missing)) {
            return Err(RuntimeError::ImagePull(format!(
                "pull access denied for {image}, repository does not exist or may require 'docker login': denied"
            )));
        }
        self.world.up()?.images.insert(image.to_owned());
        Ok(image_info(image).id)
    }

    async fn image_status(&self, image: &str) -> Result<Option<ImageInfo>> {
        if image.is_empty() || image.contains(|c: char| c.is_whitespace()) {
            return Err(RuntimeError::InvalidImageName(image.to_owned()));
        }
        Ok(self.world.up()?.images.get(image).map(|image| image_info(image)))
    }

    async fn list_images(&self) -> Result<Vec<ImageInfo>> {
        Ok(self.world.up()?.images.iter().map(|image| image_info(image)).collect())
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        self.world.up()?.images.remove(image);
        Ok(())
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<ContainerEvent>>> {
        drop(self.world.up()?);
        let lost = || RuntimeError::EngineDown("the listener was too slow".into());
        Ok(BroadcastStream::new(self.world.subscribe()).map(move |event| event.map_err(|_| lost())).boxed())
    }
}

#[async_trait]
impl Prober for SimulatedRuntime {
    async fn probe(&self, container_id: &str, _: &Check, _: Duration) -> Outcome {
        let state = self.world.state();
        let Some(container) = state.containers.get(container_id) else {
            return Outcome::Unknown("container not found".into());
        };
        let up_for = container.status.started_at.map(|at| coracle_clock::now().duration_since(at));
        let ready = up_for.is_some_and(|up_for| up_for.unsigned_abs() >= container.behaviour.ready_after);
        if container.status.state == ContainerState::Running && ready && !container.unhealthy {
            Outcome::Success
        } else {
            Outcome::Failure("HTTP probe failed with statuscode: 503".into())
        }
    }
}
