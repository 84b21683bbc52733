//! The recipes' images in a real Docker engine.
//!
//! Skipped where no engine answers, unless `CORACLE_TEST_DOCKER=require`.

use bollard::Docker;
use coracle_images::{PAUSE_IMAGE, connect_engine, ensure_pause};

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
