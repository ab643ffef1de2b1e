//! The last of what all commands of a sandbox wrote.

use std::collections::VecDeque;

/// Bytes kept.
const CAPACITY: usize = 64 << 10;

/// A ring of output bytes.
#[derive(Default)]
pub(super) struct Logs {
    bytes: VecDeque<u8>,
}

impl Logs {
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let kept = &bytes[bytes.len().saturating_sub(CAPACITY)..];
        let over = (self.bytes.len() + kept.len()).saturating_sub(CAPACITY);
        self.bytes.drain(..over);
        self.bytes.extend(kept);
    }

    /// The last lines, oldest first.
    pub(super) fn tail(&self, lines: usize) -> Vec<String> {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_bytes_are_kept() {
        let mut logs = Logs::default();
        logs.append(&vec![b'x'; CAPACITY * 2]);
        logs.append(b"\none\ntwo\n");
        assert_eq!(logs.bytes.len(), CAPACITY);
        assert_eq!(logs.tail(2), ["one", "two"]);
    }
}
