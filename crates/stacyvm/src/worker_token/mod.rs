//! `worker token`: tokens made and looked at where the settings with the keys are. No server is
//! asked.

mod plan;

use std::{
    io::{self, Read as _},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand, ValueHint, builder::PossibleValuesParser};
use serde_json::{Value, json};
use stacyvm_cli::{
    ExitStatus, Failure, Format, Global, Rows, args::parse_ttl, print_json, print_rows, print_text,
    say,
};
use stacyvm_config::Loaded;
use stacyvm_fleet::identity::{
    Audience, Keys, Scope,
    token::{self, Claims, Order},
};
use stacyvm_types::{
    Timestamp, WorkerId,
    time::{Clock as _, SystemClock},
};

use crate::{failed, settings};

/// `worker token …`
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// The file with the settings; otherwise the one that `serve` would read
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Sign a short-lived token with the key of the settings and print it
    Issue(IssueArgs),
    /// Show what a token says of itself, without looking at its signature
    Inspect {
        /// The token; `-` reads it from standard input
        token: String,
    },
    /// Check a token as the side that it is shown to would
    Verify(VerifyArgs),
    /// Say how keys and tokens are changed without a refused call, from what is set now
    RotationPlan,
}

#[derive(Debug, Args)]
struct IssueArgs {
    /// The worker that it is about
    #[arg(long, value_name = "ID", value_parser = parse_worker)]
    worker_id: WorkerId,
    /// Who it is shown to
    #[arg(long, default_value = Audience::ControlPlane.as_str(), value_parser = audiences())]
    audience: String,
    /// What it opens; may be given several times. A token for a control plane opens
    /// worker:heartbeat and worker:lease unless it is given
    #[arg(long = "scope", value_name = "SCOPE", value_parser = scopes())]
    scopes: Vec<String>,
    /// How long it is good for, at most 15m
    #[arg(long, default_value = "5m", value_parser = parse_life)]
    ttl: Duration,
    /// Its id, by which it can be revoked; a random one otherwise
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    token_id: Option<String>,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// The token; `-` reads it from standard input
    token: String,
    /// The worker that it must be about; otherwise the one that it names
    #[arg(long, value_name = "ID", value_parser = parse_worker)]
    worker_id: Option<WorkerId>,
    /// Who it must be for; otherwise whom it names
    #[arg(long, value_parser = audiences())]
    audience: Option<String>,
}

fn audiences() -> PossibleValuesParser {
    PossibleValuesParser::new([Audience::ControlPlane, Audience::Rpc].map(Audience::as_str))
}

fn scopes() -> PossibleValuesParser {
    PossibleValuesParser::new(Scope::ALL.iter().map(|scope| scope.as_str()))
}

fn parse_worker(text: &str) -> Result<WorkerId, String> {
    WorkerId::parse(text).map_err(|error| error.to_string())
}

/// What can stand in a list of revoked ids too.
fn parse_id(text: &str) -> Result<String, String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    ((1..=128).contains(&text.len()) && text.bytes().all(is_plain))
        .then(|| text.to_owned())
        .ok_or_else(|| {
            "an id is 1 to 128 of letters, digits, dot, underscore and hyphen".to_owned()
        })
}

fn parse_life(text: &str) -> Result<Duration, String> {
    let ttl = parse_ttl(text)?;
    (Duration::from_secs(1)..=token::LONGEST)
        .contains(&ttl)
        .then_some(ttl)
        .ok_or_else(|| token::Unsigned::Ttl.to_string())
}

/// Runs it.
pub(crate) fn run(global: &Global, args: TokenArgs) -> Result<ExitStatus, Failure> {
    let load = || {
        let loaded = settings::loaded(&settings::sources(args.config.clone()))?;
        let keys = settings::keys_of(&loaded.credentials.workers);
        Ok::<_, Failure>((loaded, keys))
    };
    match args.command {
        TokenCommand::Issue(args) => issue(global, args, &load()?.1)?,
        TokenCommand::Inspect { token } => inspect(global, &token)?,
        TokenCommand::Verify(args) => verify(global, args, &load()?.1)?,
        TokenCommand::RotationPlan => {
            let (loaded, keys) = load()?;
            rotation_plan(global, &loaded, &keys)?;
        }
    }
    Ok(ExitStatus::OK)
}

fn issue(global: &Global, args: IssueArgs, keys: &Keys) -> Result<(), Failure> {
    // The parsers know both lists, so nothing is left out.
    let audience = Audience::parse(&args.audience).unwrap_or(Audience::ControlPlane);
    let scopes = match args.scopes.is_empty() {
        true => audience.usual_scopes(),
        false => args.scopes.iter().filter_map(|name| Scope::parse(name)).collect(),
    };
    if scopes.iter().next().is_none() {
        let message = "a token for worker:rpc needs at least one --scope";
        return Err(Failure::new(ExitStatus::USAGE, message));
    }
    let order =
        Order { worker: args.worker_id, audience, scopes, ttl: args.ttl, id: args.token_id };
    let signed = token::sign(keys, &order, SystemClock.now()).map_err(|why| {
        let message = format!(
            "{why}; set auth.worker_signing_key_file, which `stacyvm worker token rotation-plan` \
             tells more about"
        );
        Failure::new(ExitStatus::REFUSED, message)
    })?;
    let claims = &signed.claims;
    if global.output == Format::Json {
        let mut shown = json!({ "token": signed.token.expose() });
        extend(&mut shown, described(claims));
        return print_json(shown.to_string().as_bytes());
    }
    print_text(&format!("{}\n", signed.token.expose()))?;
    let id = claims.jti.as_deref().unwrap_or_default();
    let ends = claims.expires_at();
    say(&format!("Token {id} for worker {} is good until {ends}", claims.worker_id));
    Ok(())
}

fn inspect(global: &Global, token: &str) -> Result<(), Failure> {
    let claims = token::inspect(&given(token)?).map_err(|why| refused(&why))?;
    show(global, &claims, false)
}

fn verify(global: &Global, args: VerifyArgs, keys: &Keys) -> Result<(), Failure> {
    let token = given(&args.token)?;
    let claims = token::inspect(&token).map_err(|why| refused(&why))?;
    if keys.signing.is_none() && keys.also.is_empty() {
        let message = "no worker signing key is configured, so no token can be checked";
        return Err(Failure::new(ExitStatus::REFUSED, message));
    }
    let named = WorkerId::parse(&claims.worker_id).ok();
    let worker = args.worker_id.or(named).ok_or_else(|| refused(&token::Invalid::Worker))?;
    let audience = args.audience.as_deref().or(claims.aud.as_deref());
    // A token for nobody is for no control plane either.
    let audience = audience.and_then(Audience::parse).unwrap_or(Audience::ControlPlane);
    token::verify(keys, &token, &worker, audience, SystemClock.now())
        .map_err(|why| refused(&why))?;
    show(global, &claims, true)
}

fn refused(why: &token::Invalid) -> Failure {
    Failure::new(ExitStatus::REFUSED, why.to_string())
}

/// The token that is meant.
fn given(token: &str) -> Result<String, Failure> {
    /// More than any token has.
    const MOST: u64 = 64 << 10;
    if token != "-" {
        return Ok(token.trim().to_owned());
    }
    let mut text = String::new();
    io::stdin()
        .take(MOST)
        .read_to_string(&mut text)
        .map_err(|error| failed(format!("standard input cannot be read: {error}")))?;
    Ok(text.trim().to_owned())
}

/// What a token says, without the token.
fn described(claims: &Claims) -> Value {
    let mut shown = json!({ "worker_id": claims.worker_id, "scopes": claims.scopes });
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            shown[name] = value.into();
        }
    };
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    set("token_id", claims.jti.clone());
    set("audience", claims.aud.clone());
    set("issued_at", time(claims.issued_at()));
    set("not_before", time(claims.not_before()));
    set("expires_at", Some(claims.expires_at().to_string()));
    shown
}

fn extend(shown: &mut Value, more: Value) {
    if let (Value::Object(shown), Value::Object(more)) = (shown, more) {
        shown.extend(more);
    }
}

fn show(global: &Global, claims: &Claims, is_verified: bool) -> Result<(), Failure> {
    let said = described(claims);
    if global.output == Format::Json {
        let mut shown = json!({ "signature_verified": is_verified });
        extend(&mut shown, said);
        return print_json(shown.to_string().as_bytes());
    }
    let mut rows = Rows::new(&[]);
    for name in
        ["worker_id", "token_id", "audience", "scopes", "issued_at", "not_before", "expires_at"]
    {
        let text = match &said[name] {
            Value::String(text) => text.clone(),
            Value::Array(items) => {
                items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
            }
            _ => continue,
        };
        rows.push([name, &text]);
    }
    print_rows(&rows)?;
    say(match is_verified {
        true => "The token is good",
        false => "The signature was not checked: these may be anybody's words",
    });
    Ok(())
}

fn rotation_plan(global: &Global, loaded: &Loaded, keys: &Keys) -> Result<(), Failure> {
    let plan = plan::Plan::of(&loaded.config.auth, keys);
    match global.output {
        Format::Json => print_json(plan.json().to_string().as_bytes()),
        Format::Table => print_text(&plan.text()),
    }
}
