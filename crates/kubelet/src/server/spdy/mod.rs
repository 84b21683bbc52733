//! SPDY/3.1, as far as Kubernetes' clients speak it: many streams on one connection.
//!
//! `kubectl port-forward` still runs on SPDY streams (inside a WebSocket, KEP-4006), and older clients use it for exec
//! and attach too. The [specification](https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/) has flow
//! control, which neither Kubernetes' client nor its server implements; nor does this: a connection as a whole is held
//! back by TCP.
//!
//! - [`codec`]: bytes to frames and back;
//! - [`headers`]: the compressed header blocks inside frames;
//! - [`connection`]: frames to streams.

pub mod codec;
pub mod connection;
pub mod headers;
