//! The commands, one file each.

pub mod bench;
pub mod component;
pub mod demo;
pub mod down;
pub mod etcd;
pub mod get;
pub mod history;
pub mod images;
pub mod kinds;
pub mod kubeconfig;
pub mod load;
pub mod logs;
pub mod nodes;
pub mod setup;
pub mod simulate;
pub mod snapshot;
pub mod status;
pub mod up;
pub mod why;

use clap::CommandFactory;
use clap_complete::Shell;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};

use crate::cli::Cli;
use crate::data_dir::DataDir;

/// Prints a completion script.
pub fn completions(shell: Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "coracle", &mut std::io::stdout());
}

/// A client for the cluster of a data directory, by its kubeconfig.
pub async fn client(dir: &DataDir) -> anyhow::Result<Client> {
    component::client(&dir.kubeconfig(), "coracle").await
}

/// Whether a node is ready.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Waits until `count` nodes are ready.
pub async fn wait_for_nodes(client: &Client, count: usize) {
    let nodes: Api<Node> = Api::all(client.clone());
    loop {
        if let Ok(list) = nodes.list(&Default::default()).await
            && list.items.iter().filter(|node| is_ready(node)).count() >= count
        {
            return;
        }
        coracle_clock::sleep(std::time::Duration::from_millis(20)).await;
    }
}
