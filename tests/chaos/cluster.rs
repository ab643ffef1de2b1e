//! Three servers, five workers, one Postgres.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use stacyvm_postgres_fixture::{self as postgres, Disk};
use stacyvm_tests::{server::binary, server::wait_for};

use crate::{
    cell::{self, Stage},
    http::Caller,
    member::{Kind, Member},
    net::{Hub, Net},
    proxy,
};

pub(crate) const SERVERS: usize = 3;
pub(crate) const WORKERS: usize = 5;
/// The first of them have real runtimes too, where the host has.
pub(crate) const NATIVE: usize = 2;
pub(crate) const ADMIN: &str = "chaos-admin-key-0123456789abcdef0123";
pub(crate) const TOKEN: &str = "chaos-worker-token-0123456789abcdef01";
/// The limits that clients run into.
pub(crate) const MOST: u64 = 24;
pub(crate) const MOST_OF_ONE: u64 = 8;
/// Three of these are a lease.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(300);

/// How long everybody may take to be there.
const WHOLE: Duration = Duration::from_secs(120);

/// All processes of a run, and where they are.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    pub(crate) postgres: Arc<postgres::Server>,
    pub(crate) database: String,
    pub(crate) net: Net,
}

/// A worker, seen from outside.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(crate) name: String,
    /// Where it takes calls.
    pub(crate) at: SocketAddr,
    pub(crate) home: PathBuf,
}

impl Seat {
    /// The sandboxes that have a directory here.
    pub(crate) fn runtimes(&self) -> BTreeSet<String> {
        let parts = ["data/mock", "data/run/runtimes/sandboxes"].map(|part| self.home.join(part));
        let entries = parts.into_iter().flat_map(fs::read_dir).flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("sb-")).collect()
    }
}

impl Cluster {
    /// Why this host cannot run one, if it cannot.
    pub(crate) fn missing() -> Option<String> {
        postgres::Server::start(Disk::Unsynced).err().map(|error| format!("{error:#}"))
    }

    /// Fails where workers have no real runtimes, with the reason.
    pub(crate) fn has_native() -> Result<()> {
        if cell::stage() != Stage::Inside {
            bail!("what they leave when the test fails would stay without namespaces of its own");
        }
        let dir = tempfile::tempdir()?;
        let doctor =
            Command::new(binary()).args(["doctor", "--data-dir"]).arg(dir.path()).output()?;
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        ensure!(doctor.status.success(), "stacyvm doctor says\n{said}");
        Ok(())
    }

    /// Whether the kernel delays and loses what a member sends.
    pub(crate) fn has_netem(&self) -> bool {
        let Some(member) = self.members.first() else { return false };
        member.place.lag(true).and_then(|()| member.place.lag(false)).is_ok()
    }

    /// Starts everything. The calling thread has to outlive it.
    pub(crate) fn start(mut net: Net, root: &Path, native: bool) -> Result<Self> {
        // Every commit survives the end of Postgres, not that of the host.
        let listen = format!("listen_addresses={}", net.hub(Hub::Postgres));
        let settings = [listen.as_str(), "hba_file=hba.conf", "fsync=off"];
        let postgres = postgres::Server::start_with(Disk::Synced, &settings, |directory| {
            let anybody = "local all all trust\nhost all all 0.0.0.0/0 trust\n";
            Ok(fs::write(directory.join("hba.conf"), anybody)?)
        })?;
        let database = postgres.create_database()?;
        let dsn = postgres.dsn(&database);
        let dsn = dsn.replace("127.0.0.1", &net.hub(Hub::Postgres).to_string());

        let mut members = Vec::new();
        let mut servers = Vec::new();
        let proxy_ip = net.hub(Hub::Proxy);
        for n in 0..SERVERS {
            let place = net.place()?;
            let at = place.at;
            servers.push(at);
            let text = format!(
                "server: {{host: {ip}, port: {port}, allowed_hosts: [{ip}, {proxy_ip}], \
                 shutdown_timeout: 3s}}\n\
                 worker: {{enabled: false, heartbeat_interval: {beat}ms}}\n\
                 auth: {{admin_api_key: {ADMIN}, worker_token: {TOKEN}}}\n\
                 database: {{driver: postgres, dsn: \"{dsn}\"}}\n\
                 providers: {{default: mock, mock: {{enabled: true}}}}\n\
                 defaults: {{max_sandboxes: {MOST}, max_sandboxes_per_owner: {MOST_OF_ONE}, \
                 ttl: 1m, max_ttl: 5m}}\n",
                ip = at.ip(),
                port = at.port(),
                beat = HEARTBEAT.as_millis(),
            );
            members.push(Member::new(&format!("server-{n}"), Kind::Server, place, root, &text)?);
        }
        let proxy = proxy::start(proxy_ip, servers)?;
        for n in 0..WORKERS {
            let place = net.place()?;
            let provider = if native && n < NATIVE { "native" } else { "mock" };
            let text = format!(
                "worker: {{id: worker-{n}, control_plane_url: \"http://{proxy}\", \
                 listen_addr: \"{at}\", rpc_url: \"http://{at}\", \
                 heartbeat_interval: {beat}ms, shutdown_timeout: 3s}}\n\
                 auth: {{worker_token: {TOKEN}}}\n\
                 defaults: {{pool_size: 1}}\n\
                 providers: {{default: {provider}, mock: {{enabled: true}}}}\n",
                at = place.at,
                beat = HEARTBEAT.as_millis(),
            );
            members.push(Member::new(&format!("worker-{n}"), Kind::Worker, place, root, &text)?);
        }
        let mut cluster = Self { members, postgres: Arc::new(postgres), database, net };
        for member in &mut cluster.members {
            member.start()?;
        }
        cluster.wait_until_whole()?;
        Ok(cluster)
    }

    /// Waits until every server answers and every worker is in the registry.
    pub(crate) fn wait_until_whole(&self) -> Result<()> {
        let caller = Caller::new(self.servers());
        wait_for("a whole cluster", WHOLE, || {
            for n in 0..SERVERS {
                let Ok(reply) = caller.ask(n, "GET", "/api/v1/workers", None, &[]) else {
                    return Ok(None);
                };
                let listed = reply.json();
                let listed = listed.as_array().map(Vec::as_slice).unwrap_or_default();
                let is_alive = |name: &str| {
                    listed.iter().any(|row| row["id"] == name && row["stale"] == false)
                };
                if !self.workers().iter().all(|worker| is_alive(&worker.name)) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .with_context(|| self.logs())
    }

    /// Where the servers answer.
    pub(crate) fn servers(&self) -> Vec<SocketAddr> {
        let servers = self.members.iter().filter(|member| member.kind == Kind::Server);
        servers.map(|member| member.place.at).collect()
    }

    /// The workers.
    pub(crate) fn workers(&self) -> Vec<Seat> {
        let workers = self.members.iter().filter(|member| member.kind == Kind::Worker);
        workers
            .map(|member| Seat {
                name: member.name.clone(),
                at: member.place.at,
                home: member.home.clone(),
            })
            .collect()
    }

    /// Lines of anybody's log that tell of a bug.
    pub(crate) fn panics(&self) -> Vec<String> {
        let logs = self.members.iter().map(|member| {
            let log = fs::read(member.home.join("log")).unwrap_or_default();
            (&member.name, String::from_utf8_lossy(&log).into_owned())
        });
        logs.flat_map(|(name, log)| {
            let lines = log.lines().filter(|line| line.contains("panicked at"));
            lines.map(|line| format!("{name}: {line}")).collect::<Vec<_>>()
        })
        .collect()
    }

    /// The last lines of everybody's log.
    pub(crate) fn logs(&self) -> String {
        let mut text = String::new();
        for member in &self.members {
            let log = fs::read_to_string(member.home.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.get(lines.len().saturating_sub(8)..).unwrap_or_default();
            text.push_str(&format!("--- {}\n{}\n", member.name, last.join("\n")));
        }
        text
    }

    /// What `stacyvm db check` says against the rows.
    pub(crate) fn check_rows(&self) -> Result<()> {
        let server = self.members.first().context("a server")?;
        let output = Command::new(binary())
            .args(["db", "check", "-o", "json"])
            .arg(server.settings())
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
