//! What an image may be called.

use std::borrow::Cow;

/// The longest image name in bytes.
const LONGEST: usize = 255;

/// Whether this is an image name: parts of lower-case letters, digits and `. _ -` separated by
/// `/`, with an optional `:tag`, such as `alpine:latest` or `registry.local/team/app:v1`.
pub fn is_image_name(name: &str) -> bool {
    if name.is_empty() || LONGEST < name.len() {
        return false;
    }
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    let part_ok = |part: &str| {
        part.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
            && part.bytes().all(|b| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
            })
            && !part.contains("..")
    };
    let mut parts = path.split('/');
    // The first part may be a registry's host with a port.
    let first = parts.next().unwrap_or_default();
    let first_ok = match first.split_once(':') {
        Some((host, port)) => {
            path.contains('/')
                && part_ok(host)
                && !port.is_empty()
                && port.bytes().all(|b| b.is_ascii_digit())
        }
        None => part_ok(first),
    };
    let tag_ok = tag.is_none_or(|tag| {
        tag.len() <= 128
            && tag.as_bytes().first().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    });
    first_ok && parts.all(part_ok) && tag_ok
}

/// The name with its tag: `alpine` is `alpine:latest`.
pub fn full_image_name(name: &str) -> Cow<'_, str> {
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.contains(':') {
        true => name.into(),
        false => format!("{name}:latest").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_means_the_latest() {
        for (name, full) in [
            ("alpine", "alpine:latest"),
            ("alpine:3", "alpine:3"),
            ("a.example:5000/b", "a.example:5000/b:latest"),
            ("a.example:5000/b:c", "a.example:5000/b:c"),
        ] {
            assert_eq!(full_image_name(name), full);
        }
    }
}
