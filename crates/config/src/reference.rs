//! The table of `docs/config.md`, made from the keys.

use crate::{
    config::Config,
    keys::{Effect, keys},
};

/// The table of all keys in Markdown.
pub fn reference() -> String {
    let defaults = Config::default();
    let mut text = "| key | default | meaning | changes after | flag | variable besides |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    for key in keys() {
        let code = |text: &str| match text {
            "" => "none".to_owned(),
            text => format!("`{text}`"),
        };
        let default = match key.path {
            "data_dir" => "see there".to_owned(),
            _ => code(&key.text(&defaults)),
        };
        let effect = match key.effect {
            Effect::Reload => "SIGHUP",
            Effect::Restart => "a restart",
        };
        let optional = |name: Option<&str>| name.map_or_else(String::new, code);
        text.push_str(&format!(
            "| `{}` | {default} | {} | {effect} | {} | {} |\n",
            key.path,
            key.meaning,
            optional(key.flag),
            optional(key.alias),
        ));
    }
    text
}
