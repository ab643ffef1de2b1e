//! Patterns for paths: `*`, `?` and `[…]` within a name, `**` across directories.

use crate::{Error, ErrorKind, Result};

/// One part of a pattern between slashes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Matches one name.
    Name(Name),
    /// `**`: any number of directories.
    Deep,
}

/// A pattern for one name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name(Vec<Token>);

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    Any,
    Star,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// Parses an absolute pattern. A last `**` means everything below.
pub(super) fn parse(pattern: &str) -> Result<Vec<Part>> {
    let parts = pattern.split('/').filter(|part| !part.is_empty() && *part != ".").map(part);
    let mut parts = parts.collect::<Result<Vec<_>>>()?;
    if parts.last() == Some(&Part::Deep) {
        parts.push(Part::Name(Name(vec![Token::Star])));
    }
    Ok(parts)
}

fn part(text: &str) -> Result<Part> {
    match text {
        "**" => Ok(Part::Deep),
        ".." => Err(Error::new(ErrorKind::Invalid, "a pattern cannot contain ..")),
        _ => Ok(Part::Name(Name(tokens(text)?))),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>> {
    let broken = || Error::new(ErrorKind::Invalid, "the pattern has an unclosed [ or a last \\");
    let mut chars = text.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' => Token::Star,
            '?' => Token::Any,
            '\\' => Token::Char(chars.next().ok_or_else(broken)?),
            '[' => {
                let negated = chars.next_if(|c| matches!(c, '!' | '^')).is_some();
                let mut ranges = Vec::new();
                loop {
                    let low = match chars.next().ok_or_else(broken)? {
                        ']' if !ranges.is_empty() => break,
                        '\\' => chars.next().ok_or_else(broken)?,
                        c => c,
                    };
                    let mut ahead = chars.clone();
                    let is_range = ahead.next() == Some('-') && ahead.next() != Some(']');
                    let high = if is_range {
                        chars.next();
                        chars.next().ok_or_else(broken)?
                    } else {
                        low
                    };
                    ranges.push((low, high));
                }
                Token::Class { negated, ranges }
            }
            c => Token::Char(c),
        });
    }
    Ok(tokens)
}

impl Name {
    /// Whether a name matches. Linear in the name for each star: no pattern makes it explode.
    pub(super) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut token, mut at) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while at < name.len() {
            match self.0.get(token) {
                Some(Token::Star) => {
                    star = Some((token, at));
                    token += 1;
                }
                Some(one) if one.matches(name[at]) => {
                    token += 1;
                    at += 1;
                }
                _ => match &mut star {
                    Some((back, from)) => {
                        *from += 1;
                        (token, at) = (*back + 1, *from);
                    }
                    None => return false,
                },
            }
        }
        self.0[token..].iter().all(|rest| *rest == Token::Star)
    }
}

impl Token {
    fn matches(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::Any | Self::Star => true,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_patterns_say() {
        for (pattern, name, expected) in [
            ("*", ".hidden", true),
            ("*.rs", "a.rs", true),
            ("*.rs", "a.rc", false),
            ("a*b*c", "aXXbYYc", true),
            ("a*b*c", "aXXbYY", false),
            ("?", "é", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[]]", "]", true),
            ("[a-]", "-", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("", "", true),
        ] {
            assert_eq!(Name(tokens(pattern).unwrap()).matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_broken_pattern_is_invalid() {
        for pattern in ["/[a", "/a\\", "/..", "/[!"] {
            assert_eq!(parse(pattern).unwrap_err().kind, ErrorKind::Invalid, "{pattern}");
        }
    }
}
