//! What looks into a cluster's store, saves it, and shows its past.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::StoreFlags;

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Save all objects, and the cluster's certificates and address ranges, to one file.
    ///
    /// The cluster may run or not. The file has etcd's own form: `etcdctl snapshot status` and `restore` take it too.
    /// It holds every Secret and private key, so it is readable by its owner alone. Contents of volumes are not in it.
    Save {
        /// The file (default: snapshots/<date>.db in the data directory, which `coracle down --purge` removes with it).
        file: Option<PathBuf>,
        /// Where objects are kept, if not in the data directory.
        #[command(flatten)]
        store: StoreFlags,
    },
    /// Make a data directory from a file that this or `etcdctl snapshot save` wrote.
    ///
    /// The cluster that `coracle up` starts there is the one that was saved: the same objects, certificates,
    /// ServiceAccount tokens, port and addresses, so do not run both. Its containers are made anew. A file of etcdctl's has
    /// no certificates: those that lie in the data directory are used, or new ones made.
    Restore {
        /// The file.
        file: PathBuf,
        /// Replace the store that is in the data directory.
        #[arg(long)]
        force: bool,
        /// How far the revision jumps, so that no client mistakes a new revision for one it has seen.
        #[arg(long, value_name = "N", default_value_t = 1_000_000_000, value_parser = clap::value_parser!(i64).range(0..1 << 48))]
        bump_revision: i64,
    },
    /// List the snapshots in the data directory.
    Ls,
}

/// `coracle history`.
#[derive(Debug, Args)]
pub struct History {
    /// The object: KIND/NAME, the kind as kubectl takes it (deployment, deploy, deployments.apps).
    #[arg(value_name = "KIND/NAME")]
    pub object: String,
    /// Its namespace.
    #[arg(long, short, default_value = "default")]
    pub namespace: String,
    /// Where objects are kept, if not in the data directory.
    #[command(flatten)]
    pub store: StoreFlags,
}

/// `coracle why`.
#[derive(Debug, Args)]
pub struct Why {
    /// The pod: pod/NAME or NAME.
    pub pod: String,
    /// The namespace.
    #[arg(long, short, default_value = "default")]
    pub namespace: String,
    /// Print all that is kept of it as JSON, newest first: `-o json`.
    #[arg(long = "output", short, value_parser = ["json"], value_name = "json")]
    pub output: Option<String>,
    /// The kubeconfig (default: that of the data directory).
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// A scheduler that runs alone with --explain-decisions, such as https://127.0.0.1:10259.
    #[arg(long, value_name = "URL")]
    pub scheduler: Option<String>,
    /// Who signed that scheduler's certificate (default: the cluster's authority).
    #[arg(long, value_name = "FILE", requires = "scheduler")]
    pub certificate_authority: Option<PathBuf>,
}

/// `coracle get`.
#[derive(Debug, Args)]
pub struct Get {
    /// The kind, as kubectl takes it; or KIND/NAME.
    pub kind: String,
    /// One object's name.
    pub name: Option<String>,
    /// The revision.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub at_revision: i64,
    /// Where objects are kept, if not in the data directory.
    #[command(flatten)]
    pub store: StoreFlags,
    /// The namespace.
    #[arg(long, short, default_value = "default")]
    pub namespace: String,
    /// All namespaces.
    #[arg(long, short = 'A', conflicts_with = "name")]
    pub all_namespaces: bool,
    /// The form.
    #[arg(long, short, default_value = "wide")]
    pub output: OutputForm,
}

/// In which form objects are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputForm {
    /// A table.
    Wide,
    /// YAML.
    Yaml,
    /// JSON.
    Json,
    /// Kind and name.
    Name,
}

/// What to do with the store's etcd API.
#[derive(Debug, Subcommand)]
pub enum EtcdCommand {
    /// Print the variables by which etcdctl finds the running cluster's store: eval "$(coracle etcd env)"
    Env,
    /// Serve the store of a data directory alone, without a cluster: to look into one that is down.
    Serve {
        /// Where it answers.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:2379")]
        etcd_listen: SocketAddr,
    },
}
