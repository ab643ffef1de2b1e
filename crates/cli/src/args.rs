//! What can be typed: the commands that talk to a server, and the options they share.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use stacyvm_client::Server;
use stacyvm_types::{SandboxId, WorkerId, parse_duration};

use crate::exit::{ExitStatus, Failure};

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The server to talk to
    #[arg(
        long,
        global = true,
        env = "STACYVM_SERVER",
        hide_env_values = true,
        default_value = Server::DEFAULT,
        value_name = "URL",
        value_parser = parse_server,
        help_heading = "Global options"
    )]
    pub server: Server,
    /// The key to send to the server
    #[arg(
        long,
        global = true,
        env = "STACYVM_API_KEY",
        hide_env_values = true,
        value_name = "KEY",
        help_heading = "Global options"
    )]
    pub api_key: Option<String>,
    /// A file that holds the key to send to the server
    #[arg(
        long,
        global = true,
        env = "STACYVM_API_KEY_FILE",
        hide_env_values = true,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        conflicts_with = "api_key",
        help_heading = "Global options"
    )]
    pub api_key_file: Option<PathBuf>,
    /// How answers are written to standard output
    #[arg(
        long,
        short = 'o',
        global = true,
        value_enum,
        default_value_t = Format::Table,
        help_heading = "Global options"
    )]
    pub output: Format,
}

impl Global {
    /// Whether a server is meant, and not just the one that happens to be the default.
    pub fn names_a_server(&self) -> bool {
        let elsewhere = self.server.to_string() != Server::DEFAULT;
        elsewhere || self.api_key.is_some() || self.api_key_file.is_some()
    }

    /// The key to send, from wherever it is given.
    pub fn key(&self) -> Result<Option<String>, Failure> {
        let Some(path) = &self.api_key_file else { return Ok(self.api_key.clone()) };
        let refused = |why: String| {
            let message = format!("the key cannot be read from {}: {why}", path.display());
            Failure::new(ExitStatus::USAGE, message)
        };
        let text = std::fs::read_to_string(path).map_err(|e| refused(e.to_string()))?;
        match text.trim() {
            "" => Err(refused("it is empty".to_owned())),
            key => Ok(Some(key.to_owned())),
        }
    }
}

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// Exactly what the API answered
    Json,
}

/// The commands that only talk to a server.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a sandbox and print its id
    Spawn(SpawnArgs),
    /// Run a command in a sandbox and exit with its code
    Exec(ExecArgs),
    /// Show the sandboxes
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one sandbox
    Get {
        /// The sandbox
        id: SandboxId,
    },
    /// End sandboxes
    Kill(KillArgs),
    /// Give a sandbox a new deadline, counted from now
    Extend {
        /// The sandbox
        id: SandboxId,
        /// How long it may live from now on, such as 30m or 1h30m
        #[arg(value_parser = parse_ttl)]
        ttl: Duration,
    },
    /// Copy files and directories into and out of a sandbox
    Cp(CpArgs),
    /// Look at and change the files of a sandbox
    #[command(subcommand)]
    Files(FilesCommand),
    /// Show the last lines that commands of a sandbox wrote
    Logs {
        /// The sandbox
        id: SandboxId,
        /// How many lines
        #[arg(long, short = 'n', default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        lines: u32,
    },
    /// Show what a sandbox uses
    Stats {
        /// The sandbox
        id: SandboxId,
    },
    /// Import, list and remove images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Save, show and use templates
    #[command(subcommand)]
    Templates(TemplatesCommand),
    /// Show what happened
    Events(EventsArgs),
    /// Show the providers of the server and what they can do
    Providers,
    /// Show whether the server and its providers are well
    Health,
    /// Show the workers, and say what they are to do
    #[command(args_conflicts_with_subcommands = true)]
    Workers {
        /// What to do; without it they are shown
        #[command(subcommand)]
        command: Option<WorkersCommand>,
    },
    /// Take nothing new on a worker from now on; what runs there goes on
    Drain {
        /// The worker
        id: WorkerId,
        /// Let it take sandboxes again
        #[arg(long)]
        undo: bool,
    },
}

/// `workers …`
#[derive(Debug, Subcommand)]
pub enum WorkersCommand {
    /// Show the workers
    #[command(visible_alias = "ls")]
    List,
    /// Show one worker
    Get {
        /// The worker
        id: WorkerId,
    },
    /// Take nothing new on workers from now on; what runs there goes on
    Drain {
        /// The workers
        #[arg(required = true)]
        ids: Vec<WorkerId>,
    },
    /// Let workers take sandboxes again
    Undrain {
        /// The workers
        #[arg(required = true)]
        ids: Vec<WorkerId>,
    },
    /// Forget workers that hold no sandbox and do not come back
    #[command(visible_alias = "rm")]
    Remove {
        /// The workers
        #[arg(required = true)]
        ids: Vec<WorkerId>,
    },
}

/// `spawn`
#[derive(Debug, Args)]
pub struct SpawnArgs {
    /// `host` or the name of an imported image
    #[arg(long)]
    pub image: Option<String>,
    /// The provider that starts it
    #[arg(long)]
    pub provider: Option<String>,
    /// How long it lives, such as 30m or 1h30m
    #[arg(long, value_parser = parse_ttl)]
    pub ttl: Option<Duration>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub memory: Option<u32>,
    /// Virtual CPUs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub vcpus: Option<u32>,
    /// Writable space in MiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub disk: Option<u32>,
    /// The owner in whose name it runs
    #[arg(long)]
    pub owner: Option<String>,
    /// The template it is made from
    #[arg(long)]
    pub template: Option<String>,
    /// A mark to keep with it; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub metadata: Vec<(String, String)>,
    /// A variable for every command in it; may be given several times
    #[arg(long, short = 'e', value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub env: Vec<(String, String)>,
}

/// What `exec` and `run` share.
#[derive(Debug, Args)]
pub struct CommandArgs {
    /// Pass standard input on to the command
    #[arg(long, short = 'i')]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(long, short = 't')]
    pub tty: bool,
    /// A variable for the command; may be given several times
    #[arg(long, short = 'e', value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub env: Vec<(String, String)>,
    /// The directory it starts in
    #[arg(long, short = 'w', value_name = "DIR")]
    pub workdir: Option<String>,
    /// The user inside the sandbox, as NAME, UID, or either with :GROUP
    #[arg(long, short = 'u')]
    pub user: Option<String>,
    /// Kill the command and everything it started after this time, such as 90s
    #[arg(long, value_parser = parse_ttl)]
    pub timeout: Option<Duration>,
    /// Hand the words to `sh -c` as one line
    #[arg(long)]
    pub shell: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `exec`
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The sandbox
    pub id: SandboxId,
    /// The command
    #[command(flatten)]
    pub command: CommandArgs,
}

/// `list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Show ended sandboxes too
    #[arg(long, short = 'a')]
    pub all: bool,
    /// Print only ids
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

/// `kill`
#[derive(Debug, Args)]
pub struct KillArgs {
    /// The sandboxes
    #[arg(required_unless_present_any = ["all", "expired"], conflicts_with_all = ["all", "expired"])]
    pub ids: Vec<SandboxId>,
    /// End every sandbox
    #[arg(long, conflicts_with = "expired")]
    pub all: bool,
    /// End those whose time is over
    #[arg(long)]
    pub expired: bool,
}

/// `cp`
#[derive(Debug, Args)]
pub struct CpArgs {
    /// ID:/path, a local path, or - for standard input
    pub source: String,
    /// ID:/path, a local path, or - for standard output
    pub target: String,
}

/// `files …`
#[derive(Debug, Subcommand)]
pub enum FilesCommand {
    /// Show the entries of a directory
    Ls {
        /// The sandbox
        id: SandboxId,
        /// The directory
        #[arg(default_value = "/workspace")]
        path: String,
    },
    /// Write a file to standard output
    Cat {
        /// The sandbox
        id: SandboxId,
        /// The file
        path: String,
    },
    /// Write a local file, or standard input, to a file
    Put {
        /// The sandbox
        id: SandboxId,
        /// The file to write
        path: String,
        /// The local file; standard input without it
        #[arg(value_hint = ValueHint::FilePath)]
        from: Option<PathBuf>,
        /// Permission bits in octal, such as 0755
        #[arg(long)]
        mode: Option<String>,
    },
    /// Remove a file or directory
    Rm {
        /// The sandbox
        id: SandboxId,
        /// What to remove
        path: String,
        /// Remove a directory with everything in it
        #[arg(long, short = 'r')]
        recursive: bool,
    },
    /// Rename a file or directory
    Mv {
        /// The sandbox
        id: SandboxId,
        /// Its path now
        from: String,
        /// Its new path
        to: String,
    },
    /// Show one file or directory
    Stat {
        /// The sandbox
        id: SandboxId,
        /// The path
        path: String,
    },
    /// Print the paths that match a pattern
    Glob {
        /// The sandbox
        id: SandboxId,
        /// A pattern such as /workspace/**/*.py
        pattern: String,
    },
    /// Set permission bits
    Chmod {
        /// The sandbox
        id: SandboxId,
        /// Permission bits in octal, such as 0755
        mode: String,
        /// The path
        path: String,
    },
}

/// `image …`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Import a root file system under a name
    Import {
        /// Whose images
        #[command(flatten)]
        at: Shelf,
        /// The name, such as alpine:latest
        name: String,
        /// A tar archive, plain or gzip-compressed, a directory, or - for standard input
        #[arg(value_hint = ValueHint::AnyPath)]
        source: PathBuf,
    },
    /// Show the imported images
    #[command(visible_alias = "ls")]
    List {
        /// Whose images
        #[command(flatten)]
        at: Shelf,
    },
    /// Remove images
    Rm {
        /// Whose images
        #[command(flatten)]
        at: Shelf,
        /// The images
        #[arg(required = true)]
        names: Vec<String>,
    },
}

impl ImageCommand {
    /// The data directory on this host that is meant in place of a server.
    pub fn data_dir(&self) -> Option<&Path> {
        let (Self::Import { at, .. } | Self::List { at } | Self::Rm { at, .. }) = self;
        at.data_dir.as_deref()
    }
}

/// Whose images.
#[derive(Debug, Args)]
pub struct Shelf {
    /// The worker that is meant. Without it all are listed, and the server's own worker is changed,
    /// or the only one that imports images
    #[arg(long, value_name = "ID")]
    pub worker: Option<WorkerId>,
    /// The images of the worker on this host that has this data directory, whether or not it runs;
    /// no server is asked
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "worker")]
    pub data_dir: Option<PathBuf>,
}

/// `templates …`
#[derive(Debug, Subcommand)]
pub enum TemplatesCommand {
    /// Show the templates
    Ls,
    /// Show one template
    Get {
        /// Its name
        name: String,
    },
    /// Save a template; one of that name is changed
    Save(TemplateArgs),
    /// Remove templates
    Rm {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Make a sandbox from a template and print its id
    Spawn {
        /// The template's name
        name: String,
        /// The provider that starts it
        #[arg(long)]
        provider: Option<String>,
        /// How long it lives, such as 30m or 1h30m
        #[arg(long, value_parser = parse_ttl)]
        ttl: Option<Duration>,
    },
}

/// `templates save`
#[derive(Debug, Args)]
pub struct TemplateArgs {
    /// Its name
    pub name: String,
    /// `host` or the name of an imported image
    #[arg(long)]
    pub image: Option<String>,
    /// What it is for
    #[arg(long)]
    pub description: Option<String>,
    /// The provider that starts its sandboxes
    #[arg(long)]
    pub provider: Option<String>,
    /// How long its sandboxes live, such as 30m or 1h30m
    #[arg(long, value_parser = parse_ttl)]
    pub ttl: Option<Duration>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub memory: Option<u32>,
    /// Virtual CPUs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub vcpus: Option<u32>,
    /// A shell line to run before a sandbox is handed out; may be given several times
    #[arg(long, value_name = "LINE")]
    pub setup: Vec<String>,
    /// A mark to keep with its sandboxes; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub metadata: Vec<(String, String)>,
    /// A variable for every command; may be given several times
    #[arg(long, short = 'e', value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub env: Vec<(String, String)>,
}

/// `events`
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with new events as they happen
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// Only events after this id; without it, all that are kept
    #[arg(long, value_name = "ID")]
    pub after: Option<String>,
    /// Only events of this sandbox
    #[arg(long)]
    pub sandbox: Option<SandboxId>,
    /// Only events of this type, such as sandbox.destroyed; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
}

fn parse_server(text: &str) -> Result<Server, String> {
    Server::parse(text).map_err(|e| e.to_string())
}

/// A positive duration in Go's notation.
pub fn parse_ttl(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("the duration must be above zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// `KEY=VALUE`; the value may be empty and may hold `=`.
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it must look like KEY=VALUE".to_owned()),
    }
}
