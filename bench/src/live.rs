//! Many sandboxes at once: what one costs while it does nothing, and whether all of it comes back.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde_json::json;
use stacyvm_tests::{host::Leftovers, server::wait_for};

use crate::{
    http::Client,
    stats::{Samples, time},
};

/// What holding many sandboxes looked like.
#[derive(Debug)]
pub(crate) struct Held {
    /// KiB of the host's memory per sandbox, kernel memory and the server's growth included.
    pub(crate) kib_each: f64,
    /// KiB that the server itself grew by, per sandbox.
    pub(crate) server_kib_each: f64,
    /// The last hundred creates.
    pub(crate) late_creates: Samples,
    /// How long it took until nothing was left.
    pub(crate) cleared_in: Duration,
}

/// A figure of `/proc/meminfo` in KiB.
fn available_kib() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    field(&text, "MemAvailable:")
}

/// The resident memory of a process in KiB.
pub(crate) fn resident_kib(pid: u32) -> Result<f64> {
    field(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmRSS:")
}

fn field(text: &str, key: &str) -> Result<f64> {
    let line = text.lines().find(|line| line.starts_with(key)).context("no such field")?;
    Ok(line.split_whitespace().nth(1).context("no value")?.parse()?)
}

/// Lets the kernel give back what it frees in the background, and drops clean caches, so that two
/// looks at the free memory can be compared.
fn settle() {
    std::thread::sleep(Duration::from_secs(2));
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
    std::thread::sleep(Duration::from_millis(500));
}

/// Holds `count` sandboxes, lets them idle, destroys them, and waits until nothing is left.
pub(crate) fn hold(at: SocketAddr, server: u32, data: &Path, count: usize) -> Result<Held> {
    let mut client = Client::connect(at)?;
    settle();
    let (before, server_before) = (available_kib()?, resident_kib(server)?);
    let mut ids = Vec::with_capacity(count);
    let mut late_creates = Samples::default();
    for round in 0..count {
        let took = time(|| {
            ids.push(client.create(&json!({ "image": "host" }))?);
            Ok(())
        })?;
        if round + 100 >= count {
            late_creates.push(took);
        }
    }
    settle();
    let (after, server_after) = (available_kib()?, resident_kib(server)?);
    let mut client = Client::connect(at)?;
    let cleared_in = time(|| {
        for id in &ids {
            client.destroy(id)?;
        }
        wait_for("nothing left", Duration::from_secs(120), || {
            Ok(Leftovers::of(data).is_empty().then_some(()))
        })
    })?;
    Ok(Held {
        kib_each: (before - after) / count as f64,
        server_kib_each: (server_after - server_before) / count as f64,
        late_creates,
        cleared_in,
    })
}
