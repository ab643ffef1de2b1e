//! A world with the mock provider.

use std::{io::Write, process::Stdio};

use crate::world::{Said, World, command};

impl World {
    pub(crate) fn mock() -> Self {
        Self::start(&["--provider", "mock", "--store", "memory"])
    }

    pub(crate) fn run_with(&self, args: &[&str], stdin: &[u8]) -> Said {
        let mut child = command(args)
            .env("STACYVM_SERVER", &self.url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || input.write_all(stdin).unwrap());
            child.wait_with_output().unwrap().into()
        })
    }
}
