//! What the operator decides about access.

use std::{fmt, time::Duration};

use stacyvm_types::Network;

use super::limiter::Rate;

/// What the operator decides about access.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessSettings {
    /// Whether credentials are asked for.
    pub authentication: Authentication,
    /// Proxies whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<Network>,
    /// How often one caller may call.
    pub rate_limit: RateLimit,
}

/// Whether credentials are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Authentication {
    /// As soon as there is one.
    #[default]
    Auto,
    /// Always: without any, only probes are answered.
    Required,
    /// Never: every caller is the local administrator.
    Off,
}

/// The keys that the operator writes into the settings.
#[derive(Clone, Default)]
pub struct OperatorKeys {
    /// For the operator's own programs: role api, and it speaks for every owner.
    pub api: Option<String>,
    /// For everything.
    pub admin: Option<String>,
}

impl fmt::Debug for OperatorKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorKeys(hidden)")
    }
}

/// What a rate limit counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyBy {
    /// The owner that a request is for; without one the credential; without that the address.
    #[default]
    Owner,
    /// The credential; without one the address.
    ApiKey,
    /// The client's address.
    Ip,
}

impl KeyBy {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::ApiKey => "api_key",
            Self::Ip => "ip",
        }
    }
}

/// How often one caller may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// Whether there is a limit.
    pub enabled: bool,
    /// Requests a minute in the long run; 0 is no limit.
    pub requests_per_minute: u32,
    /// Requests at once; 0 is as many as a minute's.
    pub burst: u32,
    /// What is counted by.
    pub key_by: KeyBy,
    /// How long a caller that stays away is remembered.
    pub bucket_ttl: Duration,
    /// How often it is looked for such callers.
    pub cleanup_interval: Duration,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            enabled: false,
            requests_per_minute: 120,
            burst: 60,
            key_by: KeyBy::Owner,
            bucket_ttl: Duration::from_secs(15 * 60),
            cleanup_interval: Duration::from_secs(60),
        }
    }
}

impl RateLimit {
    /// Whether anything is limited.
    pub fn is_on(&self) -> bool {
        self.enabled && 0 < self.requests_per_minute
    }

    /// Requests at once.
    pub fn burst(&self) -> u32 {
        if self.burst == 0 { self.requests_per_minute } else { self.burst }
    }

    pub(super) fn rate(&self) -> Rate {
        let every = Duration::from_secs(60) / self.requests_per_minute.max(1);
        Rate { every, burst: self.burst() }
    }
}

/// The rate limit as it is set, and what it has done since the server started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitStatus {
    /// Whether anything is limited.
    pub enabled: bool,
    /// Requests a minute in the long run.
    pub requests_per_minute: u32,
    /// Requests at once.
    pub burst: u32,
    /// What is counted by.
    pub key_by: KeyBy,
    /// How long a caller that stays away is remembered.
    pub bucket_ttl: Duration,
    /// How often it is looked for such callers.
    pub cleanup_interval: Duration,
    /// Callers that are remembered now.
    pub active_buckets: usize,
    /// Requests that were let through.
    pub allowed_total: u64,
    /// Requests that were refused.
    pub limited_total: u64,
    /// Callers that were forgotten.
    pub evicted_total: u64,
}
