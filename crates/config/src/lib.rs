//! The operator's settings: which keys there are, where their values come from, and whether they
//! can be right.
//!
//! Promises:
//! - Later sources win: defaults, the file, the environment, flags. Each value knows its source.
//! - All problems are reported at once, each with its place, its key and what would be right.
//! - A key that this version cannot honour is refused when it asks for something, never ignored in
//!   silence.
//! - No text that may be a secret is ever part of a message.
//! - Nothing here reads the environment or changes anything: the caller hands in what there is,
//!   and [`load`] reads one file, and those of the secrets that it names.

mod config;
mod credentials;
mod database;
mod file;
mod keys;
mod later;
mod lint;
mod load;
mod names;
mod problem;
mod reference;
mod schema;
mod secret;
mod suggest;
mod telemetry;
mod values;
mod worker;
mod worker_credentials;
mod yaml;

pub use config::{
    Auth, Config, Database, Defaults, Logging, Mock, Providers, RateLimit, Retention, RpcTls,
    Server, Telemetry, Worker,
};
pub use credentials::Credentials;
pub use database::Dsn;
pub use file::choose;
pub use keys::{Effect, Key, keys};
pub use lint::{Check, Verdict, lint};
pub use load::{Loaded, Refused, Sources, Written, load};
pub use names::{Domain, HostName, Image, LogFilter, Origin, Proxy};
pub use problem::{Problem, Source};
pub use reference::reference;
pub use schema::schema;
pub use secret::{Raw, Secret};
pub use telemetry::{Collector, Headers, Share};
pub use values::{
    Asked, Driver, Host, KeyBy, LogFormat, Number, Overflow, Password, Provider, Span, Term,
};
pub use worker::{
    ControlPlane, Heartbeat, NameTemplate, Passwords, RpcAddress, TokenId, WorkerName, WorkerTokens,
};
pub use worker_credentials::WorkerCredentials;
