//! Recipes: what an image consists of, as data.
//!
//! A recipe is a folder under `recipes/`: `recipe.yaml` (a [`Recipe`]) and `files/` (our own files, at
//! the paths they have in the image). All recipes share what `recipes/common/` says. They are embedded
//! in this library; their hash, kept as a label of the image, tells when an image must be rebuilt.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::archive::{ImageConfig, sha256};

/// The files of a recipe, as embedded.
struct Source {
    yaml: &'static str,
    files: &'static [(&'static str, &'static [u8])],
}

/// `source!("mysql", "etc/my.cnf", …)`: the folder's recipe and these of its files.
macro_rules! source {
    ($folder:literal $(, $file:literal)* $(,)?) => {
        Source {
            yaml: include_str!(concat!("../recipes/", $folder, "/recipe.yaml")),
            files: &[$(($file, include_bytes!(concat!("../recipes/", $folder, "/files/", $file)))),*],
        }
    };
}

const COMMON: &str = include_str!("../recipes/common/recipe.yaml");
/// The names under which BusyBox is called, with the folders these programs usually are in.
const APPLETS: &str = include_str!("../recipes/common/applets.txt");
const SOURCES: [Source; 3] = [
    source!("busybox"),
    source!("mysql", "etc/mysql/my.cnf", "usr/local/bin/docker-entrypoint.sh"),
    source!(
        "wordpress",
        "etc/apache2/coracle.conf",
        "etc/php/coracle.ini",
        "usr/local/bin/apache2-foreground",
        "usr/local/bin/docker-entrypoint.sh",
        "usr/src/wordpress/wp-config-docker.php",
        "usr/src/wordpress/.htaccess",
    ),
];

/// Raised when the same recipe begins to give another image because this crate changed.
const BUILDER_VERSION: &str = "1";

/// How to make an image from Debian packages.
///
/// Paths have no leading slash. A path or package name may end in `*`, or contain one.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// The image's name with its tag: one under which a registry has an image that behaves alike.
    pub image: String,
    /// What it is, in a line.
    pub about: String,
    /// The Debian suite the packages are of.
    pub suite: String,
    /// What the suite must offer for the tag to tell the truth.
    pub version: Version,
    /// The packages to install, with all they depend on …
    pub packages: Vec<String>,
    /// … except these.
    pub without: Vec<String>,
    /// Step 1: files made of all files of a folder, in the order of their names.
    pub concatenate: Vec<Copy>,
    /// Step 2: copies of files and folders, with links replaced by what they point to.
    pub copy: Vec<Copy>,
    /// Step 3: text to put at the end of files.
    pub append: BTreeMap<String, String>,
    /// Step 4: files and folders to leave out.
    pub remove: Vec<String>,
    /// Step 6 (step 5 are the recipe's own files): folders.
    pub folders: BTreeMap<String, Folder>,
    /// Step 7: symbolic links, from their path to their target.
    pub links: BTreeMap<String, String>,
    /// How to run it.
    pub config: ImageConfig,
    /// Step 5: the recipe's own files; executable if they begin with `#!`.
    #[serde(skip)]
    pub files: Vec<(&'static str, &'static [u8])>,
    /// The hash of all of the above and of the builder's version.
    #[serde(skip)]
    pub hash: String,
}

/// A package and how its version must begin.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// The package's name.
    pub package: String,
    /// The beginning of its version.
    pub starts: String,
}

/// A source and a destination in the image.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    /// What is copied.
    pub from: String,
    /// The path of the copy.
    pub to: String,
    /// Owner of the copy.
    #[serde(default)]
    pub uid: u32,
    /// Group of the copy.
    #[serde(default)]
    pub gid: u32,
}

/// The permissions of a folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Folder {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Default for Folder {
    fn default() -> Folder {
        Folder { mode: 0o755, uid: 0, gid: 0 }
    }
}

/// Every recipe there is, in the order of their names.
pub fn recipes() -> Vec<Recipe> {
    SOURCES.iter().map(parse).collect()
}

/// The recipe for an image's name, which may be written as kubelets and registries do
/// (`docker.io/library/mysql:9`).
pub fn recipe(image: &str) -> Option<Recipe> {
    let short = familiar_name(image);
    recipes().into_iter().find(|recipe| recipe.image == short)
}

/// An image's name without what everybody leaves out.
fn familiar_name(image: &str) -> &str {
    let image = image.strip_prefix("docker.io/").unwrap_or(image);
    image.strip_prefix("library/").unwrap_or(image)
}

/// Where BusyBox' programs go.
pub(crate) fn applets() -> impl Iterator<Item = &'static str> {
    APPLETS.lines()
}

#[expect(clippy::expect_used, reason = "the texts are part of this library, and a test reads them all")]
fn parse(source: &Source) -> Recipe {
    let read = |yaml: &str| serde_yaml_ng::from_str::<Recipe>(yaml).expect("an embedded recipe is well-formed");
    let (common, mut recipe) = (read(COMMON), read(source.yaml));
    recipe.packages.extend(common.packages);
    recipe.without.extend(common.without);
    recipe.copy.extend(common.copy);
    recipe.remove.extend(common.remove);
    recipe.folders.extend(common.folders);
    recipe.files = source.files.to_vec();

    let texts = [BUILDER_VERSION, COMMON, APPLETS, source.yaml].map(str::as_bytes);
    let files = source.files.iter().flat_map(|(path, bytes)| [path.as_bytes(), bytes]);
    // The hash of hashes: no text can pass for the end of one and the beginning of the next.
    let hashes: Vec<String> = texts.into_iter().chain(files).map(sha256).collect();
    recipe.hash = sha256(hashes.concat().as_bytes());
    recipe
}

/// Whether a name fits a pattern, in which `*` stands for any text.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((front, rest)) => match name.strip_prefix(front) {
            None => false,
            Some(name) => (0..=name.len()).any(|skip| name.is_char_boundary(skip) && matches(rest, &name[skip..])),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_is_well_formed_and_has_a_tag_and_a_hash_of_its_own() {
        let recipes = recipes();
        for recipe in &recipes {
            assert!(recipe.image.contains(':') && !recipe.about.is_empty(), "{}", recipe.image);
            assert!(["trixie", "sid"].contains(&recipe.suite.as_str()), "{}", recipe.image);
            assert!(recipe.packages.contains(&"base-files".to_owned()));
        }
        let hashes: std::collections::BTreeSet<_> = recipes.iter().map(|recipe| &recipe.hash).collect();
        assert_eq!(hashes.len(), SOURCES.len());
    }

    #[test]
    fn a_recipe_is_found_by_every_spelling_of_its_images_name() {
        for name in ["mysql:9", "library/mysql:9", "docker.io/library/mysql:9", "docker.io/mysql:9"] {
            assert_eq!(recipe(name).unwrap().image, "mysql:9");
        }
        for name in ["mysql", "mysql:8", "example.org/mysql:9"] {
            assert!(recipe(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_star_stands_for_any_text() {
        let table = [
            ("perl*", "perl-base", true),
            ("perl*", "libperl", false),
            ("libtext-*-perl", "libtext-charwidth-perl", true),
            ("libtext-*-perl", "libtext-charwidth", false),
            ("dash", "dash", true),
            ("dash", "dashboard", false),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
