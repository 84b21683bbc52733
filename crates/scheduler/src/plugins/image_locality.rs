//! ImageLocality: a node that has the images already starts the pod sooner.

use std::collections::BTreeMap;

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{ClusterEvent, MAX_NODE_SCORE, Plugin, Score};

const MB: i64 = 1024 * 1024;
/// Below this an image is pulled so fast that it does not matter.
const MIN_BYTES: i64 = 23 * MB;
/// Per container: more than this does not matter more.
const MAX_CONTAINER_BYTES: i64 = 1000 * MB;

#[derive(Debug)]
pub(super) struct ImageLocality;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn unblocked_by(&self) -> &'static [ClusterEvent] {
        &[]
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        let containers = pod.spec().init_containers.iter().flatten().chain(&pod.spec().containers);
        let images: Vec<_> = containers.filter_map(|c| c.image.as_deref()).map(normalized).collect();
        // An image on many nodes counts fully, on few less: else all its pods would crowd there.
        let spread = images
            .iter()
            .map(|image| {
                let having = snapshot.nodes.values().filter(|node| image_bytes(node, image) > 0).count();
                (image.clone(), having as f64 / snapshot.nodes.len().max(1) as f64)
            })
            .collect();
        Some(Box::new(Locality { images, spread }))
    }
}

/// `nginx` and `nginx:latest` are one image.
fn normalized(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

fn image_bytes(node: &NodeInfo, image: &str) -> i64 {
    let images = node.node.status.iter().flat_map(|status| status.images.iter().flatten());
    images
        .filter(|held| held.names.iter().flatten().any(|name| normalized(name) == image))
        .filter_map(|held| held.size_bytes)
        .max()
        .unwrap_or(0)
}

struct Locality {
    images: Vec<String>,
    spread: BTreeMap<String, f64>,
}

impl Score for Locality {
    fn score(&self, node: &NodeInfo) -> i64 {
        let weigh = |image: &String| (image_bytes(node, image) as f64 * self.spread[image]) as i64;
        let sum: i64 = self.images.iter().map(weigh).sum();
        let max = MAX_CONTAINER_BYTES * self.images.len().max(1) as i64;
        (sum.clamp(MIN_BYTES, max) - MIN_BYTES) * MAX_NODE_SCORE / (max - MIN_BYTES)
    }
}
