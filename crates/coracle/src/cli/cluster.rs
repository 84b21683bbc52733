//! What brings a cluster up and down, and what it is made with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::values::duration;

/// `coracle demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Leave the cluster running and exit once WordPress answers.
    #[arg(long)]
    pub exit: bool,
    /// How the cluster is started, if it does not run yet.
    #[command(flatten)]
    pub cluster: ClusterShape,
}

/// What a cluster is made with.
#[derive(Clone, Debug, Args)]
pub struct ClusterShape {
    /// How many nodes; kept from the last start unless given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=32))]
    pub nodes: Option<u8>,
    /// The API server's port on 127.0.0.1; kept from the last start unless given.
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Where the store answers as an etcd does.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:2379")]
    pub etcd_listen: SocketAddr,
    /// How long the past can be read: what was superseded before is compacted (default 1h); 0 keeps what there is room for.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub etcd_compaction_interval: Option<Duration>,
    /// Where objects are kept.
    #[command(flatten)]
    pub store: StoreFlags,
}

/// `coracle up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Run in the background; return when the nodes are ready.
    #[arg(long, short)]
    pub detach: bool,
    /// What the cluster is made with.
    #[command(flatten)]
    pub cluster: ClusterShape,
}

/// `coracle down`.
#[derive(Debug, Args)]
pub struct Down {
    /// Remove the data directory too: all objects, all volumes.
    #[arg(long)]
    pub purge: bool,
}

/// `coracle nodes`.
#[derive(Debug, Subcommand)]
pub enum NodesCommand {
    /// Add simulated nodes, beside the real ones, and wait until they are ready.
    ///
    /// They are there for the scheduler, the controllers and kubectl as any other; pods on them live by rules, logs, exec
    /// and top answer. Nobody reaches them over the network, so keep pods that shall answer off: --taint.
    Add(AddNodes),
    /// Remove a group of simulated nodes, and with it the pods on them.
    Remove {
        /// The group, as `coracle nodes ls` names it.
        group: String,
    },
    /// List the groups of simulated nodes.
    Ls,
}

/// `coracle nodes add`.
#[derive(Debug, Args)]
pub struct AddNodes {
    /// How many.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub count: u16,
    /// What they are like: EC2's name, for processors, memory and the greatest number of pods.
    #[arg(long, value_name = "TYPE", default_value = "m5.large")]
    pub instance_type: String,
    /// The zones over which they are spread.
    #[arg(long, value_name = "ZONES", value_delimiter = ',', default_value = "a")]
    pub zones: Vec<String>,
    /// Nodes that only pretend to run containers.
    #[arg(long)]
    pub simulated: bool,
    /// Their group: nodes are called GROUP-1, GROUP-2, … (default: the instance type).
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// A YAML file of kind SimulationPolicy: the rules by which pods on them live.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Only pods that tolerate coracle.dev/simulated run on them.
    #[arg(long)]
    pub taint: bool,
}

/// `coracle kubeconfig`.
#[derive(Debug, Args)]
pub struct Kubeconfig {
    /// Print the file's path instead of its contents.
    #[arg(long, conflicts_with = "merge")]
    pub path: bool,
    /// Add cluster, user and context `coracle` to ~/.kube/config (or $KUBECONFIG); everything else in it stays.
    #[arg(long)]
    pub merge: bool,
}

/// `coracle images`.
#[derive(Debug, Args)]
pub struct Images {
    /// What to do with images.
    #[command(subcommand)]
    pub command: ImagesCommand,
}

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum ImagesCommand {
    /// The images Coracle can build, and what the engine has of them.
    List,
    /// Build images from Debian packages, without any registry.
    Build {
        /// Which; all of them if none is named.
        names: Vec<String>,
        /// Build anew what is already there.
        #[arg(long)]
        force: bool,
    },
}

/// `coracle logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Only this component's lines.
    pub component: Option<Component>,
    /// Go on as lines come.
    #[arg(long, short)]
    pub follow: bool,
}

/// A component of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Component {
    /// The API server.
    Apiserver,
    /// The store.
    Store,
    /// The controllers.
    ControllerManager,
    /// The scheduler.
    Scheduler,
    /// The nodes.
    Kubelet,
    /// The service proxy.
    Proxy,
    /// The cluster's DNS.
    Dns,
}

/// Where objects are kept. Flags that kube-apiserver has too are named as it names them.
#[derive(Clone, Debug, Default, Args)]
pub struct StoreFlags {
    /// Where objects are kept: sled:DIR (default: store in the data directory), memory (gone at the end), or an etcd:
    /// etcd://HOST:PORT,HOST:PORT,... (with TLS, if a certificate file is given).
    #[arg(long, value_name = "STORE")]
    pub store: Option<String>,
    /// The prefix of all keys in an etcd, which several clusters can share so (default: /registry).
    #[arg(long, value_name = "PREFIX")]
    pub etcd_prefix: Option<String>,
    /// The members of the etcd in which objects are kept: http(s)://HOST:PORT,...
    #[arg(long, value_name = "URLS", value_delimiter = ',', conflicts_with = "store")]
    pub etcd_servers: Vec<String>,
    /// The authority that signed the certificates of etcd's members.
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,
    /// The certificate to show to etcd.
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
}
