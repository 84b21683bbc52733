//! From a recipe to an image in the engine.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bollard::Docker;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::{Mutex, OnceCell};
use tokio::task::spawn_blocking;

use crate::archive::{self, ImageError, Layer};
use crate::debian::{self, Suite};
use crate::progress::{Progress, Stage};
use crate::recipe::{Recipe, applets, matches};
use crate::rootfs::{Content, Kind, Node, Owner, Rootfs};

/// How many bytes of a layer are written between two reports.
const REPORT_BYTES: u64 = 4 << 20;

/// Builds images side by side, with one folder for what they share.
#[derive(Debug)]
pub struct Builder {
    folder: PathBuf,
    // Two recipes of one suite share its index; whoever comes second waits for it.
    suites: Mutex<BTreeMap<String, Arc<OnceCell<Arc<Suite>>>>>,
}

impl Builder {
    /// A builder that keeps indexes and packages below `folder` (`<data-dir>/images`).
    pub fn new(folder: &Path) -> Builder {
        // apt changes folders, so it must not meet relative paths.
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        Builder { folder, suites: Mutex::default() }
    }

    /// Builds a recipe's image and loads it into the engine.
    pub async fn build(
        &self,
        docker: &Docker,
        recipe: &Arc<Recipe>,
        progress: &Arc<dyn Progress>,
    ) -> Result<(), ImageError> {
        let item = &recipe.image;
        let suite = self.suite(recipe, progress).await?;
        let packages = self.packages(&suite, recipe, progress).await?;
        let scratch = debian::tempdir(&self.folder)?;
        let tars = unpack(&packages, scratch.path(), item, progress).await?;

        let layer_file = scratch.path().join("layer.tar");
        let (for_layer, reports) = (recipe.clone(), progress.clone());
        let layer = spawn_blocking(move || make_layer(&for_layer, &tars, &layer_file, &reports)).await;
        let layer = layer.map_err(io::Error::other)??;

        let mut config = recipe.config.clone();
        config.recipe.clone_from(&recipe.hash);
        let sent = |done, total| progress.report(item, Stage::Load, done, total);
        archive::load(docker, item, &config, layer, &sent).await?;
        progress.report(item, Stage::Done, 0, 0);
        Ok(())
    }

    async fn suite(&self, recipe: &Recipe, progress: &Arc<dyn Progress>) -> Result<Arc<Suite>, ImageError> {
        let slot = self.suites.lock().await.entry(recipe.suite.clone()).or_default().clone();
        let open =
            || async { Ok(Arc::new(Suite::open(&self.folder, &recipe.suite, &recipe.image, &**progress).await?)) };
        slot.get_or_try_init(open).await.cloned()
    }

    /// The files of the packages; an index that no longer fits the mirror is fetched anew, once.
    async fn packages(
        &self,
        suite: &Suite,
        recipe: &Recipe,
        progress: &Arc<dyn Progress>,
    ) -> Result<Vec<PathBuf>, ImageError> {
        let item = &recipe.image;
        progress.report(item, Stage::Resolve, 0, 0);
        let packages = suite.resolve(recipe).await?;
        match suite.download(&packages, item, &**progress).await {
            Ok(files) => Ok(files),
            Err(ImageError::Tool { command, message }) => {
                tracing::info!(command, message, "download failed; fetching the index anew");
                progress.report(item, Stage::Index, 0, 0);
                suite.update().await?;
                let packages = suite.resolve(recipe).await?;
                suite.download(&packages, item, &**progress).await
            }
            Err(error) => Err(error),
        }
    }
}

/// Turns packages into plain tars, as many at a time as there are processors.
async fn unpack(
    packages: &[PathBuf],
    scratch: &Path,
    item: &str,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<PathBuf>, ImageError> {
    let total = packages.len();
    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let tars = packages.iter().enumerate().map(|(index, package)| {
        let (package, tar) = (package.clone(), scratch.join(format!("{index}.tar")));
        async move {
            let done = spawn_blocking(move || debian::unpack(&package, &tar).map(|()| tar)).await;
            done.map_err(io::Error::other)?
        }
    });
    // In the order of the packages, not of their completion: later files replace earlier ones.
    let counted = stream::iter(tars).buffered(processors).enumerate().map(|(index, tar)| {
        progress.report(item, Stage::Unpack, index as u64 + 1, total as u64);
        tar
    });
    counted.try_collect().await
}

fn make_layer(
    recipe: &Recipe,
    tars: &[PathBuf],
    layer: &Path,
    progress: &Arc<dyn Progress>,
) -> Result<Layer, ImageError> {
    let mut root = Rootfs::default();
    // base-files ships the links from /bin to /usr/bin, through which the others' files must go.
    let (base, others): (Vec<_>, Vec<_>) = tars
        .iter()
        .map(|tar| read_tar(tar).map_err(ImageError::file(tar)))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .partition(|entries| entries.iter().any(|(path, _)| path.ends_with("usr/lib/os-release")));
    for (path, node) in base.into_iter().chain(others).flatten() {
        root.insert(&path, node);
    }
    follow(recipe, &mut root)?;
    let total: u64 = root.iter().map(|(_, node)| node.length()).sum();
    let next = Cell::new(0);
    archive::layer_in_file(&root, layer, &|done| {
        if done >= next.get() {
            progress.report(&recipe.image, Stage::Layer, done.min(total), total);
            next.set(done + REPORT_BYTES);
        }
    })
}

/// What a package's tar holds, with contents left in it.
fn read_tar(tar: &Path) -> io::Result<Vec<(String, Node)>> {
    let file: Arc<Path> = tar.into();
    let mut archive = tar::Archive::new(File::open(tar)?);
    let mut entries: Vec<(String, Node)> = Vec::new();
    for entry in archive.entries_with_seek()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let header = entry.header();
        let mode = header.mode()?;
        let owner = Owner { uid: header.uid()? as u32, gid: header.gid()? as u32 };
        let target = || -> io::Result<String> {
            Ok(entry.link_name()?.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
        };
        let kind = match header.entry_type() {
            tar::EntryType::Directory => Kind::Directory,
            tar::EntryType::Symlink => Kind::Symlink(target()?),
            tar::EntryType::Link => {
                // A second name for a file that stands earlier in the same tar.
                let target = target()?;
                let first =
                    entries.iter().find(|(path, _)| path.trim_start_matches("./") == target.trim_start_matches("./"));
                match first {
                    Some((_, node)) => node.kind.clone(),
                    None => return Err(io::Error::other(format!("{path} is a link to {target}, which is not there"))),
                }
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let (offset, length) = (entry.raw_file_position(), entry.size());
                if length <= SMALL_BYTES {
                    // Opening the tar anew for each of ten thousand small files costs more than keeping them.
                    let mut bytes = Vec::with_capacity(length as usize);
                    entry.read_to_end(&mut bytes)?;
                    Kind::File(Content::Bytes(bytes.into()))
                } else {
                    Kind::File(Content::Range { file: file.clone(), offset, length })
                }
            }
            other => return Err(io::Error::other(format!("{path} is a {other:?}, which no recipe needs"))),
        };
        entries.push((path, Node { kind, mode, owner }));
    }
    Ok(entries)
}

/// Files up to this length are kept in memory.
const SMALL_BYTES: u64 = 16 << 10;

/// The steps of a recipe, in the order that [`Recipe`]'s fields give.
fn follow(recipe: &Recipe, root: &mut Rootfs) -> Result<(), ImageError> {
    let missing = |what: &str| ImageError::Recipe {
        recipe: recipe.image.clone(),
        message: format!("{what} is not in the packages"),
    };
    for step in &recipe.concatenate {
        let mut bytes = Vec::new();
        for name in root.children(&step.from) {
            bytes.extend(root.read(&format!("{}/{name}", step.from))?);
        }
        if bytes.is_empty() {
            return Err(missing(&step.from));
        }
        root.insert(&step.to, Node::file(&bytes, 0o644));
    }
    for step in &recipe.copy {
        if !root.copy(&step.from, &step.to, Owner { uid: step.uid, gid: step.gid }) {
            return Err(missing(&step.from));
        }
    }
    for (path, text) in &recipe.append {
        let mut bytes = root.read(path)?;
        bytes.extend(text.as_bytes());
        root.insert(path, Node::file(&bytes, 0o644));
    }
    remove(root, &recipe.remove);
    for (path, bytes) in &recipe.files {
        root.insert(path, Node::file(bytes, if bytes.starts_with(b"#!") { 0o755 } else { 0o644 }));
    }
    for (path, folder) in &recipe.folders {
        let owner = Owner { uid: folder.uid, gid: folder.gid };
        root.insert(path, Node { owner, ..Node::directory(folder.mode) });
    }
    for (path, target) in &recipe.links {
        root.insert(path, Node::symlink(target));
    }
    for path in applets() {
        if root.get(path).is_none() {
            root.insert(path, Node::symlink("/usr/bin/busybox"));
        }
    }
    Ok(())
}

/// Removes paths; a `*` may stand in a path's last part.
fn remove(root: &mut Rootfs, patterns: &[String]) {
    for pattern in patterns {
        let (folder, last) = pattern.rsplit_once('/').unwrap_or(("", pattern));
        for name in root.children(folder) {
            if matches(last, &name) {
                root.remove(&format!("{folder}/{name}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(yaml: &str) -> Recipe {
        serde_yaml_ng::from_str(yaml).unwrap()
    }

    #[test]
    fn a_recipes_steps_make_of_packages_what_maintainer_scripts_would() {
        let mut root = Rootfs::default();
        root.insert("usr/share/base/passwd", Node::file(b"root:x:0\n", 0o600));
        root.insert("usr/share/certs/b.crt", Node::file(b"B", 0o644));
        root.insert("usr/share/certs/a.crt", Node::file(b"A", 0o644));
        root.insert("usr/share/app/lib.js", Node::symlink("../js/lib.js"));
        root.insert("usr/share/js/lib.js", Node::file(b"js", 0o644));
        root.insert("usr/bin/awk", Node::file(b"real", 0o755));
        let recipe = recipe(
            "concatenate: [{from: usr/share/certs, to: etc/certs.crt}]\n\
             copy: [{from: usr/share/base/passwd, to: etc/passwd}, {from: usr/share/app, to: srv/app}]\n\
             append: {etc/passwd: \"app:x:999\\n\"}\n\
             remove: [usr/share/*]\n\
             folders: {var/lib/app: {mode: 0o750, uid: 999}}\n\
             links: {bin/app: /srv/app}\n",
        );
        follow(&recipe, &mut root).unwrap();
        assert_eq!(root.read("etc/certs.crt").unwrap(), b"AB");
        assert_eq!(root.read("etc/passwd").unwrap(), b"root:x:0\napp:x:999\n");
        assert_eq!(root.read("bin/app/lib.js").unwrap(), b"js");
        assert!(matches!(root.get("srv/app/lib.js").unwrap().kind, Kind::File(_)), "links are copied as files");
        assert!(root.children("usr/share").is_empty());
        let folder = root.get("var/lib/app").unwrap();
        assert_eq!((folder.mode, folder.owner.uid), (0o750, 999));
        assert_eq!(root.read("usr/bin/awk").unwrap(), b"real", "BusyBox stands in only for what is missing");
        assert!(matches!(&root.get("usr/bin/ls").unwrap().kind, Kind::Symlink(to) if to == "/usr/bin/busybox"));
    }

    #[test]
    fn a_step_whose_source_is_gone_is_an_error_and_no_broken_image() {
        for yaml in ["copy: [{from: a, to: b}]", "concatenate: [{from: a, to: b}]", "append: {a: b}"] {
            assert!(follow(&recipe(yaml), &mut Rootfs::default()).is_err(), "{yaml}");
        }
    }

    #[test]
    fn a_packages_tar_is_read_with_links_and_long_files_left_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("package.tar");
        let mut tar = tar::Builder::new(File::create(&path).unwrap());
        let large = vec![7; SMALL_BYTES as usize + 1];
        let mut header = tar::Header::new_gnu();
        header.set_size(large.len() as u64);
        header.set_mode(0o755);
        header.set_uid(5);
        header.set_gid(6);
        tar.append_data(&mut header, "usr/bin/large", &large[..]).unwrap();
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Link);
        tar.append_link(&mut header, "usr/bin/again", "usr/bin/large").unwrap();
        tar.finish().unwrap();

        let mut root = Rootfs::default();
        for (path, node) in read_tar(&path).unwrap() {
            root.insert(&path, node);
        }
        assert_eq!(root.read("usr/bin/again").unwrap(), large);
        let node = root.get("usr/bin/large").unwrap();
        assert!(matches!(node.kind, Kind::File(Content::Range { .. })));
        assert_eq!((node.mode, node.owner), (0o755, Owner { uid: 5, gid: 6 }));
    }
}
