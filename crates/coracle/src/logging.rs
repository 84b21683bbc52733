//! Logs: to standard error, one line an event, under the component's name.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::cli::Command;

/// Sets logging up. Commands that people look at stay quiet unless asked; a cluster tells what it does.
pub fn init(command: &Command, verbose: u8) {
    let serves = !matches!(
        command,
        Command::Demo(_)
            | Command::Down(_)
            | Command::Status(_)
            | Command::Nodes { .. }
            | Command::Kubeconfig(_)
            | Command::Snapshot { .. }
            | Command::History(_)
            | Command::Get(_)
            | Command::Images(_)
            | Command::Load(_)
            | Command::Simulate(_)
            | Command::Logs(_)
            | Command::Setup
            | Command::Completions { .. }
            | Command::Bench(_)
    );
    let default = match (verbose, serves) {
        (0, false) => "error",
        (0, true) => "warn,coracle=info,coracle_store=info",
        (1, _) => "info",
        _ => {
            "info,coracle=debug,coracle_api=debug,coracle_apiserver=debug,coracle_client=debug,\
              coracle_controller_manager=debug,coracle_dns=debug,coracle_images=debug,coracle_kubelet=debug,\
              coracle_proxy=debug,coracle_scheduler=debug,coracle_store=debug"
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
