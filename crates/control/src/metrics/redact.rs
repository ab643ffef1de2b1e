//! Error texts for operators' eyes, without what could be somebody's secret.

/// What stands where something was left out.
const GONE: &str = "[redacted]";
/// A word of letters and digits that is at least this long is a key, or might be.
const OPAQUE: usize = 24;
/// Names whose values nobody is shown.
const NAMES: &[&str] = &[
    "token",
    "secret",
    "password",
    "passwd",
    "credential",
    "authorization",
    "signature",
    "cookie",
    "api-key",
    "api_key",
    "apikey",
    "access_key",
    "access-key",
    "private_key",
];

/// One line of at most `limit` bytes with the first two clauses of `text`: what it is about and
/// what was wrong. Clauses after that repeat what somebody else said, such as a command's output.
/// Values of names like `token`, passwords in addresses and long opaque words are left out.
pub(super) fn redacted(text: &str, limit: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    let end = line.match_indices(": ").nth(1).map_or(line.len(), |(at, _)| at);
    let mut kept = String::new();
    let mut hidden = false;
    for word in line[..end].split_whitespace() {
        if !kept.is_empty() {
            kept.push(' ');
        }
        let (shown, hides) = if hidden { (GONE.to_owned(), scheme(word)) } else { seen(word) };
        hidden = hides;
        kept.extend(shown.chars().filter(|c| !c.is_control()));
    }
    kept.truncate(kept.floor_char_boundary(limit));
    kept
}

/// A word as it may be shown, and whether the next one is its value.
fn seen(word: &str) -> (String, bool) {
    if scheme(word) {
        return (word.to_owned(), true);
    }
    if let Some(at) = word.find(['=', ':'])
        && let lower = word[..at].to_ascii_lowercase()
        && NAMES.iter().any(|name| lower.contains(name))
    {
        let (name, value) = word.split_at(at + 1);
        return match value {
            "" => (name.to_owned(), true),
            _ => (format!("{name}{GONE}"), false),
        };
    }
    if let Some((scheme, rest)) = word.split_once("://") {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        // A path or a query of an address can be a secret too.
        let host = authority.rsplit('@').next().unwrap_or_default();
        let tail = if host.len() < rest.len() { "/…" } else { "" };
        return (format!("{scheme}://{host}{tail}"), false);
    }
    (if opaque(word) { GONE.to_owned() } else { word.to_owned() }, false)
}

fn scheme(word: &str) -> bool {
    let word = word.trim_end_matches(':');
    ["bearer", "basic"].iter().any(|scheme| word.eq_ignore_ascii_case(scheme))
}

/// Whether some part of a word could be a key: long, and of letters and digits alone. Ids of
/// sandboxes and commands are shorter than that.
fn opaque(word: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '_' | '=');
    word.split(|c| !inside(c)).any(|part| {
        OPAQUE <= part.len()
            && part.bytes().any(|b| b.is_ascii_digit())
            && part.bytes().any(|b| b.is_ascii_alphabetic())
    })
}

#[cfg(test)]
mod tests {
    use super::redacted;

    fn shown(text: &str) -> String {
        redacted(text, 256)
    }

    #[test]
    fn plain_sentences_stay_as_they_are() {
        for plain in [
            "sandbox not found: sb-0123456789abcdef0123",
            "resource limit exceeded: ttl exceeds max ttl 24h0m0s",
            "template \"a\": setup line 1 of 2 ended with exit 3",
        ] {
            assert_eq!(shown(plain), plain);
        }
    }

    #[test]
    fn what_a_command_said_is_not_repeated() {
        let text = "template \"a\": setup line 1 of 2 ended with exit 3: hunter2\nmore";
        assert_eq!(shown(text), "template \"a\": setup line 1 of 2 ended with exit 3");
    }

    #[test]
    fn secrets_are_left_out() {
        for (text, kept) in [
            ("bad token=abc here", "bad token=[redacted] here"),
            ("header Authorization: Bearer abc", "header Authorization: [redacted] [redacted]"),
            ("sent Bearer abc off", "sent Bearer [redacted] off"),
            ("pull https://u:p@reg.example/v2?sig=1 failed", "pull https://reg.example/… failed"),
            ("DB_PASSWORD: hunter2 end", "DB_PASSWORD: [redacted] end"),
            ("key AKIA1234567890ABCDEFGHIJ used", "key [redacted] used"),
        ] {
            assert_eq!(shown(text), kept);
        }
    }

    #[test]
    fn a_text_is_cut_between_characters_and_holds_no_control() {
        assert_eq!(redacted("ééé", 3), "é");
        assert_eq!(shown("a\u{1b}[31mb"), "a[31mb");
    }
}
