//! `keys …`: what can be typed, how it is shown, and the way over a server. The other way, straight
//! to the store, is the binary's.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use stacyvm_api_types::{Key, KeyRequest};
use stacyvm_types::{OwnerId, format_duration};

use crate::{
    Context, Failure, Global,
    args::parse_ttl,
    exit::ExitStatus,
    output::{Output, Rows, say},
};

/// `keys …`
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key and print it, this once
    Create(CreateArgs),
    /// Show every key that was ever made, without its secret
    #[command(visible_alias = "ls")]
    List,
    /// Revoke keys from the next request on
    Revoke {
        /// Their names or ids
        #[arg(required = true)]
        keys: Vec<String>,
    },
}

/// `keys create`
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What people and records call it; a name is given once
    pub name: String,
    /// What it may do; each role holds the rights of those before it
    #[arg(long, value_enum)]
    pub role: RoleName,
    /// Whose key it is: it sees and makes that owner's sandboxes only
    #[arg(long, value_parser = parse_owner)]
    pub owner: Option<OwnerId>,
    /// It may act for owners that it names
    #[arg(long)]
    pub speak_for: bool,
    /// How long it is valid, such as 720h; without it, until it is revoked
    #[arg(long, value_parser = parse_ttl)]
    pub ttl: Option<Duration>,
}

/// A role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Looks at things
    Viewer,
    /// Makes, uses and ends sandboxes
    Api,
    /// Tends what concerns every owner
    Operator,
    /// Makes and revokes keys
    Admin,
}

impl RoleName {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Api => "api",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

fn parse_owner(text: &str) -> Result<OwnerId, String> {
    OwnerId::parse(text).map_err(|e| e.to_string())
}

/// Runs it over the server.
pub async fn over_server(global: &Global, command: KeysCommand) -> Result<(), Failure> {
    let context = Context::new(global)?;
    let client = &context.client;
    match command {
        KeysCommand::Create(args) => {
            let request = KeyRequest {
                name: Some(args.name),
                role: Some(args.role.word().to_owned()),
                owner_id: args.owner.map(|owner| owner.to_string()),
                speak_for: args.speak_for.then_some(true),
                ttl: args.ttl.map(format_duration),
            };
            let made = client.create_key(&request).await?;
            show_made(global, &made, made.json())
        }
        KeysCommand::List => {
            let keys = client.keys().await?;
            show_all(global, &keys, keys.json())
        }
        KeysCommand::Revoke { keys } => {
            let known = client.keys().await?;
            for shown in keys {
                let key = find(&known, &shown)?;
                let reply = client.revoke_key(&key.id).await?;
                show_revoked(global, key, reply.json())?;
            }
            Ok(())
        }
    }
}

/// The key with this name or id.
pub fn find<'k>(keys: &'k [Key], shown: &str) -> Result<&'k Key, Failure> {
    keys.iter().find(|key| key.id == shown || key.name == shown).ok_or_else(|| {
        let message = format!("no key is called {}", crate::escape::escape(shown));
        Failure::new(ExitStatus::NOT_FOUND, message)
    })
}

/// Shows a key that was just made: the only time that anybody sees it.
pub fn show_made(global: &Global, made: &Key, json: &[u8]) -> Result<(), Failure> {
    let out = Output::new(global.output);
    out.line(json, made.key.as_deref().unwrap_or_default())?;
    if !out.is_json() {
        say(&format!("Key {} ({}) made; it is not shown again", made.name, made.id));
    }
    Ok(())
}

/// Shows keys.
pub fn show_all(global: &Global, keys: &[Key], json: &[u8]) -> Result<(), Failure> {
    let mut rows =
        Rows::new(&["NAME", "ROLE", "OWNER", "SPEAKS FOR", "STATUS", "EXPIRES", "LAST USED", "ID"]);
    for key in keys {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        rows.push([
            &key.name,
            &key.role,
            &or_dash(&key.owner_id),
            if key.speak_for { "others" } else { "-" },
            &key.status,
            &or_dash(&key.expires_at),
            &or_dash(&key.last_used_at),
            &key.id,
        ]);
    }
    Output::new(global.output).rows(json, &rows, "No keys")
}

/// Shows that a key is revoked.
pub fn show_revoked(global: &Global, key: &Key, json: &[u8]) -> Result<(), Failure> {
    let words = format!("Key {} ({}) revoked", crate::escape::escape(&key.name), key.id);
    Output::new(global.output).done(json, &words)
}
