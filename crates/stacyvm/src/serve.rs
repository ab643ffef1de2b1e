//! `serve`: the server, wired.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueHint};
use stacyvm_api::{Access, ApiConfig};
use stacyvm_cli::{ExitStatus, Failure, say};
use stacyvm_config::{self as config, Config, Credentials};
use stacyvm_control::{Control, Parts, Settings};
use stacyvm_fleet::{Fleet, Worker, identity::KeyRing};
use stacyvm_provider::{Provider, mock::MockProvider};
use stacyvm_provider_native::Spawner;
use stacyvm_store::{Store, memory::MemoryStore};
use stacyvm_store_sql::{PostgresStore, SqliteStore};
use stacyvm_types::{format_duration, time::SystemClock};
use stacyvm_worker::LocalWorker;
use tokio::{net::TcpListener, signal::unix::SignalKind, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    chain, cluster, data_dir, failed, logging, native,
    reload::{self, Reload},
    settings::{self, SettingArgs},
    stop::StopSignals,
    telemetry::{self, Traces},
};

/// `serve`
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    settings: SettingArgs,
    /// A file to write the port to once the server listens
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    port_file: Option<PathBuf>,
}

/// Serves until it is told to stop.
pub(crate) fn serve(args: ServeArgs) -> Result<ExitStatus, Failure> {
    let loaded = settings::load(&args.settings)?;
    let (config, credentials) = (loaded.config.clone(), loaded.credentials.clone());
    let traces = Traces::of(&config.telemetry)?;
    let (format, level) = (config.logging.format, config.logging.level.as_str());
    let levels = logging::start(format, level, traces.as_ref());
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let data_dir = config.data_dir.clone().map_or_else(data_dir::default, Ok)?;
    let data_dir = data_dir::prepare(&data_dir)?;
    let _lock = data_dir::lock(&data_dir)?;
    raise_descriptor_limit();
    let spawner = match config.providers.default {
        config::Provider::Native if config.worker.enabled => Some(native::spawner()?),
        config::Provider::Native | config::Provider::Mock => None,
    };
    let runtime = crate::runtime()?;
    if let Some(traces) = &traces {
        traces.send_on(runtime.handle());
    }
    let flags = args.settings;
    let reload = Reload::new(move || flags.sources(), loaded, levels, reload::of_server);
    let port_file = args.port_file.as_deref();
    let result =
        runtime.block_on(wired(&config, &credentials, port_file, reload, &data_dir, spawner));
    if let Some(traces) = traces {
        traces.finish();
    }
    runtime.shutdown_timeout(Duration::from_millis(200));
    result.map(|()| ExitStatus::OK)
}

/// Every sandbox and every client holds descriptors; the soft limit is for programs that use
/// `select`, which this one does not.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

async fn wired(
    config: &Config,
    credentials: &Credentials,
    port_file: Option<&Path>,
    reload: Reload,
    data_dir: &Path,
    spawner: Option<Spawner>,
) -> Result<(), Failure> {
    let not_taken = |e: io::Error| failed(format!("signals cannot be taken: {e}"));
    let mut signals = StopSignals::listen(&[SignalKind::interrupt(), SignalKind::terminate()])
        .map_err(not_taken)?;
    let mut hangups = StopSignals::listen(&[SignalKind::hangup()]).map_err(not_taken)?;
    let listener = listen(config.server.listen()).await?;
    let address = listener.local_addr().map_err(|e| failed(e.to_string()))?;

    let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
    let providers = if config.worker.enabled {
        providers(config, data_dir, spawner, &tasks, &stopping).await?
    } else {
        Vec::new()
    };
    let store = store(&config.database, credentials, data_dir)?;
    let worker_keys = KeyRing::new(settings::worker_keys(&config.auth)).map_err(failed)?;
    let worker_keys = Arc::new(worker_keys);
    let listening = cluster::listen(config).await?;
    let url = listening.as_ref().map(|l| cluster::rpc_url(config, l.address));
    let Wired { control, worker } =
        control(config, providers, store, data_dir, url, &worker_keys, &tasks, &stopping)?;
    control.recover().await.map_err(|e| failed(format!("recovery failed: {}", chain(&e))))?;
    control.start_jobs();

    let has_keys = control.has_keys().await.map_err(|e| failed(chain(&e)))?;
    let keys = settings::operator_keys(credentials);
    let access = Arc::new(Access::new(settings::access(config), &keys, has_keys));
    let sessions = TaskTracker::new();
    let (hosts, origins) = (&config.server.allowed_hosts, &config.server.cors_allowed_origins);
    let api = ApiConfig {
        allowed_hosts: hosts.iter().map(|host| host.as_str().to_owned()).collect(),
        allowed_origins: origins.iter().map(|origin| origin.as_str().to_owned()).collect(),
        preview_domain: config.server.preview_domain.as_str().to_owned(),
        data_dir: data_dir.to_owned(),
        join_trace: config.telemetry.otlp_endpoint.is_some().then_some(telemetry::join),
        access: access.clone(),
        worker_keys: worker_keys.clone(),
        stopping: stopping.clone(),
        sessions: sessions.clone(),
        ..ApiConfig::default()
    };
    let router = stacyvm_api::router(control.clone(), api);
    if let Some(path) = port_file {
        write_port(path, address.port()).map_err(|e| failed(format!("{}: {e}", path.display())))?;
    }
    if let Some(listening) = listening {
        tracing::info!(address = %listening.address, "this server's worker takes calls");
        let (tracked, until) = (tasks.clone(), stopping.clone());
        let (keys, limit) = (worker_keys.clone(), config.worker.shutdown_timeout.0);
        let clock = Arc::new(SystemClock);
        tasks.spawn(listening.answer(worker, keys, clock, tracked, until, limit));
    }
    tell_who_may_call(address, &access, has_keys);
    say(&format!("StacyVM listens on http://{address} (data in {})", data_dir.display()));

    let drain = config.server.shutdown_timeout.0;
    let served = stacyvm_api::serve(listener, router, stopping.clone(), drain);
    let ended = async {
        served.await;
        sessions.close();
        sessions.wait().await;
        tasks.close();
        tasks.wait().await;
        control.leave().await;
    };
    let reloads = async {
        let mut reload = reload;
        loop {
            hangups.next().await;
            reload.run(|read| {
                worker_keys.replace(settings::worker_keys(&read.config.auth))?;
                control.set_rules(settings::rules(&read.config));
                if access.replace_operator_keys(&settings::operator_keys(&read.credentials)) {
                    tracing::info!("the operator's keys are new ones");
                }
                Ok(())
            });
        }
    };
    tokio::select! {
        () = stop(ended, &stopping, &mut signals, drain) => {}
        () = reloads => {}
    }
    Ok(())
}

fn tell_who_may_call(address: SocketAddr, access: &Access, has_keys: bool) {
    if !access.is_open() {
        tracing::info!("credentials are asked for");
        return;
    }
    if has_keys {
        tracing::warn!("auth.enabled is false: the keys in the store are not asked for");
    }
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "no credentials are asked for; whoever reaches this can run code");
    }
}

/// Waits for the first signal, then for the end of what is in flight: as long as `limit`, and not
/// at all after a second signal.
async fn stop(
    ended: impl Future<Output = ()>,
    stopping: &CancellationToken,
    signals: &mut StopSignals,
    limit: Duration,
) {
    let mut ended = std::pin::pin!(ended);
    tokio::select! {
        () = &mut ended => return,
        signal = signals.next() => {
            tracing::info!(signal, limit = format_duration(limit), "stopping");
        }
    }
    let until = Instant::now() + limit;
    stopping.cancel();
    tokio::select! {
        () = &mut ended => tracing::info!("stopped"),
        () = tokio::time::sleep_until(until) => {
            tracing::warn!("stopping took too long; what was in flight is left");
        }
        _ = signals.next() => tracing::warn!("stopping at once; what was in flight is left"),
    }
}

pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => failed(format!(
            "{address} is in use, perhaps by another server; choose another with --listen"
        )),
        _ => failed(format!("{address} cannot be listened on: {error}")),
    })
}

/// The default first.
pub(crate) async fn providers(
    config: &Config,
    data_dir: &Path,
    spawner: Option<Spawner>,
    tasks: &TaskTracker,
    stopping: &CancellationToken,
) -> Result<Vec<Arc<dyn Provider>>, Failure> {
    let mut providers: Vec<Arc<dyn Provider>> = Vec::new();
    let mock = spawner.is_none() || config.providers.mock.enabled;
    if let Some(spawner) = spawner {
        let (ready, limits) = (config.defaults.pool_size.0, settings::limits(&config.defaults));
        let ready = usize::try_from(ready).unwrap_or(usize::MAX);
        providers.push(native::open(data_dir, ready, limits, spawner, tasks, stopping)?);
    }
    if mock {
        let mock = MockProvider::open(&data_dir.join("mock")).map_err(|e| failed(chain(&e)))?;
        tracing::warn!("the mock provider isolates nothing; use it for tests only");
        providers.push(Arc::new(mock));
    }
    for provider in &providers {
        native::must_be_usable(&**provider).await?;
    }
    Ok(providers)
}

/// Opens the store that these settings name.
pub(crate) fn store(
    database: &config::Database,
    credentials: &Credentials,
    data_dir: &Path,
) -> Result<Arc<dyn Store>, Failure> {
    let refused = |error: &dyn std::error::Error| {
        failed(format!("the store cannot be opened: {}", chain(error)))
    };
    Ok(match database.driver {
        config::Driver::Memory => Arc::new(MemoryStore::new()),
        config::Driver::Sqlite => {
            let file = data_dir.join(&database.path);
            Arc::new(SqliteStore::open(file).map_err(|e| refused(&e))?)
        }
        config::Driver::Postgres => {
            let dsn = settings::dsn(credentials)?;
            Arc::new(PostgresStore::open(dsn).map_err(|e| refused(&e))?)
        }
    })
}

struct Wired {
    control: Control,
    worker: Arc<dyn Worker>,
}

#[expect(clippy::too_many_arguments, reason = "the parts of a server, named once")]
fn control(
    config: &Config,
    providers: Vec<Arc<dyn Provider>>,
    store: Arc<dyn Store>,
    data_dir: &Path,
    url: Option<String>,
    worker_keys: &Arc<KeyRing>,
    tasks: &TaskTracker,
    stopping: &CancellationToken,
) -> Result<Wired, Failure> {
    let clock = Arc::new(SystemClock);
    let instance = cluster::instance(data_dir)?;
    let id = cluster::own_id(config, &instance)?;
    let name = config.providers.default.word();
    let worker =
        LocalWorker::new(id.clone(), providers, name, &data_dir.join("worker"), clock.clone())
            .map_err(|e| failed(chain(&e)))?;
    let worker = Arc::new(worker);
    let (timed, until) = (worker.clone(), stopping.clone());
    tasks.spawn(async move { timed.keep_time(until).await });
    let dial = cluster::dial(config, worker_keys.clone(), clock.clone())?;
    let worker: Arc<dyn Worker> = worker;
    let control = Control::new(Parts {
        store,
        fleet: Fleet::new([worker.clone()]),
        dial: Some(Arc::new(dial)),
        clock,
        settings: Settings {
            membership: settings::membership(config, instance, url),
            ..settings::control(config, id)
        },
        tasks: tasks.clone(),
        stopping: stopping.clone(),
    });
    Ok(Wired { control, worker })
}

/// Whoever waits for the file never sees half of it.
fn write_port(path: &Path, port: u16) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".part");
    let mut file = fs::File::create(&partial)?;
    writeln!(file, "{port}")?;
    fs::rename(&partial, path)
}
