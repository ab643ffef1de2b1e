//! The StacyVM binary: names every implementation and wires them.

mod cluster;
mod config;
mod data_dir;
mod db;
mod doctor;
mod images;
mod keys;
mod logging;
mod native;
mod oneshot;
mod reload;
mod run;
mod serve;
mod settings;
mod stop;
mod telemetry;
mod worker;
mod worker_token;

use std::{io, process::ExitCode, time::Duration};

use clap::{CommandFactory, Parser, Subcommand};
use stacyvm_cli::{Command as Remote, ExitStatus, Failure, Global};
use tokio::runtime::Runtime;

/// Gives every AI agent, code runner or preview its own disposable computer
#[derive(Debug, Parser)]
#[command(name = "stacyvm", version, propagate_version = false)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server
    Serve(serve::ServeArgs),
    /// Run a command in a fresh sandbox, without a server, and leave nothing behind
    Run(run::RunArgs),
    #[command(flatten)]
    Remote(Remote),
    /// Make, list and revoke the keys with which a server is called
    Keys(keys::KeysArgs),
    /// Run the sandboxes of this host for a control plane elsewhere, and what lets workers in
    Worker(worker::WorkerArgs),
    /// Look at what this host gives to sandboxes, and say what to do about it
    Doctor(doctor::DoctorArgs),
    /// Show, check and describe the settings of the server
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Copy, check and put back the server's database
    #[command(subcommand)]
    Db(db::DbCommand),
    /// Write a completion script for a shell to standard output
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

fn main() -> ExitCode {
    // Before anything else: this may be the process that starts sandboxes, which has one thread,
    // no environment and no business with what follows.
    stacyvm_provider_native::spawner::run_if_requested();

    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(args) => serve::serve(args),
        Command::Run(args) => run::run(args).map_err(Failure::before_command),
        Command::Remote(Remote::Image(command)) if command.data_dir().is_some() => {
            images::images(&cli.global, command)
        }
        Command::Remote(command) => client(&cli.global, command),
        Command::Keys(args) => keys::keys(&cli.global, args),
        Command::Worker(args) => worker::worker(&cli.global, args),
        Command::Doctor(args) => doctor::doctor(&cli.global, args),
        Command::Config(command) => config::config(&cli.global, command),
        Command::Db(command) => db::db(&cli.global, command),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "stacyvm", &mut io::stdout());
            Ok(ExitStatus::OK)
        }
        Command::Version => version(&cli.global),
    };
    stacyvm_cli::finish(result).into()
}

fn version(global: &Global) -> Result<ExitStatus, Failure> {
    let (version, os, arch) =
        (env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH);
    match global.output {
        stacyvm_cli::Format::Json => {
            let json = serde_json::json!({ "version": version, "os": os, "arch": arch });
            stacyvm_cli::print_json(json.to_string().as_bytes())?;
        }
        stacyvm_cli::Format::Table => {
            let mut rows = stacyvm_cli::Rows::new(&[]);
            rows.push([&format!("stacyvm {version} ({os}/{arch})")]);
            stacyvm_cli::print_rows(&rows)?;
        }
    }
    Ok(ExitStatus::OK)
}

fn client(global: &Global, command: Remote) -> Result<ExitStatus, Failure> {
    let runtime = runtime()?;
    let status = runtime.block_on(stacyvm_cli::run(global, command));
    // A read of standard input that nobody waits for any more must not hold up the end.
    runtime.shutdown_background();
    Ok(status)
}

/// The runtime. Made after everything that must happen before there are threads.
fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .map_err(|e| Failure::new(ExitStatus::FAILED, format!("threads cannot be started: {e}")))
}

/// An error and everything that caused it, for people.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    stacyvm_cli::escape::escape(&text)
}

fn failed(message: impl Into<String>) -> Failure {
    Failure::new(ExitStatus::FAILED, message)
}
