//! ImageLocality: a node that has the images already starts the pod sooner.

use crate::framework::{MAX_NODE_SCORE, Plugin, Point, Score};
use crate::node::{NodeInfo, image_name};
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

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

    fn points(&self) -> &'static [Point] {
        &[Point::Score]
    }

    fn score<'a>(
        &'a self,
        pod: &'a PodInfo,
        snapshot: &'a Snapshot,
        _: &[&'a NodeInfo],
    ) -> Option<Box<dyn Score + 'a>> {
        let containers = pod.spec().init_containers.iter().flatten().chain(&pod.spec().containers);
        let images: Vec<_> = containers.map(|c| c.image.as_deref().unwrap_or_default()).collect();
        let max = MAX_CONTAINER_BYTES * images.len().max(1) as i64;
        // An image on many nodes counts fully, on few less: else all its pods would crowd there.
        let spread = images.into_iter().filter_map(|image| {
            let name = image_name(image);
            let having = snapshot.nodes_with_image(&name);
            (having > 0).then(|| (name, having as f64 / snapshot.len() as f64))
        });
        let images: Vec<_> = spread.collect();
        // Where no node holds any of them, all would get the same: 0.
        (!images.is_empty()).then(|| Box::new(Locality { images, max }) as Box<dyn Score>)
    }
}

struct Locality {
    images: Vec<(String, f64)>,
    max: i64,
}

impl Score for Locality {
    fn score(&self, node: &NodeInfo) -> i64 {
        let held = |(image, spread): &(String, f64)| Some((*node.images.get(image)? as f64 * spread) as i64);
        let sum: i64 = self.images.iter().filter_map(held).sum();
        (sum.clamp(MIN_BYTES, self.max) - MIN_BYTES) * MAX_NODE_SCORE / (self.max - MIN_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{node, pod, scored, snapshot};

    #[test]
    fn a_node_is_better_the_more_of_the_images_it_holds() {
        let image = |name: &str, mb: i64| json!({ "names": [name], "sizeBytes": mb * MB });
        let nodes = snapshot(vec![
            node("large").set("/status/images", json!([image("i:latest", 1000)])),
            node("small").set("/status/images", json!([image("i", 22)])),
            node("other").set("/status/images", json!([image("i:v2", 1000)])),
            node("none"),
        ]);
        // The image is on half of the nodes: 500 of at most 1000 MB, of which 23 do not count.
        let expected = [("large", 48), ("none", 0), ("other", 0), ("small", 0)];
        assert_eq!(scored(&ImageLocality, pod("p"), &nodes), expected);
        assert!(
            ImageLocality.score(&pod("p").set("/spec/containers/0/image", "j".into()).info(), &nodes, &[]).is_none()
        );
    }
}
