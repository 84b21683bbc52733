//! Names made from content: the `pod-template-hash` of ReplicaSets, the hashes of ControllerRevisions.

use serde::Serialize;

/// The alphabet of generated names: no vowels and no look-alikes.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a, 32 bits.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The hash of `content` in letters that are safe in names. A `collision_count` gives another hash of the same
/// content, for when the name is taken by something else.
pub(crate) fn content_hash(content: &impl Serialize, collision_count: Option<i32>) -> String {
    // Values from the API always serialise; if one did not, all such would share a hash, which collisions solve.
    let mut bytes = serde_json::to_vec(content).unwrap_or_default();
    if let Some(count) = collision_count {
        bytes.extend(count.to_le_bytes());
    }
    safe_encode(&fnv1a(&bytes).to_string())
}

/// Each character replaced by one of the safe alphabet.
pub(crate) fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_1a_and_the_safe_alphabet_are_those_of_upstream() {
        assert_eq!(fnv1a(b""), 0x811c_9dc5);
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
    }

    #[test]
    fn a_collision_count_gives_another_name() {
        let content = serde_json::json!({ "a": 1 });
        assert_eq!(content_hash(&content, None), content_hash(&content, None));
        assert_ne!(content_hash(&content, None), content_hash(&content, Some(1)));
    }
}
