//! The types of settings: how each is written, shown and described.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use stacyvm_types::{format_duration, parse_duration};

use crate::secret::{Raw, Secret, fit_for_a_header};

/// A mistyped unit does not reach it, and every client's clock holds it.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// How much of a wrong value a message repeats.
const REPEATED: usize = 60;

/// What can be the value of a key.
pub(crate) trait Setting: Sized {
    /// Whether it has names of the operator's own below it in the file. Each arrives as one text,
    /// `name=value`.
    const KEYED: bool = false;
    /// Reads it; the error says what would be right.
    fn read(raw: &Raw) -> Result<Self, String>;
    /// The value as `config show` shows it. Never a secret.
    fn show(&self) -> Value;
    /// Its JSON Schema.
    fn schema() -> Value;
}

/// A setting that is one text.
pub(crate) trait Scalar: Sized {
    /// Reads it; the error says what would be right.
    fn parse(text: &str) -> Result<Self, String>;
    /// The value as `config show` shows it.
    fn show(&self) -> Value;
    /// Its JSON Schema.
    fn schema() -> Value;
}

impl<T: Scalar> Setting for T {
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::One(text) => parse(text.expose()),
            Raw::Many(_) => Err("it is a single value, not a list".to_owned()),
        }
    }

    fn show(&self) -> Value {
        Scalar::show(self)
    }

    fn schema() -> Value {
        <T as Scalar>::schema()
    }
}

impl<T: Scalar> Setting for Vec<T> {
    /// A list, or one text with commas.
    fn read(raw: &Raw) -> Result<Self, String> {
        let texts: Vec<&str> = match raw {
            Raw::One(text) => text.expose().split(',').map(str::trim).collect(),
            Raw::Many(items) => items.iter().map(Secret::expose).collect(),
        };
        texts.into_iter().filter(|text| !text.is_empty()).map(parse).collect()
    }

    fn show(&self) -> Value {
        self.iter().map(Scalar::show).collect()
    }

    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema() })
    }
}

/// A secret that may be missing. Equal when the texts are: that is for noticing a change, and not
/// for letting anybody in.
#[derive(Debug, Clone, Default)]
pub struct Password(pub Option<Secret>);

impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_ref().map(Secret::expose) == other.0.as_ref().map(Secret::expose)
    }
}

impl Eq for Password {}

impl Setting for Password {
    fn read(raw: &Raw) -> Result<Self, String> {
        let Raw::One(text) = raw else {
            return Err("it is a single value, not a list".to_owned());
        };
        fit_for_a_header(text.expose())?;
        Ok(Self(Some(text.clone())))
    }

    fn show(&self) -> Value {
        match self.0 {
            Some(_) => json!("(hidden)"),
            None => Value::Null,
        }
    }

    fn schema() -> Value {
        json!({ "type": "string", "writeOnly": true })
    }
}

fn parse<T: Scalar>(text: &str) -> Result<T, String> {
    T::parse(text).map_err(|right| {
        let mut shown: String = text.chars().take(REPEATED).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        format!("{shown:?} cannot be right: {right}")
    })
}

/// An address of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host(pub IpAddr);

impl Scalar for Host {
    fn parse(text: &str) -> Result<Self, String> {
        let text = if text == "localhost" { "127.0.0.1" } else { text };
        text.parse().map(Self).map_err(|_| {
            "an address of this machine is needed, such as 127.0.0.1, ::1 or 0.0.0.0".to_owned()
        })
    }

    fn show(&self) -> Value {
        json!(self.0.to_string())
    }

    fn schema() -> Value {
        json!({ "type": "string" })
    }
}

/// A whole number within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number<const MIN: u32, const MAX: u32>(pub u32);

impl<const MIN: u32, const MAX: u32> Scalar for Number<MIN, MAX> {
    fn parse(text: &str) -> Result<Self, String> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(format!("a whole number from {MIN} to {MAX} is needed")),
        }
    }

    fn show(&self) -> Value {
        json!(self.0)
    }

    fn schema() -> Value {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

impl Scalar for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err("true or false is needed".to_owned()),
        }
    }

    fn show(&self) -> Value {
        json!(self)
    }

    fn schema() -> Value {
        json!({ "type": "boolean" })
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        Ok(_) => Err("a duration is at most ten years".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A duration above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term(pub Duration);

impl Scalar for Term {
    fn parse(text: &str) -> Result<Self, String> {
        match duration(text)? {
            Duration::ZERO => Err("the duration must be above zero".to_owned()),
            duration => Ok(Self(duration)),
        }
    }

    fn show(&self) -> Value {
        json!(format_duration(self.0))
    }

    fn schema() -> Value {
        json!({ "type": "string", "description": "a duration such as 90s or 1h30m" })
    }
}

/// A duration; zero, written `0s`, means that there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Option<Duration>);

impl Scalar for Span {
    fn parse(text: &str) -> Result<Self, String> {
        let duration = duration(text)?;
        Ok(Self(Some(duration).filter(|duration| !duration.is_zero())))
    }

    fn show(&self) -> Value {
        json!(format_duration(self.0.unwrap_or_default()))
    }

    fn schema() -> Value {
        json!({ "type": ["string", "integer"], "description": "a duration; 0s is no limit" })
    }
}

impl Scalar for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        // U+FFFD stands where a variable was not UTF-8; a similar path must not be used instead.
        match text.contains(['\0', '\u{FFFD}']) {
            true => Err("a path is needed that is UTF-8 and holds no NUL byte".to_owned()),
            false => Ok(Self::from(text)),
        }
    }

    fn show(&self) -> Value {
        json!(self.display().to_string())
    }

    fn schema() -> Value {
        json!({ "type": "string" })
    }
}

impl Scalar for Option<PathBuf> {
    fn parse(text: &str) -> Result<Self, String> {
        Scalar::parse(text).map(Some)
    }

    fn show(&self) -> Value {
        self.as_ref().map_or(Value::Null, Scalar::show)
    }

    fn schema() -> Value {
        <PathBuf as Scalar>::schema()
    }
}

/// An enum that is written as one of a few words; `later` are words of versions to come.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $all:literal, later: [$($later:literal),*],
     $($(#[$inner:meta])* $variant:ident = $word:literal $(| $other:literal)*),+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$inner])* $variant),+
        }

        impl $name {
            /// The word for it.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl Scalar for $name {
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($word $(| $other)* => Ok(Self::$variant),)+
                    _ if [$($later),*].contains(&text) => {
                        Err(format!("{text} is not supported by this version yet; {}", $all))
                    }
                    _ => Err($all.to_owned()),
                }
            }

            fn show(&self) -> Value {
                json!(self.word())
            }

            fn schema() -> Value {
                json!({ "enum": [$($word $(, $other)*),+] })
            }
        }
    };
}

words! {
    /// What runs sandboxes.
    Provider, "native or mock is needed",
    later: ["docker", "firecracker", "qemu", "proot", "e2b", "custom", "auto"],
    /// Namespaces, seccomp and control groups of this host.
    Native = "native",
    /// Plain processes that are isolated from nothing; for tests.
    Mock = "mock"
}

words! {
    /// Where state is kept.
    Driver, "sqlite, postgres or memory is needed",
    later: [],
    /// A file.
    Sqlite = "sqlite",
    /// A database that several servers may share.
    Postgres = "postgres" | "postgresql",
    /// Forgotten at the end.
    Memory = "memory"
}

words! {
    /// What a rate limit counts by.
    KeyBy, "owner, api_key or ip is needed",
    later: [],
    /// The owner, else the credential, else the address.
    Owner = "owner",
    /// The credential, else the address.
    ApiKey = "api_key",
    /// The address.
    Ip = "ip"
}

/// Whether credentials are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// As soon as there is one.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Scalar for Asked {
    fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        match <bool as Scalar>::parse(text) {
            Ok(true) => Ok(Self::Always),
            Ok(false) => Ok(Self::Never),
            Err(_) => Err("true, false or auto is needed".to_owned()),
        }
    }

    fn show(&self) -> Value {
        match self {
            Self::Auto => json!("auto"),
            Self::Always => json!(true),
            Self::Never => json!(false),
        }
    }

    fn schema() -> Value {
        json!({ "enum": [true, false, "true", "false", "auto"] })
    }
}

words! {
    /// What becomes of a spawn that finds no place.
    Overflow, "reject or queue is needed",
    later: [],
    /// It is refused.
    Reject = "reject",
    /// It waits.
    Queue = "queue"
}

words! {
    /// How log lines are written.
    LogFormat, "json or text is needed",
    later: [],
    /// One JSON object a line.
    Json = "json",
    /// For people.
    Text = "text" | "pretty"
}
