//! Logs: the engine's JSON files, read through its API.
//!
//! Docker prefixes each piece with the time of writing and cuts lines at 16 KiB. A piece that goes on with a line
//! loses its time again, so that putting the pieces together gives the bytes the container wrote.

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptions;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, future};
use jiff::Timestamp;

use super::DockerRuntime;
use super::error::translate;
use crate::runtime::{LogChunk, LogOptions, OutputStream, Result, RuntimeError};

impl DockerRuntime {
    pub(super) async fn logs_impl(
        &self,
        container_id: &str,
        options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk>>> {
        // The log itself is read lazily; that there is such a container is told at once.
        self.docker.inspect_container(container_id, None).await.map_err(|error| translate(container_id, error))?;
        if options.tail_lines == Some(0) && !options.follow {
            return Ok(stream::empty().boxed());
        }
        let query = LogsOptions {
            follow: options.follow,
            stdout: options.stream != Some(OutputStream::Stderr),
            stderr: options.stream != Some(OutputStream::Stdout),
            // Whole seconds only; the rest is left out below.
            since: options.since.map_or(0, |since| since.as_second().clamp(0, i32::MAX.into()) as i32),
            timestamps: true,
            tail: options.tail_lines.map_or("all".into(), |lines| lines.to_string()),
            ..Default::default()
        };
        let (id, since) = (container_id.to_string(), options.since);
        let mut lines = LineState::default();
        let log = self.patient.logs(container_id, Some(query)).filter_map(move |piece| {
            future::ready(match piece {
                Ok(piece) => lines.take(piece, since).map(Ok),
                Err(error) => Some(Err(translate(&id, error))),
            })
        });
        // Nothing follows an error.
        let log = log.scan(false, |failed, piece: std::result::Result<LogChunk, RuntimeError>| {
            let ended = std::mem::replace(failed, piece.is_err());
            future::ready((!ended).then_some(piece))
        });
        Ok(log.boxed())
    }
}

/// Per output, whether the last piece left its line open, and whether that line is wanted.
#[derive(Default)]
struct LineState {
    open: [bool; 2],
    wanted: [bool; 2],
}

impl LineState {
    fn take(&mut self, piece: LogOutput, since: Option<Timestamp>) -> Option<LogChunk> {
        let stream = match piece {
            LogOutput::StdErr { .. } => OutputStream::Stderr,
            LogOutput::StdOut { .. } | LogOutput::StdIn { .. } | LogOutput::Console { .. } => OutputStream::Stdout,
        };
        let (at, data) = split_time(piece.into_bytes());
        let index = stream as usize;
        let continues = std::mem::replace(&mut self.open[index], !data.ends_with(b"\n"));
        if !continues {
            self.wanted[index] = since.is_none_or(|since| at.is_none_or(|at| at >= since));
        }
        self.wanted[index].then(|| LogChunk { stream, at: at.filter(|_| !continues), data })
    }
}

/// Separates Docker's time stamp, which ends with a space.
fn split_time(mut piece: Bytes) -> (Option<Timestamp>, Bytes) {
    let Some(space) = piece.iter().take(40).position(|byte| *byte == b' ') else { return (None, piece) };
    let time = std::str::from_utf8(&piece[..space]).ok().and_then(|text| text.parse().ok());
    match time {
        Some(time) => (Some(time), piece.split_off(space + 1)),
        None => (None, piece),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stdout(text: &str) -> LogOutput {
        LogOutput::StdOut { message: Bytes::copy_from_slice(text.as_bytes()) }
    }

    #[test]
    fn a_long_line_is_put_together_with_the_time_of_its_beginning() {
        let mut lines = LineState::default();
        let first = lines.take(stdout("2026-01-01T00:00:01Z begin"), None).unwrap();
        let second = lines.take(stdout("2026-01-01T00:00:02Z  end\n"), None).unwrap();
        let third = lines.take(stdout("2026-01-01T00:00:03Z next\n"), None).unwrap();
        assert_eq!((first.at.is_some(), &first.data[..]), (true, &b"begin"[..]));
        assert_eq!((second.at, &second.data[..]), (None, &b" end\n"[..]));
        assert_eq!(third.at, Some("2026-01-01T00:00:03Z".parse().unwrap()));
    }

    #[test]
    fn what_was_written_earlier_in_the_same_second_is_left_out() {
        let since = Some("2026-01-01T00:00:01.5Z".parse().unwrap());
        let mut lines = LineState::default();
        assert!(lines.take(stdout("2026-01-01T00:00:01.4Z no\n"), since).is_none());
        assert!(lines.take(stdout("2026-01-01T00:00:01.6Z yes\n"), since).is_some());
    }
}
