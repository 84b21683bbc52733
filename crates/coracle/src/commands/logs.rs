//! `coracle logs`: the log of a cluster in the background, or one component's part of it.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::cli::{Component, Logs};
use crate::data_dir::DataDir;

/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(200);

pub async fn run(data_dir: Option<PathBuf>, options: Logs) -> anyhow::Result<()> {
    let dir = DataDir::new(data_dir)?;
    let path = dir.log();
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("there is no log in {}; a cluster in the foreground logs to its terminal", dir.path().display())
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut reader = BufReader::new(file);
    let mut line = String::new();
    loop {
        // A line without its end is still being written; what was read of it stays in `line`.
        let read = reader.read_line(&mut line)?;
        if read == 0 || !line.ends_with('\n') {
            if !options.follow {
                print_line(&line, options.component)?;
                return Ok(());
            }
            coracle_clock::sleep(POLL).await;
            continue;
        }
        print_line(&line, options.component)?;
        line.clear();
    }
}

fn print_line(line: &str, component: Option<Component>) -> anyhow::Result<()> {
    if !component.is_none_or(|component| belongs(line, component)) {
        return Ok(());
    }
    match std::io::stdout().write_all(line.as_bytes()) {
        // `coracle logs | head` ends so.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Whether a line is a component's: its crate logs it, or it is about that component.
fn belongs(line: &str, component: Component) -> bool {
    let name = match component {
        Component::Apiserver => "apiserver",
        Component::Store => "store",
        Component::ControllerManager => "controller-manager",
        Component::Scheduler => "scheduler",
        Component::Kubelet => "kubelet",
        Component::Proxy => "proxy",
        Component::Dns => "dns",
    };
    line.contains(&format!(" coracle_{}:", name.replace('-', "_")))
        || line.contains(&format!(" coracle_{}::", name.replace('-', "_")))
        || line.contains(&format!("component=\"{name}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_known_by_its_crate_or_its_name() {
        let line = "2026-01-01T00:00:00Z  INFO coracle_scheduler::run: assumed";
        assert!(belongs(line, Component::Scheduler));
        assert!(!belongs(line, Component::Kubelet));
        assert!(belongs("2026 ERROR coracle::cluster: failed component=\"dns\"", Component::Dns));
    }
}
