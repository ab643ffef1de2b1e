//! What the OpenAPI document says about a route.

/// One operation.
pub(crate) struct Doc {
    /// Unique, in the spelling of method names in generated clients.
    pub(crate) id: &'static str,
    /// One sentence.
    pub(crate) summary: &'static str,
}

/// An operation by its id, with one sentence about what it does.
pub(crate) const fn doc(id: &'static str, summary: &'static str) -> Doc {
    Doc { id, summary }
}
