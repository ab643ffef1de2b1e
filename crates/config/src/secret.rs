//! Text that must not be shown.

use std::fmt;

/// A text that is a secret, or may be one. It cannot be printed, compared by accident or turned
/// into JSON: who needs it says [`Secret::expose`].
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Whether a request can carry it. The message does not repeat it.
pub(crate) fn fit_for_a_header(text: &str) -> Result<(), String> {
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then_some(()).ok_or_else(|| {
        "a key is one line of visible ASCII characters without spaces, such as `openssl rand -hex \
         32` makes"
            .to_owned()
    })
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// What a source gives for a key. Until the key is known, it may be a secret.
#[derive(Debug, Clone)]
pub enum Raw {
    /// A single text.
    One(Secret),
    /// A list of texts.
    Many(Vec<Secret>),
}

impl Raw {
    /// A single text.
    pub fn one(text: impl Into<String>) -> Self {
        Self::One(Secret::new(text))
    }

    /// A list of texts.
    pub fn many<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::Many(texts.into_iter().map(Secret::new).collect())
    }

    /// Whether it means "not given".
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::One(text) if text.expose().is_empty())
    }

    /// Whether both say the same.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::One(a), Self::One(b)) => a.expose() == b.expose(),
            (Self::Many(a), Self::Many(b)) => {
                a.iter().map(Secret::expose).eq(b.iter().map(Secret::expose))
            }
            (Self::One(_), Self::Many(_)) | (Self::Many(_), Self::One(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let raw = Raw::many(["hunter2"]);
        assert_eq!(format!("{raw:?} {:?}", Secret::new("hunter2")).matches("hunter2").count(), 0);
    }
}
