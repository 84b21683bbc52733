//! What measures.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values::{duration, rate};

/// `coracle load`.
#[derive(Debug, Args)]
pub struct Load {
    /// Where requests go: http:// or https://.
    pub url: String,
    /// How many requests a second, at most (default: as many as are answered).
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// How many requests are under way at once, at most.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub connections: usize,
    /// For how long, such as 30s or 2m (default: until interrupted).
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Take whatever certificate the server shows.
    #[arg(long, short = 'k')]
    pub insecure: bool,
}

/// `coracle bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// What to measure.
    pub what: BenchKind,
    /// Only workloads whose name contains one of these (scheduler).
    #[arg(value_name = "WORKLOAD")]
    pub workloads: Vec<String>,
    /// How often.
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// The API server to drive instead of one of our own (api).
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where the figures are written, besides the terminal (api, store).
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchKind {
    /// From an empty data directory to ready nodes, and again on the data that is there.
    Startup,
    /// Pods' start beside `docker run` of the same containers.
    Pods,
    /// An idle cluster's memory and CPU.
    Memory,
    /// An API server alone: reads, writes, a long list, many watchers.
    Api,
    /// The store alone, served as an etcd, beside a real etcd.
    Store,
    /// The controllers: many Deployments on nodes that only pretend to run containers.
    Controllers,
    /// The scheduler: the workloads of upstream's scheduler_perf.
    Scheduler,
}
