//! The environment of a command and where its program is looked for.

use std::ffi::CString;

use crate::{
    fail::{Fail, Result},
    users::User,
};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Names and values; later ones win.
pub(crate) struct Environment(Vec<(String, String)>);

impl Environment {
    /// The defaults for a user, then what the sandbox was set up with, then what the request adds.
    pub(crate) fn new(
        user: &User,
        terminal: bool,
        setup: &[(String, String)],
        request: &[(&str, &str)],
    ) -> Result<Self> {
        let mut env = Self(Vec::new());
        env.set("PATH", PATH);
        env.set("HOME", &user.home);
        env.set("USER", &user.name);
        env.set("SHELL", &user.shell);
        env.set("LANG", "C.UTF-8");
        if terminal {
            env.set("TERM", "xterm-256color");
        }
        for (name, value) in setup {
            env.set(name, value);
        }
        for (name, value) in request {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(Fail::invalid(format!("{name:?} cannot be an environment variable")));
            }
            env.set(name, value);
        }
        Ok(env)
    }

    fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The paths to try for a program: itself when it holds a slash, else one per directory of
    /// `PATH`. Relative directories are left out.
    pub(crate) fn candidates(&self, program: &str) -> Result<Vec<CString>> {
        if program.contains('/') {
            return Ok(vec![c_string(program, "the program's name")?]);
        }
        if program.is_empty() {
            return Err(Fail::invalid("the program's name is empty"));
        }
        self.get("PATH")
            .unwrap_or(PATH)
            .split(':')
            .filter(|dir| dir.starts_with('/'))
            .map(|dir| c_string(&format!("{dir}/{program}"), "the program's name"))
            .collect()
    }

    /// The form that the kernel takes.
    pub(crate) fn into_strings(self) -> Result<Vec<CString>> {
        self.0
            .into_iter()
            .map(|(name, value)| c_string(&format!("{name}={value}"), "an environment variable"))
            .collect()
    }
}

/// A text without NUL.
pub(crate) fn c_string(text: &str, what: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Fail::invalid(format!("{what} holds a NUL byte")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> User {
        User { ids: None, name: "root".into(), home: "/root".into(), shell: "/bin/sh".into() }
    }

    #[test]
    fn the_request_wins_over_the_setup_and_the_setup_over_the_defaults() {
        let setup = [("LANG".to_owned(), "de_DE".to_owned()), ("A".to_owned(), "1".to_owned())];
        let env = Environment::new(&root(), false, &setup, &[("A", "2"), ("PATH", "x:/p:")]);
        let env = env.unwrap();
        assert_eq!(
            (env.get("LANG"), env.get("A"), env.get("TERM")),
            (Some("de_DE"), Some("2"), None)
        );
        assert_eq!(env.candidates("sh").unwrap(), [c"/p/sh".to_owned()]);
        assert_eq!(env.candidates("./sh").unwrap(), [c"./sh".to_owned()]);
    }

    #[test]
    fn names_that_would_be_something_else_are_refused() {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "\0")] {
            assert!(Environment::new(&root(), false, &[], &[(name, value)]).is_err());
        }
    }
}
