//! End-to-end tests: real kubectl, real Docker.
