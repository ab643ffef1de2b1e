//! `worker`: the sandboxes of this host, for control planes elsewhere.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, Subcommand, ValueHint, builder::PossibleValuesParser};
use stacyvm_cli::{ExitStatus, Failure, say};
use stacyvm_config::{self as config, Config, Raw, Written};
use stacyvm_fleet::{
    Worker,
    identity::{Audience, KeyRing, Shown},
    remote::{ControlPlane, NotHeard},
};
use stacyvm_provider_native::Spawner;
use stacyvm_types::{Resources, time::SystemClock};
use stacyvm_worker::{
    LocalWorker,
    heartbeat::{Facts, Heart},
    rpc,
};
use tokio::{signal::unix::SignalKind, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    chain, cluster, data_dir, failed, images, logging, native,
    reload::{self, Reload},
    serve, settings,
    stop::StopSignals,
    worker_token,
};

/// `worker`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct WorkerArgs {
    #[command(subcommand)]
    command: Option<WorkerCommand>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum WorkerCommand {
    /// Make, show and check signed tokens of workers
    Token(worker_token::TokenArgs),
}

#[derive(Debug, Clone, Args)]
struct RunArgs {
    /// The file with the settings; otherwise the first that exists of ./stacyvm.yaml and
    /// ~/.stacyvm/config.yaml. What is about `serve` alone, worker.enabled among it, says nothing here
    /// [env: STACYVM_CONFIG]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// What this worker is called; its host name when it is not said [env: STACYVM_WORKER_ID]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Where the control plane is [default: http://localhost:7423]
    /// [env: STACYVM_WORKER_CONTROL_PLANE_URL]
    #[arg(long, value_name = "URL")]
    control_plane: Option<String>,
    /// The token that lets this worker in at its control plane, and the other way around; others
    /// on this host can see it here, so rather give it in a file [env: STACYVM_AUTH_WORKER_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    worker_token: Option<String>,
    /// A file that holds the token, and is read again when it changes
    /// [env: STACYVM_AUTH_WORKER_TOKEN_FILE]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    worker_token_file: Option<String>,
    /// How often this worker says that it lives [default: 10s]
    /// [env: STACYVM_WORKER_HEARTBEAT_INTERVAL]
    #[arg(long, value_name = "DURATION")]
    heartbeat_interval: Option<String>,
    /// Where to take calls, such as 10.0.0.7:7424 [env: STACYVM_WORKER_LISTEN_ADDR]
    #[arg(long, visible_alias = "rpc-listen", value_name = "ADDRESS")]
    listen: Option<String>,
    /// The address under which control planes reach that [env: STACYVM_WORKER_RPC_URL]
    #[arg(long, value_name = "URL")]
    rpc_url: Option<String>,
    /// Say once that this worker lives, take no calls, and end
    #[arg(long)]
    once: bool,
    /// Where data lives; /var/lib/stacyvm for root, otherwise the user's own data directory
    /// [env: STACYVM_DATA_DIR]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    data_dir: Option<String>,
    /// What runs the sandboxes; mock isolates nothing and is for tests [default: native]
    /// [env: STACYVM_PROVIDER]
    #[arg(long, value_parser = PossibleValuesParser::new(["native", "mock"]))]
    provider: Option<String>,
    /// Sandboxes to keep ready, at most 256 [default: 4] [env: STACYVM_POOL]
    #[arg(long, value_name = "N")]
    pool: Option<String>,
    /// How log lines are written to standard error [default: text] [env: STACYVM_LOG_FORMAT]
    #[arg(long, value_parser = PossibleValuesParser::new(["json", "text"]))]
    log_format: Option<String>,
}

impl RunArgs {
    fn sources(&self) -> config::Sources {
        let flags = [
            ("--id", &self.id),
            ("--control-plane", &self.control_plane),
            ("--worker-token", &self.worker_token),
            ("--worker-token-file", &self.worker_token_file),
            ("--heartbeat-interval", &self.heartbeat_interval),
            ("--rpc-listen", &self.listen),
            ("--rpc-url", &self.rpc_url),
            ("--data-dir", &self.data_dir),
            ("--provider", &self.provider),
            ("--pool", &self.pool),
            ("--log-format", &self.log_format),
        ];
        let flags = flags.into_iter().filter_map(|(flag, value)| {
            value.as_ref().map(|text| Written { flag, raw: Raw::one(text.as_str()) })
        });
        config::Sources { flags: flags.collect(), ..settings::sources(self.config.clone()) }
    }
}

/// Every flag that gives a setting.
#[cfg(test)]
pub(crate) fn every_flag() -> Vec<&'static str> {
    #[derive(Debug, clap::Parser)]
    struct Only {
        #[command(flatten)]
        run: RunArgs,
    }
    let names = ["id", "control-plane", "worker-token", "worker-token-file", "heartbeat-interval"];
    let more = ["listen", "rpc-url", "data-dir", "pool"];
    let given = names.into_iter().chain(more).map(|name| format!("--{name}=x"));
    let chosen = ["--provider=mock".to_owned(), "--log-format=json".to_owned()];
    let program = ["stacyvm".to_owned()];
    let only = <Only as clap::Parser>::parse_from(program.into_iter().chain(given).chain(chosen));
    only.run.sources().flags.into_iter().map(|written| written.flag).collect()
}

/// Runs the worker, or one of the commands about workers.
pub(crate) fn worker(
    global: &stacyvm_cli::Global,
    args: WorkerArgs,
) -> Result<ExitStatus, Failure> {
    match args.command {
        Some(WorkerCommand::Token(args)) => worker_token::run(global, args),
        None => run(&args.run),
    }
}

fn run(args: &RunArgs) -> Result<ExitStatus, Failure> {
    let loaded = settings::loaded(&args.sources())?;
    let mut config = loaded.config.clone();
    let (format, level) = (config.logging.format, config.logging.level.as_str());
    let levels = logging::start(format, level, None);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if config.worker.listen_addr.is_none() && !args.once {
        return Err(Failure::new(
            ExitStatus::USAGE,
            "a worker that takes no calls runs nothing: say where it takes them with --listen",
        ));
    }
    let data_dir = config.data_dir.clone().map_or_else(data_dir::default, Ok)?;
    let data_dir = data_dir::prepare(&data_dir)?;
    let _lock = data_dir::lock(&data_dir)?;
    serve::raise_descriptor_limit();
    let spawner = match config.providers.default {
        config::Provider::Native => Some(native::spawner()?),
        config::Provider::Mock => None,
    };
    if args.once {
        // It is there to be named, and starts nothing.
        config.worker.listen_addr = None;
        config.defaults.pool_size.0 = 0;
    }
    let flags = args.clone();
    let reload = Reload::new(move || flags.sources(), loaded, levels, reload::of_worker);
    let runtime = crate::runtime()?;
    let result = runtime.block_on(wired(&config, &data_dir, spawner, reload, args.once));
    runtime.shutdown_timeout(Duration::from_millis(200));
    result.map(|()| ExitStatus::OK)
}

async fn wired(
    config: &Config,
    data_dir: &std::path::Path,
    spawner: Option<Spawner>,
    mut reload: Reload,
    once: bool,
) -> Result<(), Failure> {
    let mut signals = StopSignals::listen(&[SignalKind::interrupt(), SignalKind::terminate()])
        .map_err(|e| failed(format!("signals cannot be taken: {e}")))?;
    let mut hangups = StopSignals::listen(&[SignalKind::hangup()])
        .map_err(|e| failed(format!("signals cannot be taken: {e}")))?;
    let clock = Arc::new(SystemClock);
    let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
    let keys = KeyRing::new(settings::worker_keys(&config.auth)).map_err(failed)?;
    let keys = Arc::new(keys);
    if keys.now().is_empty() {
        return Err(failed(
            "a worker needs a credential: auth.worker_token, or auth.worker_signing_key, or a \
             file of one; see howto/worker-identity.md",
        ));
    }
    let listening = cluster::listen(config).await?;
    let id = cluster::worker_id(config)?;
    let providers = serve::providers(config, data_dir, spawner, &tasks, &stopping).await?;
    let name = config.providers.default.word();
    let worker =
        LocalWorker::new(id.clone(), providers, name, &data_dir.join("worker"), clock.clone())
            .map_err(|e| failed(chain(&e)))?;
    let worker = Arc::new(worker);

    let url = config.worker.control_plane_url.as_str();
    if config.worker.control_plane_url.is_exposed() {
        tracing::warn!(url, "what this worker shows its control plane travels as plain HTTP");
    }
    let credentials = Shown::to(Audience::ControlPlane, keys.clone(), clock.clone());
    let connect = cluster::to_control_plane(config)?;
    let control_plane = ControlPlane::new(id.clone(), url, connect, Arc::new(credentials));
    let facts = Facts {
        instance: cluster::instance(data_dir)?,
        hostname: cluster::hostname(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        url: listening.as_ref().map(|l| cluster::rpc_url(config, l.address)),
        capacity: Resources {
            sandboxes: config.worker.max_sandboxes.0.into(),
            ..Resources::default()
        },
    };
    let heart = Heart::new(worker.clone(), facts, Arc::new(control_plane.map_err(failed)?));
    if once {
        let heard = heart.beat().await.map(drop).map_err(|error| failed(error.to_string()));
        stopping.cancel();
        tasks.close();
        if timeout(config.worker.shutdown_timeout.0, tasks.wait()).await.is_err() {
            tracing::warn!("stopping took too long; what was in flight is left");
        }
        return heard;
    }
    let heart = Arc::new(heart);

    let limit = config.worker.shutdown_timeout.0;
    let (timed, until) = (worker.clone(), stopping.clone());
    tasks.spawn(async move { timed.keep_time(until).await });
    if let Some(listening) = listening {
        say(&format!(
            "worker {id} takes calls at {} for {url} (data in {})",
            listening.address,
            data_dir.display()
        ));
        let answered: Arc<dyn Worker> = worker.clone();
        let (tracked, until) = (tasks.clone(), stopping.clone());
        tasks.spawn(listening.answer(answered, keys.clone(), clock, tracked, until, limit));
    }
    let socket = data_dir.join(images::SOCKET);
    match rpc::listen_here(&socket) {
        Ok(listener) => {
            let answered: Arc<dyn Worker> = worker.clone();
            let (tracked, until) = (tasks.clone(), stopping.clone());
            tasks.spawn(rpc::answer_here(listener, answered, tracked, until, limit));
        }
        Err(error) => {
            let path = socket.display();
            tracing::warn!(%path, %error, "images cannot be changed from this host while this runs");
        }
    }
    let beating = CancellationToken::new();
    let (beats, until) = (heart.clone(), beating.clone());
    let interval = config.worker.heartbeat_interval.0;
    let beats = tasks.spawn(async move { beats.beat_until(until, interval).await });

    let signal = loop {
        tokio::select! {
            signal = signals.next() => break signal,
            _ = hangups.next() => {
                reload.run(|read| keys.replace(settings::worker_keys(&read.config.auth)));
            }
        }
    };
    tracing::info!(signal, "stopping; what runs goes on");
    beating.cancel();
    // Nothing new is placed here while nobody answers; what runs waits for the next process.
    if let Err(error) = worker.drain().await {
        tracing::warn!(?error, "the worker does not drain");
    }
    let farewell = async {
        // A heartbeat that is under way says that the worker is online: it must not arrive later.
        let _ = beats.await;
        if let Err(NotHeard::Refused(why) | NotHeard::Away(why)) = heart.beat().await {
            tracing::warn!(why, "the control plane did not hear that this worker stops");
        }
    };
    tokio::select! {
        ended = timeout(limit, farewell) => if ended.is_err() {
            tracing::warn!("the control plane did not hear in time that this worker stops");
        },
        _ = signals.next() => {
            tracing::warn!("stopping at once; what was in flight is left");
            return Ok(());
        }
    }
    stopping.cancel();
    tasks.close();
    tokio::select! {
        ended = timeout(limit, tasks.wait()) => if ended.is_err() {
            tracing::warn!("stopping took too long; what was in flight is left");
        },
        _ = signals.next() => tracing::warn!("stopping at once; what was in flight is left"),
    }
    Ok(())
}
