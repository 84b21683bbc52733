//! What measures and what simulates.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values::{Speed, duration, rate, speed};

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

/// `coracle simulate`.
#[derive(Debug, Args)]
pub struct Simulate {
    /// The scenario: a YAML file of kind Scenario.
    pub file: PathBuf,
    /// From which number all chance follows (default: the scenario's). One seed, one history.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// How fast: max, or so many times as fast as a clock, such as 60x or 1x, so that kubectl can follow.
    #[arg(long, default_value = "max", value_name = "SPEED", value_parser = speed)]
    pub speed: Speed,
    /// Stand still at this time of the scenario, such as 12m, until Enter is pressed; kubectl can look around.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub pause_at: Option<Duration>,
    /// The API server's port on 127.0.0.1, when kubectl can look (default: any that is free).
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    pub port: u16,
    /// Write report.html and report.json into this folder.
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
}

/// `coracle bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// What to measure.
    pub what: BenchKind,
    /// Only what has one of these in its name (store, scheduler).
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// So many times the nodes and pods, such as 0.02 for a quick look (scheduler).
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, hide_default_value = true)]
    pub scale: f64,
    /// Instead of the workloads: what a pod costs on 500 to 15,000 nodes, drawn into this SVG file (scheduler).
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// How often.
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// The API server to drive instead of one of our own (api).
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where the figures are written, besides the terminal (api, store).
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How many nodes (simulate).
    #[arg(long, value_name = "N")]
    pub nodes: Option<usize>,
    /// How many pods (simulate).
    #[arg(long, value_name = "N")]
    pub pods: Option<usize>,
    /// How many hours of the cluster's time (simulate).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub hours: Option<u64>,
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
    /// Hours of a large cluster's life in virtual time: 1,000 nodes for a day, 5,000 nodes for an hour.
    Simulate,
}
