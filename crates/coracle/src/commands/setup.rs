//! `coracle setup`: the Docker engine, and nothing else.

use coracle_images::ensure_engine;

use crate::progress::Display;

pub async fn run() -> anyhow::Result<()> {
    let display = Display::new();
    let docker = ensure_engine(&display).await?;
    display.clear();
    let version = docker.version().await?;
    println!(
        "Docker Engine {} answers (API {}).",
        version.version.unwrap_or_default(),
        version.api_version.unwrap_or_default()
    );
    Ok(())
}
