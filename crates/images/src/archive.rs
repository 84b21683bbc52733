//! From a file tree to an image in the engine.
//!
//! An image is a layer (a tar of files) and a JSON document that says how to run it. Both are written
//! here with sorted names and a fixed time, so that the same tree is the same image with the same ID
//! on every machine, and handed to the engine as `docker load` would. (`docker import` would be
//! shorter, but takes its settings as Dockerfile lines and makes an empty image of an empty stream.)

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bollard::Docker;
use bollard::query_parameters::{ImportImageOptions, RemoveImageOptions};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use serde_json::json;
use tar::{EntryType, Header};
use tokio_util::io::ReaderStream;

use crate::rootfs::{Kind, Node, Rootfs};

/// The label that says from which recipe (by its hash) an image was built.
pub const RECIPE_LABEL: &str = "io.coracle.recipe";

/// Every file's time: 2026-01-01. Not 0, with which PHP's opcode cache refuses to work.
const MTIME_SECONDS: u64 = 1_767_225_600;
const CREATED: &str = "2026-01-01T00:00:00Z";

const BLOCK_BYTES: u64 = 512;
const CHUNK_BYTES: usize = 1 << 18;

/// Why an image could not be made or found.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The engine refused or did not answer.
    #[error("Docker: {0}")]
    Docker(#[from] bollard::errors::Error),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Writing the layer failed.
    #[error("writing the layer: {0}")]
    Layer(#[from] io::Error),
    /// A tool of the host failed.
    #[error("{command}: {message}")]
    Tool {
        /// The command line's beginning.
        command: String,
        /// The end of what it said.
        message: String,
    },
    /// This host cannot build.
    #[error("{0}")]
    Host(String),
    /// A recipe does not fit the packages there are.
    #[error("recipe {recipe}: {message}")]
    Recipe {
        /// The image's name.
        recipe: String,
        /// What does not fit.
        message: String,
    },
}

impl ImageError {
    /// Says which file an I/O error is about.
    pub(crate) fn file(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> ImageError {
        move |source| ImageError::File { path: path.as_ref().to_owned(), source }
    }
}

/// How an image is to be run: the settings a Dockerfile would make.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ImageConfig {
    /// ENTRYPOINT.
    pub entrypoint: Vec<String>,
    /// CMD.
    pub cmd: Vec<String>,
    /// ENV.
    pub env: BTreeMap<String, String>,
    /// EXPOSE: TCP ports.
    pub expose: Vec<u16>,
    /// VOLUME.
    pub volumes: Vec<String>,
    /// WORKDIR.
    pub workdir: String,
    /// USER; empty is root.
    pub user: String,
    /// STOPSIGNAL; empty is SIGTERM.
    pub stop_signal: String,
    /// The hash of what the image was made from, kept in [`RECIPE_LABEL`].
    #[serde(skip)]
    pub recipe: String,
}

/// A layer's tar, in memory or on disk.
#[derive(Debug)]
pub struct Layer {
    /// `sha256:` and the tar's hash in hexadecimal.
    pub diff_id: String,
    /// The tar's length, in bytes.
    pub length: u64,
    bytes: LayerBytes,
}

#[derive(Debug)]
enum LayerBytes {
    Memory(Vec<u8>),
    File(PathBuf),
}

/// The SHA-256 of some bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the engine knows of an image: `None` if it has none of this name, else the hash of the recipe
/// it was built from (`None` for an image that came from elsewhere).
pub async fn recipe_of(docker: &Docker, name: &str) -> Result<Option<Option<String>>, ImageError> {
    match docker.inspect_image(name).await {
        Ok(image) => {
            let labels = image.config.and_then(|config| config.labels).unwrap_or_default();
            Ok(Some(labels.get(RECIPE_LABEL).cloned()))
        }
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes a tree as a layer into memory.
pub fn layer_in_memory(root: &Rootfs) -> Result<Layer, ImageError> {
    let mut hashed = Hashed::new(Vec::new());
    write_layer(root, &mut hashed, &|_| {})?;
    let (bytes, diff_id, length) = hashed.finish();
    Ok(Layer { diff_id, length, bytes: LayerBytes::Memory(bytes) })
}

/// Writes a tree as a layer into a file; `progress` hears how many bytes are written.
pub fn layer_in_file(root: &Rootfs, path: &Path, progress: &dyn Fn(u64)) -> Result<Layer, ImageError> {
    let file = File::create(path).map_err(ImageError::file(path))?;
    let mut hashed = Hashed::new(BufWriter::with_capacity(CHUNK_BYTES, file));
    write_layer(root, &mut hashed, progress)?;
    let (mut writer, diff_id, length) = hashed.finish();
    writer.flush()?;
    Ok(Layer { diff_id, length, bytes: LayerBytes::File(path.to_owned()) })
}

fn write_layer<W: Write>(root: &Rootfs, out: &mut Hashed<W>, progress: &dyn Fn(u64)) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    for (path, node) in root.iter() {
        append(&mut tar, path, node)?;
        progress(tar.get_ref().length);
    }
    tar.into_inner()?;
    Ok(())
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &str, node: &Node) -> io::Result<()> {
    let mut header = header(node.mode);
    header.set_uid(node.owner.uid.into());
    header.set_gid(node.owner.gid.into());
    match &node.kind {
        Kind::Directory => {
            header.set_entry_type(EntryType::Directory);
            tar.append_data(&mut header, format!("{path}/"), io::empty())
        }
        Kind::Symlink(target) => {
            header.set_entry_type(EntryType::Symlink);
            tar.append_link(&mut header, path, target)
        }
        Kind::File(content) => {
            header.set_size(content.len());
            tar.append_data(&mut header, path, content.open()?)
        }
    }
}

fn header(mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(mode);
    header.set_mtime(MTIME_SECONDS);
    header.set_size(0);
    header
}

/// Loads an image of one layer into the engine under a name; `progress` hears bytes sent and their total.
pub async fn load(
    docker: &Docker,
    name: &str,
    config: &ImageConfig,
    layer: Layer,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<(), ImageError> {
    let total = layer.length;
    let before = id_of(docker, name).await?;
    let (count, mut counted) = tokio::sync::mpsc::unbounded_channel();
    let archive = image_archive(name, config, layer)?.inspect_ok(move |chunk| {
        // The receiver lives until the stream below ends.
        let _ = count.send(chunk.len() as u64);
    });
    let mut answers = std::pin::pin!(docker.import_image_stream(ImportImageOptions::default(), archive, None));
    let mut sent = 0;
    loop {
        tokio::select! {
            biased;
            answer = answers.next() => match answer {
                Some(answer) => drop(answer?),
                None => break,
            },
            Some(bytes) = counted.recv() => {
                sent += bytes;
                progress(sent.min(total), total);
            }
        }
    }
    confirm_loaded(docker, name, &config.recipe).await?;
    if let Some(before) = before {
        forget(docker, &before).await;
    }
    Ok(())
}

async fn id_of(docker: &Docker, name: &str) -> Result<Option<String>, ImageError> {
    match docker.inspect_image(name).await {
        Ok(image) => Ok(image.id),
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes an image that has lost its last name, unless containers still run from it.
async fn forget(docker: &Docker, id: &str) {
    let named = |image: bollard::models::ImageInspect| image.repo_tags.is_some_and(|tags| !tags.is_empty());
    if docker.inspect_image(id).await.map_or(true, named) {
        return;
    }
    if let Err(error) = docker.remove_image(id, None::<RemoveImageOptions>, None).await {
        tracing::debug!(id, %error, "the former image stays");
    }
}

/// The engine may end its answer early when something goes wrong; what counts is that the image is there.
async fn confirm_loaded(docker: &Docker, name: &str, recipe: &str) -> Result<(), ImageError> {
    match recipe_of(docker, name).await? {
        Some(Some(found)) if found == recipe => Ok(()),
        _ => Err(ImageError::Host(format!("Docker took the image {name} without an error, but does not have it"))),
    }
}

/// What `docker save` would have written: a manifest, the settings, and the layer.
fn image_archive(
    name: &str,
    config: &ImageConfig,
    layer: Layer,
) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, ImageError> {
    let config_bytes = image_json(config, &layer.diff_id).to_string().into_bytes();
    let config_name = format!("{}.json", sha256(&config_bytes));
    let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"] }]);

    let mut front = Vec::new();
    for (file, bytes) in [("manifest.json", manifest.to_string().into_bytes()), (&config_name, config_bytes)] {
        front.extend_from_slice(plain_header(file, bytes.len() as u64)?.as_bytes());
        front.extend_from_slice(&bytes);
        front.resize(front.len().next_multiple_of(BLOCK_BYTES as usize), 0);
    }
    front.extend_from_slice(plain_header("layer.tar", layer.length)?.as_bytes());

    let padding = (BLOCK_BYTES - layer.length % BLOCK_BYTES) % BLOCK_BYTES;
    let back = vec![0; (padding + 2 * BLOCK_BYTES) as usize];
    let body = match layer.bytes {
        LayerBytes::Memory(bytes) => stream::iter([Ok(Bytes::from(bytes))]).boxed(),
        LayerBytes::File(path) => {
            let file = File::open(&path).map_err(ImageError::file(&path))?;
            ReaderStream::with_capacity(tokio::fs::File::from_std(file), CHUNK_BYTES).boxed()
        }
    };
    let whole = |bytes: Vec<u8>| stream::iter([Ok(Bytes::from(bytes))]);
    Ok(whole(front).chain(body).chain(whole(back)))
}

fn plain_header(name: &str, length: u64) -> io::Result<Header> {
    let mut header = header(0o644);
    header.set_path(name)?;
    header.set_size(length);
    header.set_cksum();
    Ok(header)
}

/// The image's JSON document (OCI image specification, "Image Configuration").
fn image_json(config: &ImageConfig, diff_id: &str) -> serde_json::Value {
    let set = |names: Vec<String>| names.into_iter().map(|name| (name, json!({}))).collect::<serde_json::Map<_, _>>();
    let env: Vec<_> = config.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    json!({
        "architecture": architecture(),
        "os": "linux",
        "created": CREATED,
        "config": {
            "Entrypoint": config.entrypoint,
            "Cmd": config.cmd,
            "Env": env,
            "ExposedPorts": set(config.expose.iter().map(|port| format!("{port}/tcp")).collect()),
            "Volumes": set(config.volumes.clone()),
            "WorkingDir": config.workdir,
            "User": config.user,
            "StopSignal": config.stop_signal,
            "Labels": { RECIPE_LABEL: config.recipe },
        },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created": CREATED, "created_by": "coracle images build" }],
    })
}

/// This CPU, by Docker's and Debian's name.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A writer that hashes and counts what passes.
struct Hashed<W> {
    inner: W,
    hash: ring::digest::Context,
    length: u64,
}

impl<W: Write> Hashed<W> {
    fn new(inner: W) -> Hashed<W> {
        Hashed { inner, hash: ring::digest::Context::new(&ring::digest::SHA256), length: 0 }
    }

    fn finish(self) -> (W, String, u64) {
        (self.inner, format!("sha256:{}", hex(self.hash.finish().as_ref())), self.length)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::Owner;

    fn tree() -> Rootfs {
        let mut root = Rootfs::default();
        root.insert("var/lib/mysql", Node { owner: Owner { uid: 999, gid: 999 }, ..Node::directory(0o750) });
        root.insert("bin", Node::symlink("usr/bin"));
        root.insert(&format!("usr/{}", "long/".repeat(40)), Node::file(b"x", 0o4755));
        root
    }

    #[test]
    fn the_same_tree_is_the_same_layer_and_keeps_owners_modes_and_long_names() {
        let (one, two) = (layer_in_memory(&tree()).unwrap(), layer_in_memory(&tree()).unwrap());
        assert_eq!(one.diff_id, two.diff_id);
        let LayerBytes::Memory(bytes) = one.bytes else { panic!("in memory") };
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!(header.mtime().unwrap(), MTIME_SECONDS);
                (entry.path().unwrap().display().to_string(), header.mode().unwrap(), header.uid().unwrap())
            })
            .collect();
        assert_eq!(entries[0], ("bin".into(), 0o777, 0));
        assert!(entries.contains(&("var/lib/mysql/".into(), 0o750, 999)));
        let (path, mode, _) = &entries[entries.len() - 4];
        assert!(path.ends_with("long/long") && path.len() > 200 && *mode == 0o4755, "{path} {mode:o}");
    }

    #[test]
    fn the_layer_in_a_file_is_the_layer_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let in_file = layer_in_file(&tree(), &folder.path().join("layer.tar"), &|_| {}).unwrap();
        let in_memory = layer_in_memory(&tree()).unwrap();
        assert_eq!((in_file.diff_id, in_file.length), (in_memory.diff_id, in_memory.length));
    }

    #[tokio::test]
    async fn an_image_archive_is_a_manifest_the_settings_and_the_layer() {
        let config = ImageConfig { cmd: vec!["sh".into()], expose: vec![80], ..ImageConfig::default() };
        let layer = layer_in_memory(&tree()).unwrap();
        let length = layer.length;
        let chunks: Vec<Bytes> =
            image_archive("echo:1", &config, layer).unwrap().map(|chunk| chunk.unwrap()).collect().await;
        let bytes = chunks.concat();
        assert_eq!(bytes.len() as u64 % BLOCK_BYTES, 0);
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut found = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = Vec::new();
            io::Read::read_to_end(&mut entry, &mut text).unwrap();
            found.insert(entry.path().unwrap().display().to_string(), text);
        }
        assert_eq!(found["layer.tar"].len() as u64, length);
        let manifest: serde_json::Value = serde_json::from_slice(&found["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"], json!(["echo:1"]));
        let document: serde_json::Value =
            serde_json::from_slice(&found[manifest[0]["Config"].as_str().unwrap()]).unwrap();
        assert_eq!(document["config"]["ExposedPorts"], json!({ "80/tcp": {} }));
        assert_eq!(document["rootfs"]["diff_ids"][0], format!("sha256:{}", sha256(&found["layer.tar"])));
    }
}
