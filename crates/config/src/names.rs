//! Settings that are names of something.

use http::uri::{Authority, Uri};
use serde_json::{Value, json};
use stacyvm_types::{Network, is_image_name};

use crate::values::Scalar;

/// A text of some grammar.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:path, $schema:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name(pub(crate) String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Scalar for $name {
            fn parse(text: &str) -> Result<Self, String> {
                $check(text).map(|()| Self(text.to_owned()))
            }

            fn show(&self) -> Value {
                json!(self.0)
            }

            fn schema() -> Value {
                $schema
            }
        }
    };
}

name! {
    /// An image.
    Image, image, json!({ "type": "string", "maxLength": 255 })
}
name! {
    /// A domain name.
    Domain, domain, json!({ "type": "string", "maxLength": 253 })
}
name! {
    /// A name by which the server may be called, with or without a port.
    HostName, host_name, json!({ "type": "string" })
}
name! {
    /// The origin of web pages.
    Origin, origin, json!({ "type": "string", "pattern": "^https?://[^/?#*]+/?$" })
}
name! {
    /// What is logged: a level, or levels of parts with commas.
    LogFilter, log_filter, json!({ "type": "string" })
}

impl Scalar for Option<Domain> {
    fn parse(text: &str) -> Result<Self, String> {
        Scalar::parse(text).map(Some)
    }

    fn show(&self) -> Value {
        self.as_ref().map_or(Value::Null, Scalar::show)
    }

    fn schema() -> Value {
        <Domain as Scalar>::schema()
    }
}

/// A proxy, or a range of addresses that proxies have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proxy(pub Network);

impl Scalar for Proxy {
    fn parse(text: &str) -> Result<Self, String> {
        Network::parse(text).map(Self).ok_or_else(|| {
            "an address or a range of addresses is needed, such as 10.0.0.7 or 10.0.0.0/8"
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

fn image(text: &str) -> Result<(), String> {
    is_image_name(text).then_some(()).ok_or_else(|| {
        "an image is named with lower-case letters, digits and . _ - in parts separated by /, \
         with an optional :tag, such as host or alpine:latest"
            .to_owned()
    })
}

pub(crate) fn domain(text: &str) -> Result<(), String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (text.len() <= 253 && text.split('.').all(label))
        .then_some(())
        .ok_or_else(|| "a domain name is needed, such as box.example.org".to_owned())
}

/// A host, or a host and a port, of an address.
fn authority(text: &str) -> bool {
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let host = authority.host();
    let after = &text[host.len()..];
    let named = domain(host.strip_suffix('.').unwrap_or(host)).is_ok() || host.starts_with('[');
    named && text.starts_with(host) && (after.is_empty() || authority.port_u16().is_some())
}

fn host_name(text: &str) -> Result<(), String> {
    authority(text).then_some(()).ok_or_else(|| {
        "a name with or without a port is needed, such as box.lan or api.example.org:8443; there \
         are no wildcards"
            .to_owned()
    })
}

pub(crate) fn origin(text: &str) -> Result<(), String> {
    if text == "*" {
        return Err(
            "every web page could run code here; name the origins that may call, or leave \
                    the list empty"
                .to_owned(),
        );
    }
    let bare = text.strip_suffix('/').unwrap_or(text);
    let rest = bare.strip_prefix("https://").or_else(|| bare.strip_prefix("http://"));
    let good = rest.is_some_and(authority) && bare.parse::<Uri>().is_ok();
    good.then_some(()).ok_or_else(|| {
        "an origin is needed, without a path, such as https://dash.example.org".to_owned()
    })
}

fn log_filter(text: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let level = |text: &str| LEVELS.contains(&text.to_ascii_lowercase().as_str());
    let part = |part: &str| match part.split_once('=') {
        None => level(part),
        Some((target, of)) => {
            let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-');
            !target.is_empty() && target.bytes().all(word) && level(of)
        }
    };
    text.split(',').map(str::trim).all(part).then_some(()).ok_or_else(|| {
        "a level is error, warn, info, debug, trace or off, also of parts, such as \
         stacyvm_control=debug,warn"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_grammar() {
        type Grammar = fn(&str) -> Result<(), String>;
        let grammars: [(Grammar, &[&str], &[&str]); 4] = [
            (domain, &["localhost", "a.b-c.d"], &["", "a..b", "-a", "a_b", "a b", "*.a"]),
            (
                host_name,
                &["box.lan", "box.lan:80", "10.0.0.1", "[::1]:80", "box."],
                &["", "*", "a:x", "a:", "http://a", "a/b", "u@a", "*.a", "a b"],
            ),
            (
                origin,
                &["https://a.b", "http://a:3000", "https://a/", "http://[::1]:1"],
                &[
                    "",
                    "*",
                    "a.b",
                    "ftp://a",
                    "https://",
                    "https://a/b",
                    "https://a?x",
                    "null",
                    "https://a#x",
                    "https://u@a",
                    "https://*.a",
                    "https://a//",
                ],
            ),
            (
                log_filter,
                &["info", "INFO", "stacyvm_control=debug,warn", "a::b=off"],
                &["", "inof", "a=", "=debug", "info,", "a[b]=info", "1"],
            ),
        ];
        for (grammar, good, bad) in grammars {
            for text in good {
                assert_eq!(grammar(text), Ok(()), "{text:?}");
            }
            for text in bad {
                assert!(grammar(text).is_err(), "{text:?}");
            }
        }
    }
}
