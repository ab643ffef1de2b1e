//! The messages of the exec WebSocket.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Unexpected, Visitor};
use serde::{Deserialize, Serialize};

use crate::{Code, StreamFrame};

/// What a client sends after its request. Binary messages are standard input too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// Text for standard input.
    Stdin {
        /// The text.
        data: String,
    },
    /// No more input.
    StdinEof,
    /// A signal for the command's process group.
    Signal {
        /// By name or number.
        signal: Signal,
    },
    /// The terminal's new size.
    Resize {
        /// Lines.
        #[schemars(range(min = 1, max = 4096))]
        rows: u16,
        /// Columns.
        #[schemars(range(min = 1, max = 4096))]
        cols: u16,
    },
}

/// What a server sends besides frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ControlMessage {
    /// The command runs.
    Started {
        /// Its id.
        exec_id: String,
        /// The offset of the first output that follows.
        seq: u64,
    },
    /// The `exit` frame was sent; the connection closes.
    Done,
    /// Something was not understood, or could not be done.
    Error {
        /// For programs.
        code: Code,
        /// For people.
        message: String,
        /// The message again, under the key of the published contract.
        error: String,
    },
    /// A message of a newer server; to be ignored.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// A text message from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerMessage {
    /// Output, or the end.
    Frame(StreamFrame),
    /// Anything else.
    Control(ControlMessage),
}

impl ServerMessage {
    /// Decodes a text message: those with a `type` are control messages, the others frames.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        if value.get("type").is_some() {
            serde_json::from_value(value).map(Self::Control)
        } else {
            serde_json::from_value(value).map(Self::Frame)
        }
    }
}

/// A signal by number, 1 to 64. Reads names too, with or without `SIG`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Signal(i32);

/// A signal that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownSignal;

impl fmt::Display for UnknownSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }
}

impl std::error::Error for UnknownSignal {}

const EXPECTED: &str = "a signal name such as INT, TERM or KILL, or a number from 1 to 64";

/// Linux numbers on the architectures that are supported.
const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("WINCH", 28),
];

impl Signal {
    /// By number.
    pub const fn from_number(number: i32) -> Result<Self, UnknownSignal> {
        if number >= 1 && number <= 64 { Ok(Self(number)) } else { Err(UnknownSignal) }
    }

    /// By name (any case, with or without `SIG`) or number in decimal.
    pub fn parse(text: &str) -> Result<Self, UnknownSignal> {
        if let Ok(number) = text.parse() {
            return Self::from_number(number);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let known = NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, number)| Self(*number)).ok_or(UnknownSignal)
    }

    /// The number.
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SignalVisitor)
    }
}

impl JsonSchema for Signal {
    fn schema_name() -> Cow<'static, str> {
        "Signal".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": EXPECTED,
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 64},
                {"type": "string", "examples": ["INT", "SIGTERM", "9"]},
            ],
        })
    }
}

struct SignalVisitor;

impl Visitor<'_> for SignalVisitor {
    type Value = Signal;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Signal, E> {
        i32::try_from(value)
            .ok()
            .and_then(|number| Signal::from_number(number).ok())
            .ok_or_else(|| E::invalid_value(Unexpected::Signed(value), &self))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Signal, E> {
        i32::try_from(value)
            .ok()
            .and_then(|number| Signal::from_number(number).ok())
            .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(value), &self))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Signal, E> {
        Signal::parse(value).map_err(|_| E::invalid_value(Unexpected::Str(value), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StreamKind;

    fn message(json: &str) -> Result<ClientMessage, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn a_signal_is_a_name_or_a_number() {
        for json in ["\"INT\"", "\"SIGINT\"", "\"sigint\"", "2", "\"2\""] {
            let parsed = message(&format!(r#"{{"type":"signal","signal":{json}}}"#)).unwrap();
            assert_eq!(parsed, ClientMessage::Signal { signal: Signal(2) }, "{json}");
        }
        for json in ["0", "65", "-9", "\"\"", "\"SIG\"", "\"NOPE\"", "9e9", "null", "true"] {
            assert!(message(&format!(r#"{{"type":"signal","signal":{json}}}"#)).is_err(), "{json}");
        }
    }

    #[test]
    fn frames_and_control_messages_are_told_apart() {
        let frame = ServerMessage::parse(r#"{"stream":"stdout","data":"x","seq":1}"#).unwrap();
        let wanted = StreamFrame::new(StreamKind::Stdout, "x".to_owned(), 1);
        assert_eq!(frame, ServerMessage::Frame(wanted));
        let done = ServerMessage::parse(r#"{"type":"done"}"#).unwrap();
        assert_eq!(done, ServerMessage::Control(ControlMessage::Done));
        let newer = ServerMessage::parse(r#"{"type":"weather","sky":"blue"}"#).unwrap();
        assert_eq!(newer, ServerMessage::Control(ControlMessage::Unknown));
    }
}
