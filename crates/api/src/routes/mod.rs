//! One file per resource, each with its part of the table of routes.

mod audit;
pub(crate) mod doc;
mod events;
mod exec;
mod exec_ws;
mod files;
mod heartbeat;
mod images;
mod keys;
mod observe;
mod providers;
mod quotas;
mod sandboxes;
mod system;
pub(crate) mod table;
mod templates;
mod worker_tokens;
mod workers;

pub use table::{Listed, demanded, list};

pub(crate) use self::providers::view as provider;
pub(crate) use table::router;

pub(crate) use exec::NDJSON;

/// Every route.
pub(crate) fn table() -> Vec<table::Route> {
    [
        sandboxes::routes(),
        exec::routes(),
        exec_ws::routes(),
        files::routes(),
        templates::routes(),
        images::routes(),
        providers::routes(),
        quotas::routes(),
        system::routes(),
        events::routes(),
        observe::routes(),
        audit::routes(),
        keys::routes(),
        worker_tokens::routes(),
        workers::routes(),
        heartbeat::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
