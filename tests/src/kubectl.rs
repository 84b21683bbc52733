//! kubectl, as people use it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;

use crate::process::{Output, run, words};
use crate::terminal::on_a_terminal;

/// The versions that are promised to work.
const VERSIONS: [&str; 2] = ["1.32", "1.33"];

/// A kubectl with a cluster to talk to. Its home directory is its own, so that no cache leaks.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// The program.
    pub program: PathBuf,
    /// The kubeconfig it is given.
    pub kubeconfig: PathBuf,
    /// Its home directory.
    pub home: PathBuf,
}

/// The kubectls there are: of the promised versions those that lie in the search path or beside the plain
/// `kubectl`, oldest first; else the plain one, else none.
pub fn programs() -> Vec<PathBuf> {
    let found = found();
    let versions: Vec<PathBuf> = VERSIONS
        .iter()
        .filter_map(|version| found.get(version.strip_prefix("1.")?.parse::<u32>().ok().as_ref()?))
        .cloned()
        .collect();
    if versions.is_empty() { plain().into_iter().collect() } else { versions }
}

/// The oldest and the newest kubectl there are, of whatever version.
pub fn oldest_and_newest() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = found().into_values().collect();
    if all.len() > 2 {
        all.drain(1..all.len() - 1);
    }
    if all.is_empty() { plain().into_iter().collect() } else { all }
}

fn folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let real = plain().and_then(|file| file.canonicalize().ok());
    std::env::split_paths(&path).chain(real.as_deref().and_then(Path::parent).map(Path::to_owned)).collect()
}

fn plain() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join("kubectl")).find(|file| file.is_file())
}

/// All programs named `kubectl.1.<minor>`, by that number.
fn found() -> BTreeMap<u32, PathBuf> {
    let files = folders().into_iter().flat_map(std::fs::read_dir).flatten().flatten();
    let version = |file: std::fs::DirEntry| {
        Some((file.file_name().to_str()?.strip_prefix("kubectl.1.")?.parse().ok()?, file.path()))
    };
    files.filter_map(version).collect()
}

impl Kubectl {
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(words(line))
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        command
    }

    /// Runs `kubectl <line>` in the repository's root.
    pub fn run(&self, line: &str) -> Output {
        run(self.command(line), "")
    }

    /// Runs `kubectl <line>` with this on its standard input.
    pub fn run_with(&self, line: &str, input: &str) -> Output {
        run(self.command(line), input)
    }

    /// Runs `kubectl <line>` with a variable in its environment.
    pub fn run_env(&self, line: &str, name: &str, value: &str) -> Output {
        let mut command = self.command(line);
        command.env(name, value);
        run(command, "")
    }

    /// Runs `kubectl <line>` on a terminal, types `input`, and returns what the terminal showed.
    pub fn on_a_terminal(&self, line: &str, input: &str) -> String {
        on_a_terminal(self.command(line), input)
    }

    /// Runs `kubectl <line>`, which must succeed; returns what it printed.
    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        self.run(line).ok()
    }

    /// Applies this manifest, which must succeed.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        self.run_with("apply -f -", manifest).ok()
    }

    /// `kubectl get <what> -o json`.
    #[track_caller]
    pub fn json(&self, what: &str) -> Value {
        let text = self.ok(&format!("get {what} -o json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{what}: {error}: {text}"))
    }

    /// `kubectl get <what> -o jsonpath=<path>`; empty if there is no such object.
    pub fn field(&self, what: &str, path: &str) -> String {
        self.run(&format!("get {what} --ignore-not-found -o jsonpath='{path}'")).stdout
    }

    /// The names that `kubectl get <what>` finds.
    #[track_caller]
    pub fn names(&self, what: &str) -> Vec<String> {
        let path = "{range .items[*]}{.metadata.name}{\" \"}{end}";
        let text = self.ok(&format!("get {what} -o jsonpath='{path}'"));
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Starts `kubectl <line>` and reads what it prints while it runs.
    pub fn start(&self, line: &str) -> Running {
        self.start_with(line, "")
    }

    /// Starts `kubectl <line>`, types `input`, and reads what it prints while it runs.
    pub fn start_with(&self, line: &str, input: &str) -> Running {
        let mut command = self.command(line);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("kubectl {line}: {error}"));
        child.stdin.as_mut().expect("was piped").write_all(input.as_bytes()).expect("it listens");
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("was piped"));
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Running { line: line.to_owned(), child, lines }
    }
}

/// A kubectl that runs; killed when dropped.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    /// Waits for a line that contains `text`.
    #[track_caller]
    pub fn expect(&self, text: &str) -> String {
        let mut seen = vec![];
        loop {
            match self.lines.recv_timeout(Duration::from_secs(30)) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("kubectl {}: no {text:?} in 30 s, but {seen:#?}", self.line),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("kubectl {}: ended without {text:?}, but {seen:#?}", self.line)
                }
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The column heads of a table that kubectl printed.
pub fn columns(table: &str) -> Vec<&str> {
    let head = table.lines().next().unwrap_or_default();
    head.split("   ").map(str::trim).filter(|column| !column.is_empty()).collect()
}
