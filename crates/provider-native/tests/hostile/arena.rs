//! Where a probe runs: a sandbox for it, and a neighbour that must not notice.

use std::{any::Any, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use libtest_mimic::{Completion, Failed, Trial};
use stacyvm_provider::{
    Capabilities, LaunchSpec, Provider, RuntimeState,
    suite::{Sandbox, fresh_id, shell, soon},
};
use stacyvm_types::{Generation, Limits};
use tokio::{runtime::Runtime, task::JoinSet, time};

/// How long a probe may take.
const LONGEST: Duration = Duration::from_secs(150);

/// One thing to try.
pub(crate) struct Probe {
    pub(crate) name: &'static str,
    pub(crate) needs: fn(&Capabilities) -> bool,
    pub(crate) run: Box<dyn FnOnce(Arena) -> BoxFuture<'static, ()> + Send>,
}

/// Lists probes that are functions, each with the capabilities that it needs.
macro_rules! probes {
    ($($name:ident if $needs:expr;)*) => {
        vec![$($crate::arena::Probe {
            name: stringify!($name),
            needs: $needs,
            run: Box::new(|arena| Box::pin($name(arena))),
        },)*]
    };
}
pub(crate) use probes;

/// A sandbox for a probe, and its provider.
#[derive(Clone)]
pub(crate) struct Arena {
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) sandbox: Sandbox,
    skip: Arc<std::sync::Mutex<Option<String>>>,
}

impl Arena {
    /// Another sandbox, which the caller destroys.
    pub(crate) async fn another(&self) -> Sandbox {
        launch(&self.provider, LIMITS).await
    }

    /// The same probe on a sandbox with other limits.
    pub(crate) async fn limited(mut self, limits: Limits) -> Self {
        soon("destroy", self.provider.destroy(&self.sandbox.id)).await.unwrap();
        self.sandbox = launch(&self.provider, limits).await;
        self
    }

    /// Says why this host cannot run the probe.
    pub(crate) fn skip(&self, reason: &str) {
        *self.skip.lock().unwrap() = Some(reason.to_owned());
    }

    /// Whether this sandbox still does its work.
    pub(crate) async fn lives(&self) {
        assert_eq!(self.sandbox.ok("echo lives").await, "lives");
    }
}

pub(crate) const LIMITS: Limits = Limits { memory_mb: 128, vcpus: 1, pids: 64, disk_mb: 64 };

async fn launch(provider: &Arc<dyn Provider>, limits: Limits) -> Sandbox {
    let id = fresh_id();
    let image = "host".to_owned();
    let spec = LaunchSpec { id: id.clone(), generation: Generation(1), image, limits, ttl: None };
    soon("launch", provider.launch(&spec)).await.unwrap();
    Sandbox { guest: provider.guest(&id).await.unwrap(), id }
}

/// Makes a test of a probe.
pub(crate) fn trial(
    label: &str,
    probe: Probe,
    provider: &Result<Arc<dyn Provider>, String>,
    runtime: &Arc<Runtime>,
) -> Trial {
    let (provider, runtime) = (provider.clone(), Arc::clone(runtime));
    Trial::ignorable_test(format!("{label}::{}", probe.name), move || match provider {
        Err(reason) => Ok(Completion::ignored_with(reason)),
        Ok(provider) if !(probe.needs)(&provider.capabilities()) => {
            Ok(Completion::ignored_with("the provider does not declare the capability"))
        }
        Ok(provider) => runtime.block_on(play(probe, provider)),
    })
}

async fn play(probe: Probe, provider: Arc<dyn Provider>) -> Result<Completion, Failed> {
    let (sandbox, neighbour) = tokio::join!(launch(&provider, LIMITS), launch(&provider, LIMITS));
    let arena =
        Arena { provider: Arc::clone(&provider), sandbox: sandbox.clone(), skip: Arc::default() };
    let skip = Arc::clone(&arena.skip);
    let mut set = JoinSet::new();
    set.spawn((probe.run)(arena));
    let outcome = match time::timeout(LONGEST, set.join_next()).await {
        Ok(Some(Ok(()))) => Ok(()),
        Ok(Some(Err(error))) => Err(error
            .try_into_panic()
            .map_or_else(|_| "was cancelled".to_owned(), |payload| words(&*payload))),
        Ok(None) => Err("did not run".to_owned()),
        Err(_) => Err(format!("took longer than {LONGEST:?}")),
    };
    set.shutdown().await;
    let aftermath = {
        let (provider, neighbour, id) =
            (Arc::clone(&provider), neighbour.clone(), sandbox.id.clone());
        set.spawn(async move { still_there(&*provider, &neighbour, &id).await });
        set.join_next().await
    };
    let destroyed = tokio::join!(provider.destroy(&sandbox.id), provider.destroy(&neighbour.id));
    outcome?;
    match aftermath {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            let words = error.try_into_panic().map_or_else(|e| e.to_string(), |p| words(&*p));
            return Err(format!("after the probe: {words}").into());
        }
        None => return Err("the aftermath was not looked at".into()),
    }
    destroyed.0.and(destroyed.1).map_err(|error| format!("cannot be destroyed: {error:?}"))?;
    let reason = skip.lock().unwrap().take();
    Ok(reason.map_or(Completion::Completed, Completion::ignored_with))
}

/// The provider and the neighbour answer; the sandbox does, or has died and says so.
async fn still_there(provider: &dyn Provider, neighbour: &Sandbox, id: &stacyvm_types::SandboxId) {
    let listed = soon("list", provider.list()).await.unwrap();
    assert!(listed.iter().any(|runtime| runtime.id == neighbour.id), "the neighbour is not listed");
    assert_eq!(neighbour.ok("echo unharmed; ls -A").await, "unharmed");
    if let Ok(runtime) = soon("status", provider.status(id)).await
        && runtime.state == RuntimeState::Running
    {
        let guest = provider.guest(id).await.unwrap();
        // It may be full of processes, but it says so at once.
        drop(soon("the sandbox answers", guest.exec(shell("true"))).await);
        soon("the sandbox answers", guest.stat("/")).await.unwrap();
    }
}

fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_owned()
}

/// Runs attempts in Python, each in a process of its own. An attempt that ends without an
/// `OSError` has succeeded, and that is a breach.
pub(crate) async fn python(arena: &Arena, attempts: &str) {
    let sandbox = &arena.sandbox;
    if sandbox.sh("python3 -c 'import ctypes'").await.exit != stacyvm_provider::Exit::Code(0) {
        return arena.skip("there is no python3 with ctypes on this host");
    }
    let script = PRELUDE.replace("#ATTEMPTS#", attempts);
    sandbox.put("/workspace/probe.py", script).await;
    let done = sandbox.sh("python3 probe.py 2>&1").await;
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(!said.contains("BREACH"), "{said}");
    assert!(!said.contains("BROKEN"), "the probe itself is wrong: {said}");
    assert!(said.trim_end().ends_with("ALL TRIED"), "{:?}: {said}", done.exit);
}

const PRELUDE: &str = r#"
import ctypes, ctypes.util, errno, fcntl, glob, mmap, os, platform, resource, signal, socket, stat
import struct, sys, traceback
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def call(number, *arguments):
    if platform.machine() != "x86_64":
        raise OSError(errno.ENOSYS, "numbers are those of x86_64")
    ctypes.set_errno(0)
    passed = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *passed)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result

def write(path, text):
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, text)

def read(path):
    fd = os.open(path, os.O_RDONLY)
    if not os.read(fd, 65536):
        raise OSError(errno.ENODATA, "empty")

def none_of(paths, what):
    for path in paths:
        try:
            what(path)
        except OSError:
            continue
        return
    raise OSError(errno.ENOENT, "none")

def old_call(number):
    """A call through the gate of 32-bit programs."""
    if platform.machine() != "x86_64":
        raise OSError(errno.ENOSYS, "the gate is that of x86")
    code = b"\x53\xb8" + struct.pack("<I", number) + b"\xcd\x80\x5b\xc3"
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    gate = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    result = gate()
    if result < 0:
        raise OSError(-result, "refused")

def buffer(*words):
    return ctypes.create_string_buffer(struct.pack("%dQ" % len(words), *words))

PAGE = ctypes.create_string_buffer(4096)

ATTEMPTS = [
#ATTEMPTS#
]

for number, attempt in enumerate(ATTEMPTS):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            attempt()
        except OSError as error:
            print(number, "blocked:", error)
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            print(number, "BROKEN", traceback.format_exc())
            sys.stdout.flush()
            os._exit(0)
        print(number, "BREACH")
        sys.stdout.flush()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        print(number, "blocked by signal", os.WTERMSIG(status))
print("ALL TRIED")
"#;
