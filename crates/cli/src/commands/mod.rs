//! The commands, one file per kind of thing.

mod copy;
mod events;
mod exec;
mod files;
pub(crate) mod images;
mod sandboxes;
mod system;
mod templates;
mod workers;

use std::collections::BTreeMap;

use crate::{Command, Context, ExitStatus, Failure, Global};

pub(crate) async fn run(global: &Global, command: Command) -> Result<ExitStatus, Failure> {
    let context = Context::new(global)?;
    let context = &context;
    let done = match command {
        Command::Exec(args) => return exec::exec(context, args).await,
        Command::Health => return system::health(context).await,
        Command::Kill(args) => return sandboxes::kill(context, args).await,
        Command::Cp(args) => return copy::copy(context, args).await,
        Command::Spawn(args) => sandboxes::spawn(context, args).await,
        Command::List(args) => sandboxes::list(context, args).await,
        Command::Get { id } => sandboxes::get(context, &id).await,
        Command::Extend { id, ttl } => sandboxes::extend(context, &id, ttl).await,
        Command::Logs { id, lines } => sandboxes::logs(context, &id, lines).await,
        Command::Stats { id } => sandboxes::stats(context, &id).await,
        Command::Files(command) => files::run(context, command).await,
        Command::Image(command) => images::run(context, command).await,
        Command::Templates(command) => templates::run(context, command).await,
        Command::Events(args) => events::events(context, args).await,
        Command::Providers => system::providers(context).await,
        Command::Workers { command } => workers::run(context, command).await,
        Command::Drain { id, undo: false } => workers::drain(context, &[id]).await,
        Command::Drain { id, undo: true } => workers::undrain(context, &[id]).await,
    };
    done.map(|()| ExitStatus::OK)
}

/// Pairs as a map; `None` when there are none.
fn map(pairs: Vec<(String, String)>) -> Option<BTreeMap<String, String>> {
    (!pairs.is_empty()).then(|| pairs.into_iter().collect())
}
