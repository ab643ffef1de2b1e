//! Texts, byte for byte. Postgres keeps every character but NUL, so that one is written as two
//! others. What they begin with is a code point that Unicode sets aside for a program's own use.

use std::{borrow::Cow, cell::OnceCell};

use tokio_postgres::Row;

const ESCAPE: char = '\u{10ffff}';
const NUL: char = '0';

/// The text as Postgres keeps it.
pub(super) fn encode(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', ESCAPE]) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\0' => encoded.extend([ESCAPE, NUL]),
            ESCAPE => encoded.extend([ESCAPE, ESCAPE]),
            c => encoded.push(c),
        }
    }
    Cow::Owned(encoded)
}

fn decode(kept: &str) -> String {
    let mut chars = kept.chars();
    let mut text = String::with_capacity(kept.len());
    while let Some(c) = chars.next() {
        match c {
            ESCAPE if chars.next() == Some(NUL) => text.push('\0'),
            c => text.push(c),
        }
    }
    text
}

/// A row whose texts are read as they were written.
#[derive(Debug)]
pub(crate) struct Found {
    row: Row,
    /// Of the few rows with such a text: each column's, once it was asked for.
    decoded: OnceCell<Vec<OnceCell<String>>>,
}

impl Found {
    pub(super) const fn new(row: Row) -> Self {
        Self { row, decoded: OnceCell::new() }
    }

    /// A BIGINT or NULL.
    pub(crate) fn int(&self, column: usize) -> Option<Option<i64>> {
        self.row.try_get(column).ok()
    }

    /// A TEXT or NULL.
    pub(crate) fn text(&self, column: usize) -> Option<Option<&str>> {
        let kept: Option<&str> = self.row.try_get(column).ok()?;
        let Some(kept) = kept.filter(|text| text.contains(ESCAPE)) else { return Some(kept) };
        let decoded = self.decoded.get_or_init(|| vec![OnceCell::new(); self.row.len()]);
        Some(Some(decoded.get(column)?.get_or_init(|| decode(kept)).as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_read_as_it_was_written_and_none_is_kept_with_a_nul() {
        for text in
            ["", "plain", "\0", "a\0b\0", "\u{10ffff}", "\u{10ffff}0", "\0\u{10ffff}\0", "0"]
        {
            let kept = encode(text);
            assert!(!kept.contains('\0'));
            assert_eq!(decode(&kept), text);
        }
    }
}
