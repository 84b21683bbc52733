//! The command line. The help texts are meant to be read: they are the first lesson.

mod apiserver;
mod cluster;
mod components;
mod state;
mod tools;
mod values;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use apiserver::*;
pub use cluster::*;
pub use components::*;
pub use state::*;
pub use tools::*;
pub use values::Speed;

/// A Kubernetes you can carry: a whole cluster in one binary, with real containers in Docker.
///
/// Begin with `coracle demo`: it brings up a cluster with WordPress and MySQL and says what to try.
/// Then point kubectl at it: export KUBECONFIG=$(coracle kubeconfig --path)
#[derive(Debug, Parser)]
#[command(name = "coracle", version, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    /// Where the cluster lives: store, certificates, volumes, logs. One cluster per directory.
    #[arg(long, global = true, value_name = "DIR", env = "CORACLE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,

    /// Say more: -v for what happens, -vv for why (RUST_LOG picks in detail).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, in the order in which they are met.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring up WordPress and MySQL, from nothing, and say what to try.
    ///
    /// Makes sure that a Docker engine answers (on Debian and Ubuntu, as root, it installs one), gets the
    /// images (those there are; else from a registry; else built from Debian packages), starts a cluster,
    /// applies examples/wordpress-mysql and waits until WordPress answers. Run again, it goes on where it was.
    Demo(Demo),
    /// Start a cluster: API server, store, controllers, scheduler, nodes, proxy and DNS in one process.
    ///
    /// State in the data directory survives `down` and `up`, and also `kill -9`: containers run on
    /// meanwhile and are adopted, not restarted.
    Up(Up),
    /// Stop the cluster and its containers; keep its state.
    Down(Down),
    /// Say whether the cluster runs, and how it is.
    Status(StoreFlags),
    /// Simulated nodes beside the real ones: hundreds, for the scheduler and the controllers to work with.
    Nodes {
        /// What to do.
        #[command(subcommand)]
        command: NodesCommand,
    },
    /// Print the kubeconfig, or merge it into yours.
    Kubeconfig(Kubeconfig),
    /// The store's etcd API, for etcdctl and whatever else speaks to an etcd.
    Etcd {
        /// What to do with it.
        #[command(subcommand)]
        command: EtcdCommand,
    },
    /// Save the cluster's state to a file, or make a cluster from one.
    Snapshot {
        /// What to do.
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Print what became of an object: every revision that is kept, as differences, and who made them.
    ///
    /// For example: coracle history deployment/web -n shop. The store keeps the last hour (--etcd-compaction-interval
    /// of `coracle up`); an object that is deleted by now has a history too.
    History(History),
    /// Say why a pod is on its node, or why it waits and what would change that.
    ///
    /// For example: coracle why pod/web -n shop. Each node's verdict or score by plugin, as of the last decision. The
    /// scheduler of `coracle up` keeps its last hundred decisions.
    Why(Why),
    /// List objects as they were at a revision of the store.
    ///
    /// For example: coracle get --at-revision 512 pods -A. A revision is what `coracle history` prints, or the
    /// resourceVersion of anything.
    Get(Get),
    /// Send requests to a URL, and say how fast they are answered, and with what.
    ///
    /// For example: coracle load http://10.112.0.1/ --rate 50 --duration 2m. Without a duration it goes on until
    /// interrupted (Ctrl-C). Connections are renewed every second, so that a Service shares them among its pods.
    Load(Load),
    /// Play a scenario in virtual time: what will these manifests do when a zone fails at peak traffic?
    ///
    /// For example: coracle simulate examples/scenarios/zone-outage.yaml --report /tmp/report. An hour of a cluster's life
    /// takes seconds. A scenario is a test: it exits with 1 if an expectation was not met, and says which and when.
    Simulate(Simulate),
    /// Container images: what there is, and building them from Debian packages.
    Images(Images),
    /// Print the log of a cluster that runs in the background.
    Logs(Logs),
    /// Make sure that a Docker engine answers, and do nothing else.
    Setup,
    /// Print a completion script, such as: source <(coracle completions bash)
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Measure: starting, pods beside plain Docker, memory and idle CPU, the API server.
    Bench(Bench),
    /// Run the API server alone (kube-apiserver): REST in front of the store.
    Apiserver(Box<Apiserver>),
    /// Run the controllers alone (kube-controller-manager), against any Kubernetes API server.
    ControllerManager(ControllerManager),
    /// Run the scheduler alone (kube-scheduler), against any Kubernetes API server.
    Scheduler(Scheduler),
    /// Run one node's kubelet alone, against any Kubernetes API server.
    Kubelet(Kubelet),
    /// Run the service proxy alone (kube-proxy), against any Kubernetes API server.
    Proxy(Proxy),
}
