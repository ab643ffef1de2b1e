//! Which names and which pages may call: pure rules against DNS rebinding and drive-by requests.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, Method, header};
use stacyvm_api_types::Code;

use crate::problem::{Problem, Result, echo};

/// A host name with its port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Authority {
    name: String,
    port: Option<u16>,
}

impl Authority {
    fn parse(text: &str) -> Option<Self> {
        let split = if text.starts_with('[') {
            let end = text.find(']')? + 1;
            text.split_at(end)
        } else {
            text.split_at(text.find(':').unwrap_or(text.len()))
        };
        let (name, rest) = split;
        let port = match rest.strip_prefix(':') {
            Some("") => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            Some(_) => return None,
            None if rest.is_empty() => None,
            None => return None,
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let bracketed = name.starts_with('[');
        let plain = !name.is_empty() && name.bytes().all(known);
        (bracketed || plain).then_some(Self { name, port })
    }

    fn is_loopback(&self) -> bool {
        let v6 = self.name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match v6 {
            Some(inner) => inner.parse() == Ok(Ipv6Addr::LOCALHOST),
            None => {
                self.name == "localhost"
                    || self.name.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback())
            }
        }
    }

    fn matches(&self, configured: &str) -> bool {
        Self::parse(configured).is_some_and(|wanted| {
            wanted.name == self.name && (wanted.port.is_none() || wanted.port == self.port)
        })
    }
}

/// Checks the name by which the server was called. A page that rebinds its own name to this
/// address still sends its own name.
pub(crate) fn check_host(
    headers: &HeaderMap,
    target: Option<&str>,
    allowed: &[String],
) -> Result<()> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Problem::bad_request("exactly one Host header is required"));
    };
    let host = host.to_str().unwrap_or_default();
    for name in [Some(host), target].into_iter().flatten() {
        let ok = Authority::parse(name).is_some_and(|authority| {
            authority.is_loopback() || allowed.iter().any(|wanted| authority.matches(wanted))
        });
        if !ok {
            let message = format!(
                "host {:?} is not allowed; call the server by localhost, or start it with \
                 --allow-host",
                echo(name)
            );
            return Err(Problem::new(Code::Forbidden, message));
        }
    }
    Ok(())
}

/// Checks where a browser says the request comes from. Returns the origin if there is one.
pub(crate) fn check_origin<'h>(
    headers: &'h HeaderMap,
    allowed: &[String],
) -> Result<Option<&'h str>> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin = origins.next();
    if let Some(origin) = origin {
        let text = origin.to_str().unwrap_or_default();
        let host =
            headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let known = is_same_host(text, host) || is_configured(text, allowed);
        if origins.next().is_none() && known {
            return Ok(Some(text));
        }
        let message = format!("origin {:?} is not allowed", echo(text));
        return Err(Problem::new(Code::Forbidden, message));
    }
    // Images, scripts and navigations come without an origin, but not without this.
    let foreign = headers
        .get_all("sec-fetch-site")
        .iter()
        .any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"));
    if foreign {
        return Err(Problem::new(Code::Forbidden, "requests from other sites are not allowed"));
    }
    Ok(None)
}

fn is_same_host(origin: &str, host: &str) -> bool {
    let (default_port, rest) = match origin.split_once("://") {
        Some(("http", rest)) => (80, rest),
        Some(("https", rest)) => (443, rest),
        _ => return false,
    };
    let (Some(origin), Some(host)) = (Authority::parse(rest), Authority::parse(host)) else {
        return false;
    };
    origin.name == host.name
        && origin.port.unwrap_or(default_port) == host.port.unwrap_or(default_port)
}

fn is_configured(origin: &str, allowed: &[String]) -> bool {
    let wanted = |entry: &String| entry.trim_end_matches('/').eq_ignore_ascii_case(origin);
    origin != "null" && allowed.iter().any(wanted)
}

/// With an origin, a body must be of a type that a page cannot send without asking first.
pub(crate) fn check_body_type(method: &Method, headers: &HeaderMap) -> Result<()> {
    let empty = headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
    if empty && !headers.contains_key(header::TRANSFER_ENCODING) {
        return Ok(());
    }
    match (content_type(headers).as_deref(), method) {
        (Some("application/json"), _)
        | (Some("application/octet-stream" | "application/x-tar"), &Method::PUT) => Ok(()),
        _ => Err(Problem::new(
            Code::UnsupportedMediaType,
            "a body that comes with an Origin must be application/json, or on uploads \
             application/octet-stream or application/x-tar",
        )),
    }
}

/// The content type in lower case, without its parameters.
pub(crate) fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().unwrap_or("?");
    let essence = value.split(';').next().unwrap_or_default();
    Some(essence.trim().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn with(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_rebound_name_is_not_a_loopback_name() {
        let allowed = ["box.lan".to_owned(), "api.example:8443".to_owned()];
        for good in [
            "localhost",
            "localhost:7423",
            "LOCALHOST:1",
            "localhost.",
            "127.0.0.1:7423",
            "127.9.9.9",
            "[::1]:7423",
            "[::1]",
            "box.lan",
            "Box.LAN:99",
            "api.example:8443",
        ] {
            assert!(check_host(&with(&[("host", good)]), None, &allowed).is_ok(), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:7423",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "0.0.0.0:7423",
            "10.0.0.1",
            "[::]",
            "[::ffff:127.0.0.1]",
            "api.example",
            "api.example:1",
            "3000-sb-00000000000000000000.localhost:7423",
            "localhost:7423@evil",
            "localhost:x",
            "user@localhost",
            "localhost/evil",
            "2130706433",
            "127.1",
        ] {
            assert!(check_host(&with(&[("host", bad)]), None, &allowed).is_err(), "{bad}");
        }
        assert!(check_host(&with(&[]), None, &allowed).is_err());
        let two = with(&[("host", "localhost"), ("host", "localhost")]);
        assert!(check_host(&two, None, &allowed).is_err());
        let one = with(&[("host", "localhost")]);
        assert!(check_host(&one, Some("evil.example"), &allowed).is_err());
    }

    #[test]
    fn only_pages_of_this_very_server_or_configured_ones_may_call() {
        let allowed = ["https://dash.example/".to_owned()];
        let ask = |origin: &str, host: &str| {
            check_origin(&with(&[("host", host), ("origin", origin)]), &allowed).is_ok()
        };
        assert!(ask("http://localhost:7423", "localhost:7423"));
        assert!(ask("http://localhost", "localhost:80"));
        assert!(ask("https://box.lan", "box.lan"));
        assert!(ask("https://dash.example", "localhost:7423"));
        for bad in [
            "http://evil.example",
            "null",
            "",
            "http://localhost:3000",
            "http://localhost",
            "http://127.0.0.1:7423",
            "file://localhost:7423",
            "localhost:7423",
            "http://localhost:7423.evil.example",
            "https://dash.example.evil.example",
            "http://3000-sb-00000000000000000000.localhost:7423",
        ] {
            assert!(!ask(bad, "localhost:7423"), "{bad}");
        }
        for site in ["cross-site", "same-site", "?"] {
            let headers = with(&[("host", "localhost"), ("sec-fetch-site", site)]);
            assert!(check_origin(&headers, &allowed).is_err(), "{site}");
        }
    }
}
