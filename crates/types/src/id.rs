//! Typed identifiers. Each is parsed once at the edge and trusted afterwards.

use std::fmt;

/// Why a text is not an id of the wanted kind. The text says what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidId(pub &'static str);

const HEX: &[u8; 16] = b"0123456789abcdef";

fn hex20(entropy: [u8; 10]) -> String {
    let mut out = String::with_capacity(20);
    for byte in entropy {
        out.push(HEX[usize::from(byte >> 4)] as char);
        out.push(HEX[usize::from(byte & 15)] as char);
    }
    out
}

fn is_hex_id(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|rest| {
        rest.len() == 20 && rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }
    };
}

text_id! {
    /// A sandbox: `sb-` and 20 lower-case hex digits (80 random bits). Short enough for a DNS
    /// label with a port before it.
    SandboxId
}
text_id! {
    /// A command in a sandbox: `ex-` and 20 lower-case hex digits.
    ExecId
}
text_id! {
    /// An API key: `key-` and 20 lower-case hex digits. It names the key and is no secret.
    KeyId
}
text_id! {
    /// A record of the audit log: `au-` and 20 lower-case hex digits.
    AuditId
}
text_id! {
    /// A worker: 1 to 64 of `a-z A-Z 0-9 . _ -`, starting with a letter or a digit.
    WorkerId
}
text_id! {
    /// An owner: 1 to 128 bytes without separators, white space or control characters.
    OwnerId
}

impl SandboxId {
    /// A fresh id from 80 random bits.
    pub fn from_entropy(entropy: [u8; 10]) -> Self {
        Self(format!("sb-{}", hex20(entropy)).into())
    }

    /// Parses the text form.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        if is_hex_id(text, "sb-") {
            Ok(Self(text.into()))
        } else {
            Err(InvalidId("a sandbox id is sb- and 20 lower-case hex digits"))
        }
    }
}

impl ExecId {
    /// A fresh id from 80 random bits.
    pub fn from_entropy(entropy: [u8; 10]) -> Self {
        Self(format!("ex-{}", hex20(entropy)).into())
    }

    /// Parses the text form.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        if is_hex_id(text, "ex-") {
            Ok(Self(text.into()))
        } else {
            Err(InvalidId("an exec id is ex- and 20 lower-case hex digits"))
        }
    }
}

impl KeyId {
    /// A fresh id from 80 random bits.
    pub fn from_entropy(entropy: [u8; 10]) -> Self {
        Self(format!("key-{}", hex20(entropy)).into())
    }

    /// Parses the text form.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        if is_hex_id(text, "key-") {
            Ok(Self(text.into()))
        } else {
            Err(InvalidId("a key id is key- and 20 lower-case hex digits"))
        }
    }
}

impl AuditId {
    /// A fresh id from 80 random bits.
    pub fn from_entropy(entropy: [u8; 10]) -> Self {
        Self(format!("au-{}", hex20(entropy)).into())
    }

    /// Parses the text form.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        if is_hex_id(text, "au-") {
            Ok(Self(text.into()))
        } else {
            Err(InvalidId("an audit id is au- and 20 lower-case hex digits"))
        }
    }
}

impl WorkerId {
    /// Parses the text form.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let ok = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && text.as_bytes()[0].is_ascii_alphanumeric();
        if ok {
            Ok(Self(text.into()))
        } else {
            Err(InvalidId("a worker id is 1 to 64 of letters, digits, dot, underscore and hyphen"))
        }
    }
}

impl OwnerId {
    /// Trims and checks an owner id; the messages are part of the wire contract.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidId("owner_id is required"));
        }
        if text.len() > 128 {
            return Err(InvalidId("owner_id must be 128 characters or fewer"));
        }
        if text.contains(['/', '\\']) {
            return Err(InvalidId("owner_id cannot contain path separators"));
        }
        if text.bytes().any(|b| b <= b' ' || b == 127) {
            return Err(InvalidId("owner_id cannot contain whitespace or control characters"));
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_id_has_exactly_one_text_form() {
        let id = SandboxId::from_entropy([0xab, 1, 2, 3, 4, 5, 6, 7, 8, 0xff]);
        assert_eq!(id.as_str(), "sb-ab0102030405060708ff");
        assert_eq!(SandboxId::parse(id.as_str()), Ok(id));
        for bad in ["sb-", "sb-AB0102030405060708ff", "sb-ab0102030405060708f", "../sb-x", ""] {
            assert!(SandboxId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_owner_id_is_trimmed_and_refuses_what_could_be_a_path() {
        assert_eq!(OwnerId::parse("  ann ").map(|o| o.to_string()), Ok("ann".to_owned()));
        for bad in ["", " ", "a/b", "a\\b", "a b", "a\nb", &"x".repeat(129)] {
            assert!(OwnerId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
