//! Sessions over the wire: exec, attach and port-forward.
//!
//! A client upgrades its HTTP connection to one of several protocols; behind each stands the same pump between a
//! [`Session`](crate::runtime::Session) of the runtime and a [`Client`]:
//!
//! | request | protocols, most wanted first |
//! |---|---|
//! | exec, attach | WebSocket `v5.channel.k8s.io`, `v4…`, `channel.k8s.io` and their base64 forms; SPDY/3.1 with `v4.channel.k8s.io` and older |
//! | portForward | WebSocket `SPDY/3.1+portforward.k8s.io` (SPDY inside); SPDY/3.1 with `portforward.k8s.io`; WebSocket `v4.channel.k8s.io` |

mod port_forward;
mod pump;
mod remote_command;
mod spdy_session;
mod tunnel;
mod upgrade;
mod websocket_forward;
mod websocket_session;

pub(super) use port_forward::{PortForward, port_forward};
pub(super) use remote_command::{Kind, remote_command};
pub(super) use upgrade::Refusal;
