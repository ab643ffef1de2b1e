//! Where the server is, and how paths and queries are written into its addresses.

use std::fmt::{self, Write as _};

/// A server's address: `http://HOST[:PORT][/PREFIX]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    authority: http::uri::Authority,
    prefix: String,
}

/// Why a text is not a server's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidServer {
    /// `https` and other schemes.
    #[error("only http:// addresses are spoken; put a TLS proxy in front of a remote server")]
    Scheme,
    /// User names and passwords in the address.
    #[error("an address cannot hold credentials; give the key with --api-key")]
    Credentials,
    /// Anything else.
    #[error("a server address looks like http://localhost:7423")]
    Syntax,
}

impl Server {
    /// Where a server listens unless it is told otherwise.
    pub const DEFAULT: &'static str = "http://localhost:7423";

    /// Parses an address. A missing scheme is `http`, a missing port 80.
    pub fn parse(text: &str) -> Result<Self, InvalidServer> {
        let rest = match text.trim().split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(InvalidServer::Scheme),
            None => text.trim(),
        };
        let (authority, prefix) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(InvalidServer::Credentials);
        }
        let authority: http::uri::Authority =
            authority.parse().map_err(|_| InvalidServer::Syntax)?;
        let prefix = prefix.trim_end_matches('/');
        let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
        let port_is_bad = !port.is_empty()
            && port.strip_prefix(':').is_none_or(|digits| digits.parse::<u16>().is_err());
        if authority.host().is_empty() || port_is_bad || prefix.contains(['?', '#']) {
            return Err(InvalidServer::Syntax);
        }
        http::uri::PathAndQuery::try_from(format!("{prefix}/"))
            .map_err(|_| InvalidServer::Syntax)?;
        Ok(Self { authority, prefix: prefix.to_owned() })
    }

    /// The `host:port` to connect to.
    pub(crate) fn socket_address(&self) -> (String, u16) {
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        (host.to_owned(), self.authority.port_u16().unwrap_or(80))
    }

    pub(crate) fn uri(&self, scheme: &str, target: &Target) -> Result<http::Uri, http::Error> {
        http::Uri::builder()
            .scheme(scheme)
            .authority(self.authority.clone())
            .path_and_query(format!("{}/api/v1{}", self.prefix, target.text))
            .build()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.prefix)
    }
}

/// A path below `/api/v1` with its query. Everything variable is percent-encoded on its way in,
/// so that no id, name or file path can change which route is asked.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    text: String,
    has_query: bool,
}

impl Target {
    pub(crate) fn new(fixed: &'static str) -> Self {
        Self { text: fixed.to_owned(), has_query: false }
    }

    /// Adds one path segment.
    pub(crate) fn segment(mut self, segment: &str) -> Self {
        self.text.push('/');
        // A segment of dots would be resolved away by anything that normalises paths.
        if segment.chars().all(|c| c == '.') {
            self.text.push_str(&segment.replace('.', "%2E"));
        } else {
            encode(&mut self.text, segment);
        }
        self
    }

    /// Adds several path segments, keeping the slashes between them.
    pub(crate) fn segments(self, path: &str) -> Self {
        path.split('/').fold(self, Self::segment)
    }

    pub(crate) fn query(mut self, key: &str, value: &str) -> Self {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        encode(&mut self.text, key);
        self.text.push('=');
        encode(&mut self.text, value);
        self
    }
}

fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, shown, host, port) in [
            ("http://localhost:7423", "http://localhost:7423", "localhost", 7423),
            ("http://localhost:7423/", "http://localhost:7423", "localhost", 7423),
            ("box:80", "http://box:80", "box", 80),
            ("http://[::1]:9", "http://[::1]:9", "::1", 9),
            ("HTTP://h/base/", "http://h/base", "h", 80),
        ] {
            let server = Server::parse(text).unwrap();
            assert_eq!(server.to_string(), shown);
            assert_eq!(server.socket_address(), (host.to_owned(), port));
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_a_reason() {
        use InvalidServer::{Credentials, Scheme, Syntax};
        for (text, why) in [
            ("https://x", Scheme),
            ("ftp://x", Scheme),
            ("http://a:b@c", Credentials),
            ("", Syntax),
            ("http://", Syntax),
            ("http://x:99999", Syntax),
            ("http://x:", Syntax),
            ("http://a b", Syntax),
            ("http://x/?q=1", Syntax),
        ] {
            assert_eq!(Server::parse(text), Err(why), "{text:?}");
        }
    }

    #[test]
    fn nothing_variable_can_leave_its_place_in_the_path() {
        let target = Target::new("/sandboxes")
            .segment("../a?b#c%2F")
            .segment("..")
            .query("path", "/a b&c=d\u{e9}\n");
        assert_eq!(
            target.text,
            "/sandboxes/..%2Fa%3Fb%23c%252F/%2E%2E?path=%2Fa%20b%26c%3Dd%C3%A9%0A"
        );
        assert_eq!(Target::new("/images").segments("a/b:c").text, "/images/a/b%3Ac");
    }
}
