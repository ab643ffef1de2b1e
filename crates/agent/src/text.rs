//! UTF-8 at the edges of pieces.

/// How many bytes at the end begin a UTF-8 sequence that is not complete; at most three. Bytes that
/// can never become valid are not held.
pub(crate) fn incomplete_tail(bytes: &[u8]) -> usize {
    let start = bytes.len().saturating_sub(3);
    for at in (start..bytes.len()).rev() {
        let needed = match bytes[at] {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => return 0,
        };
        let there = bytes.len() - at;
        // `error_len` is absent exactly when more bytes could still make it valid.
        let may_become_valid =
            std::str::from_utf8(&bytes[at..]).is_err_and(|error| error.error_len().is_none());
        return if there < needed && may_become_valid { there } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_beginning_that_can_be_completed_is_held_back() {
        let cases: [(&[u8], usize); 8] = [
            (b"", 0),
            (b"abc", 0),
            ("é".as_bytes(), 0),
            (b"a\xc3", 1),
            (b"a\xe2\x82", 2),
            (b"\xf0\x9f\x98", 3),
            (b"\xc3\xff", 0),
            (b"\x80\x80\x80\x80", 0),
        ];
        for (bytes, held) in cases {
            assert_eq!(incomplete_tail(bytes), held, "{bytes:?}");
        }
    }
}
