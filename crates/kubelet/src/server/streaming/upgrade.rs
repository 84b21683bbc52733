//! Protocol upgrades: agreeing on a protocol, and taking over the connection.

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// Names the protocol inside SPDY.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// The greatest message and frame accepted from a client. `kubectl` sends at most 32 KiB at once.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Why a request is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// In words for people.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into() }
    }
}

/// An agreed upgrade: which protocol, what to answer, and the connection to come.
pub struct Upgrade {
    /// The outer protocol.
    pub transport: Transport,
    /// The protocol inside, as the client named it; empty when it named none.
    pub protocol: String,
    /// The connection, once the answer is out.
    pub connection: OnUpgrade,
    response: Response<()>,
}

/// The outer protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// RFC 6455.
    WebSocket,
    /// SPDY/3.1.
    Spdy,
}

impl Upgrade {
    /// Agrees on the first protocol of ours that the client offers.
    ///
    /// A client that names no protocol gets the one named `""`, where there is one.
    pub fn negotiate<B>(request: &mut Request<B>, websocket: &[&str], spdy: &[&str]) -> Result<Upgrade, Refusal> {
        let wants = |token: &str| list(request.headers(), &UPGRADE).any(|offer| offer.eq_ignore_ascii_case(token));
        let upgrades = list(request.headers(), &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
        let (transport, header, accepted) = match () {
            () if upgrades && wants("websocket") => (Transport::WebSocket, SEC_WEBSOCKET_PROTOCOL, websocket),
            () if upgrades && wants("SPDY/3.1") => (Transport::Spdy, STREAM_PROTOCOL, spdy),
            () => {
                return Err(Refusal::new(
                    StatusCode::BAD_REQUEST,
                    "you must specify upgrade headers: SPDY/3.1 or websocket",
                ));
            }
        };
        let mut offered: Vec<&str> = list(request.headers(), &header).collect();
        if offered.is_empty() {
            offered.push("");
        }
        let Some(protocol) = accepted.iter().find(|protocol| offered.contains(protocol)) else {
            let message = format!(
                "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {accepted:?}"
            );
            return Err(Refusal::new(StatusCode::FORBIDDEN, message));
        };
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        match transport {
            Transport::Spdy => headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1")),
            Transport::WebSocket => {
                let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
                    return Err(Refusal::new(StatusCode::BAD_REQUEST, "missing header: Sec-WebSocket-Key"));
                };
                let accept = derive_accept_key(key.as_bytes());
                let invalid = |_| Refusal::new(StatusCode::BAD_REQUEST, "invalid header: Sec-WebSocket-Key");
                headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).map_err(invalid)?);
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"))
            }
        };
        if !protocol.is_empty()
            && let Ok(value) = HeaderValue::from_str(protocol)
        {
            headers.insert(header, value);
        }
        let protocol = protocol.to_string();
        Ok(Upgrade { transport, protocol, connection: hyper::upgrade::on(request), response })
    }

    /// The answer that switches protocols, and the rest.
    pub fn accept<B: Default>(self) -> (Response<B>, Transport, String, OnUpgrade) {
        (self.response.map(|()| B::default()), self.transport, self.protocol, self.connection)
    }
}

/// The values of a header that is a comma-separated list, over all its lines.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// A WebSocket on an upgraded connection.
pub type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

/// Speaks WebSocket on an upgraded connection.
pub async fn websocket(upgraded: Upgraded) -> WebSocket {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
        .write_buffer_size(0);
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiate(headers: &[(&str, &str)]) -> Result<(Transport, String), Refusal> {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        let upgrade = Upgrade::negotiate(&mut request, &["v5", "v4", ""], &["v4", "v3"])?;
        Ok((upgrade.transport, upgrade.protocol))
    }

    #[test]
    fn the_newest_protocol_both_know_is_chosen() {
        let websocket = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "k")];
        let with = |extra: (&'static str, &'static str)| negotiate(&[&websocket[..], &[extra]].concat());
        assert_eq!(with(("sec-websocket-protocol", "v4, v5")), Ok((Transport::WebSocket, "v5".into())));
        assert_eq!(with(("x-other", "")), Ok((Transport::WebSocket, "".into())));
        let spdy = [("connection", "keep-alive, upgrade"), ("upgrade", "SPDY/3.1")];
        let lines = [("x-stream-protocol-version", "v5"), ("x-stream-protocol-version", "v3")];
        assert_eq!(negotiate(&[spdy, lines].concat()), Ok((Transport::Spdy, "v3".into())));
    }

    #[test]
    fn strangers_are_refused() {
        assert_eq!(negotiate(&[]).unwrap_err().status, StatusCode::BAD_REQUEST);
        let spdy = [("connection", "upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v9")];
        assert_eq!(negotiate(&spdy).unwrap_err().status, StatusCode::FORBIDDEN);
        let keyless = [("connection", "upgrade"), ("upgrade", "websocket")];
        assert_eq!(negotiate(&keyless).unwrap_err().status, StatusCode::BAD_REQUEST);
    }
}
