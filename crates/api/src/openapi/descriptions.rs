//! What every type and field is, in Kubernetes' own words (Apache-2.0, The Kubernetes Authors).
//!
//! `data/descriptions.tsv` has a line `=<type>` per type, then a line per field, each with its text as JSON would
//! write it. It lies packed in the binary and is unpacked for as long as somebody asks.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

use serde_json::Value;

const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.gz"));

/// The texts, unpacked.
pub(super) struct Descriptions {
    text: String,
    /// Where a type's lines are.
    types: BTreeMap<String, Range<usize>>,
}

impl Descriptions {
    pub(super) fn unpack() -> Self {
        let mut text = String::new();
        // What was packed when this was built can be unpacked; without it there are no descriptions.
        let _ = flate2::read::GzDecoder::new(PACKED).read_to_string(&mut text);
        let mut types = BTreeMap::new();
        let mut start = 0;
        while let Some(rest) = text.get(start..).filter(|rest| !rest.is_empty()) {
            let end = rest.find("\n=").map_or(text.len(), |at| start + at + 1);
            let name = rest.split(['\t', '\n']).next().unwrap_or_default().trim_start_matches('=');
            types.insert(name.to_owned(), start..end);
            start = end;
        }
        Descriptions { text, types }
    }

    /// A type's own description and those of its fields, by name.
    pub(super) fn of(&self, ty: &str) -> (Option<Value>, BTreeMap<&str, Value>) {
        let lines = self.types.get(ty).and_then(|range| self.text.get(range.clone())).unwrap_or_default();
        let mut all: BTreeMap<&str, Value> = lines.lines().filter_map(parse).collect();
        let own = lines.lines().next().and_then(|line| all.remove(line.split('\t').next()?));
        (own.filter(|text| text != ""), all)
    }
}

fn parse(line: &str) -> Option<(&str, Value)> {
    let (name, text) = line.split_once('\t')?;
    Some((name, serde_json::from_str(&format!("\"{text}\"")).ok()?))
}
