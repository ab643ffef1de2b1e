//! Checks of what stands between control planes and workers of other hosts.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Check, Verdict,
    access::{MAKE_ONE, weakness},
    check, pass,
};
use crate::{config::Config, load::Loaded, problem::Source, secret::Secret, values::Driver};

/// A worker that died is missed after three heartbeats.
const SLOW: Duration = Duration::from_secs(60);

/// All of them.
pub(super) fn checks(loaded: &Loaded, strict: Verdict) -> Vec<Check> {
    let config = &loaded.config;
    let mut checks = tokens(loaded, strict);
    checks.extend(strength(loaded, strict));
    checks.extend(signing(loaded, strict));
    checks.extend(inline(loaded));
    checks.extend(separation(loaded, strict));
    checks.extend(way(config, strict));
    checks.extend(tls(loaded, strict));
    checks
}

/// Which kinds of credentials there are.
fn tokens(loaded: &Loaded, strict: Verdict) -> Vec<Check> {
    let found = &loaded.credentials.workers;
    let signs = found.signing_key.is_some() || !found.signing_keys.is_empty();
    let listens = loaded.config.worker.listen_addr.is_some();
    let name = "auth.worker_token";
    vec![match (signs, !found.shared.is_empty(), found.tokens.is_empty()) {
        (true, false, true) => pass(name, "tokens are signed, and good for minutes only"),
        (true, ..) => check(
            name,
            Verdict::Warn,
            "static tokens are used in the place of signed ones",
            "take them away once every host has the signing key",
        ),
        (false, false, false) => pass(name, "each worker has a token of its own"),
        (false, true, _) => check(
            name,
            strict,
            "the shared token lets whoever holds it speak for every worker",
            "sign tokens with auth.worker_signing_key_file, or give each worker one of its own",
        ),
        (false, false, true) if listens => check(
            name,
            strict,
            "worker.listen_addr is set, and no credential lets anybody call",
            "set auth.worker_signing_key_file, or auth.worker_tokens_file",
        ),
        (false, false, true) => pass(name, "workers of other hosts are not let in"),
    }]
}

/// Whether any of them can be guessed.
fn strength(loaded: &Loaded, strict: Verdict) -> Vec<Check> {
    let found = &loaded.credentials.workers;
    let weak = [
        ("auth.worker_token", found.shared.iter().find_map(weakness)),
        ("auth.worker_tokens", found.tokens.values().flatten().find_map(weakness)),
        ("auth.worker_signing_key", found.signing_key.iter().find_map(weakness)),
        ("auth.worker_signing_keys", found.signing_keys.iter().find_map(weakness)),
    ];
    weak.into_iter().filter_map(|(name, why)| Some(check(name, strict, why?, MAKE_ONE))).collect()
}

fn signing(loaded: &Loaded, strict: Verdict) -> Vec<Check> {
    let found = &loaded.credentials.workers;
    let mut checks = Vec::new();
    let name = "auth.worker_signing_keys";
    let texts: Vec<_> = found.signing_keys.iter().map(Secret::expose).collect();
    let different: BTreeSet<_> = texts.iter().collect();
    let active = found.signing_key.as_ref().map(Secret::expose);
    if !texts.is_empty() {
        checks.push(match active {
            None => check(
                "auth.worker_signing_key",
                strict,
                "there are keys to accept and none to sign with",
                "set auth.worker_signing_key_file",
            ),
            Some(key) if texts.contains(&key) || different.len() < texts.len() => check(
                name,
                Verdict::Warn,
                "a key stands there twice, or is the one that signs",
                "list each key once that is accepted besides",
            ),
            Some(_) => pass(name, format!("{} accepted besides", texts.len())),
        });
    }
    if !found.revoked.is_empty() && active.is_none() && texts.is_empty() {
        checks.push(check(
            "auth.worker_revoked_token_ids",
            Verdict::Warn,
            "no signed token is accepted, so there is none to revoke",
            "remove it, or set auth.worker_signing_key_file",
        ));
    }
    checks
}

/// Secrets that stand in the settings.
fn inline(loaded: &Loaded) -> Vec<Check> {
    let names = [
        "auth.worker_token",
        "auth.worker_tokens",
        "auth.worker_signing_key",
        "auth.worker_signing_keys",
    ];
    let written = |name: &&str| matches!(loaded.source(name), Source::File { .. });
    let told = |name: &str| {
        check(
            &format!("{name}_file"),
            Verdict::Warn,
            format!("{name} stands in the settings, where people read it by the way"),
            format!("keep it in a file of its own, and name that in {name}_file"),
        )
    };
    names.into_iter().filter(written).map(told).collect()
}

/// Whether one secret serves two purposes, or two workers.
fn separation(loaded: &Loaded, strict: Verdict) -> Vec<Check> {
    let (keys, found) = (&loaded.credentials, &loaded.credentials.workers);
    let of_one = found.tokens.values().flatten();
    let own = found.shared.iter().chain(of_one).chain(&found.signing_key);
    let own: Vec<_> = own.chain(&found.signing_keys).map(Secret::expose).collect();
    if own.is_empty() {
        return Vec::new();
    }
    let name = "auth.worker_separation";
    let of_people: BTreeSet<_> =
        keys.api_key.iter().chain(&keys.admin_api_key).map(Secret::expose).collect();
    // One that a worker has twice is still its own.
    let of_each: Vec<BTreeSet<_>> =
        found.tokens.values().map(|own| own.iter().map(Secret::expose).collect()).collect();
    let of_all: BTreeSet<_> = found.shared.iter().map(Secret::expose).collect();
    let count = of_all.len() + of_each.iter().map(BTreeSet::len).sum::<usize>();
    let tokens: BTreeSet<_> = of_each.into_iter().flatten().chain(of_all).collect();
    let keys_too = found.signing_key.iter().chain(&found.signing_keys);
    let shared = if own.iter().any(|secret| of_people.contains(secret)) {
        Some("a secret of workers is an API key too")
    } else if keys_too.map(Secret::expose).any(|key| tokens.contains(key)) {
        Some("a signing key is a token too, which travels with every call")
    } else if tokens.len() < count {
        Some("two workers have the same token")
    } else {
        None
    };
    vec![match shared {
        None => pass(name, "each secret serves one purpose"),
        Some(why) => check(name, strict, why, MAKE_ONE),
    }]
}

/// What travels between hosts, and how.
fn way(config: &Config, strict: Verdict) -> Vec<Check> {
    let worker = &config.worker;
    let mut checks = Vec::new();
    if worker.control_plane_url.is_exposed() {
        checks.push(check(
            "worker.control_plane_url",
            strict,
            format!("tokens travel to {} as plain HTTP", worker.control_plane_url.as_str()),
            "put a proxy that does TLS before the control plane, and use its https address",
        ));
    }
    if let Some(url) = worker.rpc_url.as_ref().filter(|url| url.is_exposed()) {
        checks.push(check(
            "worker.rpc_url",
            strict,
            format!("control planes call this worker at {} as plain HTTP", url.as_str()),
            "set worker.rpc_tls.enabled and its files, and use the https address",
        ));
    }
    match worker.listen_addr {
        Some(address) if !address.0.ip().is_loopback() && !worker.rpc_tls.enabled => {
            checks.push(check(
                "worker.listen_addr",
                strict,
                format!("{} takes calls of other hosts as plain HTTP", address.0),
                "set worker.rpc_tls.enabled and its files",
            ));
        }
        Some(_) => checks.push(pass("worker.listen_addr", "nobody on the way reads the calls")),
        None => {}
    }
    if SLOW < worker.heartbeat_interval.0 {
        checks.push(check(
            "worker.heartbeat_interval",
            Verdict::Warn,
            "a worker that died is missed after three times as long only",
            "set it to 10s",
        ));
    }
    checks
}

/// Whether these settings make a server that calls workers, which may be anywhere: one that knows
/// credentials of workers and is none itself, or shares its database with others.
fn calls_others(loaded: &Loaded) -> bool {
    let (config, found) = (&loaded.config, &loaded.credentials.workers);
    let signs = found.signing_key.is_some() || !found.signing_keys.is_empty();
    let has_any = signs || !found.shared.is_empty() || !found.tokens.is_empty();
    let is_shared = config.database.driver == Driver::Postgres;
    has_any && (is_shared || config.worker.listen_addr.is_none())
}

fn tls(loaded: &Loaded, strict: Verdict) -> Vec<Check> {
    let (worker, tls) = (&loaded.config.worker, &loaded.config.worker.rpc_tls);
    let name = "worker.rpc_tls.enabled";
    let files = [
        ("worker.rpc_tls.server_cert_file", tls.server_cert_file.is_some()),
        ("worker.rpc_tls.client_ca_file", tls.client_ca_file.is_some()),
        ("worker.rpc_tls.ca_file", tls.ca_file.is_some()),
        ("worker.rpc_tls.client_cert_file", tls.client_cert_file.is_some()),
    ];
    if !tls.enabled {
        let named = files.iter().find(|(_, is_there)| *is_there);
        return match named {
            Some((file, _)) => vec![check(
                name,
                strict,
                format!("it is false although {file} is set"),
                "set it to true, or remove the files",
            )],
            None if calls_others(loaded) => vec![check(
                name,
                strict,
                "this server calls workers as plain HTTP, on whatever host they are",
                "set it to true, with ca_file, client_cert_file and client_key_file",
            )],
            None => Vec::new(),
        };
    }
    let mut checks = vec![pass(name, "calls to workers are encrypted")];
    // One file may serve both kinds of processes, or one of them.
    let is_worker = worker.listen_addr.is_some() || tls.server_cert_file.is_some();
    let is_control = !is_worker || tls.ca_file.is_some() || tls.client_cert_file.is_some();
    let needed = [is_worker, is_worker, is_control, is_control];
    let missing =
        files.into_iter().zip(needed).filter(|((_, is_there), is_needed)| *is_needed && !is_there);
    for ((file, _), _) in missing {
        let why = match file {
            "worker.rpc_tls.client_ca_file" => "the worker asks nobody for a certificate",
            "worker.rpc_tls.server_cert_file" => "the worker has no certificate to show",
            "worker.rpc_tls.ca_file" => "the control plane cannot tell a worker from another host",
            _ => "the control plane has no certificate to show",
        };
        checks.push(check(file, strict, why, "name the file"));
    }
    if is_control && !tls.server_name.names_the_worker() {
        checks.push(check(
            "worker.rpc_tls.server_name",
            strict,
            "every worker's certificate is good for every other worker",
            "put {id} where the name has the worker's id, and issue such certificates",
        ));
    }
    if tls.insecure_skip_verify {
        checks.push(check(
            "worker.rpc_tls.insecure_skip_verify",
            strict,
            "whoever is on the way can be a worker",
            "set it to false, and worker.rpc_tls.ca_file",
        ));
    }
    checks
}
