//! Makes tests out of cases and providers.

use std::{
    any::Any,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use libtest_mimic::{Arguments, Failed, Trial};
use tokio::{runtime::Runtime, task::JoinSet, time};

use super::{Case, Scene, cases, scene::Reopen};
use crate::Provider;

/// How long a case may take.
const LONGEST: Duration = Duration::from_secs(120);

/// A provider under test.
#[derive(Clone)]
pub struct Subject {
    /// What to call it in the names of tests.
    pub label: String,
    /// The provider, or why it cannot run here.
    pub provider: Result<Arc<dyn Provider>, String>,
    /// Makes a second instance over the same state, where runtimes outlive the first.
    pub reopen: Option<Reopen>,
}

impl Subject {
    /// A provider that can be opened only once.
    pub fn new(label: &str, provider: Result<Arc<dyn Provider>, String>) -> Self {
        Self { label: label.to_owned(), provider, reopen: None }
    }

    fn trial(&self, case: Case, runtime: &Arc<Runtime>) -> Trial {
        let name = format!("{}::{}", self.label, case.name);
        let reason = match &self.provider {
            Err(reason) => Some(reason.clone()),
            Ok(provider) if !(case.needs)(&provider.capabilities()) => {
                Some("the provider does not declare the capability".to_owned())
            }
            Ok(_) => None,
        };
        if let Some(reason) = reason {
            return ignored(name, &reason);
        }
        let (subject, runtime) = (self.clone(), Arc::clone(runtime));
        Trial::test(name, move || {
            let Ok(provider) = subject.provider else { return Ok(()) };
            let scene = Scene::new(provider, subject.reopen);
            runtime.block_on(play(case, scene))
        })
    }
}

/// A test that does not run, with the reason in its name's place of honour: its kind.
fn ignored(name: String, reason: &str) -> Trial {
    Trial::test(name, || Ok(())).with_ignored_flag(true).with_kind(reason)
}

async fn play(case: Case, scene: Scene) -> Result<(), Failed> {
    let mut set = JoinSet::new();
    set.spawn((case.run)(scene.clone()));
    let ended = time::timeout(LONGEST, set.join_next()).await;
    set.shutdown().await;
    let outcome = match ended {
        Ok(Some(Ok(()))) => Ok(()),
        Ok(Some(Err(error))) => Err(match error.try_into_panic() {
            Ok(payload) => words(&*payload),
            Err(_) => "was cancelled".into(),
        }),
        Ok(None) => Err("did not run".into()),
        Err(_) => Err(format!("took longer than {LONGEST:?}").into()),
    };
    let cleaned = scene.clean().await;
    outcome?;
    cleaned.map_err(|error| format!("could not clean up: {error:?}").into())
}

fn words(payload: &(dyn Any + Send)) -> Failed {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("panicked").into()
}

/// Runs every case with every provider as a test binary's whole work.
pub fn run(subjects: &[Subject]) -> ExitCode {
    let arguments = Arguments::from_args();
    let runtime = match Runtime::new() {
        Ok(runtime) => Arc::new(runtime),
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    run_on(&runtime, &arguments, subjects)
}

/// The same on a runtime that the caller made, for providers that were opened on it.
pub fn run_on(runtime: &Arc<Runtime>, arguments: &Arguments, subjects: &[Subject]) -> ExitCode {
    let trials: Vec<Trial> = subjects
        .iter()
        .flat_map(|subject| cases().into_iter().map(|case| subject.trial(case, runtime)))
        .collect();
    for subject in subjects {
        if let Err(reason) = &subject.provider {
            eprintln!("{} does not run here: {reason}", subject.label);
        }
    }
    libtest_mimic::run(arguments, trials).exit_code()
}
