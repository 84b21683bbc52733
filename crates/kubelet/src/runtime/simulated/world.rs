//! The state of a simulated machine, and what happens in it as time passes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::broadcast;

use super::behaviour::{Behaviour, SimulatedConfig};
use crate::runtime::{
    ContainerConfig, ContainerEvent, ContainerEventKind, ContainerState, ContainerStatus, PodRef, Result, RuntimeError,
    SandboxState, SandboxStatus,
};

/// Events beyond these make a slow listener relist.
const EVENTS_KEPT: usize = 4096;

pub(super) struct Container {
    pub(super) status: ContainerStatus,
    pub(super) behaviour: Behaviour,
    /// Set by tests and scenarios to fail its probes.
    pub(super) unhealthy: bool,
    /// The processor time used until some moment; since then it has used as much as its behaviour says.
    pub(super) cpu: (u64, Option<Timestamp>),
}

impl Container {
    /// The processor time used so far, in nanoseconds.
    pub(super) fn cpu_nanos(&self, now: Timestamp) -> u64 {
        let since = self.cpu.1.filter(|_| self.status.state == ContainerState::Running);
        let nanos = since.map_or(0, |since| u64::try_from(now.duration_since(since).as_nanos()).unwrap_or(0));
        self.cpu.0 + nanos / 1000 * self.behaviour.cpu_milli
    }

    /// From now on it uses so much.
    pub(super) fn set_use(&mut self, cpu_milli: u64, memory_bytes: u64) {
        let now = coracle_clock::now();
        self.cpu = (self.cpu_nanos(now), Some(now));
        (self.behaviour.cpu_milli, self.behaviour.memory_bytes) = (cpu_milli, memory_bytes);
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) down: bool,
    pub(super) sandboxes: BTreeMap<String, SandboxStatus>,
    pub(super) containers: BTreeMap<String, Container>,
    pub(super) images: BTreeSet<String>,
}

pub(super) struct World {
    pub(super) config: SimulatedConfig,
    state: Mutex<State>,
    events: Mutex<broadcast::Sender<ContainerEvent>>,
}

impl World {
    pub(super) fn new(config: SimulatedConfig) -> World {
        World { config, state: Mutex::default(), events: Mutex::new(broadcast::Sender::new(EVENTS_KEPT)) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The state, if the engine answers.
    pub(super) fn up(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.down { Err(RuntimeError::EngineDown("simulated outage".into())) } else { Ok(state) }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<ContainerEvent> {
        self.events.lock().unwrap_or_else(std::sync::PoisonError::into_inner).subscribe()
    }

    /// Stops or resumes the engine; containers run on meanwhile, and listeners are cut off.
    pub(super) fn set_down(&self, down: bool) {
        self.state().down = down;
        if down {
            *self.events.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
                broadcast::Sender::new(EVENTS_KEPT);
        }
    }

    fn tell(&self, id: &str, pod: &PodRef, container: Option<&str>, kind: ContainerEventKind, exit_code: Option<i32>) {
        let event = ContainerEvent {
            id: id.to_owned(),
            pod: pod.clone(),
            container: container.map(str::to_owned),
            kind,
            exit_code,
        };
        // Nobody may be listening.
        let _ = self.events.lock().unwrap_or_else(std::sync::PoisonError::into_inner).send(event);
    }

    /// What a container with this configuration does.
    pub(super) fn behaviour(&self, config: &ContainerConfig) -> Behaviour {
        let rule = self.config.rules.iter().find(|rule| config.image.contains(&rule.image));
        rule.map_or_else(Behaviour::default, |rule| rule.behaviour.clone()).with_command(config)
    }

    /// Starts a container's process and lets its life take its course.
    pub(super) fn run(self: &Arc<Self>, id: &str) -> Result<()> {
        let mut state = self.up()?;
        let container = state.containers.get_mut(id).ok_or_else(|| RuntimeError::NotFound(id.into()))?;
        container.status.state = ContainerState::Running;
        container.status.started_at = Some(coracle_clock::now());
        container.cpu.1 = container.status.started_at;
        let (pod, name) = (container.status.pod.clone(), container.status.name.clone());
        let behaviour = container.behaviour.clone();
        drop(state);
        self.tell(id, &pod, Some(&name), ContainerEventKind::Started, None);
        // An exponential distribution: a crash is as likely in one minute as in any other.
        let crash = behaviour.mean_time_between_crashes.map(|mean| {
            let after = mean.mul_f64(-(1.0 - coracle_clock::random_unit()).ln());
            (after, 1)
        });
        let end = [behaviour.ends, crash].into_iter().flatten().min();
        if let Some((after, exit_code)) = end {
            let (world, id) = (self.clone(), id.to_owned());
            tokio::spawn(async move {
                coracle_clock::sleep(after).await;
                world.end(&id, exit_code);
            });
        }
        Ok(())
    }

    /// Ends a container's process, if it runs.
    pub(super) fn end(&self, id: &str, exit_code: i32) {
        let mut state = self.state();
        let Some(container) = state.containers.get_mut(id).filter(|c| c.status.state == ContainerState::Running) else {
            return;
        };
        let status = &mut container.status;
        status.state = ContainerState::Exited;
        status.exit_code = exit_code;
        status.finished_at = Some(coracle_clock::now());
        status.reason = if exit_code == 0 { "Completed" } else { "Error" }.into();
        let (pod, name) = (status.pod.clone(), status.name.clone());
        drop(state);
        self.tell(id, &pod, Some(&name), ContainerEventKind::Died, Some(exit_code));
    }

    /// Stops a container within its grace period.
    pub(super) async fn stop(&self, id: &str, grace: Duration) -> Result<()> {
        let delay = match self.up()?.containers.get(id) {
            Some(c) if c.status.state == ContainerState::Running => c.behaviour.stop_delay,
            Some(_) => return Ok(()),
            None => return Err(RuntimeError::NotFound(id.into())),
        };
        coracle_clock::sleep(delay.min(grace)).await;
        self.end(id, if delay > grace { 137 } else { 0 });
        Ok(())
    }

    /// Stops a sandbox, and at once all that runs in it.
    pub(super) fn stop_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.up()?;
        let Some(sandbox) = state.sandboxes.get_mut(id) else { return Ok(()) };
        let was_ready = sandbox.state == SandboxState::Ready;
        sandbox.state = SandboxState::NotReady;
        sandbox.ip = None;
        let pod = sandbox.pod.clone();
        let inside: Vec<String> =
            state.containers.values().filter(|c| c.status.sandbox_id == id).map(|c| c.status.id.clone()).collect();
        drop(state);
        inside.iter().for_each(|id| self.end(id, 137));
        if was_ready {
            self.tell(id, &pod, None, ContainerEventKind::Died, Some(0));
        }
        Ok(())
    }
}
