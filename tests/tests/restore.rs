//! What a server makes of a database that is older than the runtimes on its host.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use stacyvm_tests::{
    Options, Server, host,
    server::{binary, wait_for},
};

const LIMIT: Duration = Duration::from_secs(30);

fn db(data: &Path, word: &str, file: &Path) -> Result<()> {
    let done = Command::new(binary())
        .args(["db", word])
        .arg(file)
        .arg("--data-dir")
        .arg(data)
        .output()
        .context("start the command")?;
    ensure!(done.status.success(), "{word}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// R1.8: rows and runtimes agree, whichever of the two is older.
#[test]
fn a_server_over_an_older_database_adopts_ends_and_destroys_until_all_agrees() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (data, file) = (dir.path().join("data"), dir.path().join("copy.db"));
    let quiet = Options { args: vec!["--pool".to_owned(), "0".to_owned()], ..Options::default() };
    let mut server = Server::start(&data, &quiet)?;
    let (stays, ends) = (server.spawn()?, server.spawn()?);
    db(&data, "backup", &file)?;
    let later = server.spawn()?;
    ensure!(server.delete(&format!("/api/v1/sandboxes/{ends}"))?.status == 200);
    server.exec(&stays, "echo kept > file")?;
    server.kill();

    db(&data, "restore", &file)?;
    let mut server = Server::start(&data, &quiet)?;
    // Known to both: it goes on with everything in it.
    ensure!(server.exec(&stays, "cat file")?["stdout"] == "kept\n");
    // A row that lives again without its runtime ends, and says why.
    let row = server.get(&format!("/api/v1/sandboxes/{ends}?include=ended"))?.json();
    ensure!(row["cause"]["kind"] == "runtime_died", "{row}");
    // A runtime that no row names does not run on unseen.
    ensure!(server.get(&format!("/api/v1/sandboxes/{later}?include=ended"))?.status == 404);
    wait_for("the runtime of no row to be gone", LIMIT, || {
        let left = host::Leftovers::of(&data);
        Ok((left.processes.len() == 1 && left.directories.len() == 1).then_some(()))
    })?;
    ensure!(server.live()? == [stays.as_str()]);
    ensure!(server.delete(&format!("/api/v1/sandboxes/{stays}"))?.status == 200);
    server.kill();
    Ok(())
}
