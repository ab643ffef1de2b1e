//! What somebody inside a sandbox may try. Each test is named after it, runs it in a native
//! sandbox, and then asks whether the provider, the sandbox and a neighbour still answer: a probe
//! is blocked, or its effect stays inside.
//!
//! As root the probes run on the root rung, and then in a copy of this program as a user without
//! rights. Probes of system calls run under the host's `python3`, which the image `host` shows.

#![expect(clippy::unwrap_used, reason = "a probe that cannot be made fails by a panic")]

#[path = "hostile/agent.rs"]
mod agent;
#[path = "hostile/arena.rs"]
mod arena;
#[path = "hostile/calls.rs"]
mod calls;
#[path = "hostile/files.rs"]
mod files;
#[path = "hostile/host.rs"]
mod host;
#[path = "hostile/resources.rs"]
mod resources;
mod subject;

use std::{process::ExitCode, sync::Arc};

use libtest_mimic::Arguments;
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    stacyvm_provider_native::spawner::run_if_requested();
    let mut arguments = Arguments::from_args();
    // Some of them use up what a small machine has.
    arguments.test_threads.get_or_insert(2);
    let runtime = Arc::new(Runtime::new().expect("a runtime can be made"));
    let native = runtime.block_on(subject::Native::open());
    let probes = [
        calls::probes(),
        agent::probes(),
        host::probes(&native),
        files::probes(),
        resources::probes(),
    ];
    let trials = probes
        .into_iter()
        .flatten()
        .map(|probe| arena::trial(subject::label(), probe, &native.provider, &runtime))
        .collect();
    let outcome = libtest_mimic::run(&arguments, trials).exit_code();
    runtime.block_on(native.stop());
    drop(runtime);
    match subject::rootless_run() {
        Some(rootless) if outcome == ExitCode::SUCCESS => rootless,
        _ => outcome,
    }
}
