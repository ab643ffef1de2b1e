//! Commands: their start, what they say and what they are told.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use stacyvm_provider::{
    Error, ErrorKind, ExecEvent, ExecInput, ExecSpec, Exit, Output, Program, Result, Size, Stdin,
};
use stacyvm_types::{ExecId, parse_duration};

use super::{
    MAX_INPUT, MAX_PIECE,
    params::{invalid, micros},
};

/// A terminal's size.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Terminal {
    rows: u16,
    cols: u16,
}

/// A command to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecParams {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its provider.
    #[serde(default)]
    pub provider: String,
    /// The command's id; a fresh one where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec_id: Option<String>,
    /// A line for a shell, or a program when `args` are given.
    #[serde(default)]
    pub command: String,
    /// The program's arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// The program and its arguments; goes before `command` and `args`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// The environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// The directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether the caller sends standard input.
    #[serde(default)]
    pub stdin: bool,
    /// A terminal instead of pipes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
    /// The deadline as text, such as `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// The deadline in microseconds; goes before `timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_us: Option<u64>,
}

impl ExecParams {
    /// A command on the wire.
    pub fn new(sandbox: &str, provider: &str, spec: &ExecSpec) -> Self {
        let (command, argv) = match &spec.program {
            Program::Shell(line) => (line.clone(), None),
            Program::Argv(words) => (String::new(), Some(words.clone())),
        };
        Self {
            sandbox_id: sandbox.to_owned(),
            provider: provider.to_owned(),
            exec_id: Some(spec.id.to_string()),
            command,
            args: None,
            argv,
            env: Some(spec.env.clone()),
            workdir: spec.workdir.clone(),
            user: spec.user.clone(),
            stdin: spec.stdin == Stdin::Pipe,
            terminal: spec.terminal.map(|Size { rows, cols }| Terminal { rows, cols }),
            timeout: None,
            deadline_us: spec.deadline.map(micros),
        }
    }

    /// The command; `fresh` is the id of one that brings none.
    pub fn spec(self, fresh: impl FnOnce() -> ExecId) -> Result<ExecSpec> {
        let id = match &self.exec_id {
            Some(id) => ExecId::parse(id).map_err(|error| invalid(error.to_string()))?,
            None => fresh(),
        };
        let program = match (self.argv, self.args) {
            (Some(argv), _) => Program::Argv(argv),
            (None, Some(args)) if !args.is_empty() => {
                Program::Argv([vec![self.command], args].concat())
            }
            (None, _) => Program::Shell(self.command),
        };
        let deadline = match (self.deadline_us, self.timeout.as_deref()) {
            (Some(micros), _) => Some(Duration::from_micros(micros)),
            (None, None | Some("")) => None,
            (None, Some(text)) => {
                Some(parse_duration(text).map_err(|_| invalid("the timeout is not a duration"))?)
            }
        };
        Ok(ExecSpec {
            id,
            program,
            env: self.env.unwrap_or_default(),
            workdir: self.workdir.filter(|dir| !dir.is_empty() || self.exec_id.is_some()),
            user: self.user,
            stdin: if self.stdin { Stdin::Pipe } else { Stdin::Null },
            terminal: self.terminal.map(|Terminal { rows, cols }| Size { rows, cols }),
            deadline,
        })
    }
}

/// One thing that a command says: output, a loss of output, or its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventLine {
    /// `stdout` or `stderr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The output, where it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The output as base64, where it is not, or where that is much shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
    /// The offset of its first byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Output before this offset is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<u64>,
    /// The command has ended: `exit`, `signal`, `timeout` or `lost`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// The code, or the signal's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<i32>,
    /// The code as a shell would show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

fn broken(what: &str) -> Error {
    Error::unknown(ErrorKind::Unavailable, format!("the worker's stream holds {what}"))
}

impl EventLine {
    /// An event as lines: more than one where its output is long.
    pub fn of(event: ExecEvent) -> Vec<Self> {
        match event {
            ExecEvent::Output { offset, stream, data } => {
                let mut at = offset;
                pieces(data)
                    .into_iter()
                    .map(|piece| {
                        let line = Self::output(at, stream, &piece);
                        at += piece.len() as u64;
                        line
                    })
                    .collect()
            }
            ExecEvent::Truncated { resume } => {
                vec![Self { resume: Some(resume), ..Self::default() }]
            }
            ExecEvent::Exit(exit) => {
                let number = match exit {
                    Exit::Code(number) | Exit::Signal(number) => Some(number),
                    Exit::Timeout | Exit::Lost => None,
                };
                let ended = Some(exit.reason().to_owned());
                vec![Self { ended, number, exit_code: Some(exit.code()), ..Self::default() }]
            }
        }
    }

    fn output(offset: u64, stream: Output, data: &Bytes) -> Self {
        let word = match stream {
            Output::Stdout => "stdout",
            Output::Stderr => "stderr",
        };
        let (text, encoded) = match std::str::from_utf8(data) {
            Ok(text) if is_short_as_text(data) => (Some(text.to_owned()), None),
            Ok(_) | Err(_) => (None, Some(BASE64_STANDARD.encode(data))),
        };
        Self {
            stream: Some(word.to_owned()),
            data: text,
            data_base64: encoded,
            offset: Some(offset),
            ..Self::default()
        }
    }

    /// The same for a caller that knows only text: what is not UTF-8 is replaced.
    #[must_use]
    pub fn as_text(mut self) -> Self {
        if let Some(encoded) = self.data_base64.take() {
            let bytes = BASE64_STANDARD.decode(encoded).unwrap_or_default();
            self.data = Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        self
    }

    /// The event.
    pub fn event(self) -> Result<ExecEvent> {
        if let Some(reason) = self.ended {
            let exit = match (&*reason, self.number) {
                ("exit", Some(code)) => Exit::Code(code),
                ("signal", Some(signal @ 1..=127)) => Exit::Signal(signal),
                ("timeout", _) => Exit::Timeout,
                ("lost", _) => Exit::Lost,
                _ => return Err(broken("an end that cannot be understood")),
            };
            return Ok(ExecEvent::Exit(exit));
        }
        if let Some(resume) = self.resume {
            return Ok(ExecEvent::Truncated { resume });
        }
        let stream = match self.stream.as_deref() {
            Some("stdout") => Output::Stdout,
            Some("stderr") => Output::Stderr,
            _ => return Err(broken("output of no stream")),
        };
        let data = match (self.data, self.data_base64) {
            (_, Some(encoded)) => {
                Bytes::from(BASE64_STANDARD.decode(encoded).map_err(|_| broken("no base64"))?)
            }
            (Some(text), None) => Bytes::from(text),
            (None, None) => return Err(broken("output without bytes")),
        };
        let offset = self.offset.ok_or_else(|| broken("output without an offset"))?;
        match offset.checked_add(data.len() as u64) {
            Some(_) => Ok(ExecEvent::Output { offset, stream, data }),
            None => Err(broken("an offset without sense")),
        }
    }
}

/// Whether JSON's escapes cost less than base64 would: a control character is six bytes in JSON.
fn is_short_as_text(data: &[u8]) -> bool {
    let escaped = data.iter().filter(|b| **b < 0x20 && !b.is_ascii_whitespace()).count();
    escaped <= data.len() / 15
}

/// Pieces that fit a line, none of which ends inside a UTF-8 sequence that the next completes.
fn pieces(mut data: Bytes) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(1);
    while MAX_PIECE < data.len() {
        let is_inside = |at: &usize| data.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
        let cut = (MAX_PIECE - 3..=MAX_PIECE).rev().find(|at| !is_inside(at));
        pieces.push(data.split_to(cut.unwrap_or(MAX_PIECE)));
    }
    pieces.push(data);
    pieces
}

/// One thing that a command is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InputLine {
    /// Bytes for standard input, as base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdin: Option<String>,
    /// No more bytes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    eof: bool,
    /// A signal's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    /// Lines of the terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u16>,
    /// Columns of the terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    cols: Option<u16>,
}

impl InputLine {
    /// An input as lines: more than one where it is long.
    pub fn of(input: ExecInput) -> Vec<Self> {
        match input {
            ExecInput::Data(data) => data
                .chunks(MAX_INPUT)
                .map(|piece| Self { stdin: Some(BASE64_STANDARD.encode(piece)), ..Self::default() })
                .collect(),
            ExecInput::Eof => vec![Self { eof: true, ..Self::default() }],
            ExecInput::Signal(signal) => vec![Self { signal: Some(signal), ..Self::default() }],
            ExecInput::Resize(Size { rows, cols }) => {
                vec![Self { rows: Some(rows), cols: Some(cols), ..Self::default() }]
            }
        }
    }

    /// The input; `None` for what this version does not know.
    pub fn input(self) -> Result<Option<ExecInput>> {
        Ok(Some(match self {
            Self { stdin: Some(encoded), .. } => {
                let bytes = BASE64_STANDARD.decode(encoded);
                ExecInput::Data(bytes.map_err(|_| invalid("stdin is not base64"))?.into())
            }
            Self { eof: true, .. } => ExecInput::Eof,
            Self { signal: Some(signal), .. } => ExecInput::Signal(signal),
            Self { rows: Some(rows), cols: Some(cols), .. } => {
                ExecInput::Resize(Size { rows, cols })
            }
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn there_and_back(event: ExecEvent) -> Vec<ExecEvent> {
        EventLine::of(event)
            .into_iter()
            .map(|line| {
                let text = serde_json::to_string(&line).unwrap();
                assert!(text.len() < super::super::MAX_LINE);
                serde_json::from_str::<EventLine>(&text).unwrap().event().unwrap()
            })
            .collect()
    }

    #[test]
    fn every_end_survives_the_hop() {
        for exit in [Exit::Code(3), Exit::Code(-1), Exit::Signal(9), Exit::Timeout, Exit::Lost] {
            assert_eq!(there_and_back(ExecEvent::Exit(exit)), [ExecEvent::Exit(exit)]);
        }
        let loss = ExecEvent::Truncated { resume: u64::MAX };
        assert_eq!(there_and_back(loss.clone()), [loss]);
    }

    #[test]
    fn long_output_is_cut_between_characters() {
        let text = "€".repeat(MAX_PIECE);
        let data = Bytes::from(text.clone());
        let events = there_and_back(ExecEvent::Output { offset: 5, stream: Output::Stderr, data });
        let mut whole = String::new();
        for event in events {
            let ExecEvent::Output { offset, stream: Output::Stderr, data } = event else {
                panic!("{event:?}")
            };
            assert_eq!(offset, 5 + whole.len() as u64);
            whole.push_str(std::str::from_utf8(&data).unwrap());
        }
        assert_eq!(whole, text);
    }

    #[test]
    fn an_older_callers_command_is_understood() {
        let read = |text: &str| -> ExecSpec {
            let params: ExecParams = serde_json::from_str(text).unwrap();
            params.spec(|| ExecId::from_entropy([1; 10])).unwrap()
        };
        let spec = read(r#"{"sandbox_id":"s","command":"echo hi","timeout":"5s","mode":"x"}"#);
        assert_eq!(spec.program, Program::Shell("echo hi".to_owned()));
        assert_eq!(spec.deadline, Some(Duration::from_secs(5)));
        let spec = read(r#"{"sandbox_id":"s","command":"echo","args":["a","b"]}"#);
        let words = ["echo", "a", "b"].map(str::to_owned).to_vec();
        assert_eq!(spec.program, Program::Argv(words));
    }

    proptest! {
        #[test]
        fn output_is_the_same_after_the_hop(
            data in proptest::collection::vec(any::<u8>(), 1..2000), offset in 0..1u64 << 60,
        ) {
            let event =
                ExecEvent::Output { offset, stream: Output::Stdout, data: Bytes::from(data) };
            prop_assert_eq!(there_and_back(event.clone()), [event]);
        }

        #[test]
        fn input_is_the_same_after_the_hop(data in proptest::collection::vec(any::<u8>(), 1..900)) {
            for input in [
                ExecInput::Data(Bytes::from(data.clone())),
                ExecInput::Eof,
                ExecInput::Signal(15),
                ExecInput::Resize(Size { rows: 3, cols: 4 }),
            ] {
                let lines = InputLine::of(input.clone());
                let text = serde_json::to_string(&lines[0]).unwrap();
                let after = serde_json::from_str::<InputLine>(&text).unwrap().input().unwrap();
                prop_assert_eq!(after, Some(input));
            }
        }

        #[test]
        fn a_hostile_line_is_an_error_and_never_a_panic(
            text in r#"\{("(stream|data|data_base64|offset|resume|ended|number)":("stdout"|"a"|"exit"|-?[0-9]{1,22}|null),?){0,4}\}"#,
        ) {
            if let Ok(line) = serde_json::from_str::<EventLine>(&text) {
                let _ = line.event();
            }
        }

        #[test]
        fn a_commands_whole_specification_survives_the_hop(
            words in proptest::collection::vec(".*", 0..4),
            shell in any::<bool>(),
            env in proptest::collection::btree_map("[A-Z]{1,4}", ".*", 0..3),
            workdir in proptest::option::of("/[a-z]{1,8}"),
            user in proptest::option::of(".*"),
            pipe in any::<bool>(),
            terminal in proptest::option::of((any::<u16>(), any::<u16>())),
            deadline in proptest::option::of(0..1u64 << 50),
        ) {
            let spec = ExecSpec {
                id: ExecId::from_entropy([3; 10]),
                program: match shell {
                    true => Program::Shell(words.concat()),
                    false => Program::Argv(words),
                },
                env,
                workdir,
                user,
                stdin: if pipe { Stdin::Pipe } else { Stdin::Null },
                terminal: terminal.map(|(rows, cols)| Size { rows, cols }),
                deadline: deadline.map(Duration::from_micros),
            };
            let text = serde_json::to_string(&ExecParams::new("s", "p", &spec)).unwrap();
            let after: ExecParams = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(after.spec(|| panic!("it has an id")).unwrap(), spec);
        }
    }
}
