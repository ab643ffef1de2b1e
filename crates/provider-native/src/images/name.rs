//! Names of images, in one canonical form.

use stacyvm_provider::{Error, ErrorKind, Result};

const MAX_BYTES: usize = 128;
const DEFAULT_TAG: &str = "latest";

/// The name of an imported image, its tag always written out: `alpine` and `alpine:latest` are
/// the same value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ImageName(Box<str>);

impl ImageName {
    /// Parses `[a-z0-9][a-z0-9._/-]*(:[A-Za-z0-9_.-]+)?`, at most 128 bytes, no empty, `.` or
    /// `..` component. `host` is the built-in image and cannot be imported.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (path, tag) = match text.split_once(':') {
            Some((path, tag)) => (path, tag),
            None => (text, DEFAULT_TAG),
        };
        let path_ok = path
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'/' | b'-'))
            && path.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
            && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        let tag_ok = !tag.is_empty()
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if MAX_BYTES < text.len() || !path_ok || !tag_ok {
            return Err(Error::new(
                ErrorKind::Invalid,
                "an image name is at most 128 bytes of a-z 0-9 . _ / - starting with a letter or \
                 a digit, with an optional :tag of letters, digits, _ . and -",
            ));
        }
        if path == "host" {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the image name host is reserved: it is this machine's own toolchain",
            ));
        }
        Ok(Self(format!("{path}:{tag}").into()))
    }

    /// The canonical text, such as `alpine:latest`.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// One file name per image name: `/` becomes `+`, which no image name contains.
    pub(super) fn file_name(&self) -> String {
        format!("{}.json", self.0.replace('/', "+"))
    }
}

#[cfg(test)]
mod tests {
    use super::ImageName;

    #[test]
    fn a_name_without_a_tag_is_the_latest_one() {
        let name = |text| ImageName::parse(text).map(|name| name.as_str().to_owned()).ok();
        assert_eq!(name("alpine"), Some("alpine:latest".into()));
        assert_eq!(name("alpine:latest"), Some("alpine:latest".into()));
        assert_eq!(name("ghcr.io/a/b:V1.2-x_y"), Some("ghcr.io/a/b:V1.2-x_y".into()));
    }

    #[test]
    fn a_name_that_could_be_a_path_or_means_the_host_is_refused() {
        let long = "a".repeat(129);
        for bad in [
            "",
            ":",
            ":x",
            "a:",
            "a:b:c",
            "/a",
            "a//b",
            "a/",
            "a/..",
            "a/../b",
            "a/./b",
            ".a",
            "-a",
            "A",
            "a b",
            "a\n",
            "a\0",
            "ä",
            "a:ä",
            "a:b/c",
            "host",
            "host:latest",
            &long,
        ] {
            assert!(ImageName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn different_names_have_different_files() {
        let file = |text| ImageName::parse(text).unwrap().file_name();
        assert_eq!(file("a/b:c"), "a+b:c.json");
        assert_ne!(file("a/b"), file("a_b"));
        assert!(!file("a/".repeat(63).trim_end_matches('/')).contains('/'));
    }
}
