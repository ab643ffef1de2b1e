//! Who may call: credentials, what each may do, whose sandboxes exist for it, and how often it may.
//!
//! Promises:
//! - Nothing but a probe is answered to who shows no valid credential, unless the operator runs the
//!   server without credentials. A server that had one never becomes open while it runs.
//! - What a credential may do follows from the credential, never from what else the request says:
//!   `X-User-ID` counts only where the credential may speak for others.
//! - A worker's credential opens the routes below `/worker/` with its own id, and nothing else; no
//!   key and no server without credentials opens those.
//! - All ways to be wrong look alike from outside, and how often they may be tried is bounded.

mod client;
mod guard;
mod identity;
mod limiter;
mod settings;
mod worker;

use std::{
    fmt,
    net::IpAddr,
    sync::{
        PoisonError, RwLock,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName, header};
use sha2::{Digest as _, Sha256};
use stacyvm_control::{self as control, Control, NotValid};
use stacyvm_types::Role;
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

pub use self::settings::{
    AccessSettings, Authentication, KeyBy, OperatorKeys, RateLimit, RateLimitStatus,
};
pub(crate) use self::{
    guard::{address, enter},
    identity::Identity,
};
use self::{
    identity::Credential,
    limiter::{Hashed, Limiter, Rate, Verdict},
};

/// Wrong credentials that one address may show at once, and how fast that grows back.
const GUESSES: Rate = Rate { every: Duration::from_secs(3), burst: 20 };
const GUESSES_TTL: Duration = Duration::from_secs(60);
/// Refused admin requests of one stranger or of one caller above its rate that are recorded, and
/// those of all together: nobody who may do nothing fills the disk.
const REFUSED: Rate = Rate { every: Duration::from_secs(10), burst: 100 };
const ALL_REFUSED: Rate = Rate { every: Duration::from_secs(1), burst: 1000 };
/// Requests of strangers at one address that the log has a line of each, and those of all together.
const LOGGED: Rate = Rate { every: Duration::from_secs(6), burst: 20 };
const ALL_LOGGED: Rate = Rate { every: Duration::from_secs(1), burst: 60 };
/// What begins so is for workers.
const WORKER_TOKEN: &str = "stacyvm-worker-v1.";

/// The gate of one server.
#[derive(Debug)]
pub struct Access {
    settings: AccessSettings,
    operator: RwLock<Hashes>,
    /// Whether credentials are asked for; set once and never unset.
    closed: AtomicBool,
    guesses: Limiter,
    callers: Limiter,
    /// Refused requests that are recorded.
    refused: Bounded,
    /// Refused requests that are logged.
    logged: Bounded,
}

/// What is written down of each and of all together up to a rate.
#[derive(Debug)]
struct Bounded {
    each: Limiter,
    all: Limiter,
    /// What was not written down, since the last that was.
    passed_over: AtomicU64,
}

impl Bounded {
    fn new(each: Rate, all: Rate) -> Self {
        let limiter = |rate| Limiter::new(rate, GUESSES_TTL, GUESSES_TTL);
        Self { each: limiter(each), all: limiter(all), passed_over: AtomicU64::new(0) }
    }

    /// Whether one more is written down, and how many were not since the last that was.
    fn take(&self, who: Hashed, now: Instant) -> Option<u64> {
        let takes =
            |limiter: &Limiter, who| matches!(limiter.take(who, now), Verdict::Allowed { .. });
        if takes(&self.each, who) && takes(&self.all, Hashed::of("all", "")) {
            return Some(self.passed_over.swap(0, Relaxed));
        }
        self.passed_over.fetch_add(1, Relaxed);
        None
    }
}

/// The operator's keys, hashed so that comparing them takes the same time for all of them.
#[derive(Default, PartialEq, Eq)]
struct Hashes {
    api: Option<[u8; 32]>,
    admin: Option<[u8; 32]>,
}

/// People choose these keys: a hash of one may be worth trying to find what it is of.
impl fmt::Debug for Hashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hashes(hidden)")
    }
}

impl Hashes {
    fn of(keys: &OperatorKeys) -> Self {
        let hash = |key: &Option<String>| key.as_deref().map(|key| Sha256::digest(key).into());
        Self { api: hash(&keys.api), admin: hash(&keys.admin) }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whose key this is. The lesser right wins where both are the same.
    fn find(&self, shown: &str) -> Option<Credential> {
        let shown: [u8; 32] = Sha256::digest(shown).into();
        let is = |known: &Option<[u8; 32]>| known.is_some_and(|known| known.ct_eq(&shown).into());
        let (api, admin) = (is(&self.api), is(&self.admin));
        match (api, admin) {
            (true, _) => Some(Credential::operator("api_key", Role::Api)),
            (false, true) => Some(Credential::operator("admin_key", Role::Admin)),
            (false, false) => None,
        }
    }
}

impl Access {
    /// The gate of a server. `has_keys` says whether its store holds any key, valid or not.
    pub fn new(settings: AccessSettings, keys: &OperatorKeys, has_keys: bool) -> Self {
        let rate = &settings.rate_limit;
        let callers = Limiter::new(rate.rate(), rate.bucket_ttl, rate.cleanup_interval);
        let operator = Hashes::of(keys);
        let closed = match settings.authentication {
            Authentication::Required => true,
            Authentication::Off => false,
            Authentication::Auto => has_keys || !operator.is_empty(),
        };
        Self {
            settings,
            operator: RwLock::new(operator),
            closed: AtomicBool::new(closed),
            guesses: Limiter::new(GUESSES, GUESSES_TTL, GUESSES_TTL),
            callers,
            refused: Bounded::new(REFUSED, ALL_REFUSED),
            logged: Bounded::new(LOGGED, ALL_LOGGED),
        }
    }

    /// A gate that stands open: everybody is the local administrator.
    pub fn open() -> Self {
        Self::new(AccessSettings::default(), &OperatorKeys::default(), false)
    }

    /// Whether no credential is asked for.
    pub fn is_open(&self) -> bool {
        !self.closed.load(SeqCst)
    }

    /// Takes the operator's keys anew, and says whether they are others than before.
    pub fn replace_operator_keys(&self, keys: &OperatorKeys) -> bool {
        let keys = Hashes::of(keys);
        if !keys.is_empty() {
            self.credential_exists();
        }
        let mut known = self.operator.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = *known != keys;
        *known = keys;
        is_new
    }

    /// From now on credentials are asked for, unless the operator said that they never are.
    pub(crate) fn credential_exists(&self) {
        if self.settings.authentication != Authentication::Off {
            self.closed.store(true, SeqCst);
        }
    }

    /// Whether somebody who is not in the store may make keys.
    pub(crate) fn has_operator_admin(&self) -> bool {
        self.operator.read().unwrap_or_else(PoisonError::into_inner).admin.is_some()
    }

    /// Whether one more refused request is recorded, of a known caller or of somebody at an address.
    pub(crate) fn records_refused(
        &self,
        actor: Option<&str>,
        address: Option<IpAddr>,
        now: Instant,
    ) -> bool {
        let who = match actor {
            Some(actor) => Hashed::of("actor", actor),
            None => Hashed::of("stranger", &client::limited_as_any(address)),
        };
        match self.refused.take(who, now) {
            Some(0) => true,
            Some(count) => {
                tracing::warn!(count, "refused admin requests were too many to audit each");
                true
            }
            None => false,
        }
    }

    /// Whether one more request is logged of somebody at this address who showed no valid
    /// credential.
    fn logs_stranger(&self, address: &str, now: Instant) -> bool {
        match self.logged.take(Hashed::of("stranger", address), now) {
            Some(0) => true,
            Some(count) => {
                tracing::warn!(
                    count,
                    "requests without a valid credential were too many to log each"
                );
                true
            }
            None => false,
        }
    }

    /// The rate limit as it is set, and what it has done.
    pub fn rate_limit(&self) -> RateLimitStatus {
        let limit = &self.settings.rate_limit;
        let counts = self.callers.counts();
        RateLimitStatus {
            enabled: limit.is_on(),
            requests_per_minute: limit.requests_per_minute,
            burst: limit.burst(),
            key_by: limit.key_by,
            bucket_ttl: limit.bucket_ttl,
            cleanup_interval: limit.cleanup_interval,
            active_buckets: counts.active,
            allowed_total: counts.allowed,
            limited_total: counts.limited,
            evicted_total: counts.evicted,
        }
    }

    /// Finds the credential behind a text.
    async fn recognise(
        &self,
        control: &Control,
        shown: &str,
    ) -> control::Result<Result<Credential, NotValid>> {
        match self.find_operator(shown) {
            Some(credential) => Ok(Ok(credential)),
            None => Ok(control.recognise(shown).await?.map(Credential::stored)),
        }
    }

    /// As [`Self::recognise`], without a read of the store for each text that is wrong.
    async fn recognise_listed(
        &self,
        control: &Control,
        shown: &str,
    ) -> control::Result<Result<Credential, NotValid>> {
        match self.find_operator(shown) {
            Some(credential) => Ok(Ok(credential)),
            None => Ok(control.recognise_listed(shown).await?.map(Credential::stored)),
        }
    }

    fn find_operator(&self, shown: &str) -> Option<Credential> {
        self.operator.read().unwrap_or_else(PoisonError::into_inner).find(shown)
    }
}

/// The credentials that a request shows, in the order in which they are tried. One that is no text
/// is there and wrong.
fn shown(headers: &HeaderMap) -> Vec<String> {
    let header = |name: HeaderName| {
        let value = headers.get(name)?;
        Some(value.to_str().unwrap_or("\u{fffd}").trim().to_owned())
    };
    let bearer = header(header::AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        let token = token.trim();
        let ours = scheme.eq_ignore_ascii_case("bearer") && !token.starts_with(WORKER_TOKEN);
        ours.then(|| token.to_owned())
    });
    let keys = ["x-admin-api-key", "x-api-key"].map(HeaderName::from_static).map(header);
    keys.into_iter().chain([bearer]).flatten().filter(|text| !text.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn keys(api: Option<&str>, admin: Option<&str>) -> OperatorKeys {
        OperatorKeys { api: api.map(str::to_owned), admin: admin.map(str::to_owned) }
    }

    fn gate(authentication: Authentication, keys: &OperatorKeys, has_keys: bool) -> Access {
        Access::new(AccessSettings { authentication, ..AccessSettings::default() }, keys, has_keys)
    }

    /// R9.1: closed as soon as there is any credential, and open only when there is none.
    #[test]
    fn any_credential_closes_the_gate_and_nothing_opens_it_again() {
        use Authentication::{Auto, Off, Required};
        let (none, api) = (keys(None, None), keys(Some("a"), None));
        assert!(gate(Auto, &none, false).is_open());
        assert!(gate(Off, &none, true).is_open());
        assert!(!gate(Required, &none, false).is_open());
        assert!(!gate(Auto, &none, true).is_open());
        let gate = gate(Auto, &api, false);
        assert!(!gate.is_open());
        assert!(gate.replace_operator_keys(&none));
        assert!(!gate.is_open(), "a key that went away leaves the gate closed");
        let opened = Access::open();
        assert!(opened.replace_operator_keys(&api) && !opened.is_open());
        assert!(!opened.replace_operator_keys(&api), "the same keys are no news");
    }

    /// R2.6: what is recorded of refused requests is bounded, of each caller and of all together.
    #[test]
    fn refused_requests_are_recorded_up_to_a_bound() {
        let (access, now) = (Access::open(), Instant::now());
        let recorded = |from: u32, count: u32, now: Instant| {
            let from = Some(std::net::Ipv4Addr::from_bits(from).into());
            (0..count).filter(|_| access.records_refused(None, from, now)).count()
        };
        assert_eq!(recorded(1, 150, now), 100);
        assert_eq!(recorded(2, 1, now), 1, "one stranger does not hide another");
        let by_key = || access.records_refused(Some("key:ci"), None, now);
        assert_eq!((0..150).filter(|_| by_key()).count(), 100);
        assert_eq!(recorded(1, 5, now + Duration::from_secs(20)), 2);
        let now = now + Duration::from_secs(24 * 3600);
        assert_eq!((0..3000).map(|from| recorded(from, 1, now)).sum::<usize>(), 1000);
    }

    /// Nobody who may do nothing fills the log, and what it left out is counted.
    #[test]
    fn strangers_are_logged_up_to_a_bound() {
        let (access, now) = (Access::open(), Instant::now());
        let logged =
            |count: u32, now| (0..count).filter(|_| access.logs_stranger("192.0.2.1", now)).count();
        assert_eq!(logged(100, now), 20);
        assert_eq!(access.logged.passed_over.load(Relaxed), 80);
        assert_eq!(logged(100, now + Duration::from_secs(60)), 10);
        let now = now + Duration::from_secs(24 * 3600);
        let all = (0..3000).filter(|n| access.logs_stranger(&n.to_string(), now)).count();
        assert_eq!(all, 60);
        assert_eq!(access.logged.passed_over.load(Relaxed), 2940);
    }

    #[test]
    fn each_of_the_operators_keys_has_its_role_and_a_shared_one_the_lesser() {
        let role = |keys: &OperatorKeys, shown: &str| {
            Hashes::of(keys).find(shown).map(|credential| credential.role)
        };
        let both = keys(Some("a"), Some("b"));
        assert_eq!(role(&both, "a"), Some(Role::Api));
        assert_eq!(role(&both, "b"), Some(Role::Admin));
        assert_eq!(role(&both, "ab"), None);
        assert_eq!(role(&keys(Some("x"), Some("x")), "x"), Some(Role::Api));
        assert_eq!(role(&keys(None, None), ""), None);
    }

    #[test]
    fn a_credential_may_come_in_any_of_three_headers() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            shown(&headers)
        };
        let all = [("authorization", "Bearer c"), ("x-api-key", "b"), ("x-admin-api-key", "a")];
        assert_eq!(of(&all), ["a", "b", "c"]);
        assert_eq!(of(&[("authorization", "bearer  c ")]), ["c"]);
        for none in
            [("authorization", "Basic c"), ("authorization", "c"), ("x-api-key", " "), ("x", "y")]
        {
            assert!(of(&[none]).is_empty(), "{none:?}");
        }
        assert!(of(&[("authorization", "Bearer stacyvm-worker-v1.x.y")]).is_empty());
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(shown(&headers).len(), 1, "no text, but a try all the same");
    }
}
