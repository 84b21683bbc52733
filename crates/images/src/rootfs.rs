//! The file tree of an image, in memory.
//!
//! A tree is a sorted map from path to [`Node`]. The contents of files mostly stay where they are, in
//! the unpacked packages on disk: a node remembers file, offset and length. So building a tree of ten
//! thousand files writes none of them, needs no root, and always gives the same tree for the same
//! packages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

/// Owner and group, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
pub struct Owner {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
}

/// Where the bytes of a file are.
#[derive(Debug, Clone)]
pub enum Content {
    /// Here.
    Bytes(Arc<[u8]>),
    /// In a part of a file on disk.
    Range {
        /// The file.
        file: Arc<Path>,
        /// Where the part begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        length: u64,
    },
}

impl Content {
    /// The number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Range { length, .. } => *length,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A reader of exactly these bytes.
    pub fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        match self {
            Content::Bytes(bytes) => Ok(Box::new(&bytes[..])),
            Content::Range { file, offset, length } => {
                let mut file = File::open(file)?;
                file.seek(SeekFrom::Start(*offset))?;
                Ok(Box::new(file.take(*length)))
            }
        }
    }
}

/// What lies at a path.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A folder.
    Directory,
    /// A file.
    File(Content),
    /// A symbolic link to this target.
    Symlink(String),
}

/// A file, folder or link with its permissions.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Whose it is.
    pub owner: Owner,
}

impl Node {
    /// The number of bytes in it.
    pub fn length(&self) -> u64 {
        match &self.kind {
            Kind::File(content) => content.len(),
            Kind::Directory | Kind::Symlink(_) => 0,
        }
    }

    /// A folder of root's.
    pub fn directory(mode: u32) -> Node {
        Node { kind: Kind::Directory, mode, owner: Owner::default() }
    }

    /// A file of root's.
    pub fn file(bytes: &[u8], mode: u32) -> Node {
        Node { kind: Kind::File(Content::Bytes(bytes.into())), mode, owner: Owner::default() }
    }

    /// A symbolic link.
    pub fn symlink(target: &str) -> Node {
        Node { kind: Kind::Symlink(target.into()), mode: 0o777, owner: Owner::default() }
    }
}

/// How many links a path may lead through before it counts as a loop (Linux allows as many).
const MAX_LINKS: u32 = 40;

/// A file tree; paths are relative to its root, without `.` and `..`.
#[derive(Debug, Clone, Default)]
pub struct Rootfs {
    nodes: BTreeMap<String, Node>,
}

impl Rootfs {
    /// Every path with its node, parents before children.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// The node at a path; links on the way are followed, one at the end is not.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(&self.resolve_parent(path))
    }

    /// The contents of a file, with a link at the end of the path followed.
    pub fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no file {path} in the image"));
        match self.nodes.get(&self.resolve(path, true)) {
            Some(Node { kind: Kind::File(content), .. }) => {
                let mut bytes = Vec::new();
                content.open()?.read_to_end(&mut bytes)?;
                Ok(bytes)
            }
            _ => Err(missing()),
        }
    }

    /// Names of what lies directly in a folder.
    pub fn children(&self, folder: &str) -> BTreeSet<String> {
        let folder = self.resolve(folder, true);
        let prefix = if folder.is_empty() { folder } else { format!("{folder}/") };
        let below = self.nodes.range(prefix.clone()..).map(|(path, _)| path);
        below
            .map_while(|path| path.strip_prefix(&prefix))
            .filter_map(|rest| rest.split('/').next())
            .map(String::from)
            .collect()
    }

    /// Puts a node at a path and makes the folders above it.
    ///
    /// A folder never replaces a link to a folder: packages ship `/bin/…` although `/bin` is a link to
    /// `/usr/bin` (what tar calls `--keep-directory-symlink`).
    pub fn insert(&mut self, path: &str, node: Node) {
        let is_directory = matches!(node.kind, Kind::Directory);
        let path = self.resolve(path, is_directory);
        if path.is_empty() {
            return;
        }
        for (end, _) in path.match_indices('/') {
            let parent = self.nodes.entry(path[..end].to_owned()).or_insert_with(|| Node::directory(0o755));
            // Only a link into a loop is left here by `resolve`, or a file where a folder must be.
            if !matches!(parent.kind, Kind::Directory) {
                *parent = Node::directory(0o755);
            }
        }
        if !is_directory {
            self.remove(&path);
        }
        self.nodes.insert(path, node);
    }

    /// Removes what lies at a path and below it; returns whether there was anything.
    pub fn remove(&mut self, path: &str) -> bool {
        let path = self.resolve_parent(path);
        let below = format!("{path}/");
        let before = self.nodes.len();
        self.nodes.retain(|name, _| *name != path && !name.starts_with(&below));
        self.nodes.len() < before
    }

    /// Copies a file or a folder with what is below it, and gives the copy to `owner`; links become
    /// copies of what they point to.
    ///
    /// Returns whether there was anything. Links that point nowhere are left out.
    pub fn copy(&mut self, from: &str, to: &str, owner: Owner) -> bool {
        let from = self.resolve(from, true);
        let Some(node) = self.nodes.get(&from) else { return false };
        let node = Node { owner, ..node.clone() };
        match node.kind {
            Kind::Symlink(_) => return false,
            Kind::File(_) => self.insert(to, node),
            Kind::Directory => {
                self.insert(to, node);
                for name in self.children(&from) {
                    self.copy(&format!("{from}/{name}"), &format!("{to}/{name}"), owner);
                }
            }
        }
        true
    }

    fn resolve_parent(&self, path: &str) -> String {
        self.resolve(path, false)
    }

    /// The path without `.`, `..` and links; the last part is only followed if `follow_last`.
    fn resolve(&self, path: &str, follow_last: bool) -> String {
        let mut todo: Vec<String> = parts(path).rev().map(String::from).collect();
        let mut done = String::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                done.truncate(done.rfind('/').unwrap_or(0));
                continue;
            }
            let here = if done.is_empty() { part } else { format!("{done}/{part}") };
            match self.nodes.get(&here) {
                Some(Node { kind: Kind::Symlink(target), .. })
                    if (follow_last || !todo.is_empty()) && links < MAX_LINKS =>
                {
                    links += 1;
                    if target.starts_with('/') {
                        done.clear();
                    }
                    todo.extend(parts(target).rev().map(String::from));
                }
                _ => done = here,
            }
        }
        done
    }
}

fn parts(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usr_merged() -> Rootfs {
        let mut root = Rootfs::default();
        root.insert("usr/bin", Node::directory(0o755));
        root.insert("bin", Node::symlink("usr/bin"));
        root
    }

    fn paths(root: &Rootfs) -> Vec<&str> {
        root.iter().map(|(path, _)| path).collect()
    }

    #[test]
    fn a_package_that_ships_bin_lands_in_usr_bin() {
        let mut root = usr_merged();
        root.insert("./bin/", Node::directory(0o755));
        root.insert("./bin/sh", Node::symlink("dash"));
        root.insert("./bin/dash", Node::file(b"elf", 0o755));
        assert_eq!(paths(&root), ["bin", "usr", "usr/bin", "usr/bin/dash", "usr/bin/sh"]);
        assert_eq!(root.read("/bin/sh").unwrap(), b"elf");
    }

    #[test]
    fn links_are_followed_like_the_kernel_follows_them() {
        let mut root = usr_merged();
        root.insert("etc/alternatives/awk", Node::symlink("/usr/bin/mawk"));
        root.insert("usr/bin/awk", Node::symlink("../../etc/alternatives/awk"));
        root.insert("usr/bin/mawk", Node::file(b"mawk", 0o755));
        root.insert("loop", Node::symlink("loop"));
        assert_eq!(root.read("bin/awk").unwrap(), b"mawk");
        assert_eq!(root.read("/etc/../bin/./mawk").unwrap(), b"mawk");
        assert!(root.read("loop").is_err());
        assert!(root.read("/etc").is_err());
    }

    #[test]
    fn removing_a_folder_removes_what_is_below_and_nothing_beside() {
        let mut root = usr_merged();
        root.insert("usr/share/doc/a", Node::file(b"", 0o644));
        root.insert("usr/share/doc-base", Node::file(b"", 0o644));
        assert!(root.remove("usr/share/doc"));
        assert!(!root.remove("usr/share/doc"));
        assert_eq!(root.children("usr/share"), ["doc-base".to_owned()].into());
    }

    proptest! {
        #[test]
        fn parents_come_before_children_and_nothing_lies_below_a_link(inserts in prop::collection::vec(("[ab](/[ab]){0,3}", 0..3), 0..20)) {
            let mut root = Rootfs::default();
            for (path, kind) in inserts {
                root.insert(&path, match kind {
                    0 => Node::directory(0o755),
                    1 => Node::symlink("a"),
                    _ => Node::symlink("/b/a"),
                });
            }
            for path in paths(&root) {
                if let Some((parent, _)) = path.rsplit_once('/') {
                    let parent = root.nodes.get(parent).map(|node| &node.kind);
                    prop_assert!(matches!(parent, Some(Kind::Directory)), "{path} lies in no folder");
                }
            }
        }
    }
}
