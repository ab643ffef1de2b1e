//! The layering of `docs/architecture.md`, checked from the manifests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What each crate may use of ours. A crate that is not here may not exist.
const ALLOWED: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("admission", &["types"]),
    ("api-types", &["types"]),
    ("config", &["types"]),
    ("store", &["admission", "types"]),
    ("store-sql", &["admission", "store", "types"]),
    ("postgres-fixture", &[]),
    ("provider", &["types"]),
    ("agent-proto", &[]),
    ("agent-client", &["agent-proto", "provider", "types"]),
    ("hostkit", &[]),
    ("agent", &["agent-proto", "hostkit"]),
    ("provider-native", &["agent", "agent-client", "agent-proto", "hostkit", "provider", "types"]),
    ("fleet", &["provider", "types"]),
    ("listen", &[]),
    ("worker", &["fleet", "listen", "provider", "types"]),
    ("control", &["admission", "fleet", "provider", "store", "types"]),
    (
        "api",
        &["admission", "api-types", "control", "fleet", "listen", "provider", "store", "types"],
    ),
    ("sim", &["admission", "control", "fleet", "provider", "store", "types", "worker"]),
    ("client", &["api-types", "types"]),
    ("cli", &["api-types", "client", "types"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The crates of ours that a manifest names under `[dependencies]`.
fn ours(manifest: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut found = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim() == "[dependencies]" || line.starts_with("[target");
        } else if inside && let Some(rest) = line.strip_prefix("stacyvm-") {
            let end = rest.find(['.', ' ', '=']).unwrap_or(rest.len());
            found.insert(rest[..end].to_owned());
        }
    }
    found
}

fn crates() -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(root().join("crates")).expect("crates/ is there");
    entries
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect()
}

#[test]
fn a_crate_uses_only_the_layers_below_it() {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    for (name, path) in crates() {
        if name == "stacyvm" {
            continue;
        }
        let may = allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} has no layer"));
        let manifest = fs::read_to_string(path.join("Cargo.toml")).expect("a manifest");
        for used in ours(&manifest) {
            assert!(may.contains(&used.as_str()), "{name} must not depend on {used}");
        }
    }
}

#[test]
fn only_hostkit_may_hold_unsafe_code() {
    for (name, path) in crates() {
        let manifest = fs::read_to_string(path.join("Cargo.toml")).expect("a manifest");
        let inherits = manifest.contains("[lints]\nworkspace = true");
        assert_eq!(inherits, name != "hostkit", "{name}: unsafe_code is forbidden by inheritance");
    }
}

/// A file of more than 800 lines is split; tests and generated text excepted.
#[test]
fn no_source_file_is_longer_than_800_lines() {
    fn walk(dir: &Path, too_long: &mut Vec<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, too_long);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let lines = fs::read_to_string(&path).unwrap_or_default().lines().count();
                if lines > 800 {
                    too_long.push(format!("{} has {lines} lines", path.display()));
                }
            }
        }
    }
    let mut too_long = Vec::new();
    for path in crates().into_values() {
        walk(&path.join("src"), &mut too_long);
    }
    assert!(too_long.is_empty(), "{too_long:#?}");
}

/// Every promise is listed, and what shows it exists.
#[test]
fn every_promise_names_something_that_exists() {
    let text = fs::read_to_string(root().join("docs/promises.md")).expect("docs/promises.md");
    let mut shown = 0;
    for line in text.lines().filter(|line| line.starts_with("| R")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let (id, state, by) = (cells[1], cells[2], cells[3]);
        match state {
            "kept" | "partly" => {
                let paths: Vec<_> = by.split('`').skip(1).step_by(2).collect();
                assert!(!paths.is_empty(), "{id} is {state} and names no test");
                for path in paths {
                    let (file, test) = path.split_once("::").unwrap_or((path, ""));
                    let body = fs::read_to_string(root().join(file));
                    let body = body.unwrap_or_else(|e| panic!("{id}: {file}: {e}"));
                    assert!(body.contains(test), "{id}: {file} holds no {test}");
                }
                shown += 1;
            }
            "later" => {}
            other => panic!("{id}: the state is kept, partly or later, not {other:?}"),
        }
    }
    assert!(shown > 0, "no promise is kept");
}
