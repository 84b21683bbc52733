//! Client programs against a running cluster.
