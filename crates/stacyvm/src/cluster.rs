//! What servers and workers have in common: who they are, how they reach each other, and how they
//! are reached.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

use http::Uri;
use stacyvm_cli::Failure;
use stacyvm_config::{Config, Driver, RpcTls};
use stacyvm_fleet::{
    Worker,
    identity::{
        Audience, Checked, KeyRing, Shown,
        tls::{ClientFiles, ClientTls, Pair, ServerFiles, ServerTls, Trust},
    },
    remote::{Connect, HttpDial, Tcp, Tls},
};
use stacyvm_types::{WorkerId, time::Clock};
use stacyvm_worker::rpc::{self, Rpc};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{failed, serve};

/// The host's name.
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The random word of a data directory: made once, and kept with it.
pub(crate) fn instance(data_dir: &Path) -> Result<String, Failure> {
    let path = data_dir.join("instance");
    let refused = |e: io::Error| failed(format!("{}: {e}", path.display()));
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(refused(error)),
    }
    let word = format!("{:032x}", rand::random::<u128>());
    let fresh = path.with_extension("new");
    let write = || {
        let mut file = fs::File::create(&fresh)?;
        writeln!(file, "{word}")?;
        file.sync_all()?;
        fs::rename(&fresh, &path)
    };
    write().map_err(refused)?;
    Ok(word)
}

/// What this server's own worker is called.
pub(crate) fn own_id(config: &Config, instance: &str) -> Result<WorkerId, Failure> {
    if let Some(id) = &config.worker.id {
        return Ok(id.0.clone());
    }
    let name = match config.database.driver {
        Driver::Postgres => format!("{}-{}", of_host(48), instance.get(..8).unwrap_or(instance)),
        Driver::Sqlite | Driver::Memory => "local".to_owned(),
    };
    WorkerId::parse(&name).map_err(|_| no_name(&name))
}

/// What a worker without a server is called.
pub(crate) fn worker_id(config: &Config) -> Result<WorkerId, Failure> {
    if let Some(id) = &config.worker.id {
        return Ok(id.0.clone());
    }
    let name = of_host(64);
    WorkerId::parse(&name).map_err(|_| no_name(&name))
}

fn of_host(longest: usize) -> String {
    hostname().chars().take(longest).collect()
}

fn no_name(name: &str) -> Failure {
    failed(format!("{name:?} is no name for a worker; choose one with worker.id"))
}

/// Where control planes reach a worker that listens here.
pub(crate) fn rpc_url(config: &Config, address: SocketAddr) -> String {
    if let Some(url) = &config.worker.rpc_url {
        return url.as_str().to_owned();
    }
    let scheme = if config.worker.rpc_tls.enabled { "https" } else { "http" };
    if address.ip().is_unspecified() {
        format!("{scheme}://{}:{}", hostname(), address.port())
    } else {
        format!("{scheme}://{address}")
    }
}

/// How this process reaches workers of others.
pub(crate) fn dial(
    config: &Config,
    keys: Arc<KeyRing>,
    clock: Arc<dyn Clock>,
) -> Result<HttpDial, Failure> {
    let connect = connect(&config.worker.rpc_tls)?;
    Ok(HttpDial { connect, credentials: Arc::new(Shown::to(Audience::Rpc, keys, clock)) })
}

fn connect(tls: &RpcTls) -> Result<Arc<dyn Connect>, Failure> {
    if !tls.enabled {
        return Ok(Arc::new(Tcp));
    }
    let trust = match &tls.ca_file {
        _ if tls.insecure_skip_verify => Trust::Anyone,
        Some(ca) => Trust::Authorities(ca.clone()),
        None => Trust::Host,
    };
    client_tls(tls, trust, tls.server_name.as_str().to_owned())
}

/// How a worker reaches its control plane at this address.
pub(crate) fn to_control_plane(config: &Config) -> Result<Arc<dyn Connect>, Failure> {
    match host_behind_tls(config.worker.control_plane_url.as_str()) {
        None => Ok(Arc::new(Tcp)),
        Some(host) => client_tls(&config.worker.rpc_tls, Trust::Host, host),
    }
}

/// The host of an address with TLS, as certificates name it.
fn host_behind_tls(url: &str) -> Option<String> {
    let uri = url.parse::<Uri>().ok().filter(|uri| uri.scheme_str() == Some("https"))?;
    let host = uri.host()?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some(bare.to_owned())
}

fn client_tls(
    tls: &RpcTls,
    trust: Trust,
    server_name: String,
) -> Result<Arc<dyn Connect>, Failure> {
    let own = tls.client_cert_file.clone().zip(tls.client_key_file.clone());
    let own = own.map(|(cert, key)| Pair { cert, key });
    let files = ClientFiles { trust, own, server_name };
    Ok(Arc::new(Tls(Arc::new(ClientTls::new(files).map_err(failed)?))))
}

/// A listener for the calls of control planes, and what will answer there.
pub(crate) struct Listening {
    listener: TcpListener,
    tls: Option<ServerTls>,
    pub(crate) address: SocketAddr,
}

/// Listens where the settings say, if they do.
pub(crate) async fn listen(config: &Config) -> Result<Option<Listening>, Failure> {
    let Some(address) = config.worker.listen_addr else { return Ok(None) };
    let listener = serve::listen(address.0).await?;
    let address = listener.local_addr().map_err(|e| failed(e.to_string()))?;
    let tls = &config.worker.rpc_tls;
    let tls = match (tls.enabled, tls.server_cert_file.clone().zip(tls.server_key_file.clone())) {
        (true, Some((cert, key))) => {
            let own = Pair { cert, key };
            let names = tls.client_names.iter().map(|name| name.as_str().to_owned()).collect();
            let files =
                ServerFiles { own, client_ca: tls.client_ca_file.clone(), client_names: names };
            Some(ServerTls::new(files).map_err(failed)?)
        }
        _ => None,
    };
    Ok(Some(Listening { listener, tls, address }))
}

impl Listening {
    /// Answers calls of this worker until `stopping`, then lets what is in flight finish for at
    /// most `drain`.
    pub(crate) async fn answer(
        self,
        worker: Arc<dyn Worker>,
        keys: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
        tasks: TaskTracker,
        stopping: CancellationToken,
        drain: std::time::Duration,
    ) {
        let access = Arc::new(Checked::at(Audience::Rpc, keys, clock));
        let router = Rpc::new(worker, access, tasks, stopping.clone()).router();
        match self.tls {
            Some(tls) => {
                let tls = Arc::new(rpc::Tls(tls));
                stacyvm_listen::serve_through(
                    tls,
                    self.listener,
                    router,
                    stopping,
                    drain,
                    rpc::LIMITS,
                )
                .await;
            }
            None => {
                stacyvm_listen::serve_with(self.listener, router, stopping, drain, rpc::LIMITS)
                    .await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_the_host_of_an_address_and_nothing_else_of_it() {
        for (url, host) in [
            ("https://box.lan", Some("box.lan")),
            ("https://box.lan:7423", Some("box.lan")),
            ("https://10.0.0.7:1", Some("10.0.0.7")),
            ("https://[2001:db8::1]", Some("2001:db8::1")),
            ("https://[2001:db8::1]:7423", Some("2001:db8::1")),
            ("http://box.lan", None),
        ] {
            assert_eq!(host_behind_tls(url).as_deref(), host, "{url}");
        }
    }
}
