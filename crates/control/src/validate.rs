//! What a request may hold. Each refusal says what would be right.

use std::{collections::BTreeMap, time::Duration};

use stacyvm_types::{Limits, format_duration, is_image_name};

use crate::{Error, Result, Settings, SpawnRequest};

const MAX_ENTRIES: usize = 64;
const MAX_MAP_BYTES: usize = 16 * 1024;
const MAX_NAME: usize = 64;
const MAX_COMMAND: usize = 1024 * 1024;
/// Every client's clock and both databases hold it, and a mistyped unit does not reach it.
const LONGEST_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// An image name: parts of lower-case letters, digits and `. _ -` separated by `/`, with an
/// optional `:tag`, such as `alpine:latest` or `registry.local/team/app:v1`.
pub(crate) fn image(name: &str) -> Result<()> {
    if is_image_name(name) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "image {name:?} is not a name: use lower-case letters, digits and . _ - in parts \
         separated by /, with an optional :tag, such as alpine:latest"
    )))
}

/// A template's name.
pub(crate) fn template_name(name: &str) -> Result<()> {
    let ok = (1..=MAX_NAME).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if ok {
        Ok(())
    } else {
        Err(Error::invalid(
            "a template name is 1 to 64 of letters, digits, dot, underscore and hyphen, \
             starting with a letter or a digit",
        ))
    }
}

/// A key's name: part of records, in which `/` stands before what follows it.
pub(crate) fn key_name(name: &str) -> Result<()> {
    if template_name(name).is_ok() {
        return Ok(());
    }
    Err(Error::invalid(
        "a key name is 1 to 64 of letters, digits, dot, underscore and hyphen, starting with a \
         letter or a digit",
    ))
}

/// How long a key is valid.
pub(crate) fn key_ttl(ttl: Duration) -> Result<()> {
    if ttl.is_zero() {
        return Err(Error::invalid("the ttl of a key must be positive, or absent for no end"));
    }
    if LONGEST_TTL < ttl {
        return Err(Error::invalid("the ttl of a key is at most ten years"));
    }
    Ok(())
}

/// Environment variables.
pub(crate) fn env(env: &BTreeMap<String, String>) -> Result<()> {
    bounded("env", env)?;
    for (name, value) in env {
        if let Some((shown, _)) = name.split_once(['=', '\0']) {
            // What follows is a value in the wrong place, and values may be secrets.
            return Err(Error::invalid(format!(
                "env name {shown:?} must end there, and not hold = or a NUL byte"
            )));
        }
        if name.is_empty() {
            return Err(Error::invalid("an env name must not be empty"));
        }
        if value.contains('\0') {
            return Err(Error::invalid(format!("env {name:?} must not hold a NUL byte")));
        }
    }
    Ok(())
}

/// A client's own words.
pub(crate) fn metadata(metadata: &BTreeMap<String, String>) -> Result<()> {
    bounded("metadata", metadata)
}

fn bounded(what: &str, map: &BTreeMap<String, String>) -> Result<()> {
    let bytes: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if MAX_ENTRIES < map.len() {
        return Err(Error::invalid(format!(
            "{what} has {} entries; at most {MAX_ENTRIES} are allowed",
            map.len()
        )));
    }
    if MAX_MAP_BYTES < bytes {
        return Err(Error::invalid(format!(
            "{what} has {bytes} bytes; at most {MAX_MAP_BYTES} are allowed"
        )));
    }
    Ok(())
}

/// A time to live that may be given to a sandbox.
pub(crate) fn ttl(ttl: Duration, max: Option<Duration>) -> Result<()> {
    if ttl.is_zero() {
        return Err(Error::invalid("ttl must be positive"));
    }
    let max = max.unwrap_or(LONGEST_TTL).min(LONGEST_TTL);
    if max < ttl { Err(above_max_ttl(max)) } else { Ok(()) }
}

/// A time to live is above the longest one.
pub(crate) fn above_max_ttl(max: Duration) -> Error {
    Error::Limit(format!("ttl exceeds max ttl {}", format_duration(max)))
}

/// The limits of a sandbox: what was asked for, or the default.
pub(crate) fn limits(request: &SpawnRequest, settings: &Settings) -> Result<Limits> {
    let (default, max) = (settings.default_limits, settings.max_limits);
    Ok(Limits {
        memory_mb: limit("memory_mb", request.memory_mb, default.memory_mb, max.memory_mb)?,
        vcpus: limit("vcpus", request.vcpus, default.vcpus, max.vcpus)?,
        pids: limit("pids", request.pids, default.pids, max.pids)?,
        disk_mb: limit("disk_mb", request.disk_mb, default.disk_mb, max.disk_mb)?,
    })
}

/// One limit within `1..=max`.
pub(crate) fn limit(name: &str, asked: Option<u32>, default: u32, max: u32) -> Result<u32> {
    let value = asked.unwrap_or(default);
    if (1..=max).contains(&value) {
        Ok(value)
    } else {
        Err(Error::invalid(format!("{name} must be between 1 and {max}, and is {value}")))
    }
}

/// A command's program.
pub(crate) fn program(program: &stacyvm_provider::Program) -> Result<()> {
    use stacyvm_provider::Program::{Argv, Shell};
    let (bytes, nul) = match program {
        Shell(line) => (line.len(), line.contains('\0')),
        Argv(args) if args.first().is_none_or(String::is_empty) => {
            return Err(Error::invalid("command must not be empty"));
        }
        Argv(args) => {
            (args.iter().map(String::len).sum(), args.iter().any(|arg| arg.contains('\0')))
        }
    };
    if nul {
        return Err(Error::invalid("command must not hold a NUL byte"));
    }
    if MAX_COMMAND < bytes {
        return Err(Error::TooLarge(format!(
            "the command has {bytes} bytes; at most {MAX_COMMAND} are allowed"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R2.8: a value that stands where its name should is in no error.
    #[test]
    fn a_refused_variable_is_named_without_its_value() {
        for bad in ["KEY=hunter2", "KEY\0hunter2", "=hunter2"] {
            let said = env(&BTreeMap::from([(bad.to_owned(), String::new())])).unwrap_err();
            assert!(!said.to_string().contains("hunter2"), "{said}");
        }
        assert!(env(&BTreeMap::from([(String::new(), String::new())])).is_err());
        assert!(env(&BTreeMap::from([("KEY".to_owned(), "a=b".to_owned())])).is_ok());
    }

    #[test]
    fn an_image_name_is_a_name_and_never_a_path() {
        for good in
            ["host", "alpine:latest", "a/b/c:v1", "reg.local:5000/team/app:V1", "python3.12", "a-b"]
        {
            assert!(image(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/etc",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            ":tag",
            "a:",
            "A",
            "a b",
            "a\nb",
            "-a",
            "a:b:c",
            "a..b",
            &"x".repeat(256),
        ] {
            assert!(matches!(image(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn maps_are_bounded_and_env_names_are_names() {
        let map = |n: usize, bytes: usize| -> BTreeMap<_, _> {
            (0..n).map(|i| (format!("k{i}"), "v".repeat(bytes))).collect()
        };
        assert!(metadata(&map(64, 10)).is_ok());
        assert!(metadata(&map(65, 1)).is_err());
        assert!(metadata(&map(2, 9000)).is_err());
        for bad in ["", "A=B", "A\0"] {
            assert!(env(&BTreeMap::from([(bad.to_owned(), String::new())])).is_err());
        }
        assert!(env(&BTreeMap::from([("A".to_owned(), "\0".to_owned())])).is_err());
    }
}
