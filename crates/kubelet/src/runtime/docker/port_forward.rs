//! Port-forward: a connection to a port of a pod.
//!
//! Programs often listen on the pod's loopback only, so the connection is made from inside the pod's network
//! namespace where the kubelet may enter it (`CAP_SYS_ADMIN`, and the engine on the same machine). Elsewhere the
//! pod's address is dialled from outside.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::DockerRuntime;
use super::error::translate;
use crate::runtime::{ByteStream, Result, RuntimeError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl DockerRuntime {
    pub(super) async fn port_forward_impl(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn ByteStream>> {
        let inspected = self.docker.inspect_container(sandbox_id, None).await;
        let sandbox = inspected.map_err(|error| translate(sandbox_id, error))?;
        let pid = sandbox.state.as_ref().filter(|state| state.running == Some(true)).and_then(|state| state.pid);
        let Some(pid) = pid.filter(|pid| *pid > 0) else {
            return Err(RuntimeError::NotRunning(sandbox_id.into()));
        };
        let stream = match connect_inside(pid, port).await {
            Ok(Some(stream)) => Ok(stream),
            Ok(None) => self.connect_outside(sandbox_id, port).await?,
            Err(error) => Err(error),
        };
        let stream = stream.map_err(|error| {
            RuntimeError::Other(format!("failed to connect to localhost:{port} inside sandbox {sandbox_id}: {error}"))
        })?;
        Ok(Box::new(stream))
    }

    async fn connect_outside(&self, sandbox_id: &str, port: u16) -> Result<io::Result<tokio::net::TcpStream>> {
        let status = self.sandbox_status_impl(sandbox_id).await?;
        let ip = status.ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let connected = coracle_clock::timeout(CONNECT_TIMEOUT, tokio::net::TcpStream::connect((ip, port))).await;
        Ok(connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
    }
}

/// Connects to the loopback of a process' network namespace; `None` when that may not be entered from here.
///
/// A socket belongs to the namespace of the thread that opened it, so a thread of its own enters the namespace,
/// connects, and ends.
async fn connect_inside(pid: i64, port: u16) -> io::Result<Option<tokio::net::TcpStream>> {
    let (answer, connected) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("port-forward".into()).spawn(move || {
        // The caller may have given up.
        let _ = answer.send(connect_in_this_thread(pid, port));
    })?;
    let stream = connected.await.map_err(|_| io::Error::other("the connecting thread died"))??;
    stream.map(tokio::net::TcpStream::from_std).transpose()
}

fn connect_in_this_thread(pid: i64, port: u16) -> io::Result<Option<TcpStream>> {
    let Ok(namespace) = File::open(format!("/proc/{pid}/ns/net")) else { return Ok(None) };
    if move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).is_err() {
        return Ok(None);
    }
    let dial = |ip: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT_TIMEOUT);
    // Of two failures the first is told: most programs speak IPv4.
    let stream =
        dial(Ipv4Addr::LOCALHOST.into()).or_else(|error| dial(Ipv6Addr::LOCALHOST.into()).map_err(|_| error))?;
    stream.set_nonblocking(true)?;
    Ok(Some(stream))
}
