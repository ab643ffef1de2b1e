//! A typed answer that still holds the text it was read from.

use std::ops::Deref;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// What the server answered: the typed value, and the exact JSON for those who want to show it.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    value: T,
    text: Bytes,
}

impl<T: DeserializeOwned> Answer<T> {
    pub(crate) fn parse(text: Bytes) -> Result<Self> {
        match serde_json::from_slice(&text) {
            Ok(value) => Ok(Self { value, text }),
            Err(error) => Err(Error::Unexpected(format!("its JSON cannot be read: {error}"))),
        }
    }
}

impl<T> Answer<T> {
    /// The value alone.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// The JSON exactly as the server wrote it.
    pub fn json(&self) -> &[u8] {
        &self.text
    }
}

impl<T> Deref for Answer<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
