//! Looking: what the runtime shows of the pod.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Container;

use super::PodWorker;
use crate::container::termination_log;
use crate::observed::{containers, init_containers};
use crate::runtime::{ContainerFilter, ContainerState, ContainerStatus, LogOptions, RuntimeError, SandboxFilter};

/// No more of a termination log is shown than this.
const MESSAGE_MAX_BYTES: usize = 4096;
/// Of a log that stands in for one, as upstream.
const LOG_MESSAGE_MAX_BYTES: usize = 2048;
const LOG_MESSAGE_MAX_LINES: u64 = 80;

impl PodWorker {
    /// Asks the runtime, if anything may have changed since it was last asked.
    pub(super) async fn observe(&mut self) -> Result<(), RuntimeError> {
        if !self.signals.runtime_changed.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        let result = self.ask_runtime().await;
        if result.is_err() {
            self.signals.runtime_changed.store(true, Ordering::SeqCst);
        }
        result
    }

    /// Asks the runtime, for something was just done there.
    pub(super) async fn observe_again(&mut self) -> Result<(), RuntimeError> {
        self.signals.runtime_changed.store(true, Ordering::SeqCst);
        self.observe().await
    }

    async fn ask_runtime(&mut self) -> Result<(), RuntimeError> {
        let runtime = self.shared.runtime.clone();
        let sandboxes = SandboxFilter { pod_uid: Some(self.uid.clone()), state: None };
        let filter = ContainerFilter { pod_uid: Some(self.uid.clone()), ..ContainerFilter::default() };
        let (sandboxes, containers) =
            futures::future::try_join(runtime.list_sandboxes(&sandboxes), runtime.list_containers(&filter)).await?;
        let known = std::mem::take(&mut self.observed.containers);
        self.observed.sandboxes = sandboxes;
        for mut container in containers {
            let before = known.iter().find(|c| c.id == container.id);
            if container.state == ContainerState::Exited && container.message.is_empty() {
                container.message = match before.filter(|c| c.state == ContainerState::Exited) {
                    Some(before) => before.message.clone(),
                    None => self.last_words(&container).await,
                };
            }
            self.observed.containers.push(container);
        }
        if self.ip.is_none()
            && let Some(ip) = self.observed.ready_sandbox().and_then(|sandbox| sandbox.ip)
        {
            // An adopted sandbox.
            self.shared.ips.reserve(ip);
            self.ip = Some(ip);
        }
        Ok(())
    }

    fn definition(&self, name: &str) -> Option<&Container> {
        containers(&self.pod).iter().chain(init_containers(&self.pod)).find(|c| c.name == name)
    }

    /// What an ended container left in its termination log, or, if it asked for that and failed, the end of its log.
    async fn last_words(&self, ended: &ContainerStatus) -> String {
        if self.shared.config.on_disk {
            let path = termination_log(&self.shared.pod_dir(&self.uid), &ended.name, ended.attempt);
            let mut text = std::fs::read(path).unwrap_or_default();
            text.truncate(MESSAGE_MAX_BYTES);
            if !text.is_empty() {
                return String::from_utf8_lossy(&text).into_owned();
            }
        }
        let policy = self.definition(&ended.name).and_then(|c| c.termination_message_policy.as_deref());
        if policy != Some("FallbackToLogsOnError") || ended.exit_code == 0 {
            return String::new();
        }
        let options = LogOptions { tail_lines: Some(LOG_MESSAGE_MAX_LINES), ..LogOptions::default() };
        let Ok(lines) = self.shared.runtime.logs(&ended.id, &options).await else { return String::new() };
        let chunks: Vec<Bytes> = lines.filter_map(async |chunk| chunk.ok().map(|chunk| chunk.data)).collect().await;
        let text = chunks.concat();
        let from = text.len().saturating_sub(LOG_MESSAGE_MAX_BYTES);
        String::from_utf8_lossy(&text[from..]).into_owned()
    }
}
