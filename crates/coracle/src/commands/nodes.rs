//! `coracle nodes`: simulated nodes for a cluster that runs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::cli::{AddNodes, NodesCommand};
use crate::cluster::simulated::{Group, MAX, NAME, NAMESPACE};
use crate::commands::{client, is_ready};
use crate::data_dir::DataDir;

/// How long new nodes may take until they are ready.
const TIMEOUT: Duration = Duration::from_secs(300);

pub async fn run(data_dir: Option<PathBuf>, command: NodesCommand) -> anyhow::Result<()> {
    let dir = DataDir::new(data_dir)?;
    if dir.running().is_none() {
        bail!("the cluster in {} does not run; `coracle up` starts it", dir.path().display());
    }
    let client = client(&dir).await?;
    match command {
        NodesCommand::Add(options) => add(&client, options).await,
        NodesCommand::Remove { group } => remove(&client, &group).await,
        NodesCommand::Ls => list(&client).await,
    }
}

async fn data(client: &Client) -> anyhow::Result<std::collections::BTreeMap<String, String>> {
    let found = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE).get_opt(NAME).await?;
    Ok(found.and_then(|map| map.data).unwrap_or_default())
}

/// Changes a group in the ConfigMap; `None` removes it.
async fn write(client: &Client, group: &str, value: Option<String>) -> anyhow::Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    if maps.get_opt(NAME).await?.is_none() {
        let map = serde_json::from_value(json!({ "metadata": { "name": NAME } }))?;
        maps.create(&Default::default(), &map).await?;
    }
    let patch = json!({ "data": { group: value } });
    maps.patch(NAME, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

async fn add(client: &Client, options: AddNodes) -> anyhow::Result<()> {
    if !options.simulated {
        bail!(
            "real nodes are counted when a cluster starts: `coracle up --nodes N`; for simulated ones add --simulated"
        );
    }
    let policy = match &options.policy {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?),
        None => None,
    };
    let name = options.group.unwrap_or_else(|| options.instance_type.replace('.', "-"));
    let there: Option<Group> = match data(client).await?.get(&name) {
        Some(text) => Some(serde_yaml_ng::from_str(text).with_context(|| format!("the group {name}"))?),
        None => None,
    };
    let (zones, taint) = (options.zones, options.taint);
    let mut group = Group { count: options.count.into(), instance_type: options.instance_type, zones, taint, policy };
    group.machine()?;
    if let Some(there) = there {
        if (Group { count: 0, ..there.clone() }) != (Group { count: 0, ..group.clone() }) {
            bail!("the group {name} has nodes of another shape; name a new one with --group, or remove it first");
        }
        group.count += there.count;
    }
    if group.count > MAX {
        bail!("{} nodes are more than the {MAX} that there are networks for", group.count);
    }
    write(client, &name, Some(serde_yaml_ng::to_string(&group)?)).await?;
    let nodes: Api<Node> = Api::all(client.clone());
    let of_group =
        ListParams::default().labels(&format!("eks.amazonaws.com/nodegroup={name},coracle.dev/simulated=true"));
    let ready = async {
        loop {
            let ready = nodes.list(&of_group).await?.items.iter().filter(|node| is_ready(node)).count();
            if ready >= group.count {
                return anyhow::Ok(());
            }
            coracle_clock::sleep(Duration::from_millis(200)).await;
        }
    };
    let started = coracle_clock::instant();
    coracle_clock::timeout(TIMEOUT, ready).await.context("not all nodes are ready; see `coracle logs`")??;
    println!(
        "{} nodes of group {name} are ready after {:.1} s:  kubectl get nodes -l eks.amazonaws.com/nodegroup={name}",
        group.count,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

async fn remove(client: &Client, group: &str) -> anyhow::Result<()> {
    if !data(client).await?.contains_key(group) {
        bail!("there is no group {group} of simulated nodes; `coracle nodes ls` lists them");
    }
    write(client, group, None).await?;
    println!("the nodes of group {group} go");
    Ok(())
}

async fn list(client: &Client) -> anyhow::Result<()> {
    for (name, text) in data(client).await? {
        let group: Group = serde_yaml_ng::from_str(&text).with_context(|| format!("the group {name}"))?;
        println!("{name}  {} × {} in {}", group.count, group.instance_type, group.zones.join(", "));
    }
    Ok(())
}
