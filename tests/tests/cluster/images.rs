//! R4.3, R5.6: images of workers: imported on their hosts and through the server, launched where
//! they are.

use std::{
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use stacyvm_tests::{Server, http, image::busybox_tar, server, server::wait_for};

use crate::world::{Home, LIMIT, Settings, destroy, id, is, says, spawn};

/// What one `stacyvm image …` says.
fn image(place: &[&str], arguments: &[&str]) -> Result<Output> {
    let (verb, rest) = arguments.split_first().context("a verb")?;
    let mut command = Command::new(server::binary());
    Ok(command.args(["-o", "json", "image", verb]).args(place).args(rest).output()?)
}

/// The JSON that a command that went well printed.
fn done(output: Output) -> Result<Value> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {said}", output.status);
    serde_json::from_slice(&output.stdout).context(said)
}

/// A command that was refused with this code, and a sentence that holds these words.
fn refused(output: &Output, code: i32, words: &str) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code) && said.contains(words), "{output:?}");
    Ok(())
}

fn names(images: &Value) -> Vec<&str> {
    images.as_array().into_iter().flatten().filter_map(|image| image["name"].as_str()).collect()
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of text")
}

/// Waits until the registry says that the worker offers these images.
fn offers(server: &Server, worker: &str, images: &[&str]) -> Result<()> {
    is(server, worker, |row| {
        let offers = row["offers"].as_array().into_iter().flatten();
        let native = offers.filter(|offer| offer["provider"] == "native");
        native.into_iter().any(|offer| offer["images"] == json!(images))
    })
}

/// The server is asked for nothing but sandboxes.
pub(crate) fn at_the_host() -> Result<()> {
    let home = Home::new()?;
    let settings = Settings { provider: "native", ..Settings::default() };
    let server = home.control_plane("server", &settings)?;
    let one = ["max_sandboxes: 1".to_owned()];
    let mut far = home.worker("far", &server, &Settings { worker: &one, ..settings.clone() })?;
    let other = home.worker("other", &server, &settings)?;
    let archive = busybox_tar(&home.data("archives"))?;
    let (archive, data) = (text(&archive)?.to_owned(), far.data.clone());
    let here = ["--data-dir", text(&data)?];

    let unknown = server.post("/api/v1/sandboxes", &json!({"image": "busybox"}))?;
    let said = unknown.json()["message"].to_string();
    ensure!(unknown.status == 404 && said.contains("stacyvm image import busybox PATH"), "{said}");

    // While the worker runs.
    let made = done(image(&here, &["import", "busybox", &archive])?)?;
    ensure!(made["name"] == "busybox:latest" && made["workers"] == json!(["far"]), "{made}");
    offers(&server, "far", &["busybox:latest"])?;
    let listed = server.get("/api/v1/images")?.json();
    ensure!(listed[0]["name"] == "busybox:latest", "{listed}");
    ensure!(listed[0]["workers"] == json!(["far"]) && listed[1].is_null(), "{listed}");
    let row = spawn(&server, &json!({"image": "busybox"}))?;
    ensure!(row["worker_id"] == "far", "{row}");
    let there = id(&row)?;
    ensure!(says(&server, &there, "readlink /proc/self/exe")? == "/bin/busybox\n");

    // There is no room where the image is: nobody is asked who does not have it.
    let full = server.post("/api/v1/sandboxes", &json!({"image": "busybox:latest"}))?;
    ensure!(full.status == 429, "{}: {}", full.status, full.json());
    let asked = "/api/v1/sandboxes/admission?explain=true";
    let why = server.post(asked, &json!({"image": "busybox"}))?.json();
    let without = json!({
        "worker_id": "other", "reason": "it does not have the image, which another one has",
    });
    let rejected = why["rejected_workers"].as_array().cloned().unwrap_or_default();
    ensure!(why["allowed"] == false && rejected.contains(&without), "{why}");
    ensure!(spawn(&server, &json!({}))?["worker_id"] == "other", "host is everywhere");

    refused(&image(&here, &["rm", "busybox"])?, 4, "used by a sandbox")?;
    refused(&image(&here, &["rm", "never"])?, 3, "never")?;

    // While it does not, and its sandbox runs on.
    far.stop(LIMIT)?;
    let made = done(image(&here, &["import", "second", &archive])?)?;
    ensure!(made["workers"] == json!([]), "{made}");
    let listed = done(image(&here, &["list"])?)?;
    ensure!(names(&listed) == ["busybox:latest", "second:latest"], "{listed}");
    refused(&image(&here, &["rm", "busybox"])?, 4, "used by a sandbox")?;
    let far = home.worker("far", &server, &settings)?;
    offers(&server, "far", &["busybox:latest", "second:latest"])?;
    // The registry has its new address a moment before the server calls it there.
    let on = || Ok(says(&server, &there, "echo on").ok());
    ensure!(wait_for("what ran is adopted", LIMIT, on)? == "on\n");
    destroy(&server, &there)?;
    done(image(&here, &["rm", "busybox"])?)?;
    offers(&server, "far", &["second:latest"])?;

    // A server is no worker, and answers otherwise.
    let at_server = ["--data-dir", text(&home.data("server"))?.to_owned().leak()];
    refused(&image(&at_server, &["list"])?, 5, "without --data-dir")?;
    refused(&image(&["--data-dir", "/no/such/place"], &["list"])?, 3, "no data directory")?;
    end_all(&server)?;
    drop((far, other));
    Ok(())
}

/// The host of the worker is touched by nobody.
pub(crate) fn from_the_server() -> Result<()> {
    let home = Home::new()?;
    let settings = Settings { provider: "native", ..Settings::default() };
    let server = home.control_plane("server", &settings)?;
    let url = format!("http://{}", server.at);
    let archive = busybox_tar(&home.data("archives"))?;
    let archive = text(&archive)?;
    let at = ["--server", url.as_str()];
    refused(&image(&at, &["import", "busybox", archive])?, 1, "no worker that imports images")?;
    let first = home.worker("first", &server, &settings)?;
    // The only one there is.
    let made = done(image(&at, &["import", "early", archive])?)?;
    ensure!(made["workers"] == json!(["first"]), "{made}");
    let second = home.worker("second", &server, &settings)?;
    refused(&image(&at, &["import", "busybox", archive])?, 2, "first, second")?;
    let on = |worker: &'static str| ["--server", url.as_str(), "--worker", worker];
    refused(&image(&on("third"), &["import", "busybox", archive])?, 3, "third")?;

    // At once, and without a heartbeat in between.
    done(image(&on("second"), &["import", "busybox", archive])?)?;
    let row = spawn(&server, &json!({"image": "busybox"}))?;
    ensure!(row["worker_id"] == "second", "{row}");
    let there = id(&row)?;
    refused(&image(&on("second"), &["rm", "busybox"])?, 4, "used by a sandbox")?;
    refused(&image(&on("first"), &["rm", "busybox"])?, 3, "busybox")?;

    done(image(&on("first"), &["import", "busybox", archive])?)?;
    let listed = done(image(&at, &["list"])?)?;
    ensure!(names(&listed) == ["busybox:latest", "early:latest"], "{listed}");
    ensure!(listed[0]["workers"] == json!(["first", "second"]), "{listed}");
    ensure!(names(&done(image(&on("second"), &["list"])?)?) == ["busybox:latest"]);
    destroy(&server, &there)?;
    done(image(&on("second"), &["rm", "busybox"])?)?;
    offers(&server, "second", &[])?;

    // A damaged archive is refused there as it is here, and leaves nothing.
    let head = format!(
        "PUT /api/v1/images/broken?worker=second HTTP/1.1\r\nHost: {}\r\nContent-Type: \
         application/x-tar\r\nContent-Length: 9\r\nConnection: close\r\n\r\nno archive",
        server.at
    );
    let broken = http::raw(server.at, head.as_bytes())?;
    ensure!(broken.status == 400, "{}: {}", broken.status, broken.json());
    ensure!(server.get("/api/v1/images?worker=second")?.json() == json!([]));
    ensure!(server.get("/api/v1/images?worker=third")?.status == 404);

    // Who does not answer is named.
    first.signal(Signal::STOP)?;
    let silent = image(&at, &["list"])?;
    refused(&silent, 0, "without the images of first")?;
    is(&server, "first", |row| row["stale"] == true)?;
    let listed = server.get("/api/v1/images")?;
    ensure!(
        listed.head.to_ascii_lowercase().contains("x-silent-workers: first"),
        "{}",
        listed.head
    );
    first.signal(Signal::CONT)?;
    is(&server, "first", |row| row["stale"] == false)?;
    end_all(&server)?;
    drop((first, second));
    Ok(())
}

fn end_all(server: &Server) -> Result<()> {
    for id in server.live()? {
        destroy(server, &id)?;
    }
    Ok(())
}
