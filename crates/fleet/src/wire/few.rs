//! Lists whose length the other end chooses.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};

/// More than any list has that makes sense. An item may take many times the bytes that it takes as
/// text, and an empty text takes two of those.
pub(crate) const MOST: usize = 1 << 20;

/// A list of at most [`MOST`] items.
pub(crate) fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    list: D,
) -> Result<Vec<T>, D::Error> {
    list.deserialize_seq(Few(PhantomData))
}

struct Few<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Few<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MOST} items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            if MOST <= items.len() {
                return Err(A::Error::invalid_length(MOST + 1, &self));
            }
            items.push(item);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct List(#[serde(deserialize_with = "few")] Vec<String>);

    #[test]
    fn a_list_of_nothing_without_end_is_refused() {
        let of = |count: usize| format!("[{}\"\"]", "\"\",".repeat(count - 1));
        let read = |count| serde_json::from_str::<List>(&of(count)).map(|list| list.0.len());
        assert_eq!(read(MOST).unwrap(), MOST);
        assert!(read(MOST + 1).is_err());
    }
}
