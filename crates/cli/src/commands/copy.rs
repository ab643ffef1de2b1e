//! `cp`: files and directories between here and a sandbox.
//!
//! A sandbox is not trusted with our file system: of its directories only names that are one plain
//! component are used, links are not followed and not made, and each file is written beside its
//! target and then moved there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use stacyvm_types::SandboxId;

use crate::{Context, ExitStatus, Failure, args::CpArgs, escape::escape, output::say};

mod down;
mod up;

/// One side of a copy.
enum Place {
    /// Standard input or output.
    Standard,
    /// A path here.
    Local(PathBuf),
    /// A path in a sandbox.
    Remote(SandboxId, String),
}

impl Place {
    fn parse(text: &str) -> Result<Self, Failure> {
        if text == "-" {
            return Ok(Self::Standard);
        }
        match text.split_once(':') {
            Some((id, path)) if id.starts_with("sb-") && !id.contains('/') => {
                let id =
                    SandboxId::parse(id).map_err(|e| usage(&format!("{}: {e}", escape(text))))?;
                if !path.starts_with('/') {
                    return Err(usage("a path in a sandbox starts with a slash"));
                }
                Ok(Self::Remote(id, path.to_owned()))
            }
            _ => Ok(Self::Local(PathBuf::from(text))),
        }
    }
}

fn usage(message: &str) -> Failure {
    Failure::new(ExitStatus::USAGE, message)
}

fn local_failed(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = escape(&path.to_string_lossy());
    move |error| Failure::new(ExitStatus::FAILED, format!("{path}: {error}"))
}

/// What was copied, and what had to be left out.
#[derive(Default)]
struct Tally {
    files: u64,
    left_out: u64,
}

impl Tally {
    fn leave_out(&mut self, path: &str, why: &str) {
        self.left_out += 1;
        say(&format!("left out: {}: {}", escape(path), escape(why)));
    }

    fn status(&self) -> ExitStatus {
        if self.left_out == 0 { ExitStatus::OK } else { ExitStatus::FAILED }
    }
}

/// Copies; files that could not be copied are named and make it fail at the end.
pub(super) async fn copy(context: &Context, args: CpArgs) -> Result<ExitStatus, Failure> {
    let mut tally = Tally::default();
    match (Place::parse(&args.source)?, Place::parse(&args.target)?) {
        (Place::Standard, Place::Remote(id, path)) => {
            up::standard_input(context, &id, &path).await?;
            tally.files = 1;
        }
        (Place::Local(from), Place::Remote(id, path)) => {
            up::copy(context, &from, &id, &path, &mut tally).await?;
        }
        (Place::Remote(id, path), Place::Standard) => {
            super::files::to_stdout(context, &id, &path).await?;
            return Ok(ExitStatus::OK);
        }
        (Place::Remote(id, path), Place::Local(to)) => {
            down::copy(context, &id, &path, &to, &mut tally).await?;
        }
        (Place::Remote(from, path), Place::Remote(to, target)) => {
            up::between(context, (&from, &path), (&to, &target)).await?;
            tally.files = 1;
        }
        (Place::Standard | Place::Local(_), Place::Standard | Place::Local(_)) => {
            return Err(usage("one side of a copy must be in a sandbox: ID:/path"));
        }
    }
    if !context.out.is_json() {
        let plural = if tally.files == 1 { "" } else { "s" };
        say(&format!("{} file{plural} copied", tally.files));
    }
    Ok(tally.status())
}

/// A path in a sandbox below another.
fn join(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

/// The last name of a path in a sandbox.
fn last_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// The path is there and a directory, links followed.
fn is_directory(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_dir())
}
