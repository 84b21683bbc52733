//! The command line. The help texts are meant to be read: they are the first lesson.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

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

/// `coracle get`.
#[derive(Debug, Args)]
pub struct Get {
    /// The kind, as kubectl takes it.
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

/// `coracle bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// What to measure.
    pub what: BenchKind,
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
}

/// How a component reaches the API server.
#[derive(Clone, Debug, Args)]
pub struct ClientFlags {
    /// The kubeconfig by which the API server is reached.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Take part in leader election, so that one of several instances is active.
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub leader_elect: bool,
}

/// Where a component alone tells how it is.
#[derive(Clone, Debug, Args)]
pub struct ServingFlags {
    /// The address to serve health and metrics on.
    #[arg(long, default_value = "127.0.0.1")]
    pub bind_address: IpAddr,
    /// The port there, with TLS; 0 serves nothing (default: 10257 the controllers, 10259 the scheduler).
    #[arg(long, value_name = "PORT")]
    pub secure_port: Option<u16>,
    /// The certificate to show (default: one that it makes for itself).
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
}

/// `coracle apiserver`. Flags that upstream has too are named as upstream names them.
#[derive(Debug, Args)]
pub struct Apiserver {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub bind_address: IpAddr,
    /// The port to listen on with TLS.
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// The address by which pods reach this server.
    #[arg(long, default_value = "127.0.0.1")]
    pub advertise_address: Ipv4Addr,
    /// Where the certificates lie or are made (default: pki in the data directory).
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// The certificate to show to clients.
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// The authority whose client certificates are taken (default: the cluster's own).
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// The authority of front proxies, who say in headers for whom they speak (default: one of the cluster's own).
    #[arg(long, value_name = "FILE")]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// The common names of front proxies that are believed; none for all that their authority signed.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers with the user's name.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-User")]
    pub requestheader_username_headers: Vec<String>,
    /// Headers with the user's uid.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Uid")]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers with the user's groups.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Group")]
    pub requestheader_group_headers: Vec<String>,
    /// Beginnings of headers with whatever else is known of the user.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Extra-")]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// The certificate to show to extension servers (default: one of the cluster's own).
    #[arg(long, value_name = "FILE", requires = "proxy_client_key_file")]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "proxy_client_cert_file")]
    pub proxy_client_key_file: Option<PathBuf>,
    /// Static tokens: a CSV file of token,user,uid,"group1,group2".
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// The key that signs and verifies ServiceAccount tokens (default: the cluster's own).
    #[arg(long, value_name = "FILE")]
    pub service_account_key_file: Option<PathBuf>,
    /// Whether bootstrap tokens (Secrets of type bootstrap.kubernetes.io/token) are taken.
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_bootstrap_token_auth: bool,
    /// What to write down of which request: a Policy of audit.k8s.io/v1. Without it there is no audit log.
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    pub audit_policy_file: Option<PathBuf>,
    /// Where to write it down; - is standard output.
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub audit_log_path: Option<PathBuf>,
    /// How to write it down.
    #[arg(long, default_value = "json")]
    pub audit_log_format: AuditLogFormat,
    /// When the audit log is put aside, in megabytes; 0 is 100.
    #[arg(long, value_name = "MB", default_value_t = 0)]
    pub audit_log_maxsize: u64,
    /// How many that were put aside are kept; 0 is all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub audit_log_maxbackup: usize,
    /// For how many days; 0 is for ever.
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    pub audit_log_maxage: u64,
    /// Whether priority and fairness decide who waits when there is much to do; otherwise the limits below do alone.
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_priority_and_fairness: bool,
    /// How many requests that read are served at once; with priority and fairness, the sum of both is shared out.
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub max_requests_inflight: u32,
    /// How many requests that write are served at once.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub max_mutating_requests_inflight: u32,
    /// Who decides, in order: of AlwaysAllow, AlwaysDeny, Node, RBAC.
    #[arg(long, value_delimiter = ',', default_value = "Node,RBAC")]
    pub authorization_mode: Vec<String>,
    /// Whether requests without credentials are taken as system:anonymous.
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub anonymous_auth: bool,
    /// The range of Services' cluster IPs.
    #[arg(long, default_value = "10.96.0.0/16")]
    pub service_cluster_ip_range: String,
    /// The range of node ports.
    #[arg(long, default_value = "30000-32767")]
    pub service_node_port_range: String,
    /// Admission plugins to run besides the default ones.
    #[arg(long, value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins not to run.
    #[arg(long, value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// What admission plugins are told (AdmissionConfiguration).
    #[arg(long, value_name = "FILE")]
    pub admission_control_config_file: Option<PathBuf>,
    /// How long the past can be read: what was superseded before is compacted (default 1h); 0 keeps what there is room for.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub etcd_compaction_interval: Option<Duration>,
    /// Where objects are kept.
    #[command(flatten)]
    pub store: StoreFlags,
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

/// How the audit log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuditLogFormat {
    /// One JSON document a line.
    Json,
    /// One line of text an event.
    Legacy,
}

/// `coracle controller-manager`.
#[derive(Debug, Args)]
pub struct ControllerManager {
    /// How the API server is reached.
    #[command(flatten)]
    pub client: ClientFlags,
    /// Where health and metrics are.
    #[command(flatten)]
    pub serving: ServingFlags,
    /// Which controllers run: * for those on by default, name or -name for one.
    #[arg(long, value_delimiter = ',', default_value = "*")]
    pub controllers: Vec<String>,
    /// The authority published to each namespace, for pods to trust the API server (default: the kubeconfig's).
    #[arg(long, value_name = "FILE")]
    pub root_ca_file: Option<PathBuf>,
    /// The key that signs the ServiceAccount tokens in Secrets.
    #[arg(long, value_name = "FILE")]
    pub service_account_private_key_file: Option<PathBuf>,
    /// The authority that signs certificate requests.
    #[arg(long, value_name = "FILE", requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// How long signed certificates last, such as 8760h0m0s; a request may ask for less.
    #[arg(long, value_name = "DURATION", default_value = "8760h0m0s", value_parser = duration)]
    pub cluster_signing_duration: Duration,
    /// How long a node may be silent before it counts as unreachable, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 50)]
    pub node_monitor_grace_period: u64,
    /// Where provisioned volumes lie (default: volumes in the data directory).
    #[arg(long, value_name = "DIR")]
    pub volume_dir: Option<PathBuf>,
    /// The addresses for Services of type LoadBalancer.
    #[arg(long, value_name = "CIDR", default_value = "10.112.0.0/24")]
    pub load_balancer_ip_range: String,
    /// Give nodes without a podCIDR one each.
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allocate_node_cidrs: bool,
    /// The addresses of all pods, one range a family, for --allocate-node-cidrs.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', default_value = "10.244.0.0/16")]
    pub cluster_cidr: Vec<String>,
    /// The length of a node's IPv4 podCIDR.
    #[arg(long, value_name = "BITS", default_value_t = 24)]
    pub node_cidr_mask_size_ipv4: u8,
    /// The length of a node's IPv6 podCIDR.
    #[arg(long, value_name = "BITS", default_value_t = 64)]
    pub node_cidr_mask_size_ipv6: u8,
    /// How replicas follow load.
    #[command(flatten)]
    pub autoscaler: AutoscalerFlags,
}

/// How the HorizontalPodAutoscaler controller works.
#[derive(Debug, Args)]
pub struct AutoscalerFlags {
    /// How many autoscalers are looked at at once.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub concurrent_horizontal_pod_autoscaler_syncs: usize,
    /// How often each autoscaler is looked at.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub horizontal_pod_autoscaler_sync_period: Duration,
    /// How long a recommendation holds against fewer replicas.
    #[arg(long, value_name = "DURATION", default_value = "5m0s", value_parser = duration)]
    pub horizontal_pod_autoscaler_downscale_stabilization: Duration,
    /// By which share of the target usage may differ from it.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub horizontal_pod_autoscaler_tolerance: f64,
    /// So long after a pod's start its CPU use counts only if measured while it was ready.
    #[arg(long, value_name = "DURATION", default_value = "5m0s", value_parser = duration)]
    pub horizontal_pod_autoscaler_cpu_initialization_period: Duration,
    /// A pod that was last ready so soon after its start counts as never ready.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub horizontal_pod_autoscaler_initial_readiness_delay: Duration,
}

/// `coracle scheduler`.
#[derive(Debug, Args)]
pub struct Scheduler {
    /// How the API server is reached.
    #[command(flatten)]
    pub client: ClientFlags,
    /// Where health and metrics are.
    #[command(flatten)]
    pub serving: ServingFlags,
    /// Only pods with this spec.schedulerName are scheduled.
    #[arg(long, default_value = "default-scheduler")]
    pub scheduler_name: String,
}

/// `coracle kubelet`.
#[derive(Debug, Args)]
pub struct Kubelet {
    /// The kubeconfig by which the API server is reached.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// The node's name (default: the host's).
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// The node's address.
    #[arg(long, default_value = "127.0.0.1")]
    pub node_ip: IpAddr,
    /// The addresses of this node's pods.
    #[arg(long, default_value = "10.244.1.0/24")]
    pub pod_cidr: String,
    /// The addresses of all pods: the Docker network they share.
    #[arg(long, default_value = "10.244.0.0/16")]
    pub cluster_cidr: String,
    /// The Docker network of the pods; made if it is not there.
    #[arg(long, default_value = "coracle")]
    pub network: String,
    /// Where pods' files lie (default: the data directory).
    #[arg(long, value_name = "DIR")]
    pub root_dir: Option<PathBuf>,
    /// The cluster's DNS server.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.10")]
    pub cluster_dns: Vec<String>,
    /// The cluster's domain.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Labels of the node.
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE")]
    pub node_labels: Vec<String>,
    /// Greatest number of pods.
    #[arg(long, default_value_t = 110)]
    pub max_pods: u32,
    /// What pods may set of the kernel besides what is safe: names, or their beginnings with *.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// The port of the kubelet's own server.
    #[arg(long, default_value_t = 10250)]
    pub port: u16,
    /// The authority whose client certificates the server takes.
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// The certificate the server shows.
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Who runs containers: docker, or simulated (pods play by rules, nothing runs).
    #[arg(long, default_value = "docker")]
    pub container_runtime: ContainerRuntime,
}

/// Who runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ContainerRuntime {
    /// A Docker engine.
    Docker,
    /// Nobody: pods play by rules.
    Simulated,
}

/// `coracle proxy`.
#[derive(Debug, Args)]
pub struct Proxy {
    /// The kubeconfig by which the API server is reached.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// The nodes served from this host (default: all).
    #[arg(long, value_delimiter = ',')]
    pub hostname_override: Vec<String>,
    /// The addresses of all pods.
    #[arg(long, default_value = "10.244.0.0/16")]
    pub cluster_cidr: String,
    /// The ranges of Service addresses that are routed to the pods' bridge.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/16,10.112.0.0/24")]
    pub service_ranges: Vec<String>,
    /// The pods' bridge.
    #[arg(long, default_value = "coracle0")]
    pub bridge: String,
    /// How Services are served.
    #[arg(long, default_value = "auto")]
    pub proxy_mode: ProxyMode,
    /// Where /healthz and /livez are; port 0 serves nothing.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10256")]
    pub healthz_bind_address: SocketAddr,
    /// Where /metrics is; port 0 serves nothing.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: SocketAddr,
}

/// How Services are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxyMode {
    /// nftables where it may be used, else user space.
    Auto,
    /// By the kernel.
    Nftables,
    /// NodePorts and load balancers only.
    Userspace,
}

/// A number of requests a second.
fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if rate > 0.0 && f64::is_finite(rate) { Ok(rate) } else { Err("it must be more than 0".into()) }
}

/// A duration as Go writes it: `8760h0m0s`, `1m30s`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let scale_ms = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return Err(format!("time: invalid duration {text:?}")),
        };
        let number: u64 = number.parse().map_err(|_| format!("time: invalid duration {text:?}"))?;
        total += Duration::from_millis(number.saturating_mul(scale_ms));
        rest = after;
    }
    if text.is_empty() { Err("time: invalid duration \"\"".into()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        assert_eq!(duration("8760h0m0s"), Ok(Duration::from_secs(8760 * 3600)));
        assert_eq!(duration("1m500ms"), Ok(Duration::from_millis(60_500)));
        for bad in ["", "1", "h", "1y", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
