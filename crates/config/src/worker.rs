//! Settings of workers and of what lets them in.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::Uri;
use serde_json::{Value, json};
use stacyvm_types::{WorkerId, format_duration, parse_duration};

use crate::{
    names::{domain, origin},
    secret::{Raw, Secret, fit_for_a_header},
    values::{Password, Scalar, Setting},
};

/// What stands for a worker's id in [`NameTemplate`].
const ID: &str = "{id}";

/// What a worker is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerName(pub WorkerId);

impl Scalar for WorkerName {
    fn parse(text: &str) -> Result<Self, String> {
        WorkerId::parse(text).map(Self).map_err(|error| error.to_string())
    }

    fn show(&self) -> Value {
        json!(self.0.as_str())
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$" })
    }
}

/// Where a worker finds its control plane: `http://host[:port]`, or with `https`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlane(String);

impl ControlPlane {
    /// The address, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether others than this machine can read what is sent there.
    pub fn is_exposed(&self) -> bool {
        if !self.0.starts_with("http://") {
            return false;
        }
        let host = self.0.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
        let host = host.unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare != "localhost" && !bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl Default for ControlPlane {
    fn default() -> Self {
        Self("http://localhost:7423".to_owned())
    }
}

impl Scalar for ControlPlane {
    fn parse(text: &str) -> Result<Self, String> {
        let bare = text.strip_suffix('/').unwrap_or(text);
        let told = "an address without a path is needed, such as https://box.example.org:7423";
        origin(bare).map(|()| Self(bare.to_owned())).map_err(|_| told.to_owned())
    }

    fn show(&self) -> Value {
        json!(self.0)
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": "^https?://[^/?#*]+/?$" })
    }
}

/// Where a worker listens for its control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RpcAddress(pub SocketAddr);

impl Scalar for RpcAddress {
    fn parse(text: &str) -> Result<Self, String> {
        let whole = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        };
        whole.parse().map(Self).map_err(|_| {
            "an address of this machine with a port is needed, such as 10.0.0.7:7424 or \
             0.0.0.0:7424"
                .to_owned()
        })
    }

    fn show(&self) -> Value {
        json!(self.0.to_string())
    }

    fn schema() -> Value {
        json!({ "type": "string" })
    }
}

/// How often a worker says that it lives. Its lease is three times as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat(pub Duration);

impl Heartbeat {
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5 * 60);

    /// How long the worker counts as alive after each.
    pub const fn lease(self) -> Duration {
        self.0.saturating_mul(3)
    }
}

impl Scalar for Heartbeat {
    fn parse(text: &str) -> Result<Self, String> {
        let interval = parse_duration(text).map_err(|error| error.to_string())?;
        match (Self::SHORTEST..=Self::LONGEST).contains(&interval) {
            true => Ok(Self(interval)),
            false => Err("the interval is at least 100ms and at most 5m".to_owned()),
        }
    }

    fn show(&self) -> Value {
        json!(format_duration(self.0))
    }

    fn schema() -> Value {
        json!({ "type": "string", "description": "a duration such as 10s" })
    }
}

/// The name in the certificate of a worker, with `{id}` in the place of the worker's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameTemplate(String);

impl NameTemplate {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl NameTemplate {
    /// Whether each worker has a name of its own.
    pub(crate) fn names_the_worker(&self) -> bool {
        self.0.contains(ID)
    }
}

impl Default for NameTemplate {
    fn default() -> Self {
        Self(ID.to_owned())
    }
}

impl Scalar for NameTemplate {
    fn parse(text: &str) -> Result<Self, String> {
        let told = "a domain name is needed, with {id} for the id of the worker, such as \
                    {id}.workers.example.org";
        domain(&text.replace(ID, "x")).map(|()| Self(text.to_owned())).map_err(|_| told.to_owned())
    }

    fn show(&self) -> Value {
        json!(self.0)
    }

    fn schema() -> Value {
        json!({ "type": "string", "maxLength": 253 })
    }
}

/// The id of a signed token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenId(pub String);

impl Scalar for TokenId {
    fn parse(text: &str) -> Result<Self, String> {
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Self(text.to_owned()))
            .ok_or_else(|| "the jti of a token is needed: 1 to 128 visible ASCII characters".into())
    }

    fn show(&self) -> Value {
        json!(self.0)
    }

    fn schema() -> Value {
        json!({ "type": "string", "maxLength": 128 })
    }
}

macro_rules! optional {
    ($($name:ident),+) => { $(
        impl Scalar for Option<$name> {
            fn parse(text: &str) -> Result<Self, String> {
                Scalar::parse(text).map(Some)
            }

            fn show(&self) -> Value {
                self.as_ref().map_or(Value::Null, Scalar::show)
            }

            fn schema() -> Value {
                <$name as Scalar>::schema()
            }
        }
    )+ };
}

optional!(WorkerName, RpcAddress, ControlPlane);

/// Secrets without an order of their own, such as keys that are accepted besides another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passwords(pub Vec<Password>);

impl Setting for Passwords {
    /// A list, or one text with commas; never repeated in an error.
    fn read(raw: &Raw) -> Result<Self, String> {
        let texts: Vec<&str> = match raw {
            Raw::One(text) => text.expose().split(',').map(str::trim).collect(),
            Raw::Many(items) => items.iter().map(Secret::expose).collect(),
        };
        let given = texts.into_iter().filter(|text| !text.is_empty());
        given.map(|text| Password::read(&Raw::one(text))).collect::<Result<_, _>>().map(Self)
    }

    fn show(&self) -> Value {
        match self.0.is_empty() {
            true => Value::Null,
            false => json!("(hidden)"),
        }
    }

    fn schema() -> Value {
        json!({ "type": "array", "items": { "type": "string" }, "writeOnly": true })
    }
}

/// The tokens of single workers, by their ids. Of several for one, the first is shown and all are
/// accepted.
#[derive(Debug, Clone, Default)]
pub struct WorkerTokens(pub BTreeMap<WorkerId, Vec<Secret>>);

impl WorkerTokens {
    /// One token, written `id=token`; never repeated in an error.
    fn one(text: &str) -> Result<(WorkerId, Secret), String> {
        let told = "each token is written with its worker's id, id=token in one text";
        let (id, token) = text.split_once('=').ok_or(told)?;
        let id = WorkerId::parse(id.trim()).map_err(|error| error.to_string())?;
        let token = token.trim();
        fit_for_a_header(token).map_err(|why| format!("{id}: {why}"))?;
        Ok((id, Secret::new(token)))
    }

    /// All of these, in their order.
    pub(crate) fn all<'t>(texts: impl Iterator<Item = &'t str>) -> Result<Self, String> {
        let mut tokens = BTreeMap::<_, Vec<_>>::new();
        for text in texts {
            let (id, token) = Self::one(text)?;
            tokens.entry(id).or_default().push(token);
        }
        Ok(Self(tokens))
    }
}

impl PartialEq for WorkerTokens {
    fn eq(&self, other: &Self) -> bool {
        let plain = |tokens: &Self| -> Vec<_> {
            let text = |token: &Secret| token.expose().to_owned();
            let one = |(id, own): (&WorkerId, &Vec<Secret>)| {
                (id.clone(), own.iter().map(text).collect::<Vec<_>>())
            };
            tokens.0.iter().map(one).collect()
        };
        plain(self) == plain(other)
    }
}

impl Eq for WorkerTokens {}

impl Setting for WorkerTokens {
    const KEYED: bool = true;

    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::One(text) => {
                let texts = text.expose().split(',').map(str::trim);
                Self::all(texts.filter(|text| !text.is_empty()))
            }
            Raw::Many(items) => Self::all(items.iter().map(Secret::expose)),
        }
    }

    fn show(&self) -> Value {
        match self.0.is_empty() {
            true => Value::Null,
            false => json!("(hidden)"),
        }
    }

    fn schema() -> Value {
        json!({
            "type": ["object", "null"],
            "additionalProperties": { "type": "string", "writeOnly": true },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_follow_their_grammar() {
        type Grammar = fn(&str) -> bool;
        let grammars: [(Grammar, &[&str], &[&str]); 6] = [
            (
                |text| <ControlPlane as Scalar>::parse(text).is_ok(),
                &["http://localhost:7423", "https://box.lan", "https://box.lan/", "http://[::1]:1"],
                &["", "box.lan", "ftp://a", "https://a/b", "https://u@a", "*", "https://"],
            ),
            (
                |text| <RpcAddress as Scalar>::parse(text).is_ok(),
                &["localhost:7424", "10.0.0.7:7424", "0.0.0.0:0", "[::]:7424"],
                &["", "7424", ":7424", "box.lan:7424", "10.0.0.7", "10.0.0.7:x"],
            ),
            (
                |text| <Heartbeat as Scalar>::parse(text).is_ok(),
                &["100ms", "10s", "5m"],
                &["", "0s", "99ms", "5m1s", "-1s", "10"],
            ),
            (
                |text| <NameTemplate as Scalar>::parse(text).is_ok(),
                &["{id}", "{id}.workers.lan", "worker-{id}", "workers.lan"],
                &["", "{name}", "{id}.", "*.lan", "{id} "],
            ),
            (
                |text| <TokenId as Scalar>::parse(text).is_ok(),
                &["a", "kYx-_9"],
                &["", "a b", "ä", &"x".repeat(129)],
            ),
            (
                |text| <WorkerName as Scalar>::parse(text).is_ok(),
                &["w1", "rack-3.box"],
                &["", "-w", "a b", "a/b"],
            ),
        ];
        for (grammar, good, bad) in grammars {
            for text in good {
                assert!(grammar(text), "{text:?}");
            }
            for text in bad {
                assert!(!grammar(text), "{text:?}");
            }
        }
    }

    #[test]
    fn plain_http_beyond_this_machine_can_be_read_by_others() {
        let is_exposed = |text: &str| <ControlPlane as Scalar>::parse(text).unwrap().is_exposed();
        for text in ["http://box.lan:7423", "http://10.0.0.7", "http://[2001:db8::1]:7423"] {
            assert!(is_exposed(text), "{text}");
        }
        for text in ["https://box.lan", "http://localhost", "http://127.0.0.2:1", "http://[::1]"] {
            assert!(!is_exposed(text), "{text}");
        }
    }

    #[test]
    fn tokens_are_read_and_never_shown() {
        let tokens = Raw::one("w1=hunter2, w2=hunter2==,w1=hunter9");
        let tokens = WorkerTokens::read(&tokens).unwrap();
        let read: Vec<Vec<_>> =
            tokens.0.values().map(|own| own.iter().map(Secret::expose).collect()).collect();
        assert_eq!(read, [vec!["hunter2", "hunter9"], vec!["hunter2=="]]);
        let shown = format!("{tokens:?} {}", Setting::show(&tokens));
        assert!(!shown.contains("hunter2"), "{shown}");
        for wrong in ["hunter2", "=hunter2", "w1=hunter2 x", "w1="] {
            let refused = WorkerTokens::read(&Raw::one(wrong)).unwrap_err();
            assert!(!refused.contains("hunter2"), "{refused}");
        }
        let keys = Passwords::read(&Raw::many(["hunter2", "hunter3"])).unwrap();
        assert_eq!(keys.0.len(), 2);
        assert!(!format!("{keys:?} {}", Setting::show(&keys)).contains("hunter"));
        assert!(!Passwords::read(&Raw::many(["hunter2 x"])).unwrap_err().contains("hunter"));
    }
}
