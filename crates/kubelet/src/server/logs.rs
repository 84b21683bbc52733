//! `/containerLogs/{namespace}/{pod}/{container}`: a container's log as plain text.

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, future};
use http::StatusCode;
use jiff::Timestamp;

use super::query::Query;
use super::streaming::Refusal;
use crate::runtime::{LogChunk, LogOptions, OutputStream, Result};

/// What the query of a log request asks for (`PodLogOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogRequest {
    /// What the runtime is asked for.
    pub options: LogOptions,
    /// The log of the container's life before the present one.
    pub previous: bool,
    /// Begin each line with its time.
    pub timestamps: bool,
    /// End after so many bytes.
    pub limit_bytes: Option<u64>,
}

impl LogRequest {
    /// Reads a query.
    pub fn parse(query: &Query, now: Timestamp) -> std::result::Result<LogRequest, Refusal> {
        let since_seconds = query.number("sinceSeconds")?;
        let since_time = query.get("sinceTime").filter(|time| !time.is_empty());
        let since = match (since_seconds, since_time) {
            (Some(_), Some(_)) => {
                return Err(unprocessable("at most one of `sinceTime` or `sinceSeconds` may be specified"));
            }
            (Some(seconds), None) => Some(
                now.checked_sub(jiff::SignedDuration::from_secs(seconds.try_into().unwrap_or(i64::MAX)))
                    .unwrap_or(Timestamp::UNIX_EPOCH),
            ),
            (None, Some(time)) => Some(time.parse().map_err(|_| unprocessable("invalid sinceTime"))?),
            (None, None) => None,
        };
        let stream = match query.get("stream") {
            None | Some("" | "All") => None,
            Some("Stdout") => Some(OutputStream::Stdout),
            Some("Stderr") => Some(OutputStream::Stderr),
            Some(_) => return Err(unprocessable("stream must be All, Stdout or Stderr")),
        };
        Ok(LogRequest {
            options: LogOptions { follow: query.flag("follow"), tail_lines: query.number("tailLines")?, since, stream },
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            limit_bytes: query.number("limitBytes")?,
        })
    }
}

fn unprocessable(message: &str) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message)
}

/// The text of a log.
pub fn render(
    log: BoxStream<'static, Result<LogChunk>>,
    request: &LogRequest,
) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
    let timestamps = request.timestamps;
    let text = log.map(move |piece| piece.map(|piece| render_piece(piece, timestamps)));
    let mut left = request.limit_bytes.unwrap_or(u64::MAX);
    text.scan((), move |(), piece| {
        future::ready(match piece {
            _ if left == 0 => None,
            Ok(mut bytes) => {
                bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                left -= bytes.len() as u64;
                Some(Ok(bytes))
            }
            Err(error) => Some(Err(error)),
        })
    })
}

fn render_piece(piece: LogChunk, timestamps: bool) -> Bytes {
    match piece.at {
        Some(at) if timestamps => [format!("{at:.9} ").as_bytes(), &piece.data].concat().into(),
        _ => piece.data,
    }
}

#[cfg(test)]
mod tests {
    use futures::{TryStreamExt, stream};

    use super::*;

    fn parse(query: &str) -> std::result::Result<LogRequest, Refusal> {
        LogRequest::parse(&Query::parse(query), "2026-01-01T01:00:00Z".parse().unwrap())
    }

    #[test]
    fn queries_are_pod_log_options() {
        let request =
            parse("follow=true&tailLines=5&sinceSeconds=3600&timestamps=true&limitBytes=9&stream=Stderr").unwrap();
        let options = LogOptions {
            follow: true,
            tail_lines: Some(5),
            since: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            stream: Some(OutputStream::Stderr),
        };
        assert_eq!(request, LogRequest { options, previous: false, timestamps: true, limit_bytes: Some(9) });
        assert_eq!(parse("").unwrap(), LogRequest::default());
        assert!(parse("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z").is_err());
        assert!(parse("tailLines=x").is_err());
    }

    #[tokio::test]
    async fn a_log_is_cut_where_the_limit_says() {
        let piece = |text: &'static str, at: Option<&str>| {
            Ok(LogChunk { stream: OutputStream::Stdout, at: at.map(|at| at.parse().unwrap()), data: text.into() })
        };
        let pieces = vec![piece("abc\n", Some("2026-01-01T00:00:00.5Z")), piece("def\n", None), piece("ghi\n", None)];
        let request = LogRequest { timestamps: true, limit_bytes: Some(37), ..Default::default() };
        let text: Vec<Bytes> = render(stream::iter(pieces).boxed(), &request).try_collect().await.unwrap();
        assert_eq!(text.concat(), b"2026-01-01T00:00:00.500000000Z abc\nde");
    }
}
