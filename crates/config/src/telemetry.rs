//! Where traces go.

use serde_json::{Value, json};

use crate::{
    secret::{Raw, Secret},
    values::{Scalar, Setting},
};

/// A collector that takes OTLP over HTTP: `http://host[:port][/path]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector(String);

impl Collector {
    /// Where spans are posted to: the path of a base address is completed.
    pub fn traces(&self) -> String {
        match self.0.ends_with("/v1/traces") {
            true => self.0.clone(),
            false => format!("{}/v1/traces", self.0.trim_end_matches('/')),
        }
    }
}

impl Scalar for Collector {
    fn parse(text: &str) -> Result<Self, String> {
        const RIGHT: &str = "an address such as http://127.0.0.1:4318 is needed";
        if text.starts_with("https://") {
            return Err("traces are sent without TLS: name a collector on this host or network, \
                        such as http://127.0.0.1:4318, that sends them on"
                .to_owned());
        }
        let rest = text.strip_prefix("http://").ok_or(RIGHT)?;
        let authority = rest.split('/').next().unwrap_or_default();
        let plain = |b: u8| b.is_ascii_graphic() && !b"\"<>\\^`{|}#?@".contains(&b);
        if authority.is_empty() || !text.bytes().all(plain) {
            return Err(RIGHT.to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> Value {
        json!(self.0)
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": "^http://" })
    }
}

impl Scalar for Option<Collector> {
    fn parse(text: &str) -> Result<Self, String> {
        Scalar::parse(text).map(Some)
    }

    fn show(&self) -> Value {
        self.as_ref().map_or(Value::Null, Scalar::show)
    }

    fn schema() -> Value {
        <Collector as Scalar>::schema()
    }
}

/// Headers of what is sent to a collector. Their values are secrets.
#[derive(Debug, Clone, Default)]
pub struct Headers(Vec<(String, Secret)>);

impl Headers {
    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        let plain = |headers: &Self| -> Vec<_> {
            headers
                .iter()
                .map(|(name, value)| (name.to_owned(), value.expose().to_owned()))
                .collect()
        };
        plain(self) == plain(other)
    }
}

impl Eq for Headers {}

impl Setting for Headers {
    /// A list, or one text with commas; never repeated in an error.
    fn read(raw: &Raw) -> Result<Self, String> {
        let texts: Vec<&str> = match raw {
            Raw::One(text) => text.expose().split(',').map(str::trim).collect(),
            Raw::Many(items) => items.iter().map(Secret::expose).collect(),
        };
        let given = texts.into_iter().filter(|text| !text.is_empty());
        let header = |text: &str| {
            let (name, value) = text.split_once('=')?;
            let (name, value) = (name.trim(), value.trim());
            let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            let shown = |b: u8| b == b' ' || b.is_ascii_graphic();
            let fine = !name.is_empty() && name.bytes().all(known) && value.bytes().all(shown);
            fine.then(|| (name.to_owned(), Secret::new(value)))
        };
        given
            .map(|text| header(text).ok_or_else(|| "each header is written name=value".to_owned()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn show(&self) -> Value {
        match self.0.is_empty() {
            true => Value::Null,
            false => json!("(hidden)"),
        }
    }

    fn schema() -> Value {
        json!({ "type": ["string", "array"], "items": { "type": "string" }, "writeOnly": true })
    }
}

/// A share, from 0 to 1, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// All of it.
    pub const ALL: Self = Self(1_000_000);

    /// As a number from 0 to 1.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

impl Scalar for Share {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "from 0 to a million"
                )]
                let millionths = (ratio * 1e6).round() as u32;
                Ok(Self(millionths))
            }
            _ => Err("a number from 0 to 1 is needed".to_owned()),
        }
    }

    fn show(&self) -> Value {
        json!(self.ratio())
    }

    fn schema() -> Value {
        json!({ "type": "number", "minimum": 0, "maximum": 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_plain_http_and_its_path_is_completed() {
        for (text, traces) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://otel/", "http://otel/v1/traces"),
            ("http://[::1]:4318/v1/traces", "http://[::1]:4318/v1/traces"),
        ] {
            let collector: Collector = Scalar::parse(text).unwrap();
            assert_eq!(collector.traces(), traces);
        }
        for wrong in ["", "otel:4318", "http://", "http:///x", "http://u:p@h", "http://h/ x"] {
            assert!(<Collector as Scalar>::parse(wrong).is_err(), "{wrong:?}");
        }
        let refused = <Collector as Scalar>::parse("https://otel.example").unwrap_err();
        assert!(refused.contains("without TLS"), "{refused}");
    }

    #[test]
    fn headers_are_read_and_never_shown() {
        let headers = Headers::read(&Raw::one("a=hunter2, Authorization=Basic eA==")).unwrap();
        let read: Vec<_> = headers.iter().map(|(name, value)| (name, value.expose())).collect();
        assert_eq!(read, [("a", "hunter2"), ("Authorization", "Basic eA==")]);
        let shown = format!("{headers:?} {}", Setting::show(&headers));
        assert!(!shown.contains("hunter2"), "{shown}");
        for wrong in ["hunter2", "=hunter2", "a b=hunter2", "a=hunter2\nx: y"] {
            let refused = Headers::read(&Raw::many([wrong])).unwrap_err();
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }

    #[test]
    fn a_share_is_from_none_to_all() {
        assert_eq!(<Share as Scalar>::parse("1").unwrap(), Share::ALL);
        assert_eq!(<Share as Scalar>::parse("0.25").unwrap().ratio(), 0.25);
        for wrong in ["", "-0.1", "1.1", "NaN", "half"] {
            assert!(<Share as Scalar>::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
