//! The store in SQL: one text per statement for every database, over a thin executor.
//!
//! A store method is a plain synchronous function over an open transaction (`sandboxes`, `leases`,
//! `events`, `templates`, `audit`, `retention`, `idempotency`), with its statements in `sql`. `db` is
//! the executor. An arm decides which thread runs the function and when its transaction commits;
//! `sqlite` is the one for SQLite.
//!
//! It keeps every promise of [`stacyvm_store::Store`]: the contract's suite runs on it, and random
//! histories must agree with the store in memory.

mod audit;
mod db;
mod events;
mod idempotency;
mod invariants;
mod keys;
mod leases;
mod migrations;
mod observe;
mod postgres;
mod quotas;
mod retention;
mod sandboxes;
mod sql;
mod sqlite;
mod templates;
mod workers;

/// All statements with their names, for tests that prepare them on a database.
pub const STATEMENTS: &[(&str, &str)] = sql::ALL;

#[cfg(feature = "callers-clock")]
pub use postgres::LeaseClock;
pub use postgres::{
    DsnError, OpenError as PostgresOpenError, PostgresStore, check as check_postgres,
};
pub use sqlite::{
    CopyError, Existing, OpenError, Report, Restored, SqliteStore, backup, check, restore,
};
