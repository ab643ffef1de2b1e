//! The scrape as Prometheus sees it, and what is shipped to read it: the dashboard and the alerts
//! name only series that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use libtest_mimic::{Arguments, Trial};
use stacyvm_api::{ApiConfig, router};
use stacyvm_control::{Control, Parts, Settings, SpawnRequest};
use stacyvm_fleet::{Fleet, Worker};
use stacyvm_provider::{Provider, mock::MockProvider};
use stacyvm_store_sql::SqliteStore;
use stacyvm_types::{Operation, WorkerId, time::SystemClock};
use stacyvm_worker::LocalWorker;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

fn main() {
    let arguments = Arguments::from_args();
    let missing = Command::new("promtool").arg("--version").output().is_err();
    let with_promtool = |name: &str, test: fn() -> Result<()>| {
        let name = if missing { format!("{name} (no promtool here)") } else { name.to_owned() };
        trial(&name, test).with_ignored_flag(missing)
    };
    let trials = vec![
        with_promtool("promtool_finds_fault_with_older_names_only", only_older_names),
        with_promtool("promtool_accepts_the_alerts", promtool_accepts_the_alerts),
        trial("the_dashboard_names_only_series_that_exist", dashboard),
        trial("the_alerts_name_only_series_that_exist", alerts),
        trial("every_family_is_in_the_guide", guide),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(name: &str, test: fn() -> Result<()>) -> Trial {
    Trial::test(name, move || test().map_err(|error| format!("{error:?}").into()))
}

fn repository(path: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The scrape of a server on which every operation succeeded once and failed once.
fn scrape() -> Result<String> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let dir = tempfile::tempdir()?;
        let clock = Arc::new(SystemClock);
        let mock: Arc<dyn Provider> = Arc::new(MockProvider::open(&dir.path().join("mock"))?);
        let id = WorkerId::parse("local")?;
        let journal = dir.path().join("worker");
        let worker = LocalWorker::new(id.clone(), [mock], "mock", &journal, clock.clone())?;
        let control = Control::new(Parts {
            store: Arc::new(SqliteStore::open(dir.path().join("stacyvm.db"))?),
            fleet: Fleet::new([Arc::new(worker) as Arc<dyn Worker>]),
            dial: None,
            clock,
            settings: Settings::new(id, "mock"),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        });
        control.start_jobs();
        control.spawn(SpawnRequest::default()).await?;
        for operation in Operation::ALL {
            let took = Duration::from_millis(3);
            control.operations().record(*operation, "mock", took, None);
            control.operations().record(
                *operation,
                "mock",
                took,
                Some(&stacyvm_control::Error::DiskFull),
            );
        }
        let router = router(control, ApiConfig::default());
        let get = |path: &str| {
            let request = Request::get(path).header("host", "localhost").body(Body::empty());
            let router = router.clone();
            async move { anyhow::Ok(router.oneshot(request?).await?) }
        };
        for path in ["/api/v1/sandboxes", "/api/v1/sandboxes/nothing"] {
            get(path).await?;
        }
        let reply = get("/api/v1/metrics/prometheus").await?;
        ensure!(reply.status() == 200, "{}", reply.status());
        Ok(String::from_utf8(reply.into_body().collect().await?.to_bytes().to_vec())?)
    })
}

fn promtool(arguments: &[&str], input: &str) -> Result<Output> {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("a pipe")?.write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?)
}

/// R2.4: what promtool says is on the list of older names, and all of the list is needed.
fn only_older_names() -> Result<()> {
    let output = promtool(&["check", "metrics"], &scrape()?)?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let said: BTreeSet<_> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let allowed = repository("deploy/prometheus/lint-allow.txt")?;
    let allowed: BTreeSet<_> =
        allowed.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let more: Vec<_> = said.difference(&allowed).collect();
    ensure!(more.is_empty(), "promtool also says: {more:#?}");
    let fewer: Vec<_> = allowed.difference(&said).collect();
    ensure!(fewer.is_empty(), "the list allows what promtool does not say: {fewer:#?}");
    Ok(())
}

/// R2.4: the alerts are rules that Prometheus loads.
fn promtool_accepts_the_alerts() -> Result<()> {
    let rules: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "../deploy/prometheus/alerts.yml"].iter().collect();
    let output = promtool(&["check", "rules", &rules.display().to_string()], "")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Every series of a scrape with the labels that it has, and every family, which people speak of.
fn series(scrape: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut all: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for family in scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        all.insert(family.split(' ').next().unwrap_or_default(), BTreeSet::new());
    }
    for line in scrape.lines().filter(|line| !line.starts_with('#')) {
        let series = line.rsplit_once(' ').map_or(line, |(series, _)| series);
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        all.entry(name).or_default().extend(label_names(labels));
    }
    all
}

/// The names before `=` outside of quotes.
fn label_names(labels: &str) -> impl Iterator<Item = &str> {
    let outside = labels.split('"').step_by(2);
    outside.filter_map(|part| {
        let name = part.trim_start_matches([',', '}', ' ']).split(['=', '!']).next()?.trim();
        Some(name).filter(|name| !name.is_empty() && !name.contains(['}', ')']))
    })
}

/// Our series in an expression, with the labels that it matches on.
fn named(text: &str) -> Vec<(&str, Vec<&str>)> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for prefix in ["stacyvm_", "process_"] {
        for (at, _) in text.match_indices(prefix) {
            if text[..at].ends_with(word) {
                continue;
            }
            let rest = &text[at..];
            let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
            let labels = rest[end..].strip_prefix('{').and_then(|rest| rest.split('}').next());
            found.push((&rest[..end], labels.into_iter().flat_map(label_names).collect()));
        }
    }
    found
}

fn all_exist(text: &str, at_least: usize) -> Result<()> {
    let scrape = scrape()?;
    let series = series(&scrape);
    let named = named(text);
    ensure!(at_least <= named.len(), "only {} series are named", named.len());
    for (name, labels) in named {
        let known = series.get(name).with_context(|| format!("{name} is not exported"))?;
        for label in labels {
            // These are Prometheus's own.
            let known = ["instance", "job"].contains(&label) || known.contains(label);
            ensure!(known, "{name} has no label {label}");
        }
    }
    Ok(())
}

/// R2.4: a panel over a series that does not exist would stay empty for ever.
fn dashboard() -> Result<()> {
    let text = repository("deploy/grafana/stacyvm.json")?;
    let board: serde_json::Value = serde_json::from_str(&text)?;
    let panels = board["panels"].as_array().context("panels")?;
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions: Vec<_> = targets.filter_map(|target| target["expr"].as_str()).collect();
    ensure!(expressions.iter().all(|text| !named(text).is_empty()), "an empty expression");
    let query = board["templating"]["list"][1]["query"]["query"].as_str().context("a query")?;
    all_exist(&[&expressions[..], &[query]].concat().join("\n"), 40)
}

/// R2.4: an alert over a series that does not exist would never fire.
fn alerts() -> Result<()> {
    all_exist(&repository("deploy/prometheus/alerts.yml")?, 14)
}

/// R2.4: each family stands in the guide's table with its type.
fn guide() -> Result<()> {
    let (scrape, guide) = (scrape()?, repository("docs/howto/observe.md")?);
    for line in scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').context("a type")?;
        let row = format!("| `{name}` | {kind} |");
        ensure!(guide.contains(&row), "docs/howto/observe.md lacks: {row}");
    }
    Ok(())
}
