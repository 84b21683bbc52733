//! Container images without a registry, and the Docker engine they live in.
