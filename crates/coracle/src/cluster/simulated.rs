//! Simulated nodes beside the real ones: `coracle nodes add --simulated`.
//!
//! Which there are stands in the ConfigMap `kube-system/simulated-nodes`, a [group](Group) under each key. Whoever may
//! write it adds nodes; this loop makes what runs equal to what it says, so a cluster that is stopped and started has its
//! simulated nodes again. Each is a kubelet as any other, with a server for `kubectl logs` and `exec`, on a runtime that
//! plays pods by rules.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use coracle_apiserver::pki::Pki;
use coracle_apiserver::{ApiServer, UserInfo};
use coracle_kubelet::runtime::simulated::policy::PolicySpec;
use coracle_kubelet::runtime::simulated::{InstanceType, SimulatedConfig, SimulatedRuntime, SimulationPolicy};
use coracle_kubelet::server::ServerCertificate;
use coracle_kubelet::{Config, Kubelet};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Taint};
use kube::api::DeleteParams;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher::watcher};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The ConfigMap.
pub const NAMESPACE: &str = "kube-system";
/// Its name.
pub const NAME: &str = "simulated-nodes";
/// So many nodes have networks for their pods: 100.64.0.0/10, a /24 each.
pub const MAX: usize = 16_384;

/// Nodes of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// How many: `GROUP-1`, `GROUP-2`, ….
    pub count: usize,
    /// Such as `m5.large`.
    pub instance_type: String,
    /// Nodes are spread over these.
    pub zones: Vec<String>,
    /// Whether pods must tolerate the taint `coracle.dev/simulated`.
    #[serde(default)]
    pub taint: bool,
    /// A SimulationPolicy, as it was written.
    #[serde(default)]
    pub policy: Option<String>,
}

impl Group {
    /// What it says, for machines: the instance type, and the rules for pods.
    ///
    /// # Errors
    /// There is no such type, or the policy is none.
    pub fn machine(&self) -> anyhow::Result<(InstanceType, SimulatedConfig)> {
        let instance = InstanceType::find(&self.instance_type).map_err(anyhow::Error::msg)?;
        let spec = match &self.policy {
            Some(text) => {
                let policy: SimulationPolicy = serde_yaml_ng::from_str(text).context("the policy")?;
                policy.into_spec().map_err(anyhow::Error::msg)?
            }
            None => PolicySpec::default(),
        };
        Ok((instance, spec.apply(instance.machine(SimulatedConfig::default()))))
    }
}

/// The groups that a ConfigMap says; what cannot be read is left out, with a warning.
fn groups(data: &BTreeMap<String, String>) -> BTreeMap<String, Group> {
    let parsed = data.iter().filter_map(|(name, text)| match serde_yaml_ng::from_str::<Group>(text) {
        Ok(group) => Some((name.clone(), group)),
        Err(error) => {
            tracing::warn!(%error, group = name, "the ConfigMap {NAMESPACE}/{NAME} is not understood");
            None
        }
    });
    parsed.collect()
}

/// A node that runs.
struct Running {
    group: Group,
    stop: CancellationToken,
}

/// Makes the simulated nodes what the ConfigMap says, until shutdown.
pub async fn run(api: Arc<ApiServer>, pki: Arc<Pki>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let admin = api.client_as(UserInfo::new("kubernetes-admin", &["kubeadm:cluster-admins"]));
    let maps: Api<ConfigMap> = Api::namespaced(admin.clone(), NAMESPACE);
    let only = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let mut events = std::pin::pin!(watcher(maps, only).default_backoff());
    let mut running: BTreeMap<String, Running> = BTreeMap::new();
    let mut first = true;
    while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
        let wanted = match event {
            Ok(Event::Apply(map) | Event::InitApply(map)) => groups(&map.data.unwrap_or_default()),
            Ok(Event::Delete(_)) => BTreeMap::new(),
            Ok(Event::Init | Event::InitDone) => continue,
            Err(error) => {
                tracing::debug!(%error, "the simulated nodes' ConfigMap");
                continue;
            }
        };
        reconcile(&api, &admin, &pki, &wanted, &mut running, first, &shutdown).await;
        first = false;
    }
    Ok(())
}

async fn reconcile(
    api: &Arc<ApiServer>,
    admin: &Client,
    pki: &Arc<Pki>,
    wanted: &BTreeMap<String, Group>,
    running: &mut BTreeMap<String, Running>,
    first: bool,
    shutdown: &CancellationToken,
) {
    let named = wanted
        .iter()
        .flat_map(|(name, group)| (1..=group.count).map(move |n| (format!("{name}-{n}"), (name, n, group))));
    let named: BTreeMap<String, (&String, usize, &Group)> = named.take(MAX).collect();
    // What is gone from the ConfigMap is gone from the cluster; another shape is another machine under the old name.
    let same = |node: &String, old: &Running| {
        named.get(node).is_some_and(|(_, _, group)| Group { count: 0, ..(*group).clone() } == old.group)
    };
    let old: Vec<String> =
        running.iter().filter(|(node, old)| !same(node, old)).map(|(node, _)| node.clone()).collect();
    let nodes: Api<Node> = Api::all(admin.clone());
    for node in old {
        if let Some(old) = running.remove(&node) {
            old.stop.cancel();
        }
        if !named.contains_key(&node)
            && let Err(error) = nodes.delete(&node, &DeleteParams::default()).await
        {
            tracing::warn!(%error, node, "the node object stays");
        }
    }
    for (index, (node, (group_name, number, group))) in named.into_iter().enumerate() {
        if running.contains_key(&node) {
            continue;
        }
        let stop = shutdown.child_token();
        match start(api, pki, &node, (group_name, number, group), stop.clone()).await {
            Ok(()) => drop(running.insert(node, Running { group: Group { count: 0, ..group.clone() }, stop })),
            Err(error) => tracing::error!(node, "a simulated node does not start: {error:#}"),
        }
        if index % 50 == 49 {
            // Others want to do something, too.
            tokio::task::yield_now().await;
        }
    }
    if first {
        tracing::info!("{} simulated nodes", running.len());
    }
}

/// The network of a node's pods. Nodes of all groups share the range: a node's place follows from its name.
fn pod_cidr(node: &str) -> String {
    // FNV-1a: names seldom meet, and pods of two nodes that did would share addresses that nobody reaches anyway.
    let hash = node
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let place = hash % MAX as u64;
    format!("100.{}.{}.0/24", 64 + place / 256, place % 256)
}

async fn start(
    api: &Arc<ApiServer>,
    pki: &Arc<Pki>,
    node: &str,
    (group_name, number, group): (&str, usize, &Group),
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (instance, machine) = group.machine()?;
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    // All are on one address, so each has a port of its own; the node's status tells it to the API server.
    let listener = TcpListener::bind(SocketAddr::new(loopback, 0)).await.context("the kubelet's server")?;
    let mut config = Config { on_disk: false, ..Config::new(node, loopback, &pod_cidr(node), "/simulated") };
    config.port = listener.local_addr()?.port();
    let zone = group.zones.get((number - 1) % group.zones.len().max(1)).map_or("a", String::as_str);
    instance.configure(&mut config, group_name, zone, false);
    config.labels.insert("coracle.dev/simulated".into(), "true".into());
    if group.taint {
        let (key, value, effect) = ("coracle.dev/simulated".into(), Some("true".into()), "NoSchedule".into());
        config.taints.push(Taint { key, value, effect, time_added: None });
    }
    let pair = pki.node(node, &[loopback])?;
    let certificate =
        ServerCertificate { chain_pem: pair.cert_pem, key_pem: pair.key_pem, client_ca_pem: pki.ca_pem().into() };
    let client = api.client_as(UserInfo::new(format!("system:node:{node}"), &["system:nodes"]));
    let runtime = Arc::new(SimulatedRuntime::new(machine));
    let kubelet = Kubelet::with_prober(client, runtime.clone(), runtime, config)?;
    let serving = kubelet.server(certificate).serve(listener, stop.clone());
    tokio::spawn(async move {
        let (served, ran) = tokio::join!(serving, kubelet.run(stop));
        if let Err(error) = served.map_err(anyhow::Error::from).and(ran) {
            tracing::error!("a simulated node failed: {error:#}");
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_read_as_it_was_written_and_what_is_wrong_is_left_out() {
        let group = Group {
            count: 3,
            instance_type: "m5.large".into(),
            zones: vec!["a".into()],
            taint: true,
            policy: Some(
                "apiVersion: simulation.coracle.dev/v1\nkind: SimulationPolicy\nspec: {pullDelay: 7s}\n".into(),
            ),
        };
        let text = serde_yaml_ng::to_string(&group).unwrap();
        let data = [("good".to_owned(), text), ("bad".to_owned(), "count: many".to_owned())].into();
        assert_eq!(groups(&data), [("good".to_owned(), group.clone())].into());
        let (instance, machine) = group.machine().unwrap();
        assert_eq!((instance.max_pods, machine.cpus, machine.pull_delay.as_secs()), (29, 2, 7));
        assert!(Group { instance_type: "m5.huge".into(), ..group.clone() }.machine().is_err());
        assert!(Group { policy: Some("kind: Pod".into()), ..group }.machine().is_err());
    }

    #[test]
    fn pods_networks_lie_in_the_shared_range() {
        let cidr = pod_cidr("big-17");
        let octets: Vec<u8> = cidr.trim_end_matches("/24").split('.').map(|octet| octet.parse().unwrap()).collect();
        assert!(octets[0] == 100 && (64..128).contains(&octets[1]), "{cidr}");
        assert_ne!(cidr, pod_cidr("big-18"));
    }
}
