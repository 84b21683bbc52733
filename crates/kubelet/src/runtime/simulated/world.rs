//! The state of a simulated machine, and what happens in it as time passes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::broadcast;

use super::Curve;
use super::behaviour::{Behaviour, SimulatedConfig};
use crate::runtime::{
    ContainerConfig, ContainerEvent, ContainerEventKind, ContainerState, ContainerStatus, EnvVar, PodRef, Result,
    RuntimeError, SandboxState, SandboxStatus,
};

/// Events beyond these make a slow listener relist.
const EVENTS_KEPT: usize = 256;

pub(super) struct Container {
    pub(super) status: ContainerStatus,
    pub(super) behaviour: Behaviour,
    /// In bytes.
    pub(super) memory_limit: Option<u64>,
    /// Its environment, for whoever asks by `exec`.
    pub(super) env: Vec<EnvVar>,
    /// Set by tests and scenarios to fail its probes.
    pub(super) unhealthy: bool,
    /// The processor time used until some moment, in nanoseconds; since then it has used as much as its behaviour says.
    pub(super) cpu: (i64, Option<Timestamp>),
    /// What it uses besides, in thousandths of a processor: its share of the traffic.
    pub(super) load_milli: f64,
}

/// What an ended container's status says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct End {
    pub(super) exit_code: i32,
    pub(super) reason: &'static str,
}

impl From<i32> for End {
    fn from(exit_code: i32) -> End {
        End { exit_code, reason: if exit_code == 0 { "Completed" } else { "Error" } }
    }
}

impl Container {
    /// For how long it has used what its behaviour says.
    fn using_for(&self, now: Timestamp) -> Duration {
        let since = self.cpu.1.filter(|_| self.status.state == ContainerState::Running);
        since.map_or(Duration::ZERO, |since| now.duration_since(since).try_into().unwrap_or_default())
    }

    /// The processor time used so far, in nanoseconds.
    pub(super) fn cpu_nanos(&self, now: Timestamp) -> u64 {
        let time = self.using_for(now);
        // A thousandth of a processor for a second is a million nanoseconds.
        let millis = self.behaviour.cpu_milli.area(time) + self.load_milli * time.as_secs_f64();
        u64::try_from(self.cpu.0 + (millis * 1e6) as i64).unwrap_or_default()
    }

    /// The processor time it uses now without the traffic, in thousandths of a processor.
    pub(super) fn own_cpu_milli(&self, now: Timestamp) -> f64 {
        let running = self.status.state == ContainerState::Running;
        if running { self.behaviour.cpu_milli.at(self.using_for(now)) } else { 0.0 }
    }

    /// The memory it uses now.
    pub(super) fn memory_bytes(&self, now: Timestamp) -> u64 {
        self.behaviour.memory_bytes.at(self.using_for(now)) as u64
    }

    /// From now on it uses so much.
    pub(super) fn set_use(&mut self, cpu_milli: u64, memory_bytes: u64) {
        let now = coracle_clock::now();
        self.cpu = (self.cpu_nanos(now) as i64, Some(now));
        self.behaviour.cpu_milli = Curve::level(cpu_milli as f64);
        self.behaviour.memory_bytes = Curve::level(memory_bytes as f64);
        self.load_milli = 0.0;
    }

    /// From now on its share of the traffic uses so much.
    pub(super) fn set_load(&mut self, milli: f64) {
        if self.load_milli != milli {
            // What the load was until now stays used; the behaviour goes on where it is.
            let past = (self.load_milli - milli) * self.using_for(coracle_clock::now()).as_secs_f64();
            self.cpu.0 += (past * 1e6) as i64;
            self.load_milli = milli;
        }
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

    /// What a container with this configuration does, in a pod with these labels.
    pub(super) fn behaviour(&self, labels: &BTreeMap<String, String>, config: &ContainerConfig) -> Behaviour {
        let rule = self.config.rules.iter().find(|rule| rule.fits(labels, config));
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
        let (behaviour, limit) = (container.behaviour.clone(), container.memory_limit);
        drop(state);
        self.tell(id, &pod, Some(&name), ContainerEventKind::Started, None);
        // An exponential distribution: a crash is as likely in one minute as in any other.
        let crash = behaviour.mean_time_between_crashes.map(|mean| {
            let after = mean.mul_f64(-(1.0 - coracle_clock::random_unit()).ln());
            (after, 1.into())
        });
        let bad_start = behaviour.crash.filter(|(share, _)| coracle_clock::random_unit() < *share);
        let oom = limit.and_then(|limit| behaviour.memory_bytes.first_above(limit as f64));
        let ends = [
            behaviour.ends.map(|(after, code)| (after, code.into())),
            crash,
            bad_start.map(|(_, after)| (after, 1.into())),
            oom.map(|after| (after, End { exit_code: 137, reason: "OOMKilled" })),
        ];
        if let Some((after, end)) = ends.into_iter().flatten().min_by_key(|(after, _): &(Duration, End)| *after) {
            let (world, id) = (self.clone(), id.to_owned());
            tokio::spawn(async move {
                coracle_clock::sleep(after).await;
                world.end(&id, end);
            });
        }
        Ok(())
    }

    /// Ends a container's process, if it runs.
    pub(super) fn end(&self, id: &str, end: impl Into<End>) {
        let End { exit_code, reason } = end.into();
        let mut state = self.state();
        let Some(container) = state.containers.get_mut(id).filter(|c| c.status.state == ContainerState::Running) else {
            return;
        };
        let now = coracle_clock::now();
        container.cpu = (container.cpu_nanos(now) as i64, None);
        let status = &mut container.status;
        status.state = ContainerState::Exited;
        status.exit_code = exit_code;
        status.finished_at = Some(now);
        status.reason = reason.into();
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
