//! Makes text from a sandbox or a server safe to show on a terminal.

use std::fmt::Write as _;

/// `text` without anything a terminal would act on: control characters, and marks that change the
/// reading direction or hide, are written as escapes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() || is_invisible(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

const fn is_invisible(c: char) -> bool {
    matches!(
        c as u32,
        0xAD | 0x61C
            | 0x115F..=0x1160
            | 0x180E
            | 0x200B..=0x200F
            | 0x2028..=0x202E
            | 0x2060..=0x206F
            | 0x3164
            | 0xFEFF
            | 0xFFA0
            | 0xFFF9..=0xFFFB
            | 0xE0000..=0xE007F
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_reaches_the_terminal() {
        assert_eq!(escape("a\x1b[31mb\u{9b}c\x07\n"), "a\\u{1b}[31mb\\u{9b}c\\u{7}\\n");
        assert_eq!(escape("x\u{202e}y\u{200b}z"), "x\\u{202e}y\\u{200b}z");
        assert_eq!(escape("plain naïve 日本 \\n"), "plain naïve 日本 \\n");
        for n in 0..0x2_0000 {
            let Some(c) = char::from_u32(n) else { continue };
            assert!(!escape(&c.to_string()).chars().any(char::is_control), "{n:#x}");
        }
    }
}
