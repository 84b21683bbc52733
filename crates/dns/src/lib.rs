//! Cluster DNS: Services and pods by name.
