//! The network between nodes: a worker at a distance, whose calls are late, lost, done twice or cut
//! off, and whose answers are too.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, future::BoxFuture, stream};
use stacyvm_fleet::{Dial, ProviderReport, Worker};
use stacyvm_provider::{
    ByteStream, Capabilities, Duplex, Error, ErrorKind, Exec, ExecSpec, FileInfo, FileRead, Guest,
    Images, LaunchSpec, Result, Runtime, Stats, WriteOptions,
};
use stacyvm_types::{ExecId, Generation, SandboxId, WorkerId};
use stacyvm_worker::LocalWorker;
use tokio::{sync::oneshot, time::sleep};

use crate::{
    invariants,
    node::Life,
    plant::Plant,
    server::{Daemon, Host},
    world::World,
};

/// How long a connection that nobody answers is waited for.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the answer to a question, to a destruction and to a launch is waited for.
const ASK: Duration = Duration::from_secs(20);
const DESTROY: Duration = Duration::from_secs(50);
const SPAWN: Duration = Duration::from_secs(80);
/// How late a call that is slow arrives.
const SLOW: Duration = Duration::from_secs(10);
/// How much later a call that is done twice is done again.
const AGAIN: Duration = Duration::from_secs(60);

/// Reaches the hosts of a run by what they say is their address: their name.
pub(crate) struct SimDial {
    pub(crate) world: World,
    pub(crate) caller: Life,
    pub(crate) from: WorkerId,
    pub(crate) hosts: Hosts,
}

/// All hosts of a run, which know each other only after they are made.
pub(crate) type Hosts = Arc<std::sync::OnceLock<Vec<Host>>>;

impl Dial for SimDial {
    fn dial(&self, id: &WorkerId, url: &str) -> Result<Arc<dyn Worker>> {
        let mut hosts = self.hosts.get().into_iter().flatten();
        let host = hosts.find(|host| host.id().as_str() == url).cloned();
        let host = host.ok_or_else(|| Error::new(ErrorKind::Invalid, "no such address"))?;
        let path = Path {
            world: self.world.clone(),
            caller: self.caller.clone(),
            from: self.from.clone(),
            host,
        };
        Ok(Arc::new(SimLink { path, id: id.clone() }))
    }
}

/// The way from one node to another.
#[derive(Clone)]
struct Path {
    world: World,
    caller: Life,
    from: WorkerId,
    host: Host,
}

type Work<T> = Arc<dyn Fn(Arc<LocalWorker>) -> BoxFuture<'static, Result<T>> + Send + Sync>;

fn never_left() -> Error {
    Error::new(ErrorKind::Unavailable, "the worker cannot be reached")
}

fn no_answer() -> Error {
    Error::unknown(ErrorKind::Unavailable, "the connection to the worker broke")
}

impl Path {
    fn is_cut(&self) -> bool {
        self.world.is_cut(self.from.as_str(), self.host.id().as_str())
    }

    /// The generation that a worker is shown.
    fn shown(&self, generation: Generation) -> Generation {
        if self.world.has(Plant::FencingRemoved) {
            // Newer than anything shown before.
            return Generation(
                1_000_000 + u64::try_from(self.world.elapsed().as_micros()).unwrap_or(0),
            );
        }
        generation
    }

    /// Lets the worker take a call that only the owner of a sandbox may make.
    async fn as_owner<T>(
        &self,
        id: &SandboxId,
        generation: Generation,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let row = self.world.row(id).filter(|row| row.spec.worker == *self.host.id());
        let result = call.await;
        if result.is_ok()
            && let Some(row) = row
        {
            invariants::after_call(&self.world, &row, generation);
        }
        result
    }

    /// A call, from its caller to the worker and back.
    async fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        patience: Duration,
        work: Work<T>,
    ) -> Result<T> {
        self.caller.step().await;
        let net = &self.world.profile().net;
        if self.is_cut() {
            sleep(CONNECT).await;
            self.caller.step().await;
            return Err(never_left());
        }
        let Some(callee) = self.host.daemon() else { return Err(never_left()) };
        if self.world.strikes("the network loses a call", net.lost) {
            sleep(patience).await;
            self.caller.step().await;
            return Err(no_answer());
        }
        self.world.delay(net.latency).await;
        if self.world.strikes("the network is slow", net.slow) {
            self.world.delay(SLOW).await;
        }
        let (answer, answered) = oneshot::channel();
        begin(&callee, work.clone(), Some(answer));
        if self.world.strikes("the network repeats a call", net.repeated) {
            self.again(name, work);
        }
        let result = tokio::select! {
            biased;
            answered = answered => answered.unwrap_or_else(|_| Err(no_answer())),
            () = callee.life.death() => Err(no_answer()),
            () = sleep(patience) => Err(no_answer()),
        };
        self.world.delay(net.latency).await;
        let lost =
            self.is_cut() || self.world.strikes("the network loses an answer", net.unanswered);
        if lost {
            self.world.note(self.caller.name(), format_args!("loses the answer to {name}"));
            sleep(CONNECT).await;
        }
        self.caller.step().await;
        if lost { Err(no_answer()) } else { result }
    }

    /// The same call once more, some time later, at whoever is there by then.
    fn again<T: Send + 'static>(&self, name: &'static str, work: Work<T>) {
        let path = self.clone();
        let pause = self.world.roll(|rng| rng.time(Duration::ZERO, AGAIN));
        self.world.tasks().spawn(async move {
            sleep(pause).await;
            if let Some(callee) = path.host.daemon() {
                path.world.note(callee.life.name(), format_args!("hears {name} once more"));
                begin(&callee, work, None);
            }
        });
    }
}

/// Lets a node work on a call, to its end, whoever waits for it.
fn begin<T: Send + 'static>(
    callee: &Daemon,
    work: Work<T>,
    answer: Option<oneshot::Sender<Result<T>>>,
) {
    let (life, worker) = (callee.life.clone(), callee.worker.clone());
    callee.tasks.spawn(async move {
        life.step().await;
        let result = work(worker).await;
        life.step().await;
        if let Some(answer) = answer {
            // A caller that has given up hears nothing.
            drop(answer.send(result));
        }
    });
}

/// A worker at a distance.
struct SimLink {
    path: Path,
    id: WorkerId,
}

#[async_trait]
impl Worker for SimLink {
    fn id(&self) -> &WorkerId {
        &self.id
    }

    fn capabilities(&self, provider: &str) -> Result<Capabilities> {
        if provider == crate::provider::NAME {
            return Ok(Capabilities { adoption: true, ..Capabilities::default() });
        }
        Err(Error::new(ErrorKind::Unsupported, "there is one provider"))
    }

    async fn spawn(&self, provider: &str, spec: &LaunchSpec) -> Result<Runtime> {
        let (provider, spec, path) = (provider.to_owned(), spec.clone(), self.path.clone());
        let work: Work<_> = Arc::new(move |worker| {
            let (provider, mut spec) = (provider.clone(), spec.clone());
            spec.generation = path.shown(spec.generation);
            Box::pin(async move { worker.spawn(&provider, &spec).await })
        });
        self.path.call("spawn", SPAWN, work).await
    }

    async fn destroy(&self, provider: &str, id: &SandboxId, generation: Generation) -> Result<()> {
        let (provider, id) = (provider.to_owned(), id.clone());
        let path = self.path.clone();
        let work: Work<_> = Arc::new(move |worker| {
            let (provider, id, path) = (provider.clone(), id.clone(), path.clone());
            let shown = path.shown(generation);
            Box::pin(async move {
                path.as_owner(&id, generation, worker.destroy(&provider, &id, shown)).await
            })
        });
        self.path.call("destroy", DESTROY, work).await
    }

    async fn status(&self, provider: &str, id: &SandboxId) -> Result<Runtime> {
        let (provider, id) = (provider.to_owned(), id.clone());
        let work: Work<_> = Arc::new(move |worker| {
            let (provider, id) = (provider.clone(), id.clone());
            Box::pin(async move { worker.status(&provider, &id).await })
        });
        self.path.call("status", ASK, work).await
    }

    async fn runtimes(&self) -> (Vec<(Arc<str>, Runtime)>, Vec<Arc<str>>) {
        let work: Work<_> = Arc::new(|worker| Box::pin(async move { Ok(worker.runtimes().await) }));
        let silent = || (Vec::new(), vec![Arc::from(crate::provider::NAME)]);
        self.path.call("runtimes", ASK, work).await.unwrap_or_else(|_| silent())
    }

    async fn guest(
        &self,
        provider: &str,
        id: &SandboxId,
        generation: Generation,
    ) -> Result<Arc<dyn Guest>> {
        let (provider, id) = (provider.to_owned(), id.clone());
        let of = LinkGuest { path: self.path.clone(), provider, id, generation };
        Ok(Arc::new(of))
    }

    async fn set_deadline(
        &self,
        provider: &str,
        id: &SandboxId,
        generation: Generation,
        remaining: Duration,
    ) -> Result<()> {
        let (provider, id, path) = (provider.to_owned(), id.clone(), self.path.clone());
        let work: Work<_> = Arc::new(move |worker| {
            let (provider, id, path) = (provider.clone(), id.clone(), path.clone());
            let shown = path.shown(generation);
            Box::pin(async move {
                let told = worker.set_deadline(&provider, &id, shown, remaining);
                path.as_owner(&id, generation, told).await
            })
        });
        self.path.call("set_deadline", ASK, work).await
    }

    async fn drain(&self) -> Result<()> {
        let work: Work<_> = Arc::new(|worker| Box::pin(async move { worker.drain().await }));
        self.path.call("drain", ASK, work).await
    }

    async fn undrain(&self) -> Result<()> {
        let work: Work<_> = Arc::new(|worker| Box::pin(async move { worker.undrain().await }));
        self.path.call("undrain", ASK, work).await
    }

    async fn providers(&self) -> Vec<ProviderReport> {
        let work: Work<_> =
            Arc::new(|worker| Box::pin(async move { Ok(worker.providers().await) }));
        self.path.call("providers", ASK, work).await.unwrap_or_default()
    }

    fn images(&self, _: &str) -> Result<Arc<dyn Images>> {
        Err(Error::new(ErrorKind::Unsupported, "there are no images"))
    }
}

/// The inside of a runtime at a distance; found with each call, under the generation it began with.
struct LinkGuest {
    path: Path,
    provider: String,
    id: SandboxId,
    generation: Generation,
}

impl LinkGuest {
    async fn follow(
        &self,
        name: &'static str,
        begin: impl Fn(Arc<dyn Guest>) -> BoxFuture<'static, Result<Exec>> + Send + Sync + 'static,
    ) -> Result<Exec> {
        let (provider, id, generation) = (self.provider.clone(), self.id.clone(), self.generation);
        let (begin, path) = (Arc::new(begin), self.path.clone());
        let work: Work<_> = Arc::new(move |worker| {
            let (provider, id, begin) = (provider.clone(), id.clone(), begin.clone());
            let path = path.clone();
            let shown = path.shown(generation);
            Box::pin(async move {
                let guest = worker.guest(&provider, &id, shown);
                begin(path.as_owner(&id, generation, guest).await?).await
            })
        });
        let mut exec = self.path.call(name, ASK, work).await?;
        let path = self.path.clone();
        let callee = self.path.host.life();
        let events =
            exec.events.map(move |item| if path.is_cut() { Err(no_answer()) } else { item });
        // A channel that broke says nothing more.
        let events = stream::unfold((events, false), move |(mut events, broken)| {
            let callee = callee.clone();
            async move {
                if broken {
                    return None;
                }
                let death = async {
                    match &callee {
                        Some(life) => life.death().await,
                        None => std::future::pending().await,
                    }
                };
                let item = tokio::select! {
                    biased;
                    item = events.next() => item?,
                    () = death => Err(no_answer()),
                };
                let broken = item.is_err();
                Some((item, (events, broken)))
            }
        });
        exec.events = events.boxed();
        Ok(exec)
    }
}

fn unsupported<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, "the simulation has no files"))
}

#[async_trait]
impl Guest for LinkGuest {
    async fn exec(&self, spec: ExecSpec) -> Result<Exec> {
        self.follow("exec", move |guest| {
            let spec = spec.clone();
            Box::pin(async move { guest.exec(spec).await })
        })
        .await
    }

    async fn attach(&self, exec: &ExecId, offset: u64) -> Result<Exec> {
        let exec = exec.clone();
        self.follow("attach", move |guest| {
            let exec = exec.clone();
            Box::pin(async move { guest.attach(&exec, offset).await })
        })
        .await
    }

    async fn read(&self, _: &str, _: Option<Range<u64>>) -> Result<FileRead> {
        unsupported()
    }

    async fn write(&self, _: &str, _: WriteOptions, _: ByteStream) -> Result<FileInfo> {
        unsupported()
    }

    async fn list(&self, _: &str) -> Result<Vec<FileInfo>> {
        unsupported()
    }

    async fn stat(&self, _: &str) -> Result<FileInfo> {
        unsupported()
    }

    async fn glob(&self, _: &str) -> Result<Vec<String>> {
        unsupported()
    }

    async fn rename(&self, _: &str, _: &str) -> Result<()> {
        unsupported()
    }

    async fn chmod(&self, _: &str, _: u32) -> Result<()> {
        unsupported()
    }

    async fn remove(&self, _: &str, _: bool) -> Result<()> {
        unsupported()
    }

    async fn dial(&self, _: u16) -> Result<Box<dyn Duplex>> {
        unsupported()
    }

    async fn stats(&self) -> Result<Stats> {
        unsupported()
    }

    async fn logs(&self, _: usize) -> Result<Vec<String>> {
        unsupported()
    }
}
