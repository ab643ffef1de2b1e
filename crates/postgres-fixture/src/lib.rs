//! A Postgres server that tests and the bench start for themselves.
//!
//! It listens on loopback and on a Unix socket, keeps its files in a directory that goes away with
//! it, and is stopped when the [`Server`] is dropped. When the process that started it is killed the
//! kernel ends it. Postgres refuses to run as root: there it runs as the first of `postgres` and
//! `nobody` that exists.

use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    io,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use tokio_postgres::NoTls;

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);
/// The database that every server begins with.
const FIRST: &str = "postgres";
const SUPERUSER: &str = "stacyvm";

/// What a server promises when it commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// Nothing: it survives its own end, and not the host's.
    Unsynced,
    /// What Postgres promises by default.
    Synced,
}

/// How a server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Connections are closed and the files put in order.
    Fast,
    /// At once, as in a crash; the next start recovers.
    Immediate,
}

/// A running server, or one that was stopped and can be started again.
#[derive(Debug)]
pub struct Server {
    programs: PathBuf,
    user: Option<Identity>,
    port: u16,
    extra: Vec<String>,
    child: Mutex<Option<Child>>,
    databases: AtomicU64,
    directory: tempfile::TempDir,
}

#[derive(Debug, Clone, Copy)]
struct Identity {
    uid: u32,
    gid: u32,
}

impl Server {
    /// Makes a server and starts it. The error says why this host cannot.
    pub fn start(disk: Disk) -> Result<Self> {
        Self::start_with(disk, &[], |_| Ok(()))
    }

    /// The same with further settings, each `name=value`, after `prepare` has put files in the
    /// server's directory.
    pub fn start_with(
        disk: Disk,
        settings: &[&str],
        prepare: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let programs = programs()?;
        let user = identity()?;
        let directory = tempfile::Builder::new().prefix("stacyvm-pg-").tempdir()?;
        let mut extra: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        if disk == Disk::Unsynced {
            extra.extend(
                ["fsync=off", "synchronous_commit=off", "full_page_writes=off"].map(str::to_owned),
            );
        }
        let server = Self {
            programs,
            user,
            port: free_port()?,
            extra,
            child: Mutex::new(None),
            databases: AtomicU64::new(0),
            directory,
        };
        prepare(server.directory.path())?;
        fs::set_permissions(server.directory.path(), Permissions::from_mode(0o711))?;
        for name in ["data", "socket"] {
            fs::create_dir(server.path(name))?;
        }
        for entry in fs::read_dir(server.directory.path())? {
            server.give(&entry?.path())?;
        }
        server.init()?;
        server.run()?;
        Ok(server)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The server's directory, which holds what was prepared for it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The port on loopback.
    pub const fn port(&self) -> u16 {
        self.port
    }

    fn give(&self, path: &Path) -> Result<()> {
        if let Some(Identity { uid, gid }) = self.user {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .with_context(|| format!("give {} to the server", path.display()))?;
        }
        Ok(())
    }

    /// A program of Postgres, as who may run it, told of the end of the thread that starts it.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "QUIT"]);
        if let Some(Identity { uid, gid }) = self.user {
            command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}"));
            command.arg("--clear-groups");
        }
        command.arg(self.programs.join(name)).stdin(Stdio::null());
        command.current_dir(self.directory.path()).env("LC_ALL", "C.UTF-8");
        command
    }

    fn init(&self) -> Result<()> {
        let output = self
            .program("initdb")
            .arg("-D")
            .arg(self.path("data"))
            .args(["-U", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--no-sync"])
            // A locale whose order is not that of bytes, as most installations have one.
            .args(["--locale-provider=icu", "--icu-locale=en-US"])
            .stdin(Stdio::null())
            .output()
            .context("run initdb")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "initdb failed: {}", said.trim());
        Ok(())
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it again, on the same port with the same files.
    pub fn run(&self) -> Result<()> {
        let log = File::create(self.path("log"))?;
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.path("data")).stdin(Stdio::null());
        let socket = format!("unix_socket_directories={}", self.path("socket").display());
        let port = format!("port={}", self.port);
        let fixed = ["listen_addresses=127.0.0.1", &port, &socket, "max_connections=200"];
        for setting in fixed.into_iter().chain(self.extra.iter().map(String::as_str)) {
            command.arg("-c").arg(setting);
        }
        command.stdout(log.try_clone()?).stderr(log);
        let child = spawn(command).context("start postgres")?;
        *self.child() = Some(child);
        self.wait_until_ready()
    }

    fn wait_until_ready(&self) -> Result<()> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let ended = self.child().as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended {
                bail!("postgres ended with {status}: {}", self.log());
            }
            match self.execute(FIRST, "SELECT 1") {
                Ok(()) => return Ok(()),
                Err(error) if give_up < Instant::now() => {
                    return Err(error.context(format!("postgres does not answer: {}", self.log())));
                }
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// What the server wrote since it was started.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Stops it. It can be started again with [`Self::run`].
    pub fn stop(&self, how: Stop) -> Result<()> {
        let Some(mut child) = self.child().take() else { return Ok(()) };
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        };
        // A child that was not waited for keeps its id.
        rustix::process::kill_process(Pid::from_child(&child), signal)?;
        let give_up = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            if give_up < Instant::now() {
                child.kill()?;
                child.wait()?;
                bail!("postgres did not stop");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Runs statements in a database, as the superuser.
    pub fn execute(&self, database: &str, sql: &str) -> Result<()> {
        self.query(database, sql).map(drop)
    }

    /// The texts of the first column of what statements find, as the superuser.
    pub fn query(&self, database: &str, sql: &str) -> Result<Vec<String>> {
        // The caller's thread may run tasks, and then cannot run others.
        thread::scope(|scope| {
            let thread = scope.spawn(|| self.query_here(database, sql));
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn query_here(&self, database: &str, sql: &str) -> Result<Vec<String>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let socket = self.path("socket");
            let (client, connection) = tokio_postgres::Config::new()
                .host_path(&socket)
                .port(self.port)
                .user(SUPERUSER)
                .dbname(database)
                .connect(NoTls)
                .await?;
            let mut connection = std::pin::pin!(connection);
            let messages = tokio::select! {
                biased;
                messages = client.simple_query(sql) => messages?,
                ended = &mut connection => {
                    ended?;
                    bail!("the connection ended");
                }
            };
            drop(client);
            connection.await?;
            let rows = messages.iter().filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            });
            Ok(rows.collect())
        })
    }

    /// Makes an empty database and returns its name.
    pub fn create_database(&self) -> Result<String> {
        self.create_like("template0")
    }

    /// Makes a copy of a database that nobody is connected to, and returns its name.
    pub fn create_like(&self, template: &str) -> Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        // A copy by files: quicker than through the log while nothing is synced.
        self.execute(
            FIRST,
            &format!("CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy"),
        )?;
        Ok(name)
    }

    /// Removes a database with everybody in it.
    pub fn drop_database(&self, name: &str) -> Result<()> {
        self.execute(FIRST, &format!("DROP DATABASE {name} WITH (FORCE)"))
    }

    /// How to reach a database, over TCP.
    pub fn dsn(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/{database}", self.port)
    }

    /// How to reach a database, over the Unix socket.
    pub fn socket_dsn(&self, database: &str) -> String {
        let socket = self.path("socket");
        let (socket, port) = (socket.display(), self.port);
        format!("host={socket} port={port} user={SUPERUSER} dbname={database}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its files are removed next, so there is nothing to put in order.
        if let Some(mut child) = self.child().take() {
            let _asked = rustix::process::kill_process(Pid::from_child(&child), Signal::QUIT);
            let _ended = child.wait();
        }
    }
}

/// Starts the program from a thread that never ends: the kernel tells a child of the end of the
/// thread that started it.
fn spawn(command: Command) -> Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static STARTER: Mutex<Option<mpsc::Sender<Order>>> = Mutex::new(None);
    let mut starter = STARTER.lock().unwrap_or_else(PoisonError::into_inner);
    if starter.is_none() {
        let (orders, work) = mpsc::channel::<Order>();
        thread::Builder::new().name("postgres-starter".to_owned()).spawn(move || {
            while let Ok((mut command, reply)) = work.recv() {
                let _gone = reply.send(command.spawn());
            }
        })?;
        *starter = Some(orders);
    }
    let (reply, started) = mpsc::channel();
    starter.as_ref().context("the starter's thread is gone")?.send((command, reply))?;
    Ok(started.recv()??)
}

/// A port that nobody listens on, for now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Where Postgres' programs are: the newest version that Debian installed, or in the PATH.
fn programs() -> Result<PathBuf> {
    let version = |path: &PathBuf| -> u32 {
        let version = path.parent().and_then(Path::file_name).and_then(OsStr::to_str);
        version.and_then(|version| version.parse().ok()).unwrap_or(0)
    };
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = installed.map(|entry| entry.path().join("bin")).collect();
    found.sort_by_key(version);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all: Vec<PathBuf> = std::env::split_paths(&path).chain(found).collect();
    let complete = |path: &&PathBuf| ["initdb", "postgres"].iter().all(|p| path.join(p).is_file());
    all.iter()
        .rfind(complete)
        .cloned()
        .context("this host has no Postgres: neither /usr/lib/postgresql/*/bin nor the PATH has it")
}

/// As whom Postgres runs; `None` is as who runs this.
fn identity() -> Result<Option<Identity>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let find = |name: &str| {
        let mut fields = users.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(name)).then_some(fields)
        })?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Identity { uid, gid })
    };
    let found = ["postgres", "nobody"].into_iter().find_map(find);
    found.map(Some).context("Postgres does not run as root, and no user postgres or nobody exists")
}
