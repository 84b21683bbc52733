//! The operator of [`coracle_examples`], against the cluster of the kubeconfig:
//!
//! ```console
//! $ KUBECONFIG=$(coracle kubeconfig --path) cargo run -p coracle-examples --bin website_operator
//! ```

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = kube::Client::try_default().await?;
    coracle_examples::install(client.clone()).await?;
    coracle_examples::run(client).await;
    Ok(())
}
