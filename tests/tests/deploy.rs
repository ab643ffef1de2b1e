//! R6.7: what `deploy/` hands out is read by those that it is for: Helm, Kubernetes, Compose, systemd
//! and this program.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use stacyvm_tests::{
    python::{self, run},
    server,
};

/// Helm's own library with its chart engine and linter, and Kubernetes's schemas.
const HELM: &[&str] = &[
    "helm-python-sdk==0.2.2",
    "kubernetes-validate==1.37.0",
    "jsonschema==4.23.0",
    "PyYAML==6.0.3",
];
/// The last Compose on PyPI with all that its `config` needs. By name, because what it says of the
/// versions that it wants cannot be built any more.
const COMPOSE: &[&str] = &[
    "--no-deps",
    "docker-compose==1.29.2",
    "attrs==25.3.0",
    "certifi==2025.8.3",
    "charset-normalizer==3.4.3",
    "distro==1.9.0",
    "docker==6.1.3",
    "dockerpty==0.4.1",
    "docopt==0.6.2",
    "idna==3.10",
    "jsonschema==4.17.3",
    "packaging==25.0",
    "pyrsistent==0.20.0",
    "python-dotenv==0.21.1",
    "PyYAML==6.0.3",
    "requests==2.32.5",
    "setuptools==75.8.0",
    "six==1.17.0",
    "texttable==1.7.0",
    "urllib3==2.5.0",
    "websocket-client==0.59.0",
];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Files that stand for secrets, and the settings of `text` with them in the place of `from`.
fn lint(dir: &Path, name: &str, text: &str, from: &str) -> Result<()> {
    let secret = |name: &str, text: &str| {
        fs::write(dir.join(name), text)?;
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600))
    };
    secret("signing.key", "5f0c1b7a9e3d42868f6f0a2b7c9d1e4f\n")?;
    secret("admin.key", "9d1e4f5f0c1b7a6f0a2b7c9e3d42868f\n")?;
    secret("dsn", "postgres://stacyvm:7c9d1e4f@db.example.org/stacyvm?sslmode=verify-full\n")?;
    let file = dir.join(name);
    fs::write(&file, text.replace(from, &dir.display().to_string()))?;
    let mut command = Command::new(server::binary());
    run(command.args(["config", "lint", "--file"]).arg(&file).env("HOME", "/nonexistent"))?;
    Ok(())
}

/// The chart renders and lints with every kind of values, its objects are Kubernetes's, its policies
/// select what they shall, wrong values are refused, and its settings are this program's.
#[test]
fn the_chart_renders_to_what_kubernetes_and_this_program_read() -> Result<()> {
    let python = python::environment("helm", HELM, "helm_python, kubernetes_validate, yaml")?;
    let dir = tempfile::tempdir()?;
    let chart = repository("deploy/helm/stacyvm");
    let judge = repository("tests/python/render_chart.py");
    let said = run(Command::new(python).args([&judge, &chart]).arg(dir.path()))?;
    ensure!(said.contains("everything: 10 objects"), "{said}");
    for name in ["server.yaml", "worker.yaml"] {
        let text = fs::read_to_string(dir.path().join(name))?;
        lint(dir.path(), name, &text, "/etc/stacyvm/secrets").context(name)?;
    }
    Ok(())
}

/// The chart cannot reach outside of itself, so it has a copy.
#[test]
fn the_chart_has_the_alerts_of_everybody_else() -> Result<()> {
    let copy = fs::read_to_string(repository("deploy/helm/stacyvm/files/alerts.yml"))?;
    let alerts = fs::read_to_string(repository("deploy/prometheus/alerts.yml"))?;
    ensure!(copy == alerts, "copy deploy/prometheus/alerts.yml to deploy/helm/stacyvm/files");
    Ok(())
}

/// Compose reads its file, every secret that it names is made, and the settings are this program's.
#[test]
fn compose_reads_the_cluster_on_one_host() -> Result<()> {
    let python = python::environment("compose", COMPOSE, "compose.cli.main, yaml")?;
    let dir = tempfile::tempdir()?;
    let place = dir.path().join("deploy/compose");
    fs::create_dir_all(&place)?;
    for name in
        ["compose.yaml", "compose/server.yaml", "compose/worker.yaml", "compose/make-secrets"]
    {
        fs::copy(repository("deploy").join(name), dir.path().join("deploy").join(name))?;
    }
    let make = place.join("make-secrets");
    run(&mut Command::new(&make))?;
    let secrets = place.join("secrets");
    let dsn = fs::read_to_string(secrets.join("dsn"))?;
    let password = fs::read_to_string(secrets.join("postgres_password"))?;
    ensure!(dsn.contains(password.trim()) && 64 <= password.trim().len());
    run(&mut Command::new(&make))?;
    ensure!(fs::read_to_string(secrets.join("dsn"))? == dsn, "secrets that are there stay");

    let file = dir.path().join("deploy/compose.yaml");
    let whole = run(Command::new(python)
        .args(["-m", "compose", "--no-ansi", "-f"])
        .arg(&file)
        .arg("config"))?;
    for name in ["admin_key", "dsn", "postgres_password", "signing_key"] {
        let path = secrets.join(name);
        ensure!(whole.contains(&path.display().to_string()), "{name} is not used:\n{whole}");
        let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{name} has the mode {mode:o}");
    }
    // A worker refuses a directory of another user, and a new volume there has the image's owner.
    let image = fs::read_to_string(repository("deploy/Dockerfile"))?;
    ensure!(image.contains("--owner=65532") && image.contains("VOLUME /var/lib/stacyvm\n"));
    let of_workers = whole.lines().filter(|line| line.contains("/var/lib/stacyvm-worker")).count();
    ensure!(of_workers == 4, "the directory of each worker, and its volume:\n{whole}");
    let published: Vec<_> = whole.lines().filter(|line| line.contains(":7423/tcp")).collect();
    ensure!(published.len() == 2, "{whole}");
    ensure!(published.iter().all(|line| line.contains("127.0.0.1:")), "{published:?}");

    for name in ["server.yaml", "worker.yaml"] {
        let mut text = fs::read_to_string(place.join(name))?;
        for (key, file) in [("signing_key", "signing.key"), ("admin_key", "admin.key")] {
            text = text.replace(&format!("/run/secrets/{key}"), &format!("/run/secrets/{file}"));
        }
        lint(dir.path(), name, &text, "/run/secrets").context(name)?;
    }
    Ok(())
}

/// systemd reads the units, with this binary in the place of the installed one.
#[test]
fn systemd_reads_the_units() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let binary = server::binary().canonicalize()?.display().to_string();
    for name in ["stacyvm", "stacyvm-server", "stacyvm-worker"] {
        let unit = format!("{name}.service");
        let text = fs::read_to_string(repository("deploy/systemd").join(&unit))?;
        ensure!(text.contains("/usr/local/bin/stacyvm "), "{unit} starts the installed binary");
        let file = dir.path().join(&unit);
        fs::write(&file, text.replace("/usr/local/bin/stacyvm", &binary))?;
        let said = run(Command::new("systemd-analyze").arg("verify").arg(&file))?;
        ensure!(said.trim().is_empty(), "{unit}: {said}");
    }
    Ok(())
}
