//! StacyVM itself, over HTTP.

use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;
use stacyvm_agent_client::{AgentGuest, unix};
use stacyvm_provider::{ExecEvent, ExecSpec, Exit, Guest, Program, Stdin};
use stacyvm_types::ExecId;

use crate::{
    http::Client,
    stats::{Samples, time},
};

/// One sandbox's life in three times.
#[derive(Debug, Default)]
pub(crate) struct Cycle {
    /// From the create request to the first exec's reply.
    pub(crate) create_to_exec: Samples,
    /// The create request alone.
    pub(crate) create: Samples,
    /// The destroy request.
    pub(crate) destroy: Samples,
}

/// Creates, runs one program in, and destroys `rounds` sandboxes, one after the other, with a
/// pause in which a ready pool refills.
pub(crate) fn cycles(
    at: SocketAddr,
    program: &str,
    rounds: usize,
    pause: Duration,
) -> Result<Cycle> {
    let mut client = Client::connect(at)?;
    let mut cycle = Cycle::default();
    for round in 0..rounds + 5 {
        std::thread::sleep(pause);
        let start = Instant::now();
        let id = client.create(&json!({ "image": "host" }))?;
        let created = start.elapsed();
        client.exec(&id, program)?;
        let executed = start.elapsed();
        let destroyed = time(|| client.destroy(&id))?;
        if round >= 5 {
            cycle.create.push(created);
            cycle.create_to_exec.push(executed);
            cycle.destroy.push(destroyed);
        }
    }
    Ok(cycle)
}

/// What many clients at once see.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// From the create request to the first exec's reply.
    pub(crate) create_to_exec: Samples,
    /// Whole create, exec, destroy cycles a second.
    pub(crate) rate: f64,
}

/// `clients` threads that cycle for `seconds` without a pause.
pub(crate) fn load(at: SocketAddr, program: &str, clients: usize, seconds: f64) -> Result<Load> {
    let start = Instant::now();
    let done = AtomicUsize::new(0);
    let parts: Vec<Result<Samples>> = std::thread::scope(|scope| {
        let loops: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Client::connect(at)?;
                    let mut samples = Samples::default();
                    while start.elapsed().as_secs_f64() < seconds {
                        let begun = Instant::now();
                        let id = client.create(&json!({ "image": "host" }))?;
                        client.exec(&id, program)?;
                        samples.push(begun.elapsed());
                        client.destroy(&id)?;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(samples)
                })
            })
            .collect();
        loops
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a client died"))))
            .collect()
    });
    let mut load = Load::default();
    for part in parts {
        load.create_to_exec.extend(part?);
    }
    load.rate = done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    Ok(load)
}

/// Exec round trips in one sandbox from `clients` threads.
pub(crate) fn execs(
    at: SocketAddr,
    id: &str,
    program: &str,
    clients: usize,
    rounds: usize,
) -> Result<Samples> {
    let parts: Vec<Result<Samples>> = std::thread::scope(|scope| {
        let loops: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Client::connect(at)?;
                    Samples::take(20, rounds, || time(|| client.exec(id, program)))
                })
            })
            .collect();
        loops
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a client died"))))
            .collect()
    });
    let mut all = Samples::default();
    for part in parts {
        all.extend(part?);
    }
    Ok(all)
}

/// The same exec asked of the agent itself, over its socket.
pub(crate) fn agent_execs(socket: &Path, program: &str, rounds: usize) -> Result<Samples> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let guest = AgentGuest::new(unix(socket));
        let mut samples = Samples::default();
        for round in 0..rounds + 20 {
            let start = Instant::now();
            let mut exec = guest.exec(spec(0xbe, round, program)).await?;
            let mut exit = None;
            while let Some(event) = futures_util::StreamExt::next(&mut exec.events).await {
                if let ExecEvent::Exit(how) = event? {
                    exit = Some(how);
                }
            }
            ensure!(exit == Some(Exit::Code(0)), "the command ended with {exit:?}");
            if round >= 20 {
                samples.push(start.elapsed());
            }
        }
        Ok(samples)
    })
}

/// A command without input; `series` and `round` make its id.
pub(crate) fn spec(series: u16, round: usize, program: &str) -> ExecSpec {
    let mut entropy = [0; 10];
    entropy[..2].copy_from_slice(&series.to_le_bytes());
    entropy[2..].copy_from_slice(&(round as u64).to_le_bytes());
    ExecSpec {
        id: ExecId::from_entropy(entropy),
        program: Program::Argv(vec![program.to_owned()]),
        env: std::collections::BTreeMap::new(),
        workdir: None,
        user: None,
        stdin: Stdin::Null,
        terminal: None,
        deadline: None,
    }
}
