//! Authentication: who sends this request.
//!
//! Asked in this order: a front proxy, which speaks for others ([`front_proxy`]), the client certificate ([`x509`]),
//! the tokens of a file ([`static_token`]), bootstrap tokens ([`bootstrap_token`]), ServiceAccount tokens ([`token`]);
//! the first who knows the user counts. Who is known to nobody is 401 if some credentials were wrong, and
//! `system:anonymous` if there were none. [`impersonate`] then lets those who may speak for somebody else. [`reviews`]
//! answers other programs' questions of the same sort: whose token is this, may they do that.

pub mod bootstrap_token;
pub mod front_proxy;
pub mod impersonate;
pub mod jwt;
pub mod reviews;
pub mod static_token;
pub mod token;
pub mod x509;
