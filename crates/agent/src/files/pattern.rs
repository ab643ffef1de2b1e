//! Patterns of names: `*`, `?`, `[…]` within a name, `**` across directories.

use crate::fail::{Fail, Result};

/// One part of a pattern, between slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// A name as it stands.
    Literal(Vec<u8>),
    /// A name with wildcards.
    Name(Vec<Token>),
    /// Any number of directories.
    Deep,
}

/// One element of a name's pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Char(char),
    One,
    Many,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// A unit of a name: a character, or a byte that belongs to none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Char(char),
    Byte,
}

/// Cuts an absolute pattern into parts. Empty ones, as between two slashes, do not count.
pub(super) fn parse(pattern: &str) -> Result<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    for text in pattern.split('/').filter(|text| !text.is_empty() && *text != ".") {
        let part = if text == "**" { Part::Deep } else { name(text)? };
        // Two in a row say no more than one.
        if part != Part::Deep || parts.last() != Some(&Part::Deep) {
            parts.push(part);
        }
    }
    if parts.is_empty() {
        return Err(Fail::invalid("the pattern names nothing"));
    }
    Ok(parts)
}

fn name(text: &str) -> Result<Part> {
    let mut tokens = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' if tokens.last() == Some(&Token::Many) => continue,
            '*' => Token::Many,
            '?' => Token::One,
            '[' => class(&mut chars)?,
            '\\' => Token::Char(chars.next().ok_or_else(|| bad("a \\ at its end"))?),
            c => Token::Char(c),
        });
    }
    let literal: Option<String> = tokens
        .iter()
        .map(|token| if let Token::Char(c) = token { Some(*c) } else { None })
        .collect();
    Ok(literal.map_or(Part::Name(tokens), |text| Part::Literal(text.into_bytes())))
}

fn bad(what: &str) -> Fail {
    Fail::invalid(format!("the pattern has {what}"))
}

fn class(chars: &mut std::str::Chars<'_>) -> Result<Token> {
    let open = || bad("a [ without its ]");
    let mut ranges = Vec::new();
    let mut next = chars.next().ok_or_else(open)?;
    let negated = matches!(next, '!' | '^');
    if negated {
        next = chars.next().ok_or_else(open)?;
    }
    loop {
        // A `]` in the first place stands for itself.
        if next == ']' && !ranges.is_empty() {
            return Ok(Token::Class { negated, ranges });
        }
        let low = if next == '\\' { chars.next().ok_or_else(open)? } else { next };
        next = chars.next().ok_or_else(open)?;
        let mut high = low;
        if next == '-' && !chars.as_str().starts_with(']') {
            high = chars.next().ok_or_else(open)?;
            if high == '\\' {
                high = chars.next().ok_or_else(open)?;
            }
            next = chars.next().ok_or_else(open)?;
        }
        if high < low {
            return Err(bad("a range that ends before it starts"));
        }
        ranges.push((low, high));
    }
}

fn units(name: &[u8]) -> Vec<Unit> {
    name.utf8_chunks()
        .flat_map(|chunk| {
            let chars = chunk.valid().chars().map(Unit::Char);
            chars.chain(chunk.invalid().iter().map(|_| Unit::Byte))
        })
        .collect()
}

impl Token {
    fn matches(&self, unit: Unit) -> bool {
        match (self, unit) {
            (Self::One | Self::Many, _) => true,
            (Self::Char(wanted), Unit::Char(c)) => *wanted == c,
            (Self::Class { negated, ranges }, Unit::Char(c)) => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
            (Self::Class { negated, .. }, Unit::Byte) => *negated,
            (Self::Char(_), Unit::Byte) => false,
        }
    }
}

/// Whether a name matches. On a mismatch only the last `*` is extended, which is enough and keeps
/// the work within the product of both lengths.
pub(super) fn matches(tokens: &[Token], name: &[u8]) -> bool {
    let name = units(name);
    let (mut t, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match tokens.get(t) {
            Some(Token::Many) => {
                star = Some((t, n));
                t += 1;
            }
            Some(token) if token.matches(name[n]) => {
                t += 1;
                n += 1;
            }
            _ => match &mut star {
                Some((at, from)) => {
                    *from += 1;
                    (t, n) = (*at + 1, *from);
                }
                None => return false,
            },
        }
    }
    tokens[t..].iter().all(|token| *token == Token::Many)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(pattern: &str, text: &[u8]) -> bool {
        match name(pattern).unwrap() {
            Part::Literal(literal) => literal == text,
            Part::Name(tokens) => matches(&tokens, text),
            Part::Deep => true,
        }
    }

    #[test]
    fn names_match_as_in_a_shell() {
        let yes: [(&str, &[u8]); 12] = [
            ("*", b"anything"),
            ("*.py", b"a.py"),
            ("a*b*c", b"aXbXbXc"),
            ("?", "é".as_bytes()),
            ("?", b"\xff"),
            ("[a-c]x", b"bx"),
            ("[!a-c]x", b"dx"),
            ("[]]", b"]"),
            ("[a-]", b"-"),
            ("\\*", b"*"),
            ("*", b"new\nline"),
            ("plain", b"plain"),
        ];
        for (pattern, text) in yes {
            assert!(hits(pattern, text), "{pattern} {text:?}");
        }
        let no: [(&str, &[u8]); 5] =
            [("*.py", b"a.pyc"), ("?", b""), ("[a-c]", b"d"), ("[^a]", b"a"), ("\\*", b"x")];
        for (pattern, text) in no {
            assert!(!hits(pattern, text), "{pattern} {text:?}");
        }
    }

    #[test]
    fn a_pattern_that_cannot_be_one_is_refused() {
        for pattern in ["/", "", "/[", "/a[b", "/[z-a]", "/x\\"] {
            assert!(parse(pattern).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn many_stars_do_not_take_forever() {
        let pattern = "*a".repeat(500);
        assert!(!hits(&pattern, "a".repeat(255).as_bytes()));
    }
}
