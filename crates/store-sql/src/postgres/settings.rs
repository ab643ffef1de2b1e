//! What a DSN says: where the database is, as whom, and how the way there is protected.
//!
//! The words of libpq are understood, as a URL or as pairs. No message repeats a part of the DSN
//! but hosts and the name of the database: the rest may be a password that was mistyped.

use std::{
    fmt,
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_postgres::{
    Client, Config, Connection, Socket,
    config::{Host, SslMode, TargetSessionAttrs},
};

use super::{
    LeaseClock,
    session::Failure,
    tls::{self, Check, Encrypted, Files, Tls},
};

/// How long the first answer of a host may take.
const CONNECT: Duration = Duration::from_secs(3);
/// A host that vanished is given up after about this long.
const VANISHED: Duration = Duration::from_secs(15);
/// For so long after the database went away calls wait for its return. After that they try once.
const PATIENCE: Duration = Duration::from_secs(4);

/// Why a DSN cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DsnError {
    /// Not a DSN at all.
    #[error(
        "it is neither postgres://user:password@host:port/database nor host=… dbname=… user=… pairs \
         with words that this version knows"
    )]
    Syntax,
    /// Nowhere to connect to.
    #[error("it names no host")]
    NoHost,
    /// `sslmode` is none of libpq's.
    #[error("its sslmode is none of disable, allow, prefer, require, verify-ca and verify-full")]
    SslMode,
    /// `sslcert` without `sslkey`, or the other way around.
    #[error("it names one of sslcert and sslkey, which go together")]
    HalfIdentity,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How to reach the database, and whether it could be reached lately.
pub(super) struct Settings {
    config: Config,
    tls: Tls,
    pub(super) clock: LeaseClock,
    away_since: Mutex<Option<Instant>>,
}

/// Shows where and never how: there is a password in it.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Settings").field(&self.to_string()).finish()
    }
}

/// The database and its hosts.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.config.get_dbname().or_else(|| self.config.get_user());
        let name = name.unwrap_or("its user's own");
        write!(f, "{name} on ")?;
        let addresses = self.config.get_hostaddrs().iter().map(ToString::to_string);
        let hosts = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(host) => host.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let hosts: Vec<_> =
            if self.config.get_hosts().is_empty() { addresses.collect() } else { hosts.collect() };
        let ports = self.config.get_ports();
        for (index, host) in hosts.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432);
            write!(f, "{separator}{host}:{port}")?;
        }
        Ok(())
    }
}

/// The words of a DSN that the driver does not know.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ssl {
    mode: Option<String>,
    authorities: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Ssl {
    fn place(&mut self, key: &str) -> Option<&mut Option<String>> {
        match key {
            "sslmode" => Some(&mut self.mode),
            "sslrootcert" => Some(&mut self.authorities),
            "sslcert" => Some(&mut self.certificate),
            "sslkey" => Some(&mut self.key),
            _ => None,
        }
    }

    /// What the driver does about TLS, and what of the certificate is checked.
    fn modes(&self) -> Result<(SslMode, Check), DsnError> {
        Ok(match self.mode.as_deref().unwrap_or("prefer") {
            "disable" => (SslMode::Disable, Check::Nothing),
            "allow" | "prefer" => (SslMode::Prefer, Check::Nothing),
            // As in libpq: who names authorities wants them checked.
            "require" if self.authorities.is_some() => (SslMode::Require, Check::Authority),
            "require" => (SslMode::Require, Check::Nothing),
            "verify-ca" => (SslMode::Require, Check::Authority),
            "verify-full" => (SslMode::Require, Check::Full),
            _ => return Err(DsnError::SslMode),
        })
    }

    fn files(self) -> Result<Files, DsnError> {
        let own = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(DsnError::HalfIdentity),
        };
        Ok(Files { authorities: self.authorities.filter(|path| path != "system"), own })
    }
}

impl Settings {
    pub(super) fn parse(dsn: &str) -> Result<Self, DsnError> {
        let (rest, ssl) = match dsn.trim().split_once("://") {
            Some(("postgres" | "postgresql", _)) => split_url(dsn.trim()),
            _ => split_pairs(dsn),
        }
        .ok_or(DsnError::Syntax)?;
        let mut config = Config::from_str(&rest).map_err(|_| DsnError::Syntax)?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(DsnError::NoHost);
        }
        let (mode, check) = ssl.modes()?;
        // What stays on this host needs no TLS, and Postgres speaks none there.
        let is_local = config.get_hostaddrs().is_empty()
            && config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        config.ssl_mode(if is_local { SslMode::Disable } else { mode });
        let tls = Tls::new(check, &ssl.files()?)
            .map_err(|error: tls::Error| DsnError::Tls(error.into()))?;
        if config.get_application_name().is_none() {
            config.application_name("stacyvm");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        config
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .keepalives_idle(VANISHED / 2)
            .keepalives_interval(VANISHED / 6)
            .keepalives_retries(3)
            .tcp_user_timeout(VANISHED);
        Ok(Self { config, tls, clock: LeaseClock::Database, away_since: Mutex::new(None) })
    }

    /// Connects.
    pub(super) async fn connect(&self) -> Result<(Client, Connection<Socket, Encrypted>), Failure> {
        Ok(self.config.connect(self.tls.clone()).await?)
    }

    /// Notes whether the database could be reached.
    pub(super) fn note(&self, reached: bool) {
        let mut away = self.away_since.lock().unwrap_or_else(PoisonError::into_inner);
        match reached {
            true => *away = None,
            false => _ = away.get_or_insert_with(Instant::now),
        }
    }

    /// Until when it makes sense to wait for the database.
    pub(super) fn is_worth_waiting_until(&self) -> Instant {
        let away = *self.away_since.lock().unwrap_or_else(PoisonError::into_inner);
        away.unwrap_or_else(Instant::now) + PATIENCE
    }
}

/// Takes our words out of the query of a URL.
fn split_url(dsn: &str) -> Option<(String, Ssl)> {
    let mut ssl = Ssl::default();
    let Some((start, query)) = dsn.split_once('?') else { return Some((dsn.to_owned(), ssl)) };
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=')?;
        match ssl.place(key) {
            Some(place) => *place = Some(decode(value)?),
            None => rest.push(pair),
        }
    }
    Some((format!("{start}?{}", rest.join("&")), ssl))
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// Takes our words out of `key=value` pairs, where values may be quoted.
fn split_pairs(dsn: &str) -> Option<(String, Ssl)> {
    let mut ssl = Ssl::default();
    let mut rest = String::new();
    let mut chars = dsn.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Some((rest, ssl));
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        chars.next_if_eq(&'=')?;
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let is_quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.peek() {
                Some('\'') if is_quoted => {
                    chars.next();
                    break;
                }
                None if is_quoted => return None,
                None => break,
                Some(c) if c.is_whitespace() && !is_quoted => break,
                Some('\\') => {
                    chars.next();
                    value.push(chars.next()?);
                }
                Some(_) => value.extend(chars.next()),
            }
        }
        match ssl.place(&key) {
            Some(place) => *place = Some(value),
            None => {
                let value = value.replace('\\', "\\\\").replace('\'', "\\'");
                rest.push_str(&format!("{key}='{value}' "));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(dsn: &str) -> (SslMode, Check) {
        let (_, ssl) = if dsn.contains("://") { split_url(dsn) } else { split_pairs(dsn) }.unwrap();
        ssl.modes().unwrap()
    }

    #[test]
    fn the_mode_decides_what_is_demanded_and_checked() {
        for (word, expected) in [
            ("disable", (SslMode::Disable, Check::Nothing)),
            ("allow", (SslMode::Prefer, Check::Nothing)),
            ("prefer", (SslMode::Prefer, Check::Nothing)),
            ("require", (SslMode::Require, Check::Nothing)),
            ("require&sslrootcert=%2Fca.pem", (SslMode::Require, Check::Authority)),
            ("verify-ca", (SslMode::Require, Check::Authority)),
            ("verify-full", (SslMode::Require, Check::Full)),
        ] {
            assert_eq!(mode(&format!("postgres://h/d?sslmode={word}")), expected, "{word}");
        }
        assert_eq!(mode("postgres://h/d"), (SslMode::Prefer, Check::Nothing));
        assert_eq!(mode("host=h sslmode = 'verify-full'"), (SslMode::Require, Check::Full));
    }

    #[test]
    fn our_words_are_taken_out_and_the_rest_is_the_drivers() {
        let (rest, ssl) = split_url(
            "postgres://u:p@h/d?sslmode=verify-ca&connect_timeout=3&sslrootcert=%2Fa%20b",
        )
        .unwrap();
        assert_eq!(rest, "postgres://u:p@h/d?connect_timeout=3");
        assert_eq!(ssl.authorities.as_deref(), Some("/a b"));
        let (rest, ssl) =
            split_pairs(r"host=h password='it\'s \\ a '  sslmode=require dbname = d").unwrap();
        assert_eq!(rest, r"host='h' password='it\'s \\ a ' dbname='d' ");
        assert_eq!(ssl.mode.as_deref(), Some("require"));
        assert!(split_pairs("host='h").is_none());
    }

    #[test]
    fn nothing_of_a_dsn_but_its_hosts_and_database_is_ever_shown() {
        let dsn = "postgres://hunter1:hunter2@db.example:6000,other/stacyvm?options=hunter3";
        let settings = Settings::parse(dsn).unwrap();
        assert_eq!(settings.to_string(), "stacyvm on db.example:6000, other:5432");
        assert!(!format!("{settings:?}").contains("hunter"));
        for bad in [
            "hunter2",
            "postgres://hunter1:hunter2@h/d?hunter3=1",
            "host=h password=hunter2 hunter3=4",
            "postgres://u:hunter2@h:port/d",
            "postgres://u:hunter2@h/d?sslmode=hunter3",
            "postgres://u:hunter2@h/d?sslcert=hunter3",
            "user=hunter1 password=hunter2",
        ] {
            let mut error: Option<&dyn std::error::Error> = None;
            let refused = Settings::parse(bad).unwrap_err();
            error.replace(&refused);
            while let Some(said) = error {
                assert!(!said.to_string().contains("hunter"), "{said}");
                error = said.source();
            }
            assert!(!format!("{refused:?}").contains("hunter"), "{refused:?}");
        }
    }

    #[test]
    fn a_socket_of_this_host_needs_no_tls_whatever_the_mode() {
        let settings =
            Settings::parse("host=/run/postgresql sslmode=verify-full sslrootcert=system");
        assert_eq!(settings.unwrap().config.get_ssl_mode(), SslMode::Disable);
    }
}
