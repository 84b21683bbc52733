//! Authentication: who sends this request.
pub mod jwt;
