//! What a worker says of itself to its control plane, and what it hears.
//!
//! The first fields are those of the older implementation; a heartbeat of an older worker has no
//! others.

use serde::{Deserialize, Serialize};
use stacyvm_types::{Beat, Offer, Resources, WorkerId};

use crate::MOST_IMAGES;

/// Texts of a heartbeat are at most this long, in bytes.
const LONGEST: usize = 255;
/// Providers, and capabilities of one, at most.
const MOST_PROVIDERS: usize = 32;
const MOST_CAPABILITIES: usize = 64;

/// The body of a heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Heartbeat {
    /// The host that it runs on.
    pub hostname: String,
    /// `online`, or `draining` when it takes nothing new. Empty is `online`.
    pub status: String,
    /// The names of its providers.
    pub providers: Vec<String>,
    /// What the worker can do.
    pub capabilities: Vec<String>,
    /// What it can hold, and where it takes calls.
    pub capacity: Capacity,
    /// The random word of its data directory; an older worker has none, and its name stands for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The version of its program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its providers; an older worker says their names only, and each counts as ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offers: Option<Vec<OfferEntry>>,
}

/// What a worker can hold; 0 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capacity {
    /// Sandboxes.
    pub max_sandboxes: u64,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// Virtual CPUs.
    pub vcpus: u64,
    /// Where it takes calls; empty is nowhere.
    pub rpc_url: String,
}

/// One provider of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferEntry {
    /// Its name.
    pub provider: String,
    /// Whether it is the worker's default.
    #[serde(default)]
    pub default: bool,
    /// Whether it can run there now.
    #[serde(default)]
    pub ready: bool,
    /// What it can do there.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Images that are there.
    #[serde(default)]
    pub images: Vec<String>,
}

/// What the control plane answers; the rest of the answer is the worker as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// Whether the operator wants nothing new on the worker.
    #[serde(default)]
    pub drain: bool,
    /// How long its lease holds from now, in the way of Go; none is without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_expires_in: Option<String>,
}

impl Heartbeat {
    /// What this worker says.
    pub fn of(beat: &Beat) -> Self {
        let entry = |offer: &Offer| OfferEntry {
            provider: offer.provider.clone(),
            default: offer.default,
            ready: offer.ready,
            capabilities: offer.capabilities.iter().cloned().collect(),
            images: offer.images.iter().take(MOST_IMAGES).cloned().collect(),
        };
        Self {
            hostname: beat.hostname.clone(),
            status: if beat.draining { "draining" } else { "online" }.to_owned(),
            providers: beat.offers.iter().map(|offer| offer.provider.clone()).collect(),
            capabilities: ["remote_worker", "heartbeat"].map(str::to_owned).into(),
            capacity: Capacity {
                max_sandboxes: beat.capacity.sandboxes,
                memory_mb: beat.capacity.memory_mb,
                vcpus: beat.capacity.vcpus,
                rpc_url: beat.url.clone().unwrap_or_default(),
            },
            instance: Some(beat.instance.clone()),
            version: Some(beat.version.clone()),
            offers: Some(beat.offers.iter().map(entry).collect()),
        }
    }

    /// What it means, when the worker `id` says it. The error is a sentence for its operator.
    pub fn read(self, id: WorkerId) -> Result<Beat, String> {
        let draining = match self.status.as_str() {
            "" | "online" => false,
            "draining" => true,
            _ => return Err("status is online or draining".to_owned()),
        };
        let instance = self.instance.unwrap_or_else(|| id.to_string());
        let version = self.version.unwrap_or_default();
        let url = Some(self.capacity.rpc_url).filter(|url| !url.is_empty());
        for (name, text) in [
            ("hostname", &self.hostname),
            ("instance", &instance),
            ("version", &version),
            ("capacity.rpc_url", url.as_ref().unwrap_or(&version)),
        ] {
            check(name, text)?;
        }
        if instance.is_empty() {
            return Err("instance must not be empty".to_owned());
        }
        if let Some(url) = &url
            && !is_address(url)
        {
            return Err("capacity.rpc_url is not http://host:port or https://host:port".to_owned());
        }
        if MOST_PROVIDERS < self.providers.len() || MOST_CAPABILITIES < self.capabilities.len() {
            return Err(format!(
                "a worker names at most {MOST_PROVIDERS} providers and {MOST_CAPABILITIES} \
                 capabilities"
            ));
        }
        for name in &self.providers {
            check_name(name)?;
        }
        self.capabilities.iter().try_for_each(|text| check("a capability", text))?;
        let offers = match self.offers {
            Some(offers) => offers,
            None => self.providers.into_iter().map(OfferEntry::ready).collect(),
        };
        if MOST_PROVIDERS < offers.len() {
            return Err(format!("a worker has at most {MOST_PROVIDERS} providers"));
        }
        let mut offers = offers.into_iter().map(OfferEntry::read).collect::<Result<Vec<_>, _>>()?;
        offers.sort_by(|a, b| a.provider.cmp(&b.provider));
        if !offers.is_sorted_by(|a, b| a.provider < b.provider) {
            return Err("a provider is named twice".to_owned());
        }
        let Capacity { max_sandboxes, memory_mb, vcpus, .. } = self.capacity;
        Ok(Beat {
            id,
            instance,
            hostname: self.hostname,
            version,
            url,
            draining,
            offers,
            capacity: Resources { sandboxes: max_sandboxes, memory_mb, vcpus },
        })
    }
}

impl OfferEntry {
    fn ready(provider: String) -> Self {
        let (capabilities, images) = (Vec::new(), Vec::new());
        Self { provider, default: false, ready: true, capabilities, images }
    }

    fn read(self) -> Result<Offer, String> {
        let Self { provider, default, ready, capabilities, images } = self;
        check_name(&provider)?;
        if MOST_CAPABILITIES < capabilities.len() || MOST_IMAGES < images.len() {
            return Err(format!("provider {provider} names too much"));
        }
        capabilities.iter().try_for_each(|text| check("a capability", text))?;
        images.iter().try_for_each(|text| check("an image", text))?;
        let (capabilities, images) =
            (capabilities.into_iter().collect(), images.into_iter().collect());
        Ok(Offer { provider, default, ready, capabilities, images })
    }
}

fn check_name(provider: &str) -> Result<(), String> {
    if provider.is_empty() {
        return Err("a provider without a name".to_owned());
    }
    check("the name of a provider", provider)
}

fn check(name: &str, text: &str) -> Result<(), String> {
    if LONGEST < text.len() || text.chars().any(char::is_control) {
        return Err(format!("{name} is longer than {LONGEST} bytes or has control characters"));
    }
    Ok(())
}

fn is_address(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.path() == "/"
        && uri.query().is_none()
        && !uri.authority().is_some_and(|authority| authority.as_str().contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> WorkerId {
        WorkerId::parse("w1").unwrap()
    }

    fn beat() -> Beat {
        Beat {
            id: id(),
            instance: "a".to_owned(),
            hostname: "host".to_owned(),
            version: "1.0".to_owned(),
            url: Some("https://10.0.0.7:7424".to_owned()),
            draining: true,
            offers: vec![Offer {
                provider: "native".to_owned(),
                default: true,
                ready: false,
                capabilities: ["exec".to_owned()].into(),
                images: ["host".to_owned()].into(),
            }],
            capacity: Resources { sandboxes: 1, memory_mb: 2, vcpus: 3 },
        }
    }

    #[test]
    fn what_is_said_is_what_is_heard() {
        let text = serde_json::to_string(&Heartbeat::of(&beat())).unwrap();
        let heard: Heartbeat = serde_json::from_str(&text).unwrap();
        assert_eq!(heard.read(id()), Ok(beat()));
    }

    /// R5.3: the body of the older implementation.
    #[test]
    fn an_older_worker_is_understood() {
        let text = r#"{"hostname":"h","status":"online","providers":["mock","docker"],
            "capabilities":["remote_worker"],"capacity":{"max_sandboxes":5,
            "max_sandboxes_per_owner":2,"preview_domain":"x","rpc_url":"http://h:1"},"more":1}"#;
        let beat = serde_json::from_str::<Heartbeat>(text).unwrap().read(id()).unwrap();
        assert_eq!((beat.instance.as_str(), beat.capacity.sandboxes), ("w1", 5));
        assert_eq!(beat.url.as_deref(), Some("http://h:1"));
        let offers: Vec<_> = beat.offers.iter().map(|o| (o.provider.as_str(), o.ready)).collect();
        assert_eq!(offers, [("docker", true), ("mock", true)]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_sentence() {
        let good = Heartbeat::of(&beat());
        let with_url = |url: &str| Heartbeat {
            capacity: Capacity { rpc_url: url.to_owned(), ..good.capacity.clone() },
            ..good.clone()
        };
        for bad in [
            Heartbeat { status: "asleep".to_owned(), ..good.clone() },
            Heartbeat { hostname: "h".repeat(300), ..good.clone() },
            Heartbeat { hostname: "a\nb".to_owned(), ..good.clone() },
            Heartbeat { instance: Some(String::new()), ..good.clone() },
            Heartbeat { offers: Some(vec![OfferEntry::ready("x".to_owned()); 33]), ..good.clone() },
            Heartbeat { offers: Some(vec![OfferEntry::ready(String::new())]), ..good.clone() },
            Heartbeat { offers: Some(vec![OfferEntry::ready("x".to_owned()); 2]), ..good.clone() },
            with_url("file:///etc/passwd"),
            with_url("http://user@host:1"),
            with_url("http://host:1/path"),
            with_url("nonsense"),
        ] {
            assert!(bad.clone().read(id()).is_err(), "{bad:?}");
        }
    }
}
