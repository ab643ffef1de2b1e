//! Where a worker or a control plane takes calls.

use http::{HeaderValue, Uri};

/// The parts of `http://host[:port]` or `https://host[:port]`.
pub(super) struct Address {
    /// A name or an address, without the brackets of IPv6.
    pub(super) host: String,
    pub(super) port: u16,
    /// What the `Host` header says.
    pub(super) authority: HeaderValue,
    /// Whether it is reached through TLS.
    pub(super) is_protected: bool,
}

impl Address {
    /// `None` for what is no such address.
    pub(super) fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let host = uri.host()?;
        let is_protected = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let given = uri.port_u16();
        let named = uri.authority()?.as_str();
        let named = named.rsplit_once('@').map_or(named, |(_, named)| named);
        if given.is_none() && named != host {
            // A port that is none.
            return None;
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Some(Self {
            host: bare.to_owned(),
            port: given.unwrap_or(if is_protected { 443 } else { 80 }),
            authority: HeaderValue::from_str(named).ok()?,
            is_protected,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_usual_port_and_no_brackets() {
        for (url, expected) in [
            ("http://node-7", Some(("node-7", 80, "node-7", false))),
            ("https://node-7.lan/rpc", Some(("node-7.lan", 443, "node-7.lan", true))),
            ("http://10.0.0.7:7424", Some(("10.0.0.7", 7424, "10.0.0.7:7424", false))),
            ("https://[2001:db8::7]", Some(("2001:db8::7", 443, "[2001:db8::7]", true))),
            ("https://[::1]:9", Some(("::1", 9, "[::1]:9", true))),
            ("http://user:word@node", Some(("node", 80, "node", false))),
            ("ftp://node", None),
            ("node:80", None),
            ("/rpc", None),
            ("http://node:65536", None),
            ("http://node:", None),
        ] {
            let found = Address::parse(url);
            let found = found
                .as_ref()
                .map(|a| (a.host.as_str(), a.port, a.authority.to_str().unwrap(), a.is_protected));
            assert_eq!(found, expected, "{url}");
        }
    }
}
