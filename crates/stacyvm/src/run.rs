//! `run`: a command in a fresh sandbox, without a server.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use futures_util::StreamExt;
use stacyvm_admission::Policy;
use stacyvm_cli::{
    Chunk, CommandArgs, ExitStatus, Failure, Frame, OutputStream, SessionInput,
    escape::escape,
    session::{Joined, drive},
    terminal::{self, RawMode},
};
use stacyvm_control::{Control, Error, ExecRequest, Parts, Rules, Settings, SpawnRequest};
use stacyvm_fleet::{Fleet, Worker};
use stacyvm_provider::{ExecEvent, ExecInput, Output, Program, Provider, Size, Stdin};
use stacyvm_provider_native::HOST_IMAGE;
use stacyvm_store::memory::MemoryStore;
use stacyvm_types::{SandboxId, WorkerId, time::SystemClock};
use stacyvm_worker::LocalWorker;
use tokio::signal::unix::SignalKind;

use crate::{
    chain, data_dir, failed, logging, native,
    oneshot::{self, OneShot},
    stop::StopSignals,
};

/// `run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// `host` or the name of an imported image
    #[arg(long, default_value = HOST_IMAGE)]
    image: String,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    memory: Option<u32>,
    /// Virtual CPUs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    vcpus: Option<u32>,
    /// Writable space in MiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    disk: Option<u32>,
    /// Where the imported images are
    #[arg(long, env = "STACYVM_DATA_DIR", hide_env_values = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    command: CommandArgs,
}

/// Runs the command and gives its exit code.
pub(crate) fn run(args: RunArgs) -> Result<ExitStatus, Failure> {
    logging::errors_only();
    let mut joined = args.command.joined()?;
    // Without a terminal, what is piped in is meant for the command.
    joined.stdin |= !joined.terminal && !terminal::stdin_is_terminal();
    let data_dir = args.data_dir.clone().map_or_else(data_dir::default, Ok)?;
    let data_dir = data_dir::prepare(&data_dir)?;
    let prepared = oneshot::prepare(&data_dir, &args.image)?;

    let runtime = crate::runtime()?;
    let result = runtime.block_on(async {
        let signals = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ];
        let mut signals = StopSignals::listen(&signals)
            .map_err(|e| failed(format!("signals cannot be taken: {e}")))?;
        let oneshot = prepared.open().await?;
        let result = command(&oneshot, args, joined, &mut signals).await;
        oneshot.close().await;
        result
    });
    runtime.shutdown_background();
    result
}

async fn command(
    oneshot: &OneShot,
    args: RunArgs,
    joined: Joined,
    signals: &mut StopSignals,
) -> Result<ExitStatus, Failure> {
    let control = control(oneshot)?;
    let prepared = async {
        native::must_be_usable(&*oneshot.provider).await?;
        let request = SpawnRequest {
            image: Some(args.image),
            memory_mb: args.memory,
            vcpus: args.vcpus,
            disk_mb: args.disk,
            ..SpawnRequest::default()
        };
        control.spawn(request).await.map_err(|e| refused(&e))
    };
    let sandbox = tokio::select! {
        sandbox = prepared => sandbox?.spec.id,
        signal = signals.next() => return Ok(ExitStatus::of_command(128 + signal, "signal")),
    };
    joined_to(&control, &sandbox, args.command, joined).await
}

fn control(oneshot: &OneShot) -> Result<Control, Failure> {
    let clock = Arc::new(SystemClock);
    let worker_id = WorkerId::parse("local").map_err(|e| failed(e.to_string()))?;
    let provider = Arc::clone(&oneshot.provider);
    let default = provider.name();
    let worker = LocalWorker::new(
        worker_id.clone(),
        [provider as Arc<dyn Provider>],
        default,
        &oneshot.path().join("worker"),
        clock.clone(),
    )
    .map_err(|e| failed(chain(&e)))?;
    // Nobody extends it and nothing reaps it: it lives for as long as its command.
    let settings = Settings {
        default_ttl: Duration::from_secs(10 * 365 * 24 * 60 * 60),
        rules: Rules { policy: Policy::default(), max_exec_timeout: None, ..Rules::default() },
        ..Settings::new(worker_id, default)
    };
    Ok(Control::new(Parts {
        store: Arc::new(MemoryStore::new()),
        fleet: Fleet::new([Arc::new(worker) as Arc<dyn Worker>]),
        dial: None,
        clock,
        settings,
        tasks: oneshot.tasks.clone(),
        stopping: oneshot.stopping.clone(),
    }))
}

async fn joined_to(
    control: &Control,
    sandbox: &SandboxId,
    args: CommandArgs,
    joined: Joined,
) -> Result<ExitStatus, Failure> {
    let mut env: std::collections::BTreeMap<_, _> = args.env.into_iter().collect();
    let size = joined.terminal.then(|| {
        let (rows, cols) = terminal::size();
        Size { rows, cols }
    });
    if joined.terminal
        && let Ok(term) = std::env::var("TERM")
    {
        env.entry("TERM".to_owned()).or_insert(term);
    }
    let program = match args.shell {
        true => Program::Shell(args.command.join(" ")),
        false => Program::Argv(args.command),
    };
    let request = ExecRequest {
        env,
        workdir: args.workdir,
        user: args.user,
        timeout: args.timeout,
        stdin: if joined.stdin { Stdin::Pipe } else { Stdin::Null },
        terminal: size,
        ..ExecRequest::new(program)
    };
    let exec = control.exec(sandbox, request).await.map_err(|e| refused(&e))?;
    let raw = match joined.terminal && joined.stdin {
        true => Some(RawMode::enter()?),
        false => None,
    };
    let frames = exec.events.map(|event| match event {
        Ok(event) => Ok(frame(event)),
        Err(error) => Err(Failure::new(ExitStatus::NOT_RUN, chain(&error))),
    });
    let ended = drive(frames, exec.input, input, joined).await;
    drop(raw);
    Ok(ended?.status())
}

fn frame(event: ExecEvent) -> Frame {
    match event {
        ExecEvent::Output { offset, stream, data } => {
            let stream = match stream {
                Output::Stdout => OutputStream::Stdout,
                Output::Stderr => OutputStream::Stderr,
            };
            Frame::Output(Chunk { stream, seq: offset + data.len() as u64, data })
        }
        ExecEvent::Truncated { resume } => Frame::Truncated { seq: resume },
        ExecEvent::Exit(exit) => {
            let reason = exit.reason().to_owned();
            Frame::Exit { code: exit.code(), reason, signal: None }
        }
    }
}

fn input(input: SessionInput) -> ExecInput {
    match input {
        SessionInput::Data(data) => ExecInput::Data(data),
        SessionInput::Eof => ExecInput::Eof,
        SessionInput::Signal(number) => ExecInput::Signal(number),
        SessionInput::Resize { rows, cols } => ExecInput::Resize(Size { rows, cols }),
    }
}

fn refused(error: &Error) -> Failure {
    let status = match error {
        Error::NotExecutable(_) => ExitStatus::NOT_EXECUTABLE,
        Error::Invalid(_) => ExitStatus::USAGE,
        _ => ExitStatus::NOT_RUN,
    };
    // Internal errors keep their cause for the log; here there is no other log than this line.
    let message = match error {
        Error::Internal(_) => chain(error),
        _ => escape(&error.to_string()),
    };
    Failure::new(status, message)
}
