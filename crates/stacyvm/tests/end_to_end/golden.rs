//! Help texts, as files: `UPDATE_GOLDEN=1` writes them anew.

use std::{fs, path::Path};

use crate::world::{Said, command};

const COMMANDS: &[&str] = &[
    "",
    "serve",
    "run",
    "spawn",
    "exec",
    "list",
    "get",
    "kill",
    "extend",
    "cp",
    "files",
    "files ls",
    "files cat",
    "files put",
    "files rm",
    "files mv",
    "files stat",
    "files glob",
    "files chmod",
    "logs",
    "stats",
    "image",
    "image import",
    "image list",
    "image rm",
    "templates",
    "templates ls",
    "templates get",
    "templates save",
    "templates rm",
    "templates spawn",
    "events",
    "providers",
    "health",
    "workers",
    "workers list",
    "workers get",
    "workers drain",
    "workers undrain",
    "workers remove",
    "drain",
    "keys",
    "keys create",
    "keys list",
    "keys revoke",
    "worker",
    "worker token",
    "worker token issue",
    "worker token inspect",
    "worker token verify",
    "worker token rotation-plan",
    "doctor",
    "config",
    "config show",
    "config lint",
    "config schema",
    "db",
    "db backup",
    "db check",
    "db restore",
    "completions",
    "version",
];

#[test]
fn help_is_as_it_was_agreed() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help");
    let mut wrong = Vec::new();
    for name in COMMANDS {
        let words = name.split_whitespace().chain(["--help"]);
        let said: Said = command(words).env("COLUMNS", "100").output().unwrap().into();
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{name}");
        let stem = if name.is_empty() { "stacyvm".to_owned() } else { name.replace(' ', "-") };
        let file = dir.join(format!("{stem}.txt"));
        if update {
            fs::write(&file, &said.out).unwrap();
        } else if fs::read_to_string(&file).unwrap_or_default() != said.out {
            wrong.push(stem);
        }
    }
    assert!(wrong.is_empty(), "changed: {wrong:?}; if it is meant, run with UPDATE_GOLDEN=1");
}

#[test]
fn every_command_has_its_golden_help() {
    let said: Said = command(["--help"]).output().unwrap().into();
    let commands = said.out.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    for line in commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
        let name = line.split_whitespace().next().unwrap();
        assert!(name == "help" || COMMANDS.contains(&name), "{name} is not in the list above");
    }
}
