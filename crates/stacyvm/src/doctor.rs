//! `doctor`: what this host gives.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::{Value, json};
use stacyvm_cli::{ExitStatus, Failure, Format, Global, Rows, print_json, print_rows, say};
use stacyvm_provider::{Probe, Provider};
use stacyvm_provider_native::HOST_IMAGE;

use crate::{data_dir, logging, oneshot};

/// `doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Where data lives, as in `serve`
    #[arg(long, env = "STACYVM_DATA_DIR", hide_env_values = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

struct Check {
    name: String,
    /// Something that sandboxes cannot do without.
    needed: bool,
    ok: bool,
    detail: String,
}

/// Looks, and exits with 1 when no sandbox can run here.
pub(crate) fn doctor(global: &Global, args: DoctorArgs) -> Result<ExitStatus, Failure> {
    logging::errors_only();
    let kernel = rustix::system::uname();
    let mut checks = vec![Check {
        name: "version".to_owned(),
        needed: false,
        ok: true,
        detail: format!(
            "stacyvm {}, Linux {} ({}), {}",
            env!("CARGO_PKG_VERSION"),
            kernel.release().to_string_lossy(),
            std::env::consts::ARCH,
            if rustix::process::geteuid().is_root() { "as root" } else { "rootless" },
        ),
    }];
    let data_dir =
        args.data_dir.map_or_else(data_dir::default, Ok).and_then(|path| data_dir::prepare(&path));
    let probe = match &data_dir {
        Ok(path) => probe(path),
        Err(failure) => Err(Failure::new(failure.status, failure.message.clone())),
    };
    checks.push(match &data_dir {
        Ok(path) => check("data directory", true, format!("{} can be written", path.display())),
        Err(failure) => check("data directory", false, failure.message.clone()),
    });
    checks.push(port());
    let usable = match probe {
        Ok((probe, runtimes)) => {
            let usable = probe.usable;
            checks.push(check("native provider", usable, probe.summary));
            checks.push(Check {
                name: "runtimes".to_owned(),
                needed: false,
                ok: true,
                detail: runtimes,
            });
            checks.extend(probe.findings.into_iter().map(|finding| Check {
                name: format!("  {}", finding.name),
                needed: false,
                ok: finding.ok,
                detail: finding.detail,
            }));
            usable
        }
        Err(failure) => {
            checks.push(check("native provider", false, failure.message));
            false
        }
    };
    show(global, &checks, usable)?;
    Ok(if usable { ExitStatus::OK } else { ExitStatus::FAILED })
}

fn check(name: &str, ok: bool, detail: String) -> Check {
    Check { name: name.to_owned(), needed: true, ok, detail }
}

/// What the provider finds, and where its runtimes are.
fn probe(data_dir: &Path) -> Result<(Probe, String), Failure> {
    let prepared = oneshot::prepare(data_dir, HOST_IMAGE)?;
    let runtime = crate::runtime()?;
    let probe = runtime.block_on(async {
        let oneshot = prepared.open().await?;
        let probe = oneshot.provider.probe().await;
        let runtimes = match oneshot.provider.runtimes() {
            here if here.starts_with(oneshot.path()) => "kept in the data directory".to_owned(),
            dir => format!("kept in memory, in {}", dir.parent().unwrap_or(dir).display()),
        };
        oneshot.close().await;
        Ok((probe, runtimes))
    });
    runtime.shutdown_background();
    probe
}

/// The port in use is no fault: a server may be running.
fn port() -> Check {
    let address = SocketAddr::from(([127, 0, 0, 1], 7423));
    let detail = match std::net::TcpListener::bind(address) {
        Ok(_) => format!("{address} is free"),
        Err(error) => format!("{address}: {error}; is a server running already?"),
    };
    Check { name: "port".to_owned(), needed: false, ok: true, detail }
}

fn show(global: &Global, checks: &[Check], usable: bool) -> Result<(), Failure> {
    if global.output == Format::Json {
        let findings: Vec<Value> = checks
            .iter()
            .map(|c| json!({ "name": c.name.trim(), "ok": c.ok, "needed": c.needed, "detail": c.detail }))
            .collect();
        let report = json!({ "usable": usable, "findings": findings });
        return print_json(report.to_string().as_bytes());
    }
    let mut rows = Rows::new(&["", "CHECK", "FOUND"]);
    for check in checks {
        let mark = match (check.ok, check.needed) {
            (true, _) => "ok",
            (false, true) => "FAIL",
            (false, false) => "no",
        };
        rows.push([mark, &check.name, &check.detail]);
    }
    print_rows(&rows)?;
    say(if usable { "Sandboxes can run here" } else { "Sandboxes cannot run here" });
    Ok(())
}
