//! The pump between a process' session and a client, whatever protocol the client speaks.

use std::pin::Pin;

use bytes::Bytes;
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::runtime::{OutputStream, Result, Session, TerminalSize};

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromClient {
    /// Bytes for standard input.
    Stdin(Bytes),
    /// Standard input has ended.
    StdinClosed,
    /// The terminal has a new size.
    Resize(TerminalSize),
}

/// What a client is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum ToClient {
    /// Bytes that the process wrote.
    Output(OutputStream, Bytes),
    /// How it ended; nothing follows.
    Ended(Box<Status>),
}

/// A client: what it sends ends when it is gone, what it is sent waits until it can take it.
pub struct Client {
    /// From the client.
    pub from: mpsc::Receiver<FromClient>,
    /// To the client.
    pub to: mpsc::Sender<ToClient>,
}

/// Messages that wait in each direction.
const QUEUE: usize = 16;

/// The protocol's side of a [`Client`].
pub type Protocol = (mpsc::Sender<FromClient>, mpsc::Receiver<ToClient>);

/// A client and the side that a protocol serves.
pub fn client() -> (Client, Protocol) {
    let (to_server, from) = mpsc::channel(QUEUE);
    let (to, from_server) = mpsc::channel(QUEUE);
    (Client { from, to }, (to_server, from_server))
}

/// Carries bytes until the process has ended or the client is gone, and tells the client how it ended.
///
/// `report_exit_code` is set for exec; who attaches learns nothing of the container's end but that it ended.
pub async fn pump(session: Result<Session>, client: Client, report_exit_code: bool) {
    let mut session = match session {
        Ok(session) => session,
        Err(error) => return end(&client.to, Err(error)).await,
    };
    let to = client.to.clone();
    let output = async {
        while let Some(chunk) = session.output.next().await {
            let chunk = chunk?;
            if to.send(ToClient::Output(chunk.stream, chunk.data)).await.is_err() {
                break;
            }
        }
        if report_exit_code { session.exit_code.await } else { Ok(0) }
    };
    tokio::select! {
        biased;
        outcome = output => end(&client.to, outcome).await,
        // Nobody is left to be told anything. The process goes on, as in Kubernetes.
        () = input(client.from, session.stdin, session.resize) => {}
    }
}

/// Feeds the process until the client is gone.
async fn input(
    mut from: mpsc::Receiver<FromClient>,
    mut stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    resize: mpsc::Sender<TerminalSize>,
) {
    while let Some(message) = from.recv().await {
        match (message, &mut stdin) {
            (FromClient::Stdin(bytes), Some(pipe)) => {
                let written = async {
                    pipe.write_all(&bytes).await?;
                    pipe.flush().await
                };
                // A process that reads no more may still have something to say.
                if written.await.is_err() {
                    stdin = None;
                }
            }
            (FromClient::StdinClosed, Some(pipe)) => {
                // Closed already is as good.
                let _ = pipe.shutdown().await;
                stdin = None;
            }
            // A size that finds the queue full is overtaken by a newer one.
            (FromClient::Resize(size), _) => drop(resize.try_send(size)),
            (FromClient::Stdin(_) | FromClient::StdinClosed, None) => {}
        }
    }
}

async fn end(to: &mpsc::Sender<ToClient>, outcome: Result<i32>) {
    // The client may be gone.
    let _ = to.send(ToClient::Ended(Box::new(status(outcome)))).await;
}

/// How a command ended, in the form that `kubectl` takes its own exit code from.
fn status(outcome: Result<i32>) -> Status {
    match outcome {
        Ok(0) => Status { status: Some("Success".into()), ..Default::default() },
        Ok(code) => {
            let cause =
                StatusCause { reason: Some("ExitCode".into()), message: Some(code.to_string()), ..Default::default() };
            Status {
                status: Some("Failure".into()),
                reason: Some("NonZeroExitCode".into()),
                message: Some(format!("command terminated with non-zero exit code: exit status {code}")),
                details: Some(StatusDetails { causes: Some(vec![cause]), ..Default::default() }),
                ..Default::default()
            }
        }
        Err(error) => {
            let message = format!("error executing command in container: {error}");
            let cause = StatusCause { message: Some(message.clone()), ..Default::default() };
            Status {
                status: Some("Failure".into()),
                reason: Some("InternalError".into()),
                message: Some(format!("Internal error occurred: {message}")),
                details: Some(StatusDetails { causes: Some(vec![cause]), ..Default::default() }),
                code: Some(500),
                ..Default::default()
            }
        }
    }
}

/// A status as it travels: the bare fields, as remote command clients know it.
pub fn encode(status: &Status) -> serde_json::Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
        fields.entry("metadata").or_insert_with(|| serde_json::json!({}));
    }
    value
}

/// Reads a terminal's size as clients write it, `{"Width":80,"Height":24}`.
pub fn terminal_size(json: &[u8]) -> Option<TerminalSize> {
    let value: serde_json::Value = serde_json::from_slice(json).ok()?;
    let field = |name: &str| value.get(name)?.as_u64()?.try_into().ok();
    Some(TerminalSize { width: field("Width")?, height: field("Height")? })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::stream;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::runtime::{OutputChunk, RuntimeError};

    fn session(said: &[&'static str], code: i32) -> (Session, tokio::io::DuplexStream, mpsc::Receiver<TerminalSize>) {
        let (stdin, process) = tokio::io::duplex(64);
        let (resize, sizes) = mpsc::channel(1);
        let chunks: Vec<_> = said
            .iter()
            .map(|text| Ok(OutputChunk { stream: OutputStream::Stdout, data: Bytes::from_static(text.as_bytes()) }))
            .collect();
        let session = Session {
            stdin: Some(Box::pin(stdin)),
            output: stream::iter(chunks).boxed(),
            resize,
            exit_code: async move { Ok(code) }.boxed(),
        };
        (session, process, sizes)
    }

    #[tokio::test]
    async fn output_comes_before_the_exit_code() {
        let (client, (_from, mut to)) = client();
        let (session, _process, _sizes) = session(&["a", "b"], 3);
        pump(Ok(session), client, true).await;
        assert_eq!(to.recv().await, Some(ToClient::Output(OutputStream::Stdout, "a".into())));
        assert_eq!(to.recv().await, Some(ToClient::Output(OutputStream::Stdout, "b".into())));
        let Some(ToClient::Ended(status)) = to.recv().await else { panic!("no end") };
        assert_eq!(
            encode(&status),
            serde_json::json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": "command terminated with non-zero exit code: exit status 3",
                "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
            })
        );
        assert_eq!(to.recv().await, None);
    }

    #[tokio::test]
    async fn input_and_sizes_reach_the_process_until_the_client_leaves() {
        let (client, (from, _to)) = client();
        let (mut session, mut process, mut sizes) = session(&[], 0);
        session.output = stream::pending().boxed();
        let pumping = tokio::spawn(pump(Ok(session), client, true));
        from.send(FromClient::Stdin("hello".into())).await.unwrap();
        from.send(FromClient::Resize(TerminalSize { width: 80, height: 24 })).await.unwrap();
        from.send(FromClient::StdinClosed).await.unwrap();
        let mut heard = String::new();
        process.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hello");
        assert_eq!(sizes.recv().await, Some(TerminalSize { width: 80, height: 24 }));
        drop(from);
        pumping.await.unwrap();
    }

    #[tokio::test]
    async fn a_session_that_cannot_be_had_is_an_internal_error() {
        let (client, (_from, mut to)) = client();
        pump(Err(RuntimeError::NotRunning("c1".into())), client, true).await;
        let Some(ToClient::Ended(status)) = to.recv().await else { panic!("no end") };
        let expected = "Internal error occurred: error executing command in container: container c1 is not running";
        assert_eq!(status.message.as_deref(), Some(expected));
        assert_eq!(
            encode(&Status { status: Some("Success".into()), ..Default::default() }).to_string(),
            r#"{"metadata":{},"status":"Success"}"#
        );
    }
}
