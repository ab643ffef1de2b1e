//! A provider on a data directory of its own, and eyes for what it leaves.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use stacyvm_provider::{ExecEvent, ExecSpec, Exit, LaunchSpec, Program, Provider, Stdin};
use stacyvm_provider_native::{HOST_IMAGE, NativeProvider, NativeSettings, Spawner, UID_BASE};
use stacyvm_types::{ExecId, Generation, Limits, SandboxId, time::SystemClock};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Names the data directory of the server that [`kill_a_server`] kills.
pub(crate) const SERVER_TO_KILL: &str = "STACYVM_TEST_SERVER";

pub(crate) struct Platform {
    runtime: Runtime,
    pub(crate) provider: Arc<NativeProvider>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    dir: Option<TempDir>,
}

/// Stops as a server does, so that nothing waits in a pool for ever.
impl Drop for Platform {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.tasks.close();
        self.runtime.block_on(self.tasks.wait());
    }
}

pub(crate) fn limits() -> Limits {
    Limits { memory_mb: 256, vcpus: 1, pids: 64, disk_mb: 128 }
}

pub(crate) fn spec() -> LaunchSpec {
    LaunchSpec {
        id: SandboxId::from_entropy(rand::random()),
        generation: Generation(1),
        image: HOST_IMAGE.to_owned(),
        limits: limits(),
        ttl: None,
    }
}

pub(crate) fn spec_with_disk(disk_mb: u32) -> LaunchSpec {
    LaunchSpec { limits: Limits { disk_mb, ..limits() }, ..spec() }
}

fn settings(dir: &Path, pool_size: usize) -> NativeSettings {
    NativeSettings {
        data_dir: dir.to_owned(),
        pool_size,
        pool_limits: limits(),
        uid_base: UID_BASE,
        spawner: Spawner::start().unwrap(),
        tasks: TaskTracker::new(),
        stopping: CancellationToken::new(),
        clock: Arc::new(SystemClock),
    }
}

impl Platform {
    pub(crate) fn start(pool_size: usize) -> Self {
        Self::over(tempfile::tempdir().unwrap(), pool_size)
    }

    pub(crate) fn over(dir: TempDir, pool_size: usize) -> Self {
        let runtime = Runtime::new().unwrap();
        let settings = settings(dir.path(), pool_size);
        let (tasks, stopping) = (settings.tasks.clone(), settings.stopping.clone());
        let provider = runtime.block_on(async { NativeProvider::new(settings) }).unwrap();
        Self { runtime, provider, tasks, stopping, dir: Some(dir) }
    }

    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), work).await.expect("within a minute")
        })
    }

    /// Stops, and gives the data directory back.
    pub(crate) fn stop(mut self) -> TempDir {
        self.dir.take().expect("taken once")
    }

    pub(crate) async fn until_waiting(&self, count: usize) {
        self.until("the pool is full", || count <= self.provider.waiting()).await;
    }

    /// Waits for something that will become true.
    pub(crate) async fn until(&self, what: &str, is_true: impl Fn() -> bool) {
        let wait = async {
            while !is_true() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let patience = Duration::from_secs(30);
        assert!(tokio::time::timeout(patience, wait).await.is_ok(), "never true: {what}");
    }

    /// The runtimes that nobody owns.
    pub(crate) fn begun(&self) -> usize {
        let dir = self.dir.as_ref().expect("not stopped").path();
        children(&dir.join("run/runtimes/pool")).len()
    }

    pub(crate) async fn shell(
        &self,
        id: &SandboxId,
        line: &str,
    ) -> Result<String, libtest_mimic::Failed> {
        shell(&*self.provider, id, line).await
    }

    fn record(&self, id: &SandboxId) -> serde_json::Value {
        let dir = self.dir.as_ref().expect("not stopped").path();
        let path = dir.join("run/runtimes/sandboxes").join(id.as_str()).join("runtime.json");
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    pub(crate) fn first_process(&self, id: &SandboxId) -> Pid {
        let pid = self.record(id)["process"]["pid"].as_i64().unwrap();
        Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
    }

    pub(crate) fn groups(&self, id: &SandboxId) -> Vec<PathBuf> {
        let record = self.record(id);
        let groups = record["groups"].as_array().unwrap();
        groups.iter().map(|g| PathBuf::from(g.as_str().unwrap())).collect()
    }

    /// The processes of a sandbox by its control groups, or by its first process.
    pub(crate) fn processes(&self, id: &SandboxId) -> BTreeSet<i32> {
        let read = |group: PathBuf| fs::read_to_string(group.join("cgroup.procs")).unwrap();
        let mut all: BTreeSet<i32> = self
            .groups(id)
            .into_iter()
            .flat_map(|g| read(g).lines().map(|l| l.parse().unwrap()).collect::<Vec<_>>())
            .collect();
        all.insert(self.first_process(id).as_raw_nonzero().get());
        all
    }

    pub(crate) fn group_value(&self, id: &SandboxId, file: &str) -> Option<String> {
        self.groups(id).into_iter().find_map(|g| fs::read_to_string(g.join(file)).ok())
    }
}

pub(crate) async fn shell(
    provider: &dyn Provider,
    id: &SandboxId,
    line: &str,
) -> Result<String, libtest_mimic::Failed> {
    let guest = provider.guest(id).await?;
    let mut exec = guest.exec(exec_spec(Program::Shell(line.to_owned()))).await?;
    let mut said = Vec::new();
    while let Some(event) = exec.events.next().await {
        match event? {
            ExecEvent::Output { data, .. } => said.extend_from_slice(&data),
            ExecEvent::Truncated { .. } => return Err("output was lost".into()),
            ExecEvent::Exit(Exit::Code(_)) => break,
            ExecEvent::Exit(exit) => return Err(format!("ended by {exit:?}").into()),
        }
    }
    Ok(String::from_utf8(said)?)
}

pub(crate) fn exec_spec(program: Program) -> ExecSpec {
    ExecSpec {
        id: ExecId::from_entropy(rand::random()),
        program,
        env: [].into(),
        workdir: None,
        user: None,
        stdin: Stdin::Null,
        terminal: None,
        deadline: Some(Duration::from_secs(30)),
    }
}

/// What is left of runtimes below a data directory, in memory, and as control groups of its
/// instance.
pub(crate) fn leftovers(dir: &Path) -> Vec<String> {
    let runtimes = dir.join("run/runtimes");
    let mut all = Vec::new();
    for place in ["pool", "sandboxes", "gone"] {
        all.extend(children(&runtimes.join(place)));
    }
    let memory = fs::read_link(runtimes).into_iter();
    let groups = fs::read_to_string(dir.join("run/groups")).unwrap_or_default();
    let groups = groups.lines().map(PathBuf::from).filter(|base| base.exists());
    all.extend(memory.chain(groups).map(|path| path.display().to_string()));
    all
}

fn children(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return vec![] };
    entries.map(|e| e.unwrap().path().display().to_string()).collect()
}

/// A server with one sandbox and a pool; never stops by itself.
pub(crate) fn serve_until_killed(dir: PathBuf) -> ! {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let provider = NativeProvider::new(settings(&dir, 2)).unwrap();
        let spec = spec();
        provider.launch(&spec).await.unwrap();
        shell(&*provider, &spec.id, "echo before > /workspace/kept").await.unwrap();
        while provider.waiting() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        println!("{}", spec.id);
        std::future::pending::<()>().await;
    });
    unreachable!("pending for ever")
}

/// Runs such a server in a process of its own, kills it, and names its sandbox.
pub(crate) fn kill_a_server(dir: &Path) -> SandboxId {
    let mut server = Command::new("/proc/self/exe")
        .env(SERVER_TO_KILL, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    SandboxId::parse(line.trim()).unwrap()
}

/// Ends what a restart of the host ends: the processes, and all that is held in memory.
pub(crate) fn restart_the_host(dir: &Path) {
    let runtimes = dir.join("run/runtimes").canonicalize().unwrap();
    for place in ["pool", "sandboxes"] {
        for runtime in children(&runtimes.join(place)) {
            let record = fs::read(Path::new(&runtime).join("runtime.json")).unwrap();
            let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
            let pid = i32::try_from(record["process"]["pid"].as_i64().unwrap()).unwrap();
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        }
    }
    fs::remove_dir_all(runtimes).unwrap();
}
