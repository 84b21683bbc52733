//! Image references: `[registry[:port]/]repository[:tag][@digest]`.
//!
//! The grammar is that of the distribution project's `reference` package, which every registry client follows.

use super::{Result, RuntimeError};

/// An image reference taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReference {
    /// Registry and repository as they were written, without tag and digest.
    pub name: String,
    /// The tag, when one was written.
    pub tag: Option<String>,
    /// The digest (`sha256:…`), when one was written.
    pub digest: Option<String>,
}

impl ImageReference {
    /// Takes a reference apart; [`RuntimeError::InvalidImageName`] when it is none.
    pub fn parse(image: &str) -> Result<ImageReference> {
        parse(image).ok_or_else(|| RuntimeError::InvalidImageName(image.into()))
    }

    /// What to ask a registry for: one image, by digest if there is one, else by tag, which is `latest` by default.
    pub fn to_pull(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.name),
            (None, Some(tag)) => format!("{}:{tag}", self.name),
            (None, None) => format!("{}:latest", self.name),
        }
    }
}

fn parse(image: &str) -> Option<ImageReference> {
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    // A colon before the last slash belongs to the registry's port.
    let after_slash = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[after_slash..].find(':') {
        Some(colon) => (&rest[..after_slash + colon], Some(&rest[after_slash + colon + 1..])),
        None => (rest, None),
    };
    let valid = name_is_valid(name) && tag.is_none_or(tag_is_valid) && digest.is_none_or(digest_is_valid);
    valid.then(|| ImageReference { name: name.into(), tag: tag.map(Into::into), digest: digest.map(Into::into) })
}

fn name_is_valid(name: &str) -> bool {
    let mut path = name;
    if let Some((first, rest)) = name.split_once('/')
        && (first.contains(['.', ':']) || first == "localhost" || first.chars().any(|c| c.is_ascii_uppercase()))
    {
        if !registry_is_valid(first) {
            return false;
        }
        path = rest;
    }
    // Sixty-four hexadecimal digits are an id, not a name.
    let is_id = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    name.len() <= 255 && !is_id && path.split('/').all(component_is_valid)
}

fn registry_is_valid(registry: &str) -> bool {
    let (host, port) = registry.split_once(':').unwrap_or((registry, "0"));
    let label_is_valid = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label_is_valid) && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// Lower-case words joined by one `.`, one or two `_`, or any number of `-`.
fn component_is_valid(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    let separators_are_valid = component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'));
    is_word(*first) && is_word(*last) && separators_are_valid
}

fn tag_is_valid(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

fn digest_is_valid(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty()
            && algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b))
            && hex.len() >= 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn references_are_pulled_by_digest_then_tag_then_latest() {
        for (image, pulled) in [
            ("nginx", "nginx:latest".to_string()),
            ("nginx:1.27", "nginx:1.27".into()),
            ("library/nginx", "library/nginx:latest".into()),
            ("localhost:5000/app", "localhost:5000/app:latest".into()),
            ("localhost/app:v1", "localhost/app:v1".into()),
            ("registry.k8s.io/e2e-test-images/agnhost:2.53", "registry.k8s.io/e2e-test-images/agnhost:2.53".into()),
            (&format!("nginx@{DIGEST}"), format!("nginx@{DIGEST}")),
            (&format!("nginx:1@{DIGEST}"), format!("nginx@{DIGEST}")),
            ("a__b/c--d.e", "a__b/c--d.e:latest".into()),
        ] {
            assert_eq!(ImageReference::parse(image).expect(image).to_pull(), pulled);
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for image in
            ["", "Nginx", "nginx:", "nginx:a b", "a//b", "/a", "a/", "a..b", "a___b", "nginx@sha256:12", "-a", ":1"]
        {
            let refused = ImageReference::parse(image);
            assert!(matches!(refused, Err(RuntimeError::InvalidImageName(_))), "{image:?} gave {refused:?}");
        }
    }
}
