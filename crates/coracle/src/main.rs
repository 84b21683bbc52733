//! Coracle: a Kubernetes you can carry.
//!
//! The binary: the command line ([`cli`]), and the assembly of the components into a cluster in one
//! process ([`cluster`]) or each alone ([`commands::component`]). No component's logic lives here.

mod cli;
mod cluster;
mod commands;
mod data_dir;
mod logging;
mod progress;
mod store;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, EtcdCommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One provider of cryptography for all of TLS; a second installation would only repeat it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    logging::init(&cli.command, cli.verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("coracle: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(cli));
    // Tasks that still read standard input or wait for Docker must not hold up the end.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coracle: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let data_dir = cli.data_dir;
    match cli.command {
        Command::Demo(options) => commands::demo::run(data_dir, options).await,
        Command::Up(options) => commands::up::run(data_dir, options).await,
        Command::Down(options) => commands::down::run(data_dir, options).await,
        Command::Status(store) => commands::status::run(data_dir, &store).await,
        Command::Nodes { command } => commands::nodes::run(data_dir, command).await,
        Command::Kubeconfig(options) => commands::kubeconfig::run(data_dir, options),
        Command::Etcd { command: EtcdCommand::Env } => commands::etcd::env(data_dir),
        Command::Snapshot { command } => commands::snapshot::run(data_dir, command).await,
        Command::History(options) => commands::history::run(data_dir, options).await,
        Command::Why(options) => commands::why::run(data_dir, options).await,
        Command::Get(options) => commands::get::run(data_dir, options).await,
        Command::Etcd { command: EtcdCommand::Serve { etcd_listen } } => {
            commands::etcd::serve(data_dir, etcd_listen).await
        }
        Command::Load(options) => commands::load::run(options).await,
        Command::Simulate(options) => commands::simulate::run(data_dir, options).await,
        Command::Images(options) => commands::images::run(data_dir, options).await,
        Command::Logs(options) => commands::logs::run(data_dir, options).await,
        Command::Setup => commands::setup::run().await,
        Command::Completions { shell } => {
            commands::completions(shell);
            Ok(())
        }
        Command::Bench(options) => commands::bench::run(options).await,
        Command::Apiserver(options) => commands::component::apiserver(data_dir, *options).await,
        Command::ControllerManager(options) => commands::component::controller_manager(data_dir, options).await,
        Command::Scheduler(options) => commands::component::scheduler(options).await,
        Command::Kubelet(options) => commands::component::kubelet(data_dir, options).await,
        Command::Proxy(options) => commands::component::proxy(options).await,
    }
}
