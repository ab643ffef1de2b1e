//! Makes tests out of cases and providers.

use std::{any::Any, process::ExitCode, sync::Arc, time::Duration};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::{runtime::Runtime, task::JoinSet, time};

use super::{Case, Scene, cases, scene::Restart};
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
    /// Where runtimes outlive their provider, the means to try it.
    pub restart: Option<Arc<dyn Restart>>,
}

impl Subject {
    /// A provider that can be opened only once.
    pub fn new(label: &str, provider: Result<Arc<dyn Provider>, String>) -> Self {
        Self { label: label.to_owned(), provider, restart: None }
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
        let (subject, runtime) = (self.clone(), Arc::clone(runtime));
        Trial::ignorable_test(name, move || match (reason, subject.provider) {
            (Some(reason), _) | (None, Err(reason)) => Ok(Completion::ignored_with(reason)),
            (None, Ok(provider)) => {
                runtime.block_on(play(case, Scene::new(provider, subject.restart)))
            }
        })
    }
}

async fn play(case: Case, scene: Scene) -> Result<Completion, Failed> {
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
    cleaned.map_err(|error| format!("could not clean up: {error:?}"))?;
    Ok(scene.skipped().map_or(Completion::Completed, Completion::ignored_with))
}

fn words(payload: &(dyn Any + Send)) -> Failed {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("panicked").into()
}

/// A test of every case with every provider.
pub fn trials(runtime: &Arc<Runtime>, subjects: &[Subject]) -> Vec<Trial> {
    subjects
        .iter()
        .flat_map(|subject| cases().into_iter().map(|case| subject.trial(case, runtime)))
        .collect()
}

/// Runs every case with every provider as a test binary's whole work, on the runtime that the
/// providers were opened on.
pub fn run(runtime: &Arc<Runtime>, arguments: &Arguments, subjects: &[Subject]) -> ExitCode {
    libtest_mimic::run(arguments, trials(runtime, subjects)).exit_code()
}
