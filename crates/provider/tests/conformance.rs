//! The mock under the conformance suite.

use std::{process::ExitCode, sync::Arc};

use libtest_mimic::Arguments;
use stacyvm_provider::{
    Provider,
    mock::MockProvider,
    suite::{self, Subject},
};
use tokio::runtime::Runtime;

/// R7.1, R7.8.
fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let runtime = Arc::new(Runtime::new().expect("a runtime can be made"));
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let provider = MockProvider::open(directory.path())
        .map(|mock| Arc::new(mock) as Arc<dyn Provider>)
        .map_err(|error| format!("{error:?}"));
    suite::run(&runtime, &arguments, &[Subject::new("mock", provider)])
}
