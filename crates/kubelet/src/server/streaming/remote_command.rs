//! Exec and attach: the request, and which protocol serves it.

use std::sync::Arc;

use http::{Request, Response};

use super::pump::{client, pump};
use super::upgrade::{Refusal, Transport, Upgrade, websocket};
use super::{spdy_session, websocket_session};
use crate::runtime::{ExecOptions, Runtime};

/// What is done with a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Run a command in it.
    Exec,
    /// Connect to its own process.
    Attach,
}

/// Answers a request to exec or attach with a switch of protocols, and serves the session from then on.
pub fn remote_command<B, R: Default>(
    mut request: Request<B>,
    kind: Kind,
    runtime: Arc<dyn Runtime>,
    container: String,
    options: ExecOptions,
) -> Result<Response<R>, Refusal> {
    let upgrade = Upgrade::negotiate(&mut request, &websocket_session::PROTOCOLS, &spdy_session::PROTOCOLS)?;
    let (response, transport, protocol, connection) = upgrade.accept();
    tokio::spawn(async move {
        let upgraded = match connection.await {
            Ok(upgraded) => upgraded,
            Err(error) => return tracing::debug!(%error, "a client left before its session began"),
        };
        let (client, ends) = client();
        let serve = async {
            match transport {
                Transport::WebSocket => {
                    websocket_session::serve(websocket(upgraded).await, &protocol, &options, ends).await;
                }
                Transport::Spdy => spdy_session::serve(upgraded, &protocol, &options, ends).await,
            }
        };
        let run = async {
            let session = match kind {
                Kind::Exec => runtime.exec(&container, &options).await,
                Kind::Attach => runtime.attach(&container, &options).await,
            };
            pump(session, client, kind == Kind::Exec).await;
        };
        tokio::join!(serve, run);
    });
    Ok(response)
}
