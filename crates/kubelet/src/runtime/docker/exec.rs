//! Sessions with processes: exec and attach.

use std::pin::Pin;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::query_parameters::{AttachContainerOptions, ResizeContainerTTYOptions, WaitContainerOptions};
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;

use super::DockerRuntime;
use super::error::{refusal, translate};
use crate::runtime::{ExecOptions, ExecOutput, OutputChunk, OutputStream, Result, RuntimeError, Session, TerminalSize};

/// Docker watches terminals for a key sequence that detaches (Ctrl-P Ctrl-Q unless told otherwise) and holds its first
/// key back until the next one. This one begins with a key that nobody's shell needs, and nobody types it.
const DETACH_KEYS: &str = "ctrl-\\,ctrl-@,ctrl-\\,ctrl-@";
/// Sizes that wait for a terminal that is slow to resize; only the last one matters.
const PENDING_SIZES: usize = 8;
/// Between two looks at whether a command has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

type DockerOutput = Pin<Box<dyn Stream<Item = std::result::Result<LogOutput, bollard::errors::Error>> + Send>>;

impl DockerRuntime {
    pub(super) async fn exec_sync_impl(
        &self,
        container_id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput> {
        let options = ExecOptions { command: command.to_vec(), stdout: true, stderr: true, ..Default::default() };
        let (exec_id, mut session) = self.start_exec(container_id, &options).await?;
        let run = async {
            let mut output = ExecOutput::default();
            while let Some(chunk) = session.output.try_next().await? {
                match chunk.stream {
                    OutputStream::Stdout => output.stdout.extend_from_slice(&chunk.data),
                    OutputStream::Stderr => output.stderr.extend_from_slice(&chunk.data),
                }
            }
            output.exit_code = session.exit_code.await?;
            Ok(output)
        };
        let Some(limit) = timeout else { return run.await };
        match coracle_clock::timeout(limit, run).await {
            Ok(output) => output,
            Err(_) => {
                self.kill_exec(container_id, &exec_id).await;
                Err(RuntimeError::Timeout(limit))
            }
        }
    }

    /// Kills a command as far as that is possible: Docker has no call for it, so its process is killed from here when
    /// it runs on this machine, which the control group it is in proves.
    async fn kill_exec(&self, container_id: &str, exec_id: &str) {
        let Ok(exec) = self.docker.inspect_exec(exec_id).await else { return };
        let pid = exec.pid.filter(|_| exec.running == Some(true)).and_then(|pid| i32::try_from(pid).ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { return };
        let groups = tokio::fs::read_to_string(format!("/proc/{pid}/cgroup")).await.unwrap_or_default();
        if !groups.contains(container_id) {
            return;
        }
        if let Err(error) = kill_process(pid, Signal::KILL) {
            tracing::debug!(%error, "could not kill a command that took too long");
        }
    }

    pub(super) async fn exec_impl(&self, container_id: &str, options: &ExecOptions) -> Result<Session> {
        Ok(self.start_exec(container_id, options).await?.1)
    }

    async fn start_exec(&self, container_id: &str, options: &ExecOptions) -> Result<(String, Session)> {
        let create = CreateExecOptions {
            attach_stdin: Some(options.stdin),
            attach_stdout: Some(options.stdout),
            attach_stderr: Some(options.stderr && !options.tty),
            tty: Some(options.tty),
            cmd: Some(options.command.clone()),
            detach_keys: Some(DETACH_KEYS.to_string()),
            ..Default::default()
        };
        let failed = |error| match refusal(&error) {
            Some((409, _)) => RuntimeError::NotRunning(container_id.into()),
            _ => translate(container_id, error),
        };
        let exec_id = self.docker.create_exec(container_id, create).await.map_err(failed)?.id;
        let start = StartExecOptions { detach: false, tty: options.tty, output_capacity: None };
        let StartExecResults::Attached { output, input } =
            self.docker.start_exec(&exec_id, Some(start)).await.map_err(failed)?
        else {
            return Err(RuntimeError::Other("Docker detached from a command that was to be attached".into()));
        };

        let (resize, sizes) = mpsc::channel(PENDING_SIZES);
        if options.tty {
            let (docker, exec_id) = (self.docker.clone(), exec_id.clone());
            resize_from(sizes, move |size| {
                let (docker, exec_id) = (docker.clone(), exec_id.clone());
                let options = ResizeExecOptions { width: size.width, height: size.height };
                async move { docker.resize_exec(&exec_id, options).await }
            });
        }
        let (docker, id) = (self.docker.clone(), exec_id.clone());
        let exit_code = async move {
            // The output may end a moment before the engine has noted the exit.
            loop {
                let exec = docker.inspect_exec(&id).await.map_err(|error| translate(&id, error))?;
                match exec.exit_code {
                    Some(code) if exec.running != Some(true) => return Ok(code.try_into().unwrap_or(-1)),
                    _ => coracle_clock::sleep(POLL_INTERVAL).await,
                }
            }
        };
        let stdin = options.stdin.then_some(input);
        Ok((exec_id, Session { stdin, output: chunks(output), resize, exit_code: exit_code.boxed() }))
    }

    pub(super) async fn attach_impl(&self, container_id: &str, options: &ExecOptions) -> Result<Session> {
        let inspected = self.docker.inspect_container(container_id, None).await;
        let state = inspected.map_err(|error| translate(container_id, error))?.state.unwrap_or_default();
        if state.running != Some(true) {
            return Err(RuntimeError::NotRunning(container_id.into()));
        }
        let attach = AttachContainerOptions {
            stream: true,
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
            detach_keys: Some(DETACH_KEYS.into()),
            ..Default::default()
        };
        let attached = self.docker.attach_container(container_id, Some(attach)).await;
        let attached = attached.map_err(|error| translate(container_id, error))?;

        let (resize, sizes) = mpsc::channel(PENDING_SIZES);
        if options.tty {
            let (docker, id) = (self.docker.clone(), container_id.to_string());
            resize_from(sizes, move |size| {
                let (docker, id) = (docker.clone(), id.clone());
                let options = ResizeContainerTTYOptions { w: size.width.into(), h: size.height.into() };
                async move { docker.resize_container_tty(&id, options).await }
            });
        }
        let (docker, id) = (self.patient.clone(), container_id.to_string());
        let exit_code = async move {
            let options = WaitContainerOptions { condition: "not-running".into() };
            match docker.wait_container(&id, Some(options)).next().await {
                Some(Ok(exited)) => Ok(exited.status_code.try_into().unwrap_or(-1)),
                // So the client library words an exit code other than zero.
                Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => {
                    Ok(code.try_into().unwrap_or(-1))
                }
                Some(Err(error)) => Err(translate(&id, error)),
                None => Err(RuntimeError::EngineDown("no answer to waiting for a container".into())),
            }
        };
        let stdin = options.stdin.then_some(attached.input);
        Ok(Session { stdin, output: chunks(attached.output), resize, exit_code: exit_code.boxed() })
    }
}

fn chunks(output: DockerOutput) -> BoxStream<'static, Result<OutputChunk>> {
    let chunk = |output| match output {
        LogOutput::StdErr { message } => OutputChunk { stream: OutputStream::Stderr, data: message },
        LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
            OutputChunk { stream: OutputStream::Stdout, data: message }
        }
    };
    output.map(move |result| result.map(chunk).map_err(|error| translate("session", error))).boxed()
}

/// Applies sizes as they come until the session drops its sender.
fn resize_from<F, R>(mut sizes: mpsc::Receiver<TerminalSize>, resize: F)
where
    F: Fn(TerminalSize) -> R + Send + 'static,
    R: Future<Output = std::result::Result<(), bollard::errors::Error>> + Send,
{
    tokio::spawn(async move {
        while let Some(size) = sizes.recv().await {
            // A client without a terminal of its own reports nothing.
            if size.width == 0 || size.height == 0 {
                continue;
            }
            if let Err(error) = resize(size).await {
                tracing::debug!(%error, "could not resize a terminal");
            }
        }
    });
}
