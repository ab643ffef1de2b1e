//! The last output of all commands together, for `logs`.

use std::collections::VecDeque;

use crate::limits::CONSOLE;

/// A ring of the last [`CONSOLE`] bytes; holds no memory before the first one.
#[derive(Default)]
pub(crate) struct Console {
    bytes: VecDeque<u8>,
}

impl Console {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(CONSOLE)..];
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(CONSOLE);
        self.bytes.drain(..excess);
        self.bytes.extend(bytes);
    }

    /// The last `count` lines, oldest first. A first line that lost its beginning is left out
    /// unless it is the only one.
    pub(crate) fn lines(&mut self, count: usize) -> Vec<String> {
        let full = self.bytes.len() == CONSOLE;
        let bytes = &*self.bytes.make_contiguous();
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        if bytes.is_empty() {
            return Vec::new();
        }
        let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        if full && 1 < lines.len() {
            lines.remove(0);
        }
        let skipped = lines.len().saturating_sub(count);
        lines[skipped..]
            .iter()
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_come_oldest_first_and_only_whole() {
        let mut console = Console::default();
        assert!(console.lines(5).is_empty());
        console.push(b"one\ntwo\r\nthr");
        console.push(b"ee");
        assert_eq!(console.lines(2), ["two", "three"]);
        assert_eq!(console.lines(0), [""; 0]);
        for n in 0..20_000 {
            console.push(format!("line {n}\n").as_bytes());
        }
        let lines = console.lines(usize::MAX);
        assert_eq!(lines.last().map(String::as_str), Some("line 19999"));
        assert!(lines.iter().all(|line| line.starts_with("line ")));
    }
}
