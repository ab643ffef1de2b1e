//! `workers`, `drain`.

use stacyvm_api_types::{Worker, WorkerOffer};
use stacyvm_client::Answer;
use stacyvm_types::WorkerId;

use crate::{
    Context, Failure,
    args::WorkersCommand,
    escape::escape,
    output::{Rows, say, short_time},
};

pub(super) async fn run(context: &Context, command: Option<WorkersCommand>) -> Result<(), Failure> {
    match command.unwrap_or(WorkersCommand::List) {
        WorkersCommand::List => list(context).await,
        WorkersCommand::Get { id } => get(context, &id).await,
        WorkersCommand::Drain { ids } => drain(context, &ids).await,
        WorkersCommand::Undrain { ids } => undrain(context, &ids).await,
        WorkersCommand::Remove { ids } => remove(context, &ids).await,
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let workers = context.client.workers().await?;
    let mut rows =
        Rows::new(&["ID", "STATUS", "SANDBOXES", "PROVIDERS", "VERSION", "HEARD", "HOST"]);
    for worker in &*workers {
        let heard = short_time(&worker.last_heartbeat);
        let (taken, providers) = (taken(worker), worker.providers.join(","));
        let Worker { id, status, version, hostname, .. } = worker;
        rows.push([id, status, &taken, &providers, version, &heard, hostname]);
    }
    context.out.rows(workers.json(), &rows, "No workers")
}

/// The sandboxes on a worker, of how many it can hold.
fn taken(worker: &Worker) -> String {
    let load = worker.load.unwrap_or_default().sandboxes;
    of(load, worker.capacity.max_sandboxes)
}

fn of(taken: u64, most: u64) -> String {
    if most == 0 { taken.to_string() } else { format!("{taken}/{most}") }
}

async fn get(context: &Context, id: &WorkerId) -> Result<(), Failure> {
    let worker = context.client.worker(id).await?;
    let mut rows = Rows::new(&[]);
    let mut row = |name: &str, value: &str| {
        if !value.is_empty() {
            rows.push([name, value]);
        }
    };
    let (load, capacity) = (worker.load.unwrap_or_default(), &worker.capacity);
    row("id", &worker.id);
    row("status", &worker.status);
    row("drained", if worker.cordoned { "by the operator" } else { "" });
    row("host", &worker.hostname);
    row("version", &worker.version);
    row("reached at", &capacity.rpc_url);
    row("sandboxes", &taken(&worker));
    row("memory MiB", &of(load.memory_mb, capacity.memory_mb));
    row("vCPUs", &of(load.vcpus, capacity.vcpus));
    for offer in &worker.offers {
        row("provider", &provider(offer));
    }
    row("heard", &short_time(&worker.last_heartbeat));
    row("lease until", &worker.lease_expires_at.as_deref().map(short_time).unwrap_or_default());
    row("created", &short_time(&worker.created_at));
    context.out.rows(worker.json(), &rows, "")
}

fn provider(offer: &WorkerOffer) -> String {
    let ready = if offer.ready { "ready" } else { "not ready" };
    let default = if offer.default { ", default" } else { "" };
    let images = offer.images.len();
    format!("{} ({ready}{default}, images: {images})", offer.provider)
}

pub(super) async fn drain(context: &Context, ids: &[WorkerId]) -> Result<(), Failure> {
    for id in ids {
        let worker = context.client.drain_worker(id).await?;
        show(context, &worker, "takes nothing new")?;
    }
    Ok(())
}

pub(super) async fn undrain(context: &Context, ids: &[WorkerId]) -> Result<(), Failure> {
    for id in ids {
        let worker = context.client.undrain_worker(id).await?;
        show(context, &worker, "may take sandboxes")?;
    }
    Ok(())
}

/// The JSON as data, or the rest as words.
fn show(context: &Context, worker: &Answer<Worker>, what: &str) -> Result<(), Failure> {
    if context.out.is_json() {
        return context.out.line(worker.json(), "");
    }
    let (id, status, taken) = (&worker.id, &worker.status, taken(worker));
    say(&escape(&format!("Worker {id} {what}; it is {status}, sandboxes: {taken}")));
    Ok(())
}

async fn remove(context: &Context, ids: &[WorkerId]) -> Result<(), Failure> {
    for id in ids {
        let done = context.client.remove_worker(id).await?;
        if context.out.is_json() {
            context.out.line(done.json(), "")?;
        } else {
            say(&format!("Worker {id} is forgotten"));
        }
    }
    Ok(())
}
