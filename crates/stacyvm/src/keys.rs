//! `keys`: over a server, or straight on the store of one that does not run.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueHint};
use stacyvm_api::key_view as view;
use stacyvm_api_types::Key;
use stacyvm_cli::{
    ExitStatus, Failure, Global,
    keys::{CreateArgs, KeysCommand, find, over_server, show_all, show_made, show_revoked},
    say,
};
use stacyvm_config::{Credentials, Database, Driver};
use stacyvm_control::{IssuedKey, NewKey, name_taken};
use stacyvm_store::{
    self as store, Store,
    audit::{AdminRecord, OperationRecord, Outcome},
};
use stacyvm_types::{
    AuditId, KeyId, Role, Timestamp,
    time::{Clock, SystemClock},
};

use crate::{chain, data_dir, failed, serve, settings};

/// `keys`
#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    /// Where the data of a stopped server lives [env: STACYVM_DATA_DIR]
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    data_dir: Option<PathBuf>,
    /// The file with the server's settings [env: STACYVM_CONFIG]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: KeysCommand,
}

/// Runs it. With a key or a server's address it asks that server; otherwise it opens the store of
/// the data directory, unless a server holds that.
pub(crate) fn keys(global: &Global, args: KeysArgs) -> Result<ExitStatus, Failure> {
    let runtime = crate::runtime()?;
    if global.names_a_server() {
        runtime.block_on(over_server(global, args.command))?;
        return Ok(ExitStatus::OK);
    }
    let place = Place::find(&args)?;
    match data_dir::try_lock(&place.data_dir)? {
        Some(_lock) => runtime.block_on(on_store(global, &place, args.command))?,
        None => runtime.block_on(over_server(global, args.command)).map_err(|failure| {
            let message = format!(
                "{}; a server holds the data directory {}, so this was asked of {}: give its \
                 address with --server and an admin key with --api-key, or stop it",
                failure.message,
                place.data_dir.display(),
                global.server
            );
            Failure { message, ..failure }
        })?,
    }
    Ok(ExitStatus::OK)
}

/// The store of a server that does not run.
struct Place {
    data_dir: PathBuf,
    database: Database,
    credentials: Credentials,
}

impl Place {
    fn find(args: &KeysArgs) -> Result<Self, Failure> {
        let mut sources = settings::sources(args.config.clone());
        if let Some(dir) = &args.data_dir {
            sources.flags.push(settings::data_dir_flag(dir));
        }
        let loaded = settings::loaded(&sources)?;
        if loaded.config.database.driver == Driver::Memory {
            return Err(failed(
                "these settings keep state in memory, where a running server has its keys: ask it \
                 with --server and --api-key",
            ));
        }
        let data_dir = loaded.config.data_dir.clone().map_or_else(data_dir::default, Ok)?;
        let data_dir = data_dir::prepare(&data_dir)?;
        Ok(Self { database: loaded.config.database, data_dir, credentials: loaded.credentials })
    }
}

async fn on_store(global: &Global, place: &Place, command: KeysCommand) -> Result<(), Failure> {
    let store = serve::store(&place.database, &place.credentials, &place.data_dir)?;
    let store = &*store;
    let now = SystemClock.now();
    match command {
        KeysCommand::Create(args) => create(global, place, store, args, now).await,
        KeysCommand::List => {
            let keys = all(store, now).await?;
            let json = serde_json::to_vec(&keys).map_err(|e| failed(e.to_string()))?;
            show_all(global, &keys, &json)
        }
        KeysCommand::Revoke { keys } => {
            let known = all(store, now).await?;
            for shown in keys {
                let key = find(&known, &shown)?;
                let id = KeyId::parse(&key.id).map_err(|e| failed(e.to_string()))?;
                store.revoke_key(&id, now).await.map_err(|e| failed(chain(&e)))?;
                let done = Done {
                    command: format!("keys revoke {}", key.name),
                    action: "key.revoke",
                    resource: key.id.clone(),
                    status: 200,
                    detail: format!("name={}", key.name),
                };
                let recorded = record(store, done, now).await;
                show_revoked(global, key, br#"{"status":"revoked"}"#)?;
                recorded?;
            }
            Ok(())
        }
    }
}

async fn create(
    global: &Global,
    place: &Place,
    store: &dyn Store,
    args: CreateArgs,
    now: Timestamp,
) -> Result<(), Failure> {
    let role = Role::parse(args.role.word())
        .ok_or_else(|| failed("this version does not know the role"))?;
    let has_keys = store.has_keys().await.map_err(|e| failed(chain(&e)))?;
    if !has_keys && role != Role::Admin && place.credentials.admin_api_key.is_none() {
        return Err(Failure::new(
            ExitStatus::REFUSED,
            "the first key must have the role admin: once there is a key, every request needs one, \
             and nobody could make another over the server",
        ));
    }
    let new = NewKey {
        name: args.name,
        role,
        owner: args.owner,
        speaks_for_others: args.speak_for,
        ttl: args.ttl,
    };
    let issued =
        IssuedKey::issue(new, now).map_err(|e| Failure::new(ExitStatus::USAGE, e.to_string()))?;
    let name = issued.key.name.clone();
    let done = |status, detail| Done {
        command: format!("keys create {name}"),
        action: "key.create",
        resource: name.clone(),
        status,
        detail,
    };
    let recorded = match store.create_key(issued.key.clone()).await {
        Ok(()) => {
            let detail = format!("id={} role={}", issued.key.id, issued.key.role);
            record(store, done(201, detail), now).await
        }
        Err(store::Error::Conflict) => {
            let message = name_taken(&name).to_string();
            record(store, done(409, message.clone()), now).await?;
            return Err(Failure::new(ExitStatus::REFUSED, message));
        }
        Err(error) => return Err(failed(chain(&error))),
    };
    let made = Key { key: Some(issued.text), ..view(issued.key, now) };
    let json = serde_json::to_vec(&made).map_err(|e| failed(e.to_string()))?;
    show_made(global, &made, &json)?;
    if global.output == stacyvm_cli::Format::Table {
        let place = match place.database.driver {
            Driver::Postgres => "the Postgres database".to_owned(),
            Driver::Sqlite | Driver::Memory => place.data_dir.display().to_string(),
        };
        say(&format!("It is in the store of {place}"));
    }
    recorded
}

/// What a command did to the store of a server that does not run.
struct Done {
    /// The command without its options.
    command: String,
    action: &'static str,
    resource: String,
    /// What a server would have answered.
    status: u16,
    detail: String,
}

/// Writes into the audit log what a server would have written, had it been asked. What was done
/// stays done when that fails, but whoever did it learns of it.
async fn record(store: &dyn Store, done: Done, now: Timestamp) -> Result<(), Failure> {
    let Done { command, action, resource, status, detail } = done;
    let actor = "local".to_owned();
    let admin = AdminRecord {
        id: AuditId::from_entropy(rand::random()),
        at: now,
        actor: actor.clone(),
        method: "CLI".to_owned(),
        path: command,
        status,
        duration: Duration::ZERO,
        request_id: String::new(),
        remote_addr: String::new(),
        user_agent: concat!("stacyvm/", env!("CARGO_PKG_VERSION")).to_owned(),
        tenant: None,
    };
    let operation = OperationRecord {
        id: AuditId::from_entropy(rand::random()),
        at: now,
        actor,
        action: action.to_owned(),
        sandbox: None,
        owner: None,
        tenant: None,
        provider: "unknown".to_owned(),
        resource,
        outcome: if status < 400 { Outcome::Success } else { Outcome::Failure },
        detail,
        request_id: None,
    };
    let lost = |e| failed(format!("it is done, and not in the audit log: {}", chain(&e)));
    store.record_admin_requests(vec![admin]).await.map_err(lost)?;
    store.record_operations(vec![operation]).await.map_err(lost)
}

async fn all(store: &dyn Store, now: Timestamp) -> Result<Vec<Key>, Failure> {
    let keys = store.keys().await.map_err(|e| failed(chain(&e)))?;
    Ok(keys.into_iter().map(|key| view(key, now)).collect())
}
