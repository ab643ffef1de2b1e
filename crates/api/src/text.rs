//! Bytes of a command in JSON.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Output as text, and where that is not all of it, the exact bytes beside it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Text {
    /// The text; what is not UTF-8 is U+FFFD in it.
    pub(crate) text: String,
    /// The bytes in standard base64, when the text does not say them all.
    pub(crate) base64: Option<String>,
}

impl Text {
    /// The JSON form of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { text: text.to_owned(), base64: None },
            Err(_) => Self {
                text: String::from_utf8_lossy(bytes).into_owned(),
                base64: Some(STANDARD.encode(bytes)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_that_are_no_text_are_given_twice() {
        assert_eq!(Text::of("hé\n".as_bytes()), Text { text: "hé\n".to_owned(), base64: None });
        let both = Text { text: "a\u{fffd}".to_owned(), base64: Some("Yf8=".to_owned()) };
        assert_eq!(Text::of(b"a\xff"), both);
    }
}
