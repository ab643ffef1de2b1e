//! `serve`: the server, wired.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum, ValueHint};
use stacyvm_api::ApiConfig;
use stacyvm_cli::{ExitStatus, Failure, args::parse_ttl, say};
use stacyvm_control::{Control, Parts, Settings};
use stacyvm_fleet::{Fleet, Worker};
use stacyvm_provider::{Provider, mock::MockProvider};
use stacyvm_provider_native::Spawner;
use stacyvm_store::{Store, memory::MemoryStore};
use stacyvm_store_sql::SqliteStore;
use stacyvm_types::{WorkerId, format_duration, time::SystemClock};
use stacyvm_worker::LocalWorker;
use tokio::{net::TcpListener, signal::unix::SignalKind, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    chain, data_dir, failed,
    logging::{self, LogFormat},
    native,
    stop::StopSignals,
};

/// `serve`
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where to listen; port 0 is any free one
    #[arg(
        long,
        env = "STACYVM_LISTEN",
        hide_env_values = true,
        default_value = "127.0.0.1:7423",
        value_name = "ADDRESS",
        value_parser = parse_listen
    )]
    listen: SocketAddr,
    /// Where data lives; /var/lib/stacyvm for root, otherwise the user's own data directory
    #[arg(
        long,
        env = "STACYVM_DATA_DIR",
        hide_env_values = true,
        value_name = "DIR",
        value_hint = ValueHint::DirPath
    )]
    data_dir: Option<PathBuf>,
    /// What runs the sandboxes
    #[arg(
        long,
        env = "STACYVM_PROVIDER",
        hide_env_values = true,
        value_enum,
        default_value_t = ProviderName::Native
    )]
    provider: ProviderName,
    /// Sandboxes to keep ready
    #[arg(
        long,
        env = "STACYVM_POOL",
        hide_env_values = true,
        default_value_t = 4,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(..=256)
    )]
    pool: u16,
    /// A name by which the server may be called, besides loopback; may be given several times
    #[arg(long, env = "STACYVM_ALLOW_HOST", hide_env_values = true, value_delimiter = ',')]
    allow_host: Vec<String>,
    /// An origin whose web pages may call, such as https://dash.example.org; may be given several
    /// times
    #[arg(long, env = "STACYVM_ALLOW_ORIGIN", hide_env_values = true, value_delimiter = ',')]
    allow_origin: Vec<String>,
    /// Where state is kept
    #[arg(
        long,
        env = "STACYVM_STORE",
        hide_env_values = true,
        value_enum,
        default_value_t = StoreName::Sqlite
    )]
    store: StoreName,
    /// How long what is in flight may take to finish when the server stops
    #[arg(
        long,
        env = "STACYVM_SHUTDOWN_TIMEOUT",
        hide_env_values = true,
        default_value = "10s",
        value_name = "DURATION",
        value_parser = parse_ttl
    )]
    shutdown_timeout: Duration,
    /// How log lines are written to standard error
    #[arg(
        long,
        env = "STACYVM_LOG_FORMAT",
        hide_env_values = true,
        value_enum,
        default_value_t = LogFormat::Text
    )]
    log_format: LogFormat,
    /// Listen beyond loopback although there are no credentials yet: everyone who reaches the
    /// address can run code on this host
    #[arg(long, env = "STACYVM_INSECURE_NO_AUTH", hide_env_values = true)]
    insecure_no_auth: bool,
    /// A file to write the port to once the server listens
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    port_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProviderName {
    /// Namespaces, seccomp and control groups of this host
    Native,
    /// Plain processes that are isolated from nothing; for tests
    Mock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StoreName {
    /// A file in the data directory
    Sqlite,
    /// Forgotten at the end
    Memory,
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let text = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    text.parse().map_err(|_| "an address looks like 127.0.0.1:7423 or [::1]:7423".to_owned())
}

/// Serves until it is told to stop.
pub(crate) fn serve(args: ServeArgs) -> Result<ExitStatus, Failure> {
    logging::start(args.log_format, "info");
    if !args.listen.ip().is_loopback() && !args.insecure_no_auth {
        return Err(Failure::new(
            ExitStatus::USAGE,
            format!(
                "{} can be reached from other machines, and this server has no credentials yet: \
                 everyone there could run code here. Listen on 127.0.0.1, or say \
                 --insecure-no-auth if that is what you want",
                args.listen
            ),
        ));
    }
    let data_dir = args.data_dir.clone().map_or_else(data_dir::default, Ok)?;
    let data_dir = data_dir::prepare(&data_dir)?;
    let _lock = data_dir::lock(&data_dir)?;
    raise_descriptor_limit();
    let spawner = match args.provider {
        ProviderName::Native => Some(native::spawner()?),
        ProviderName::Mock => None,
    };
    let runtime = crate::runtime()?;
    let result = runtime.block_on(wired(&args, &data_dir, spawner));
    runtime.shutdown_timeout(Duration::from_millis(200));
    result.map(|()| ExitStatus::OK)
}

/// Every sandbox and every client holds descriptors; the soft limit is for programs that use
/// `select`, which this one does not.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

async fn wired(args: &ServeArgs, data_dir: &Path, spawner: Option<Spawner>) -> Result<(), Failure> {
    let mut signals = StopSignals::listen(&[SignalKind::interrupt(), SignalKind::terminate()])
        .map_err(|e| failed(format!("signals cannot be taken: {e}")))?;
    let listener = listen(args.listen).await?;
    let address = listener.local_addr().map_err(|e| failed(e.to_string()))?;

    let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
    let provider = provider(args, data_dir, spawner, &tasks, &stopping).await?;
    let store = store(args.store, data_dir)?;
    let control = control(provider, store, data_dir, &tasks, &stopping)?;
    control.recover().await.map_err(|e| failed(format!("recovery failed: {}", chain(&e))))?;
    control.start_jobs();

    let sessions = TaskTracker::new();
    let config = ApiConfig {
        allowed_hosts: args.allow_host.clone(),
        allowed_origins: args.allow_origin.clone(),
        stopping: stopping.clone(),
        sessions: sessions.clone(),
        ..ApiConfig::default()
    };
    let router = stacyvm_api::router(control, config);
    if let Some(path) = &args.port_file {
        write_port(path, address.port()).map_err(|e| failed(format!("{}: {e}", path.display())))?;
    }
    if args.insecure_no_auth && !address.ip().is_loopback() {
        tracing::warn!(%address, "no credentials are asked for; whoever reaches this can run code");
    }
    say(&format!("StacyVM listens on http://{address} (data in {})", data_dir.display()));

    let drain = args.shutdown_timeout;
    let served = stacyvm_api::serve(listener, router, stopping.clone(), drain);
    let ended = async {
        served.await;
        sessions.close();
        sessions.wait().await;
        tasks.close();
        tasks.wait().await;
    };
    stop(ended, &stopping, &mut signals, drain).await;
    Ok(())
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

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => failed(format!(
            "{address} is in use, perhaps by another server; choose another with --listen"
        )),
        _ => failed(format!("{address} cannot be listened on: {error}")),
    })
}

async fn provider(
    args: &ServeArgs,
    data_dir: &Path,
    spawner: Option<Spawner>,
    tasks: &TaskTracker,
    stopping: &CancellationToken,
) -> Result<Arc<dyn Provider>, Failure> {
    let provider: Arc<dyn Provider> = match spawner {
        Some(spawner) => native::open(data_dir, args.pool.into(), spawner, tasks, stopping)?,
        None => {
            let mock = MockProvider::open(&data_dir.join("mock")).map_err(|e| failed(chain(&e)))?;
            tracing::warn!("the mock provider isolates nothing; use it for tests only");
            Arc::new(mock)
        }
    };
    native::must_be_usable(&*provider).await?;
    Ok(provider)
}

fn store(name: StoreName, data_dir: &Path) -> Result<Arc<dyn Store>, Failure> {
    Ok(match name {
        StoreName::Memory => Arc::new(MemoryStore::new()),
        StoreName::Sqlite => Arc::new(
            SqliteStore::open(data_dir.join("stacyvm.db"))
                .map_err(|e| failed(format!("the store cannot be opened: {}", chain(&e))))?,
        ),
    })
}

fn control(
    provider: Arc<dyn Provider>,
    store: Arc<dyn Store>,
    data_dir: &Path,
    tasks: &TaskTracker,
    stopping: &CancellationToken,
) -> Result<Control, Failure> {
    let clock = Arc::new(SystemClock);
    let id = WorkerId::parse("local").map_err(|e| failed(e.to_string()))?;
    let name = provider.name();
    let worker =
        LocalWorker::new(id.clone(), [provider], name, &data_dir.join("worker"), clock.clone())
            .map_err(|e| failed(chain(&e)))?;
    Ok(Control::new(Parts {
        store,
        fleet: Fleet::new([Arc::new(worker) as Arc<dyn Worker>]),
        clock,
        settings: Settings::new(id, name),
        tasks: tasks.clone(),
        stopping: stopping.clone(),
    }))
}

/// Whoever waits for the file never sees half of it.
fn write_port(path: &Path, port: u16) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".part");
    let mut file = fs::File::create(&partial)?;
    writeln!(file, "{port}")?;
    fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on_are_exact() {
        assert_eq!(parse_listen("localhost:0").unwrap().to_string(), "127.0.0.1:0");
        assert_eq!(parse_listen("[::1]:80").unwrap().to_string(), "[::1]:80");
        for bad in ["", "7423", ":7423", "example.org:1", "127.0.0.1", "127.0.0.1:x"] {
            assert!(parse_listen(bad).is_err(), "{bad:?}");
        }
    }
}
