//! Containers in a Docker Engine, driven through its HTTP API (1.41 and later).
