//! Programs from PyPI, each in a virtual environment of its own.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};

use crate::server;

/// A Python with these packages, made on first use and kept in the target directory as `name`;
/// `modules` is what must be importable from it.
pub fn environment(name: &str, packages: &[&str], modules: &str) -> Result<PathBuf> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let target = server::binary().parent().context("a target directory")?.join(name);
    let python = target.join("bin/python");
    let import = format!("import {modules}");
    let ready = Command::new(&python).args(["-c", &import]).output();
    if ready.is_ok_and(|output| output.status.success()) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&target))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages))?;
    Ok(python)
}

/// Runs a command to its end; what it said, or a failure that holds it.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(output.status.success(), "{command:?} ended with {}:\n{said}", output.status);
    Ok(said)
}
