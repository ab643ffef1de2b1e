//! The native provider under the conformance suite: as root, and as a user without rights, whose
//! tests run in a copy of this program. Without root only the second is run, as oneself.

mod subject;

use std::{
    io,
    process::ExitCode,
    sync::{Arc, Mutex},
};

use futures_util::{FutureExt, future::BoxFuture};
use libtest_mimic::Arguments;
use stacyvm_provider::{
    Provider, Result,
    suite::{self, Restart, Subject},
};
use subject::{Native, Work};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// R7.1, R7.2.
fn main() -> ExitCode {
    stacyvm_provider_native::spawner::run_if_requested();
    let arguments = Arguments::from_args();
    let runtime = Arc::new(Runtime::new().expect("a runtime can be made"));
    let native = runtime.block_on(Native::open());
    let restart = Restarts::new().expect("a temporary directory can be made");
    let own = Subject {
        label: subject::label().to_owned(),
        provider: native.provider.clone(),
        restart: Some(Arc::new(restart) as Arc<dyn Restart>),
    };
    let outcome = suite::run(&runtime, &arguments, std::slice::from_ref(&own));
    drop(own);
    runtime.block_on(native.stop());
    drop(runtime);
    match subject::rootless_run() {
        Some(rootless) if outcome == ExitCode::SUCCESS => rootless,
        _ => outcome,
    }
}

/// Providers that follow each other over one directory.
struct Restarts {
    dir: TempDir,
    work: Mutex<Option<Work>>,
}

impl Restarts {
    fn new() -> io::Result<Self> {
        Ok(Self { dir: tempfile::tempdir()?, work: Mutex::new(None) })
    }
}

impl Restart for Restarts {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Provider>>> {
        async {
            let (provider, work) = subject::open(self.dir.path()).expect("the provider opens");
            *self.work.lock().expect("not poisoned") = Some(work);
            Ok(provider)
        }
        .boxed()
    }

    fn close(&self, provider: Arc<dyn Provider>) -> BoxFuture<'_, ()> {
        async {
            let work = self.work.lock().expect("not poisoned").take();
            drop(provider);
            if let Some(work) = work {
                work.stop().await;
            }
        }
        .boxed()
    }
}
