//! Images: what a runtime knows of them.

/// As whom an image's containers run unless told otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageUser {
    /// A number (0 when the image says nothing).
    Uid(i64),
    /// A name, which cannot be verified for `runAsNonRoot`.
    Name(String),
}

/// A local image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// The id (`sha256:…`).
    pub id: String,
    /// Names with tags.
    pub tags: Vec<String>,
    /// Names with digests.
    pub digests: Vec<String>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// As whom its containers run.
    pub user: ImageUser,
}

/// Who to be at a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    /// The user's name.
    pub username: String,
    /// The password or token.
    pub password: String,
    /// The registry's address; derived from the image when empty.
    pub server: String,
}
