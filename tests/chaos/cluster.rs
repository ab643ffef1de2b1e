//! Three servers, five workers, one Postgres.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use stacyvm_postgres_fixture::{self as postgres, Disk};
use stacyvm_tests::{server::binary, server::wait_for};

use crate::{
    http::Caller,
    member::{Kind, Member},
    net::{Hub, Net},
    proxy,
};

pub(crate) const SERVERS: usize = 3;
pub(crate) const WORKERS: usize = 5;
pub(crate) const ADMIN: &str = "chaos-admin-key-0123456789abcdef0123";
pub(crate) const TOKEN: &str = "chaos-worker-token-0123456789abcdef01";
/// The limits that clients run into.
pub(crate) const MOST: u64 = 24;
pub(crate) const MOST_OF_ONE: u64 = 8;
/// Three of these are a lease.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(300);

/// All processes of a run, and where they are.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    pub(crate) postgres: Arc<postgres::Server>,
    pub(crate) database: String,
    pub(crate) net: Net,
}

/// Where a worker keeps a directory for each sandbox that it has.
pub(crate) fn runtimes(home: &Path) -> PathBuf {
    home.join("data/mock")
}

impl Cluster {
    /// Why this host cannot run one, if it cannot.
    pub(crate) fn missing() -> Option<String> {
        postgres::Server::start(Disk::Unsynced).err().map(|error| format!("{error:#}"))
    }

    /// Whether the kernel delays and loses what a member sends.
    pub(crate) fn has_netem(&self) -> bool {
        let Some(member) = self.members.first() else { return false };
        member.place.lag(true).and_then(|()| member.place.lag(false)).is_ok()
    }

    /// Starts everything. The calling thread has to outlive it.
    pub(crate) fn start(mut net: Net, root: &Path) -> Result<Self> {
        // Every commit survives the end of Postgres, not that of the host.
        let listen = format!("listen_addresses={}", net.hub(Hub::Postgres));
        let settings = [listen.as_str(), "hba_file=hba.conf", "fsync=off"];
        let postgres = postgres::Server::start_with(Disk::Synced, &settings, |directory| {
            let anybody = "local all all trust\nhost all all 0.0.0.0/0 trust\n";
            Ok(std::fs::write(directory.join("hba.conf"), anybody)?)
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
            let text = format!(
                "worker: {{id: worker-{n}, control_plane_url: \"http://{proxy}\", \
                 listen_addr: \"{at}\", rpc_url: \"http://{at}\", \
                 heartbeat_interval: {beat}ms, shutdown_timeout: 3s}}\n\
                 auth: {{worker_token: {TOKEN}}}\n\
                 providers: {{default: mock, mock: {{enabled: true}}}}\n",
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
        wait_for("a whole cluster", Duration::from_secs(60), || {
            for n in 0..SERVERS {
                let Ok(reply) = caller.ask(n, "GET", "/api/v1/workers", None, &[]) else {
                    return Ok(None);
                };
                let workers = reply.json();
                let alive = workers.as_array().map_or(0, |workers| {
                    workers.iter().filter(|worker| worker["stale"] == false).count()
                });
                if alive < WORKERS {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .with_context(|| self.logs())
    }

    /// The network namespaces of the members, where they have their own.
    pub(crate) fn namespaces(&self) -> Result<BTreeSet<PathBuf>> {
        self.members.iter().filter_map(|member| member.place.namespace()).collect()
    }

    /// Where the servers answer.
    pub(crate) fn servers(&self) -> Vec<SocketAddr> {
        let servers = self.members.iter().filter(|member| member.kind == Kind::Server);
        servers.map(|member| member.place.at).collect()
    }

    /// The workers' names, where they take calls and where they keep their runtimes.
    pub(crate) fn workers(&self) -> Vec<(String, SocketAddr, PathBuf)> {
        let workers = self.members.iter().filter(|member| member.kind == Kind::Worker);
        workers
            .map(|member| (member.name.clone(), member.place.at, runtimes(&member.home)))
            .collect()
    }

    /// The last lines of everybody's log.
    pub(crate) fn logs(&self) -> String {
        let mut text = String::new();
        for member in &self.members {
            let log = std::fs::read_to_string(member.home.join("log")).unwrap_or_default();
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
