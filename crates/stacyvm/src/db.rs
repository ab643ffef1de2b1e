//! `db`: what the server remembers in. These commands work on the file or the database itself,
//! without a server's help and without disturbing one.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueHint};
use serde_json::{Map, Value, json};
use stacyvm_cli::{
    ExitStatus, Failure, Format, Global, Rows, escape::escape, print_json, print_rows, say,
};
use stacyvm_config::{self as config, Loaded};
use stacyvm_store_sql::{self as store, CopyError, Existing, OpenError, Report};
use stacyvm_types::time::{Clock as _, SystemClock};

use crate::{chain, data_dir, failed, logging, settings};

/// `db`
#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Copy the database to a file, also while the server runs, and check the copy
    Backup(BackupArgs),
    /// Look for damage, and at what does not add up; the exit code is 1 when something is wrong
    Check(CheckArgs),
    /// Put a backup in the place of the database, which is kept beside it; not while a server runs
    Restore(RestoreArgs),
}

/// Where the database is.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The file with the settings, as in `serve`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Where data lives, as in `serve` [env: STACYVM_DATA_DIR]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    data_dir: Option<PathBuf>,
}

/// `db backup`
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The file to make, for its owner only
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Replace the file if there is one
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    place: Place,
}

/// `db check`
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// A backup; otherwise the server's own database
    #[arg(value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// `db restore`
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// What the settings say about where state is kept. Nothing of it need be there.
enum Found {
    /// A file in a directory.
    File { data_dir: PathBuf, database: PathBuf },
    /// A database that is reached with this DSN.
    Postgres { dsn: String },
}

impl Place {
    fn find(&self) -> Result<Found, Failure> {
        let mut sources = settings::sources(self.config.clone());
        sources.flags.extend(self.data_dir.as_deref().map(settings::data_dir_flag));
        let Loaded { config, credentials, .. } = settings::loaded(&sources)?;
        match config.database.driver {
            config::Driver::Memory => Err(failed(
                "database.driver is memory: nothing is kept in a file, so there is nothing to copy",
            )),
            config::Driver::Postgres => {
                Ok(Found::Postgres { dsn: settings::dsn(&credentials)?.to_owned() })
            }
            config::Driver::Sqlite => {
                let data_dir = config.data_dir.map_or_else(data_dir::default, Ok)?;
                let database = data_dir.join(&config.database.path);
                Ok(Found::File { data_dir, database })
            }
        }
    }

    /// The directory and the file in it.
    fn find_file(&self, instead: &str) -> Result<(PathBuf, PathBuf), Failure> {
        match self.find()? {
            Found::File { data_dir, database } => Ok((data_dir, database)),
            Found::Postgres { .. } => Err(Failure::new(
                ExitStatus::REFUSED,
                format!("database.driver is postgres, which has its own tools for this: {instead}"),
            )),
        }
    }
}

/// Runs it.
pub(crate) fn db(global: &Global, command: DbCommand) -> Result<ExitStatus, Failure> {
    logging::errors_only();
    match command {
        DbCommand::Backup(args) => backup(global, &args),
        DbCommand::Check(args) => check(global, &args),
        DbCommand::Restore(args) => restore(global, &args),
    }
}

fn backup(global: &Global, args: &BackupArgs) -> Result<ExitStatus, Failure> {
    let (_, database) = args.place.find_file("use pg_dump --format=custom")?;
    let existing = if args.force { Existing::Replace } else { Existing::Keep };
    let report = store::backup(&database, &args.file, existing).map_err(|e| refused(&e))?;
    show(global, &args.file, &report, [])?;
    Ok(ExitStatus::OK)
}

fn check(global: &Global, args: &CheckArgs) -> Result<ExitStatus, Failure> {
    let found = match &args.file {
        Some(file) => Found::File { data_dir: PathBuf::new(), database: file.clone() },
        None => args.place.find()?,
    };
    let report = match found {
        Found::File { database, .. } => {
            let report = store::check(&database).map_err(|e| failed(chain(&e)))?;
            show(global, &database, &report, [])?;
            report
        }
        Found::Postgres { dsn } => {
            let (place, report) = store::check_postgres(&dsn).map_err(|e| failed(chain(&e)))?;
            show_of(global, "database", &place, &report, [])?;
            report
        }
    };
    match report.problems.len() {
        0 => Ok(ExitStatus::OK),
        count => Err(failed(format!("db check found {count} problem(s)"))),
    }
}

fn restore(global: &Global, args: &RestoreArgs) -> Result<ExitStatus, Failure> {
    let instead = "stop every server and use pg_restore into an empty database";
    let (data_dir, database) = args.place.find_file(instead)?;
    // Before the directory is made for it.
    store::check(&args.file).map_err(|e| failed(chain(&e)))?;
    let data_dir = data_dir::prepare(&data_dir)?;
    let _lock = data_dir::lock(&data_dir)?;
    let now = SystemClock.now();
    let restored = store::restore(&args.file, &database, now).map_err(|e| refused(&e))?;
    let replaced = restored.replaced.as_ref().map(|path| path.display().to_string());
    if global.output == Format::Table
        && let Some(replaced) = &replaced
    {
        say(&escape(&format!("the database that was there is kept as {replaced}")));
    }
    show(global, &database, &restored.report, [("replaced", json!(replaced))])?;
    Ok(ExitStatus::OK)
}

fn refused(error: &CopyError) -> Failure {
    let status = match error {
        CopyError::Exists(_) | CopyError::Own(_) | CopyError::Open(OpenError::InUse(_)) => {
            ExitStatus::REFUSED
        }
        CopyError::Open(_) | CopyError::File { .. } | CopyError::Damaged { .. } => {
            ExitStatus::FAILED
        }
    };
    Failure::new(status, chain(error))
}

/// Says what a file holds.
fn show<const N: usize>(
    global: &Global,
    file: &Path,
    report: &Report,
    more: [(&str, Value); N],
) -> Result<(), Failure> {
    show_of(global, "file", &file.display().to_string(), report, more)
}

/// Says what a database holds, which is a file or something else.
fn show_of<const N: usize>(
    global: &Global,
    kind: &str,
    place: &str,
    report: &Report,
    more: [(&str, Value); N],
) -> Result<(), Failure> {
    if global.output == Format::Json {
        let rows: Map<String, Value> =
            report.rows.iter().map(|(table, count)| (table.clone(), json!(count))).collect();
        let mut shown = json!({
            kind: place,
            "size_bytes": report.size_bytes,
            "schema": report.schema,
            "rows": rows,
            "problems": report.problems,
        });
        for (key, value) in more {
            shown[key] = value;
        }
        return print_json(shown.to_string().as_bytes());
    }
    let mut rows = Rows::new(&[]);
    rows.push([kind, place]);
    rows.push(["size", &format!("{} bytes", report.size_bytes)]);
    rows.push(["schema", &report.schema.to_string()]);
    for (table, count) in &report.rows {
        rows.push([&format!("rows of {table}"), &count.to_string()]);
    }
    for problem in &report.problems {
        rows.push(["problem", problem]);
    }
    if report.problems.is_empty() {
        rows.push(["problems", "none"]);
    }
    print_rows(&rows)
}
