//! Exec and attach over SPDY: a stream for each of the process' streams, told apart by the header `streamtype`.

use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use super::pump::{FromClient, Protocol, ToClient, encode, terminal_size};
use crate::runtime::{ExecOptions, OutputStream};
use crate::server::spdy::connection::{Connection, StreamReader, StreamWriter};

/// The protocols, most wanted first. A client that names none speaks the oldest.
pub const PROTOCOLS: [&str; 5] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io", ""];

/// How long a client may take to open its streams.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to leave once all is said.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The streams of a session, as far as the client asked for them.
#[derive(Default)]
struct Streams {
    error: Option<StreamWriter>,
    stdin: Option<StreamReader>,
    stdout: Option<StreamWriter>,
    stderr: Option<StreamWriter>,
    resize: Option<StreamReader>,
}

/// Serves a client until the session has ended or it is gone.
pub async fn serve(upgraded: Upgraded, protocol: &str, options: &ExecOptions, (from, to): Protocol) {
    let mut connection = match Connection::new(TokioIo::new(upgraded)) {
        Ok(connection) => connection,
        Err(error) => return tracing::warn!(%error, "cannot speak SPDY"),
    };
    let resizes = options.tty && (protocol.starts_with("v3") || protocol.starts_with("v4"));
    let opening = open(&mut connection, options, resizes);
    let Ok(Some(mut streams)) = coracle_clock::timeout(OPEN_TIMEOUT, opening).await else {
        return tracing::debug!("a client did not open its streams");
    };
    let input = read(streams.stdin.take(), streams.resize.take(), from);
    let output = write(&streams, protocol.starts_with("v4"), to);
    run(&mut connection, input, output).await;
    connection.close().await;
}

async fn run(connection: &mut Connection, input: impl Future<Output = ()>, output: impl Future<Output = ()>) {
    // A client opens no more streams; that there will be none means that it is gone.
    let gone = async { while connection.accept().await.is_some() {} };
    tokio::pin!(gone);
    tokio::select! {
        biased;
        // Leaving is the client's: when it does it has heard all.
        () = output => drop(coracle_clock::timeout(CLOSE_TIMEOUT, gone).await),
        () = &mut gone => {}
        () = input => {}
    }
}

async fn open(connection: &mut Connection, options: &ExecOptions, resizes: bool) -> Option<Streams> {
    let expected =
        1 + [options.stdin, options.stdout, options.stderr && !options.tty, resizes].iter().filter(|is| **is).count();
    let mut streams = Streams::default();
    for _ in 0..expected {
        let stream = connection.accept().await?;
        match stream.header("streamtype").unwrap_or_default() {
            "error" => streams.error = Some(stream.writer),
            "stdin" => streams.stdin = Some(stream.reader),
            "stdout" => streams.stdout = Some(stream.writer),
            "stderr" => streams.stderr = Some(stream.writer),
            "resize" => streams.resize = Some(stream.reader),
            other => tracing::debug!(streamtype = other, "a stream of no known type"),
        }
    }
    Some(streams)
}

/// Passes on what the client sends. Never ends, and so holds `from` open: its end would mean that the client is gone.
async fn read(stdin: Option<StreamReader>, resize: Option<StreamReader>, from: mpsc::Sender<FromClient>) {
    let input = async {
        if let Some(mut stdin) = stdin {
            while let Some(data) = stdin.next().await {
                if from.send(FromClient::Stdin(data)).await.is_err() {
                    return;
                }
            }
            // Nobody listens any more: as good.
            let _ = from.send(FromClient::StdinClosed).await;
        }
    };
    let sizes = async {
        if let Some(mut resize) = resize {
            let mut text = Vec::new();
            while let Some(data) = resize.next().await {
                text.extend_from_slice(&data);
                // One size a line.
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    if let Some(size) = terminal_size(&line) {
                        let _ = from.send(FromClient::Resize(size)).await;
                    }
                }
            }
        }
    };
    tokio::join!(input, sizes);
    // Not gone, merely silent.
    let _from = from;
    std::future::pending().await
}

async fn write(streams: &Streams, as_status: bool, mut to: mpsc::Receiver<ToClient>) {
    let broken = async |writer: &Option<StreamWriter>, data| match writer {
        Some(writer) => writer.send(data).await.is_err(),
        None => false,
    };
    while let Some(message) = to.recv().await {
        match message {
            ToClient::Output(OutputStream::Stdout, data) => {
                if broken(&streams.stdout, data).await {
                    return;
                }
            }
            ToClient::Output(OutputStream::Stderr, data) => {
                if broken(&streams.stderr, data).await {
                    return;
                }
            }
            ToClient::Ended(status) => {
                let failed = status.status.as_deref() != Some("Success");
                let text = match (as_status, failed) {
                    (true, _) => encode(&status).to_string(),
                    (false, true) => status.message.unwrap_or_default(),
                    (false, false) => String::new(),
                };
                if !text.is_empty() && broken(&streams.error, text.into()).await {
                    return;
                }
                break;
            }
        }
    }
    for writer in [&streams.stdout, &streams.stderr, &streams.error].into_iter().flatten() {
        // Whoever is gone needs no end.
        let _ = writer.finish().await;
    }
}
