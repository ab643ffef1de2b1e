//! What a mistyped name was meant to be.

/// How alike two names must be, from 0 to 1.
const ALIKE: f64 = 0.75;

/// The most similar of the names, when one is similar at all.
pub(crate) fn nearest<T: AsRef<str>>(name: &str, names: impl IntoIterator<Item = T>) -> Option<T> {
    let name = name.to_ascii_lowercase();
    names
        .into_iter()
        .map(|known| (alike(&name, &known.as_ref().to_ascii_lowercase()), known))
        .filter(|(score, _)| ALIKE <= *score)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

/// A name with its section forgotten or mistaken is as near as a typing error; short last words
/// are in too many sections to say anything.
fn alike(name: &str, known: &str) -> f64 {
    let typed = strsim::normalized_damerau_levenshtein(name, known);
    let word = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let moved =
        known.ends_with(&format!(".{name}")) || 5 < word(known).len() && word(known) == word(name);
    if moved { typed.max(ALIKE) } else { typed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_and_a_forgotten_section_are_recognized() {
        let names = ["server.port", "server.host", "defaults.max_ttl", "defaults.ttl"];
        for (wrong, right) in [
            ("server.prot", Some("server.port")),
            ("Server.Port", Some("server.port")),
            ("port", Some("server.port")),
            ("max_ttl", Some("defaults.max_ttl")),
            ("default.max_tll", Some("defaults.max_ttl")),
            ("limits.max_ttl", Some("defaults.max_ttl")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(wrong, names), right, "{wrong}");
        }
    }
}
