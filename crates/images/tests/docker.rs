//! The recipes' images in a real Docker engine.
//!
//! Skipped where no engine answers, unless `CORACLE_TEST_DOCKER=require`.

use std::path::PathBuf;
use std::sync::Arc;

use bollard::Docker;
use coracle_images::{PAUSE_IMAGE, Policy, Progress, Stage, connect_engine, ensure_images, ensure_pause};

/// The engine, or `None` after having said so.
async fn docker() -> Option<Docker> {
    match connect_engine().await {
        Ok(docker) => Some(docker),
        Err(error) => {
            assert_ne!(std::env::var("CORACLE_TEST_DOCKER").as_deref(), Ok("require"), "{error}");
            println!("skipped: no Docker ({error})");
            None
        }
    }
}

/// Prints every stage once, with the time since the beginning.
struct Printed {
    start: coracle_clock::Instant,
    last: std::sync::Mutex<std::collections::BTreeMap<String, Stage>>,
}

impl Progress for Printed {
    fn report(&self, item: &str, stage: Stage, done: u64, total: u64) {
        let mut last = self.last.lock().unwrap();
        if last.insert(item.to_owned(), stage) != Some(stage) {
            println!("{:6.2} s  {item}: {stage} ({done}/{total})", self.start.elapsed().as_secs_f64());
        }
    }
}

fn printed() -> Arc<dyn Progress> {
    Arc::new(Printed { start: coracle_clock::instant(), last: Default::default() })
}

/// Packages are kept here between runs, beside the engine's images that are kept as well.
fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_TMPDIR").map(PathBuf::from);
    target.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into()).join("coracle-images")
}

#[tokio::test]
async fn the_pause_image_is_loaded_once_and_then_found() {
    let Some(docker) = docker().await else { return };
    ensure_pause(&docker).await.unwrap();
    let first = docker.inspect_image(PAUSE_IMAGE).await.unwrap();
    ensure_pause(&docker).await.unwrap();
    let second = docker.inspect_image(PAUSE_IMAGE).await.unwrap();
    assert_eq!(first.id, second.id);
    assert!(first.size.unwrap() < 2048);
}

#[tokio::test]
async fn images() {
    let Some(docker) = docker().await else { return };
    let names = std::env::var("NAMES").unwrap_or("busybox:1.37 mysql:9 wordpress:6.8-apache".into());
    let names: Vec<_> = names.split_whitespace().collect();
    ensure_images(&docker, &names, Policy::Rebuild, &folder(), printed()).await.unwrap();
}
