//! Checks of who may call, how often, and of the operator's own keys.

use std::collections::BTreeSet;

use super::{Check, Verdict, check, pass};
use crate::{
    config::Config,
    load::Loaded,
    problem::Source,
    secret::Secret,
    values::{Asked, KeyBy},
};

/// Fewer bytes can be tried out.
const ENOUGH_BYTES: usize = 32;
/// Fewer different bytes are not drawn at random.
const ENOUGH_KINDS: usize = 8;
const PLACEHOLDERS: &[&str] =
    &["change-me", "changeme", "replace-me", "replaceme", "your-", "example"];
pub(super) const MAKE_ONE: &str = "make one with `openssl rand -hex 32`";

/// All of them.
pub(super) fn checks(loaded: &Loaded, strict: Verdict) -> Vec<Check> {
    let config = &loaded.config;
    let mut checks = vec![enabled(config, strict)];
    checks.extend(keys(loaded, strict));
    checks.extend(proxies(config, strict));
    checks.extend(rate_limit(config, strict));
    checks
}

fn enabled(config: &Config, strict: Verdict) -> Check {
    let name = "auth.enabled";
    match (config.auth.enabled, config.auth.asks()) {
        (Asked::Always, _) => pass(name, "credentials are always asked for"),
        (Asked::Auto, true) => pass(name, "credentials are asked for"),
        (Asked::Auto, false) => check(
            name,
            strict,
            "credentials are asked for only once there is a key in the store",
            "set auth.enabled to true, and make a key with `stacyvm keys create`",
        ),
        (Asked::Never, _) => check(
            name,
            strict,
            "whoever reaches the server may do everything",
            "set auth.enabled to true, and make a key with `stacyvm keys create`",
        ),
    }
}

fn keys(loaded: &Loaded, strict: Verdict) -> Vec<Check> {
    let credentials = &loaded.credentials;
    let both = [
        ("auth.api_key", &credentials.api_key),
        ("auth.admin_api_key", &credentials.admin_api_key),
    ];
    let mut checks = Vec::new();
    for (name, key) in both {
        let Some(key) = key else {
            checks.push(match loaded.config.auth.asks() {
                true => pass(name, "not given; `stacyvm keys` makes keys that are hashed at rest"),
                false => check(name, strict, "there is no such key", MAKE_ONE),
            });
            continue;
        };
        checks.push(match weakness(key) {
            None => pass(name, "long enough, and no placeholder"),
            Some(why) => check(name, strict, why, MAKE_ONE),
        });
        if let Source::File { .. } = loaded.source(name) {
            checks.push(check(
                &format!("{name}_file"),
                Verdict::Warn,
                format!("{name} stands in the settings, where people read it by the way"),
                format!("keep it in a file of its own, and name that in {name}_file"),
            ));
        }
    }
    if let (Some(api), Some(admin)) = (&credentials.api_key, &credentials.admin_api_key) {
        let name = "auth.key_separation";
        checks.push(match api.expose() == admin.expose() {
            false => pass(name, "the two keys are different ones"),
            true => check(
                name,
                strict,
                "auth.api_key and auth.admin_api_key are the same, so it counts as the former",
                MAKE_ONE,
            ),
        });
    }
    checks
}

/// Why a key can be guessed.
pub(super) fn weakness(key: &Secret) -> Option<&'static str> {
    let text = key.expose();
    let lower = text.to_ascii_lowercase();
    if PLACEHOLDERS.iter().any(|word| lower.contains(word)) {
        return Some("it is a placeholder");
    }
    if text.len() < ENOUGH_BYTES {
        return Some("it is shorter than 32 bytes");
    }
    let kinds: BTreeSet<u8> = text.bytes().collect();
    (kinds.len() < ENOUGH_KINDS).then_some("it repeats a few characters")
}

fn proxies(config: &Config, strict: Verdict) -> Option<Check> {
    let everyone = |text: &str| matches!(text, "0.0.0.0/0" | "::/0");
    let name = "server.trusted_proxies";
    let proxies = &config.server.trusted_proxies;
    match proxies.iter().find(|proxy| everyone(&proxy.0.to_string())) {
        None if proxies.is_empty() => None,
        None => Some(pass(name, "only proxies that are named say where requests come from")),
        Some(proxy) => Some(check(
            name,
            strict,
            format!("{} is everybody, who may then say where its requests come from", proxy.0),
            "name the proxies in front of the server only",
        )),
    }
}

fn rate_limit(config: &Config, strict: Verdict) -> Vec<Check> {
    let limit = &config.rate_limit;
    let mut checks = vec![match limit.enabled {
        true => pass("rate_limit.enabled", "one caller cannot take all of the server's time"),
        false => check(
            "rate_limit.enabled",
            strict,
            "no caller's requests are limited",
            "set rate_limit.enabled to true",
        ),
    }];
    if !limit.enabled {
        return checks;
    }
    checks.push(match limit.requests_per_minute.0 {
        0 => check(
            "rate_limit.capacity",
            strict,
            "rate_limit.requests_per_minute is 0, which limits nothing",
            "say how many requests a minute one caller needs",
        ),
        number => pass("rate_limit.capacity", format!("{number} requests a minute")),
    });
    checks.push(match limit.key_by {
        KeyBy::Owner | KeyBy::ApiKey => pass("rate_limit.key_by", "callers are told apart"),
        KeyBy::Ip => check(
            "rate_limit.key_by",
            Verdict::Warn,
            "callers behind one address share one limit",
            "set rate_limit.key_by to owner or api_key",
        ),
    });
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_can_be_guessed_is_told_by_what_is_wrong_with_it() {
        for (key, why) in [
            ("change-me-0123456789abcdefghijklmnopqrstuvwxyz", Some("it is a placeholder")),
            ("Your-Secret-0123456789abcdefghijklmnopqrstuvwxyz", Some("it is a placeholder")),
            ("0123456789abcdef", Some("it is shorter than 32 bytes")),
            ("abababababababababababababababababababab", Some("it repeats a few characters")),
            ("5f0c1b7a9e3d42868f6f0a2b7c9d1e4f", None),
        ] {
            assert_eq!(weakness(&Secret::new(key)), why, "{key}");
        }
    }
}
