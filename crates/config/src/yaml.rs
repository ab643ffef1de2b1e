//! A YAML text as paths with their lines.
//!
//! The types of values are the keys' business, so every scalar stays the text that was written.
//! That is why there is no deserializer here, but the events of `saphyr-parser`: maintained, without
//! unsafe code, and it knows the place of everything, not only of the first error.
//! Anchors, tags and several documents are refused: a setting is what one can read in its line.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};

use crate::secret::{Raw, Secret};

/// The deepest that a section may lie, lists included.
const MAX_DEPTH: usize = 16;

/// One setting of a file.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The path with dots, such as `server.port`.
    pub(crate) path: String,
    /// The line of the key, from 1.
    pub(crate) line: usize,
    /// What is written; empty text for an empty section.
    pub(crate) raw: Raw,
}

/// Why a text is not such a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) line: usize,
    pub(crate) message: String,
}

/// Where the reader is.
enum Level {
    /// In a mapping with this path; `key` is the one whose value comes next.
    Map { path: String, key: Option<(String, usize)>, seen: Vec<(String, usize)> },
    /// In a list of scalars.
    List { path: String, line: usize, items: Vec<Secret> },
}

#[derive(Default)]
struct Reader {
    levels: Vec<Level>,
    entries: Vec<Entry>,
    documents: usize,
}

/// Reads the settings of a text, in their order.
pub(crate) fn read(text: &str) -> Result<Vec<Entry>, Fault> {
    let mut reader = Reader::default();
    // The parser puts what is missing at the end behind the last line.
    let last = text.lines().count().max(1);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| not_yaml(&error, last))?;
        let line = span.start.line();
        reader.take(event, line).map_err(|message| Fault { line, message })?;
    }
    Ok(reader.entries)
}

fn not_yaml(error: &ScanError, last: usize) -> Fault {
    Fault {
        line: error.marker().line().min(last),
        message: format!("this is not YAML: {}", error.info()),
    }
}

impl Reader {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), String> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                self.documents += 1;
                if 1 < self.documents {
                    return Err("there is a second document; a file holds one".to_owned());
                }
            }
            Event::Alias(_) => {
                return Err("anchors are not understood; write the value itself".to_owned());
            }
            Event::Scalar(_, _, anchor, ref tag)
            | Event::SequenceStart(anchor, ref tag)
            | Event::MappingStart(anchor, ref tag)
                if anchor != 0 || tag.is_some() =>
            {
                return Err("anchors and tags are not understood; leave them out".to_owned());
            }
            Event::Scalar(text, style, ..) => {
                let null = style == ScalarStyle::Plain && matches!(&*text, "~" | "null");
                self.scalar(if null { String::new() } else { text.into_owned() }, line)?;
            }
            Event::MappingStart(..) => {
                let (path, _) = self.value(line)?;
                let empty = Level::Map { path, key: None, seen: Vec::new() };
                self.push(empty)?;
            }
            Event::SequenceStart(..) => {
                let (path, line) = self.value(line)?;
                if self.levels.is_empty() {
                    return Err("a file holds sections with keys, not a list".to_owned());
                }
                self.push(Level::List { path, line, items: Vec::new() })?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.pop(line),
        }
        Ok(())
    }

    fn push(&mut self, level: Level) -> Result<(), String> {
        if MAX_DEPTH <= self.levels.len() {
            return Err(format!("this is nested more than {MAX_DEPTH} deep"));
        }
        self.levels.push(level);
        Ok(())
    }

    fn pop(&mut self, line: usize) {
        match self.levels.pop() {
            Some(Level::List { path, line, items }) => {
                self.entries.push(Entry { path, line, raw: Raw::Many(items) });
            }
            Some(Level::Map { path, seen, .. }) if seen.is_empty() && !path.is_empty() => {
                self.entries.push(Entry { path, line, raw: Raw::one("") });
            }
            Some(Level::Map { .. }) | None => {}
        }
    }

    /// The path of the value that begins here, and the line of its key.
    fn value(&mut self, line: usize) -> Result<(String, usize), String> {
        match self.levels.last_mut() {
            None => Ok((String::new(), line)),
            Some(Level::Map { path, key, .. }) => match key.take() {
                Some((key, line)) if path.is_empty() => Ok((key, line)),
                Some((key, line)) => Ok((format!("{path}.{key}"), line)),
                None => Err("a key is a word, not a list or a section".to_owned()),
            },
            Some(Level::List { path, .. }) => {
                Err(format!("{path}: a list holds single values only"))
            }
        }
    }

    fn scalar(&mut self, text: String, line: usize) -> Result<(), String> {
        match self.levels.last_mut() {
            None if text.is_empty() => Ok(()),
            None => Err("a file holds sections with keys, not a single value".to_owned()),
            Some(Level::List { items, .. }) => {
                items.push(Secret::new(text));
                Ok(())
            }
            Some(Level::Map { path, key: key @ None, seen }) => {
                if let Some((_, first)) = seen.iter().find(|(name, _)| *name == text) {
                    let dot = if path.is_empty() { "" } else { "." };
                    return Err(format!("{path}{dot}{text}: it stands in line {first} already"));
                }
                seen.push((text.clone(), line));
                *key = Some((text, line));
                Ok(())
            }
            Some(Level::Map { .. }) => {
                let (path, line) = self.value(line)?;
                self.entries.push(Entry { path, line, raw: Raw::one(text) });
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let show = |entry: Entry| match entry.raw {
            Raw::One(text) => format!("{}:{}={}", entry.line, entry.path, text.expose()),
            Raw::Many(items) => {
                let items: Vec<_> = items.iter().map(Secret::expose).collect();
                format!("{}:{}=[{}]", entry.line, entry.path, items.join("|"))
            }
        };
        read(text).unwrap().into_iter().map(show).collect()
    }

    #[test]
    fn every_setting_has_its_path_and_its_line() {
        let text = "# a comment\nserver:\n  port: 0x1\n  names: [a, 'b c']\n\nlogging:\n  \
                    level: \"debug\"\nempty:\nnone: {}\nnull_too: ~\nlist:\n  - x\n  - y\n";
        assert_eq!(
            paths(text),
            [
                "3:server.port=0x1",
                "4:server.names=[a|b c]",
                "7:logging.level=debug",
                "8:empty=",
                "9:none=",
                "10:null_too=",
                "11:list=[x|y]",
            ]
        );
        assert_eq!(paths(""), [""; 0]);
        assert_eq!(paths("# nothing\n"), [""; 0]);
    }

    #[test]
    fn what_cannot_be_read_in_its_line_is_refused() {
        for (text, line, word) in [
            ("a: 1\nb: [", 2, "not YAML"),
            ("a: 1\na: 2\n", 2, "line 1"),
            ("s:\n  a: 1\n  a: 2\n", 3, "s.a"),
            ("- a\n", 1, "not a list"),
            ("word", 1, "single value"),
            ("a: &x 1\nb: *x\n", 1, "anchors"),
            ("a: !!int 1\n", 1, "tags"),
            ("a: 1\n---\nb: 1\n", 2, "second document"),
            ("a:\n  - b: 1\n", 2, "single values"),
            ("[a]: 1\n", 1, "not a list"),
        ] {
            let fault = read(text).unwrap_err();
            assert!(fault.message.contains(word), "{text:?}: {fault:?}");
            assert_eq!(fault.line, line, "{text:?}: {fault:?}");
        }
    }

    #[test]
    fn a_hostile_file_ends_with_a_sentence() {
        let deep = format!("a: {}", "[".repeat(100_000));
        assert!(read(&deep).is_err());
        let nested: String = (0..40).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        assert!(read(&nested).unwrap_err().message.contains("deep"));
        for odd in ["{---", "%", "\t", "?", "a: |", "\u{0}", "{", "]", "---\n...\n---"] {
            let _ = read(odd);
        }
    }
}
