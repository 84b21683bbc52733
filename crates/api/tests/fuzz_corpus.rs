//! Replays the fuzz targets' seeds, and cut and bent copies of them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

#[test]
fn no_seed_and_no_neighbour_of_one_makes_a_decoder_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, target) in targets::ALL {
        let mut seeds: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        seeds.sort();
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for seed in seeds {
            let bytes = fs::read(&seed).unwrap();
            target(&bytes);
            // A few hundred neighbours: cut short, one byte changed, one byte doubled.
            let step = (bytes.len() / 64).max(1);
            for at in (0..bytes.len()).step_by(step) {
                target(&bytes[..at]);
                let mut bent = bytes.clone();
                bent[at] ^= 1 << (at % 8);
                target(&bent);
                bent = bytes.clone();
                bent.insert(at, bytes[at]);
                target(&bent);
            }
        }
    }
}
