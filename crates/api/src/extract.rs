//! Requests taken apart, with refusals that name what was wrong.

use std::{convert::Infallible, time::Duration};

use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use http::{HeaderMap, request::Parts};
use serde::de::DeserializeOwned;
use stacyvm_api_types::Code;
use stacyvm_control::Caller;
use stacyvm_types::{OwnerId, SandboxId, parse_duration};

use crate::{
    Api,
    access::Identity,
    body,
    edge::RequestId,
    problem::{Problem, Result, echo},
};

/// What handlers share, with a control plane that knows who asks: the [`Caller`] that the edge put
/// among the request's extensions.
impl FromRequestParts<Api> for Api {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Infallible> {
        let mut api = api.clone();
        if let Some(caller) = parts.extensions.get::<Caller>() {
            api.control = api.control.on_behalf_of(caller.clone());
        }
        if let Some(RequestId(id)) = parts.extensions.get() {
            api.control = api.control.in_request(id.clone());
        }
        Ok(api)
    }
}

/// A JSON body, whatever its content type says.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Api> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let bytes = body::read(&parts.headers, body, api.config.max_json_body).await?;
        decode(&bytes).map(Self)
    }
}

/// A JSON body that may be missing.
pub(crate) struct OptionalBody<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<Api> for OptionalBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let bytes = body::read(&parts.headers, body, api.config.max_json_body).await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Self(T::default()));
        }
        decode(&bytes).map(Self)
    }
}

/// Decodes an object; what follows it is ignored, as published servers do.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::bad_request("invalid request body: it must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.inner().to_string();
        let known = !matches!(path.as_str(), "." | "?");
        if error.inner().is_data() && known {
            let reason = reason.rsplit_once(" at line ").map_or(&*reason, |(reason, _)| reason);
            Problem::bad_request(format!(
                "invalid request body: {}",
                without_secrets(&path, reason)
            ))
        } else {
            Problem::bad_request(format!("invalid request body: {reason}"))
        }
    })
}

/// What is wrong with a field, without a text that stood there: texts may be secrets, and so is
/// whatever an environment holds. Refusals are logged.
fn without_secrets(path: &str, reason: &str) -> String {
    let is_env = path == "env" || path.starts_with("env.");
    let hides = is_env || reason.contains("string \"");
    let path = if is_env { path.split('=').next().unwrap_or_default() } else { path };
    match (reason.split_once(": "), reason.rsplit_once(", expected ")) {
        (Some((what, _)), Some((_, right))) if hides => {
            format!("{path}: {what}, expected {right}")
        }
        _ => format!("{path}: {reason}"),
    }
}

/// The sandbox that the path names. An id that cannot exist is not found.
pub(crate) struct Sandbox(pub(crate) SandboxId);

impl FromRequestParts<Api> for Sandbox {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self> {
        let text = path_param(parts, api, "id").await?;
        SandboxId::parse(&text).map(Self).map_err(|_| Problem::no_sandbox(&text))
    }
}

/// The parameters of the path, decoded.
pub(crate) struct PathText(pub(crate) Vec<(String, String)>);

impl PathText {
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

impl FromRequestParts<Api> for PathText {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self> {
        let params = RawPathParams::from_request_parts(parts, api).await.map_err(|_| {
            Problem::new(Code::NotFound, "not found: the path is not valid UTF-8 when decoded")
        })?;
        Ok(Self(params.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
    }
}

async fn path_param(parts: &mut Parts, api: &Api, name: &str) -> Result<String> {
    let params = PathText::from_request_parts(parts, api).await?;
    Ok(params.get(name).to_owned())
}

/// The query, as pairs.
pub(crate) struct Query(Vec<(String, String)>);

impl FromRequestParts<Api> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self> {
        let pairs = axum::extract::Query::try_from_uri(&parts.uri)
            .map_err(|_| Problem::bad_request("the query must be name=value pairs"))?;
        Ok(Self(pairs.0))
    }
}

impl Query {
    /// The first value of a name; empty ones do not count.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let named = |(key, value): &&(String, String)| key == name && !value.is_empty();
        self.0.iter().find(named).map(|(_, value)| value.as_str())
    }

    /// Every value of a name.
    pub(crate) fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        let wanted = move |(key, value): &&(String, String)| key == name && !value.is_empty();
        self.0.iter().filter(wanted).map(|(_, value)| value.as_str())
    }

    /// A value that must be there.
    pub(crate) fn required(&self, name: &str) -> Result<&str> {
        self.text(name)
            .ok_or_else(|| Problem::bad_request(format!("{name} query parameter required")))
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits => Ok(Some(number)),
            _ => Err(Problem::bad_request(format!(
                "{name} must be a whole number, and is {:?}",
                echo(text)
            ))),
        }
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self, name: &str) -> Result<bool> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(text) => Err(Problem::bad_request(format!(
                "{name} must be true or false, and is {:?}",
                echo(text)
            ))),
        }
    }
}

/// The owner that the header `X-User-ID` names.
pub(crate) fn user(headers: &HeaderMap) -> Result<Option<OwnerId>> {
    let mut values = headers.get_all("x-user-id").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        // Whoever stands between may have added one to the caller's own.
        return Err(Problem::bad_request("the header X-User-ID must be there once"));
    }
    let text = std::str::from_utf8(value.as_bytes())
        .map_err(|_| Problem::bad_request("the header X-User-ID must be UTF-8"))?;
    if text.trim().is_empty() { Ok(None) } else { owner(text).map(Some) }
}

/// For whom a request is.
pub(crate) struct User(Identity);

impl FromRequestParts<Api> for User {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Infallible> {
        Identity::from_request_parts(parts, api).await.map(Self)
    }
}

impl User {
    /// The owner of what is made: the header, then the body, then the credential's own; each only
    /// if the credential may name it.
    pub(crate) fn or(self, body: Option<String>) -> Result<Option<OwnerId>> {
        // What the header says wins, so that a wrong body beside it is nobody's concern.
        let body = match given(body) {
            Some(text) if !self.0.names_user() => Some(owner(&text)?),
            _ => None,
        };
        self.0.owner(body)
    }
}

/// An owner id.
pub(crate) fn owner(text: &str) -> Result<OwnerId> {
    OwnerId::parse(text).map_err(|error| Problem::bad_request(format!("invalid input: {error}")))
}

/// Empty text is text that was not given.
pub(crate) fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// Zero is a number that was not given.
pub(crate) fn count(number: Option<u32>) -> Option<u32> {
    number.filter(|number| *number != 0)
}

/// A duration that may be missing.
pub(crate) fn duration(field: &str, text: Option<String>) -> Result<Option<Duration>> {
    let Some(text) = given(text) else { return Ok(None) };
    parse_duration(&text).map(Some).map_err(|error| {
        Problem::bad_request(format!("invalid {field} {:?}: {error}", echo(&text)))
    })
}

/// Permission bits as octal text.
pub(crate) fn mode(text: &str) -> Result<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal = (1..=5).contains(&digits.len()) && digits.bytes().all(|b| matches!(b, b'0'..=b'7'));
    match u32::from_str_radix(digits, 8) {
        Ok(bits) if octal && bits <= 0o7777 => Ok(bits),
        _ => Err(Problem::bad_request(format!(
            "mode must be octal text such as \"0644\", at most 07777, and is {:?}",
            echo(text)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use stacyvm_api_types::SpawnRequest;

    use super::*;

    fn refusal(json: &str) -> String {
        decode::<SpawnRequest>(json.as_bytes()).map(|_| ()).unwrap_err().message
    }

    #[test]
    fn a_wrong_type_is_named_with_its_field() {
        assert_eq!(
            refusal(r#"{"memory_mb":-5}"#),
            "invalid request body: memory_mb: invalid value: integer `-5`, expected a whole \
             number from 0 to 4294967295"
        );
        assert!(refusal(r#"{"metadata":{"a":1}}"#).contains("metadata.a"));
        assert!(refusal("[]").contains("JSON object"));
        assert!(refusal("{").contains("EOF"));
    }

    /// R2.8: a secret in the wrong place is neither answered nor, with the answer, logged.
    #[test]
    fn a_wrong_type_is_told_without_what_may_be_a_secret() {
        for json in [
            r#"{"env":"A=hunter2"}"#,
            r#"{"env":{"A=hunter2":{}}}"#,
            r#"{"env":{"A":["hunter2"]}}"#,
            r#"{"env":{"A":70072}}"#,
            r#"{"metadata":"hunter2, expected hunter2"}"#,
            r#"{"metadata":"a\", expected hunter2"}"#,
        ] {
            let said = refusal(json);
            assert!(!said.contains("hunter2") && !said.contains("70072"), "{json}: {said}");
        }
        assert_eq!(
            refusal(r#"{"env":"A=b"}"#),
            "invalid request body: env: invalid type, expected a map"
        );
    }

    #[test]
    fn unknown_keys_nulls_and_what_follows_are_ignored() {
        let body = br#"{"image":null,"memory_mb":null,"zzz":[1],"vcpus":2} trailing"#;
        let request: SpawnRequest = decode(body).map_err(|p| p.message).unwrap();
        assert_eq!(request, SpawnRequest { vcpus: Some(2), ..SpawnRequest::default() });
    }

    #[test]
    fn a_mode_is_octal_text() {
        for (text, bits) in [("0644", 0o644), ("755", 0o755), ("0", 0), ("07777", 0o7777)] {
            assert_eq!(mode(text).map_err(|p| p.message), Ok(bits));
        }
        for bad in ["", "rw-r--r--", "0888", "-1", "+644", "17777", "99999", "0o", "executable"] {
            assert!(mode(bad).is_err(), "{bad:?}");
        }
    }
}
