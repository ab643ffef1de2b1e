//! How a signing key and static tokens are changed while calls go on, step by step, from what is set
//! now.

use std::path::PathBuf;

use serde_json::{Value, json};
use stacyvm_cli::escape::escape;
use stacyvm_config::Auth;
use stacyvm_fleet::identity::{Keys, token};
use stacyvm_types::format_duration;

/// How far a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is signed yet.
    Unsigned,
    /// One key signs, and no other is accepted.
    Settled,
    /// Others are accepted besides.
    Rotating,
    /// Signatures are accepted and nothing is signed here.
    Checking,
}

/// Where it stands, and what comes next.
#[derive(Debug)]
pub(super) struct Plan {
    state: State,
    /// Where the key comes from that signs.
    signing: Option<String>,
    /// Where the keys come from that are accepted besides.
    besides: Option<String>,
    accepted: usize,
    steps: Vec<String>,
    tokens: Vec<Tokens>,
}

/// How static tokens are changed.
#[derive(Debug)]
struct Tokens {
    /// Whose they are.
    whose: &'static str,
    /// Whether more than one is accepted in the same place.
    is_rotating: bool,
    steps: Vec<String>,
}

impl Tokens {
    fn of(auth: &Auth, keys: &Keys) -> Vec<Self> {
        let shared = keys.shared.len();
        let own = keys.tokens.values().map(Vec::len).max().unwrap_or_default();
        let kinds = [
            ("all workers", shared, &auth.worker_token_file, "worker_token", "it"),
            ("single workers", own, &auth.worker_tokens_file, "worker_tokens", "id=token"),
        ];
        let kinds = kinds.into_iter().filter(|(_, count, ..)| 0 < *count);
        kinds
            .map(|(whose, count, file, key, line)| {
                let place = match file {
                    Some(path) => path.display().to_string(),
                    None => format!("the file of auth.{key}_file"),
                };
                let mut steps = Vec::new();
                if file.is_none() {
                    steps.push(format!("On every host: move auth.{key} into a file, name that in auth.{key}_file, and send SIGHUP"));
                }
                if count == 1 {
                    steps.push("Make a token: (umask 077; openssl rand -hex 32 > next.token)".to_owned());
                    steps.push(format!("On every host: add {line} to {place}, on a line below the old one; each accepts both then"));
                } else {
                    steps.push("A change is under way: more than one token is accepted here".to_owned());
                }
                steps.push(format!("When every host accepts both: put the new one above the old one in {place}, host by host; each shows it then"));
                steps.push(format!("When every host shows it: take the old one out of {place}, and destroy it"));
                Self { whose, is_rotating: 1 < count, steps }
            })
            .collect()
    }
}

impl Plan {
    pub(super) fn of(auth: &Auth, keys: &Keys) -> Self {
        let state = match (keys.signing.is_some(), keys.also.is_empty()) {
            (false, true) => State::Unsigned,
            (true, true) => State::Settled,
            (true, false) => State::Rotating,
            (false, false) => State::Checking,
        };
        let place = |is_there: bool, file: &Option<PathBuf>| {
            let place = match file {
                Some(path) => path.display().to_string(),
                None => "the settings".to_owned(),
            };
            is_there.then_some(place)
        };
        let signing = place(keys.signing.is_some(), &auth.worker_signing_key_file);
        let besides = place(!keys.also.is_empty(), &auth.worker_signing_keys_file);
        let named = |file: &Option<PathBuf>, key: &str| match file {
            Some(path) => path.display().to_string(),
            None => format!("the file of auth.{key}_file"),
        };
        let first = named(&auth.worker_signing_key_file, "worker_signing_key");
        let others = named(&auth.worker_signing_keys_file, "worker_signing_keys");
        let steps = steps(state, &first, &others);
        let (accepted, tokens) = (keys.verifying().count(), Tokens::of(auth, keys));
        Self { state, signing, besides, accepted, steps, tokens }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "signing_key": self.signing,
            "accepted_besides": self.besides,
            "accepted_keys": self.accepted,
            "rotating": self.state == State::Rotating,
            "max_token_ttl": format_duration(token::LONGEST),
            "steps": self.steps,
            "tokens": self.tokens.iter().map(|tokens| json!({
                "of": tokens.whose, "rotating": tokens.is_rotating, "steps": tokens.steps,
            })).collect::<Vec<_>>(),
        })
    }

    pub(super) fn text(&self) -> String {
        let or_none = |place: &Option<String>| match place {
            Some(place) => escape(place),
            None => "none".to_owned(),
        };
        let mut text = format!(
            "signs: {}\naccepts besides: {}\n\n",
            or_none(&self.signing),
            or_none(&self.besides)
        );
        push_list(&mut text, &self.steps);
        for tokens in &self.tokens {
            text.push_str(&format!("\nstatic tokens of {}:\n", tokens.whose));
            push_list(&mut text, &tokens.steps);
        }
        text
    }
}

fn push_list(text: &mut String, steps: &[String]) {
    for (number, step) in (1..).zip(steps) {
        text.push_str(&format!("{number}. {}\n", escape(step)));
    }
}

fn steps(state: State, first: &str, others: &str) -> Vec<String> {
    let longest = format_duration(token::LONGEST);
    let make = "Make a key: (umask 077; openssl rand -hex 32 > next.key)".to_owned();
    let wait = format!(
        "Wait {longest} after the last host was changed: what the old key signed is over then"
    );
    let check = "Check: stacyvm config lint --production".to_owned();
    let remove = format!("Take the old key out of {others} on every host, and destroy it");
    let swap = format!(
        "On each host that signs, one after another: put the new key in the place of the old one \
         in {first}; the old one must stand in {others} there"
    );
    match state {
        State::Unsigned => vec![
            make,
            format!("Give it to every worker and control plane as {first}; they read it within a second once the setting is there, which takes SIGHUP or a restart"),
            "Let static tokens stand meanwhile: they go before signed ones".to_owned(),
            "When every host has the key, take auth.worker_token and auth.worker_tokens away".to_owned(),
            check,
        ],
        State::Settled => vec![
            make,
            format!("On every host, first the workers: add the new key and the old one to {others}, one a line"),
            "When every host accepts both, go on: a host reads changed files within a second, and changed settings after SIGHUP".to_owned(),
            swap,
            wait,
            remove,
            check,
        ],
        State::Rotating => vec![
            "A change is under way: more than one key is accepted here".to_owned(),
            format!("See that every host accepts both keys: a token of each passes `stacyvm worker token verify` there"),
            swap,
            wait,
            remove,
            check,
        ],
        State::Checking => vec![
            "No key signs here, so calls from this host need a static token".to_owned(),
            format!("Put the key that others sign with into {first}, if this host is to sign"),
            check,
        ],
    }
}

#[cfg(test)]
mod tests {
    use stacyvm_fleet::identity::Secret;

    use super::*;

    fn plan(signing: Option<&str>, also: &[&str]) -> Plan {
        let keys = Keys {
            signing: signing.map(Secret::new),
            also: also.iter().map(|key| Secret::new(key)).collect(),
            ..Keys::default()
        };
        let auth = Auth {
            worker_signing_key_file: Some(PathBuf::from("/etc/stacyvm/key")),
            ..Auth::default()
        };
        Plan::of(&auth, &keys)
    }

    #[test]
    fn the_plan_begins_where_the_settings_are() {
        for (signing, also, state) in [
            (None, &[][..], State::Unsigned),
            (Some("hunter2"), &[], State::Settled),
            (Some("hunter2"), &["hunter3"], State::Rotating),
            (None, &["hunter3"], State::Checking),
        ] {
            let plan = plan(signing, also);
            assert_eq!(plan.state, state);
            let shown = format!("{plan:?} {} {}", plan.text(), plan.json());
            assert!(!shown.contains("hunter"), "{shown}");
            assert!(plan.text().contains("lint --production"), "{}", plan.text());
        }
    }

    /// A token is accepted everywhere before it is shown anywhere, and as long as it is.
    #[test]
    fn a_static_token_is_accepted_before_it_is_shown_and_until_it_is_not() {
        let auth = Auth { worker_token_file: Some(PathBuf::from("/t")), ..Auth::default() };
        let of = |tokens: &[&str]| {
            let shared = tokens.iter().map(|token| Secret::new(token)).collect();
            Plan::of(&auth, &Keys { shared, ..Keys::default() })
        };
        assert!(Plan::of(&auth, &Keys::default()).tokens.is_empty());
        let plan = of(&["hunter2"]);
        let steps = &plan.tokens[0].steps;
        let at = |word: &str| steps.iter().position(|step| step.contains(word)).unwrap();
        assert!([at("Make"), at("below"), at("above"), at("take the old one")].is_sorted());
        assert!(!plan.tokens[0].is_rotating && of(&["hunter2", "hunter3"]).tokens[0].is_rotating);
        let shown = format!("{plan:?} {} {}", plan.text(), plan.json());
        assert!(!shown.contains("hunter") && shown.contains("/t"), "{shown}");
        let inline = Plan::of(
            &Auth::default(),
            &Keys { shared: vec![Secret::new("hunter2")], ..Keys::default() },
        );
        assert!(inline.text().contains("SIGHUP"), "{}", inline.text());
    }

    /// Every key that signs must be accepted everywhere before, and until its tokens are over.
    #[test]
    fn the_new_key_is_accepted_before_it_signs_and_the_old_one_until_its_tokens_end() {
        let steps = plan(Some("hunter2"), &[]).steps;
        let at = |word: &str| steps.iter().position(|step| step.contains(word)).unwrap();
        let order = [at("Make"), at("add the new key"), at("in the place"), at("Wait"), at("Take")];
        assert!(order.is_sorted(), "{steps:?}");
        assert!(steps[at("in the place")].contains("/etc/stacyvm/key"), "{steps:?}");
        assert!(steps[at("Wait")].contains("15m0s"), "{steps:?}");
    }
}
