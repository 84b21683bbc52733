//! Streams: logs, and sessions with a process (exec, attach).

use std::pin::Pin;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::Result;

/// A connection that carries bytes both ways.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Which of a process' outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutputStream {
    /// Standard output; with a terminal everything.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputChunk {
    /// Where it was written.
    pub stream: OutputStream,
    /// The bytes.
    pub data: Bytes,
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// What to run and which streams to connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// The command with its arguments; no shell is involved.
    pub command: Vec<String>,
    /// Give it a terminal (then nothing comes on standard error).
    pub tty: bool,
    /// Connect standard input.
    pub stdin: bool,
    /// Connect standard output.
    pub stdout: bool,
    /// Connect standard error.
    pub stderr: bool,
}

/// The connected streams of a process.
pub struct Session {
    /// Standard input; shutting it down is the end of file. `None` when not asked for.
    pub stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    /// Standard output and error in the order of writing. Ends when the process has ended or closed both.
    pub output: BoxStream<'static, Result<OutputChunk>>,
    /// Takes new sizes of the terminal; ignored without one.
    pub resize: mpsc::Sender<TerminalSize>,
    /// The process' exit code; await it after `output` has ended. For attach: the container's.
    pub exit_code: BoxFuture<'static, Result<i32>>,
}

/// What a finished command left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// The exit code.
    pub exit_code: i32,
}

/// Which part of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on with what is written from now on.
    pub follow: bool,
    /// Only the last lines; all when `None`.
    pub tail_lines: Option<u64>,
    /// Only what was written at or after this time.
    pub since: Option<Timestamp>,
    /// Only this output; both when `None`.
    pub stream: Option<OutputStream>,
}

/// A line (or a part of a very long one) of a log, with its line end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// Where it was written.
    pub stream: OutputStream,
    /// When it was written; `None` for the rest of a line whose beginning came before.
    pub at: Option<Timestamp>,
    /// The bytes.
    pub data: Bytes,
}
