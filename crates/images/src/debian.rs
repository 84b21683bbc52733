//! Debian packages: which ones a recipe needs, and their download.
//!
//! The host's `apt-get` does the work, with a state of its own in a folder of ours: its own list of
//! sources, its own index, and a record of installed packages that is empty, so that the whole closure
//! of dependencies comes. Nothing of the host's is touched, and no root is needed. apt checks every
//! byte against the archive's signature.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::archive::ImageError;
use crate::engine::installed;
use crate::progress::{Progress, Stage};
use crate::recipe::{Recipe, matches};

/// The variable that names a Debian mirror, for hosts whose own apt is not Debian's.
pub const MIRROR_VARIABLE: &str = "CORACLE_DEBIAN_MIRROR";

/// Suites by which Debian's own sources are told from others'.
const SUITES: [&str; 11] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "stable",
    "oldstable",
    "testing",
    "unstable",
    "experimental",
];

/// Where Debian's archive keys are, on Debian and (with the package of the same name) elsewhere.
const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.pgp", "/usr/share/keyrings/debian-archive-keyring.gpg"];

/// After so long an index is fetched anew: unstable's packages are gone from the mirror some days after.
const INDEX_AGE_SECONDS: u64 = 12 * 3600;

/// How often the size of a running download is looked at.
const POLL: std::time::Duration = std::time::Duration::from_millis(100);

/// A package to download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, with epoch.
    pub version: String,
    /// The file it is downloaded to.
    pub file_name: String,
    /// Its length, in bytes.
    pub length: u64,
}

/// The apt state of one suite, and the packages downloaded through it.
#[derive(Debug)]
pub struct Suite {
    folder: PathBuf,
    packages: PathBuf,
    name: String,
}

impl Suite {
    /// Sets up apt for a suite below `folder` and fetches its index if it is absent or old.
    pub async fn open(folder: &Path, name: &str, item: &str, progress: &dyn Progress) -> Result<Suite, ImageError> {
        for tool in ["apt-get", "apt-config", "dpkg-deb"] {
            if !installed(tool) {
                return Err(ImageError::Host(format!(
                    "images are built from Debian packages, for which this host lacks {tool}; connect to a network \
                     from which a registry can be reached, or load the images from another machine: \
                     docker save IMAGE | docker load"
                )));
            }
        }
        let suite =
            Suite { folder: folder.join("apt").join(name), packages: folder.join("packages"), name: name.into() };
        let source = source_line(name)?;
        if suite.write_configuration(&source).await? || suite.index_is_old() {
            progress.report(item, Stage::Index, 0, 0);
            suite.update().await?;
        }
        Ok(suite)
    }

    /// Writes apt's files; returns whether the source is another than before.
    async fn write_configuration(&self, source: &str) -> Result<bool, ImageError> {
        for sub in ["state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d"] {
            let path = self.folder.join(sub);
            fs::create_dir_all(&path).map_err(ImageError::file(&path))?;
        }
        fs::create_dir_all(&self.packages).map_err(ImageError::file(&self.packages))?;
        let list = self.folder.join("etc/sources.list");
        let changed = fs::read_to_string(&list).ok().as_deref() != Some(source);
        let host = run(Command::new("apt-config").arg("dump")).await?;
        let configuration = configuration(&self.folder, &host, rustix::process::geteuid().is_root());
        for (file, text) in [("etc/sources.list", source), ("state/status", ""), ("apt.conf", &configuration)] {
            let path = self.folder.join(file);
            // A file that is newer than apt's cache would make it read the whole index again.
            if fs::read_to_string(&path).ok().as_deref() != Some(text) {
                fs::write(&path, text).map_err(ImageError::file(&path))?;
            }
        }
        Ok(changed)
    }

    fn index_is_old(&self) -> bool {
        let modified = fs::metadata(self.stamp()).and_then(|file| file.modified());
        let Ok(Ok(age)) = modified.map(|time| time.duration_since(std::time::UNIX_EPOCH)) else { return true };
        let now = coracle_clock::now().as_second().max(0) as u64;
        now.saturating_sub(age.as_secs()) > INDEX_AGE_SECONDS
    }

    /// The file whose age is the index'.
    fn stamp(&self) -> PathBuf {
        self.folder.join("state/updated")
    }

    /// Fetches the suite's index.
    pub async fn update(&self) -> Result<(), ImageError> {
        // Without this, apt counts a source that does not answer as a mere warning.
        run(self.apt_get(&["update", "-o", "APT::Update::Error-Mode=any"])).await?;
        fs::write(self.stamp(), "").map_err(ImageError::file(self.stamp()))
    }

    /// The packages a recipe needs.
    pub async fn resolve(&self, recipe: &Recipe) -> Result<Vec<Package>, ImageError> {
        let mut command = Command::new("apt-get");
        self.private(&mut command).args(["install", "-y", "-q", "--print-uris"]).args(&recipe.packages);
        let all = parse_uris(&run(&mut command).await?);
        let failed = |message: String| ImageError::Recipe { recipe: recipe.image.clone(), message };
        let wanted = &recipe.version;
        match all.iter().find(|package| package.name == wanted.package) {
            Some(found) if found.version.starts_with(&wanted.starts) => {}
            found => {
                let offers = found.map_or("none", |package| package.version.as_str());
                let Recipe { suite, .. } = recipe;
                let message = format!("needs {} {}, but Debian {suite} offers {offers}", wanted.package, wanted.starts);
                return Err(failed(message));
            }
        }
        let kept = |package: &Package| !recipe.without.iter().any(|pattern| matches(pattern, &package.name));
        Ok(all.into_iter().filter(kept).collect())
    }

    /// Downloads those packages that are not here yet; returns their files.
    pub async fn download(
        &self,
        packages: &[Package],
        item: &str,
        progress: &dyn Progress,
    ) -> Result<Vec<PathBuf>, ImageError> {
        let files: Vec<_> = packages.iter().map(|package| self.packages.join(&package.file_name)).collect();
        let missing = |(package, file): &(&Package, &PathBuf)| length(file) != package.length;
        let missing: Vec<_> = packages.iter().zip(&files).filter(missing).map(|(package, _)| package).collect();
        if missing.is_empty() {
            return Ok(files);
        }
        let total = missing.iter().map(|package| package.length).sum();
        // A folder of this download's own: what lies in `packages` is whole and checked.
        let scratch = tempdir(&self.packages)?;
        let mut command = Command::new("apt-get");
        self.private(&mut command).args(["download", "-q"]).current_dir(scratch.path());
        command.args(missing.iter().map(|package| format!("{}={}", package.name, package.version)));
        let mut running = std::pin::pin!(run(&mut command));
        loop {
            match coracle_clock::timeout(POLL, &mut running).await {
                Ok(result) => break drop(result?),
                Err(_) => {
                    let done = missing.iter().map(|package| length(&scratch.path().join(&package.file_name))).sum();
                    progress.report(item, Stage::Download, done, total);
                }
            }
        }
        for package in missing {
            let from = scratch.path().join(&package.file_name);
            fs::rename(&from, self.packages.join(&package.file_name)).map_err(ImageError::file(&from))?;
        }
        progress.report(item, Stage::Download, total, total);
        Ok(files)
    }

    fn apt_get(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("apt-get");
        self.private(&mut command).arg("-q").args(arguments);
        command
    }

    fn private<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        tracing::debug!(suite = self.name, "running apt-get");
        command.env("APT_CONFIG", self.folder.join("apt.conf")).env("LC_ALL", "C.UTF-8")
    }
}

/// A folder of its own below `parent`, removed when dropped.
pub(crate) fn tempdir(parent: &Path) -> Result<Scratch, ImageError> {
    let path = parent.join(format!(".{}", coracle_clock::uuid()));
    fs::create_dir_all(&path).map_err(ImageError::file(&path))?;
    Ok(Scratch(path))
}

/// See [`tempdir`].
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "could not remove a temporary folder");
        }
    }
}

fn length(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |metadata| metadata.len())
}

/// Runs a tool to its end; its standard output, or an error with the end of its standard error.
async fn run(command: impl std::borrow::BorrowMut<Command>) -> Result<String, ImageError> {
    let mut command = command;
    let command = command.borrow_mut().stdin(Stdio::null()).kill_on_drop(true);
    let what = || {
        let arguments = command.as_std().get_args().take(3).map(|argument| argument.to_string_lossy());
        let words: Vec<_> = [command.as_std().get_program().to_string_lossy()].into_iter().chain(arguments).collect();
        words.join(" ")
    };
    let name = what();
    let failed = |message: String| ImageError::Tool { command: name.clone(), message };
    let output = command.output().await.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = errors.lines().filter(|line| !line.starts_with("W:")).collect();
    Err(failed(lines[lines.len().saturating_sub(5)..].join("; ")))
}

/// apt's settings: everything below `folder`, but the host's way to the network.
fn configuration(folder: &Path, host: &str, root: bool) -> String {
    let at = |sub: &str| folder.join(sub).display().to_string();
    let mut text = format!(
        "Dir::State \"{}\";\nDir::State::status \"{}\";\nDir::Cache \"{}\";\nDir::Etc \"{}\";\n\
         Dir::Etc::parts \"apt.conf.d\";\nDir::Etc::netrc \"/etc/apt/auth.conf\";\n\
         Dir::Etc::netrcparts \"/etc/apt/auth.conf.d\";\n",
        at("state"),
        at("state/status"),
        at("cache"),
        at("etc"),
    );
    // Unstable's index may be past its date on a mirror or snapshot; its signature still counts.
    // Compressed and without a second cache, a suite takes 70 MB instead of 160.
    text.push_str(
        "Acquire::Check-Valid-Until \"false\";\nAcquire::Languages \"none\";\nAcquire::GzipIndexes \"true\";\n\
         Dir::Cache::srcpkgcache \"\";\nAcquire::ForceHash \"SHA256\";\n\
         APT::Install-Recommends \"false\";\nAPT::Get::Assume-Yes \"true\";\n",
    );
    if root {
        // The user `_apt` cannot write below a home folder.
        text.push_str("APT::Sandbox::User \"root\";\n");
    }
    let network = ["Acquire::http", "Acquire::https", "Acquire::Retries"];
    for line in host.lines().filter(|line| network.iter().any(|prefix| line.starts_with(prefix))) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The one line of a `sources.list` for a suite.
fn source_line(suite: &str) -> Result<String, ImageError> {
    let set = std::env::var(MIRROR_VARIABLE).ok().filter(|mirror| !mirror.is_empty());
    let mirror = set.or_else(|| debian_mirror(&read_sources())).ok_or_else(|| {
        ImageError::Host(format!(
            "images are built from Debian packages, but no Debian mirror stands in /etc/apt; type: \
             export {MIRROR_VARIABLE}=URL, with one of https://www.debian.org/mirror/list"
        ))
    })?;
    let keyring = KEYRINGS.iter().find(|path| Path::new(path).is_file()).ok_or_else(|| {
        ImageError::Host(
            "the keys that sign Debian's packages are missing; type: sudo apt-get install debian-archive-keyring"
                .into(),
        )
    })?;
    Ok(format!("deb [signed-by={keyring}] {mirror} {suite} main\n"))
}

/// The host's lists of sources, one after the other.
fn read_sources() -> Vec<String> {
    let folder = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> =
        folder.filter(|path| path.extension().is_some_and(|end| end == "list" || end == "sources")).collect();
    files.sort();
    files.insert(0, "/etc/apt/sources.list".into());
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect()
}

/// The address of Debian's archive among a host's sources (sources.list(5), both formats).
///
/// A source is Debian's if it offers the component `main` of a suite of Debian's name; one that is
/// signed by Debian's keys goes before one that does not say.
fn debian_mirror(sources: &[String]) -> Option<String> {
    let mut found: Vec<(bool, String)> = Vec::new();
    for text in sources {
        found.extend(text.lines().filter_map(one_line_source));
        found.extend(text.split("\n\n").filter_map(paragraph_source));
    }
    let signed = found.iter().find(|(signed, _)| *signed);
    signed.or(found.first()).map(|(_, uri)| uri.clone())
}

/// `deb [options] uri suite component…`
fn one_line_source(line: &str) -> Option<(bool, String)> {
    let rest = line.trim().strip_prefix("deb ")?.trim();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    is_debian(&[suite], &words.collect::<Vec<_>>()).then(|| (options.contains("debian-archive"), uri.to_owned()))
}

/// A paragraph of `Types:`, `URIs:`, `Suites:`, `Components:`.
fn paragraph_source(paragraph: &str) -> Option<(bool, String)> {
    let words = |field: &str| -> Vec<&str> {
        let line = paragraph.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(field).then_some(value)
        });
        line.unwrap_or_default().split_whitespace().collect()
    };
    let enabled = !words("Enabled").contains(&"no");
    let debian = enabled && words("Types").contains(&"deb") && is_debian(&words("Suites"), &words("Components"));
    let signed = words("Signed-By").iter().any(|path| path.contains("debian-archive"));
    debian.then(|| words("URIs").first().map(|uri| (signed, (*uri).to_owned())))?
}

fn is_debian(suites: &[&str], components: &[&str]) -> bool {
    suites.iter().any(|suite| SUITES.contains(suite)) && components.contains(&"main")
}

/// Reads `apt-get --print-uris`: a line `'uri' file length hash` for each package.
fn parse_uris(text: &str) -> Vec<Package> {
    text.lines().filter(|line| line.starts_with('\'')).filter_map(parse_uri).collect()
}

fn parse_uri(line: &str) -> Option<Package> {
    let mut words = line.split_whitespace().skip(1);
    let (file_name, length) = (words.next()?, words.next()?);
    // name_version_architecture.deb; only an epoch's colon is written otherwise.
    let mut parts = file_name.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    Some(Package {
        name: name.into(),
        version: version.replace("%3a", ":"),
        file_name: file_name.into(),
        length: length.parse().ok()?,
    })
}

/// Unpacks a package into a plain tar beside its other files.
pub(crate) fn unpack(package: &Path, tar: &Path) -> Result<(), ImageError> {
    let failed = |message: String| ImageError::Tool {
        command: format!("dpkg-deb --fsys-tarfile {}", package.display()),
        message,
    };
    let out = fs::File::create(tar).map_err(ImageError::file(tar))?;
    let output = std::process::Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::piped())
        .output()
        .map_err(|error: io::Error| failed(error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_debian_mirror_is_found_in_both_formats_and_never_taken_for_anothers() {
        let paragraphs = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                          Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
                          Types: deb\nURIs: http://mirror.example/security\nSuites: bookworm-security\nComponents: main\n";
        let table: [(&[&str], Option<&str>); 7] = [
            (&[paragraphs], Some("http://mirror.example/debian")),
            (&["# deb http://old/debian sid main\ndeb http://a/debian trixie main contrib\n"], Some("http://a/debian")),
            (&["deb [arch=amd64 signed-by=/x] http://b/debian sid main"], Some("http://b/debian")),
            (&["deb http://third.example/debian bookworm main", paragraphs], Some("http://mirror.example/debian")),
            (&["deb http://archive.example/ubuntu noble main universe"], None),
            (&["deb http://docker.example/debian bookworm stable"], None),
            (&["Types: deb\nEnabled: no\nURIs: http://c\nSuites: sid\nComponents: main\n"], None),
        ];
        for (sources, expected) in table {
            let sources: Vec<String> = sources.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(debian_mirror(&sources).as_deref(), expected, "{sources:?}");
        }
    }

    #[test]
    fn the_closure_is_read_from_what_apt_prints() {
        let text = "Reading package lists...\n\
                    'http://m/pool/libc6_2.41-12_amd64.deb' libc6_2.41-12_amd64.deb 2850108 SHA256:b59b\n\
                    'http://m/pool/zlib1g_1.3_amd64.deb' zlib1g_1%3a1.3.dfsg+really1.3.1-1_amd64.deb 88720 SHA256:8c27\n";
        let packages = parse_uris(text);
        assert_eq!(packages.len(), 2);
        assert_eq!((packages[0].name.as_str(), packages[0].length), ("libc6", 2_850_108));
        assert_eq!(packages[1].version, "1:1.3.dfsg+really1.3.1-1");
    }

    #[test]
    fn apt_keeps_the_hosts_way_to_the_network_and_nothing_else_of_it() {
        let host = "APT \"\";\nDir::State \"var/lib/apt\";\nAcquire::http::Proxy \"http://proxy:3128\";\n\
                    DPkg::Post-Invoke:: \"rm -rf /\";\n";
        let text = configuration(Path::new("/data/apt/sid"), host, false);
        assert!(text.contains("Acquire::http::Proxy \"http://proxy:3128\";"));
        assert!(text.contains("Dir::State \"/data/apt/sid/state\";"));
        assert!(!text.contains("Post-Invoke") && !text.contains("var/lib/apt") && !text.contains("Sandbox"));
    }
}
