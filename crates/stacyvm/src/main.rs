//! The StacyVM binary.
fn main() {}
