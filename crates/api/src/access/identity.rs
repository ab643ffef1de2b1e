//! Who a request is from, once that is known.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::{HeaderMap, request::Parts};
use stacyvm_api_types::Code;
use stacyvm_control::Caller;
use stacyvm_store::ApiKey;
use stacyvm_types::{KeyId, OwnerId, Role, WorkerId};

use crate::{
    Api, Scope, extract,
    problem::{Problem, Result},
};

/// A credential that is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    /// What records call it.
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Whose it is.
    pub(crate) owner: Option<OwnerId>,
    pub(crate) speaks_for_others: bool,
    /// Of a key in the store.
    pub(crate) key: Option<KeyId>,
}

impl Credential {
    /// One of the settings.
    pub(crate) fn operator(name: &str, role: Role) -> Self {
        Self { name: name.to_owned(), role, owner: None, speaks_for_others: true, key: None }
    }

    /// One of the store.
    pub(crate) fn stored(key: ApiKey) -> Self {
        Self {
            name: format!("key:{}", key.name),
            role: key.role,
            owner: key.owner,
            speaks_for_others: key.speaks_for_others,
            key: Some(key.id),
        }
    }

    /// Whoever reaches a server without credentials.
    pub(crate) fn local() -> Self {
        Self::operator("local", Role::Admin)
    }
}

/// Who a request is from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    /// Nothing on probes without a credential.
    credential: Option<Credential>,
    /// The owner whom the request is for, where the header may say so.
    user: Option<OwnerId>,
    /// The worker that it is from, on a path of its own.
    worker: Option<WorkerId>,
}

impl Identity {
    /// A credential that names nobody.
    pub(crate) const fn of(credential: Credential) -> Self {
        Self { credential: Some(credential), user: None, worker: None }
    }

    /// A worker on a path of its own.
    pub(crate) const fn of_worker(worker: WorkerId) -> Self {
        Self { credential: None, user: None, worker: Some(worker) }
    }

    /// The same with the owner that the request names in its header; where it may not, as it was,
    /// with the refusal.
    pub(crate) fn naming(mut self, headers: &HeaderMap) -> (Self, Result<()>) {
        let user = match (extract::user(headers), &self.credential) {
            (Ok(Some(named)), Some(credential)) => named_owner(named, credential).map(Some),
            (Ok(_), _) => Ok(None),
            (Err(problem), _) => Err(problem),
        };
        match user {
            Ok(user) => {
                self.user = user;
                (self, Ok(()))
            }
            Err(problem) => (self, Err(problem)),
        }
    }

    pub(crate) fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// Whether it holds what a route demands.
    pub(crate) fn may(&self, scope: Scope) -> bool {
        let role = self.credential.as_ref().map(|credential| credential.role);
        match scope {
            Scope::Probe => true,
            Scope::Read => role >= Some(Role::Viewer),
            Scope::Api => role >= Some(Role::Api),
            Scope::Operator => role >= Some(Role::Operator),
            Scope::Admin => role >= Some(Role::Admin),
            Scope::Worker(_) => false,
        }
    }

    /// Who asks, for control.
    pub(crate) fn caller(&self) -> Caller {
        if let Some(worker) = &self.worker {
            return Caller { actor: format!("worker:{worker}"), only: None };
        }
        let Some(credential) = &self.credential else {
            return Caller { actor: "anonymous".to_owned(), only: None };
        };
        let actor = match &self.user {
            Some(user) => format!("{}/{user}", credential.name),
            None => credential.name.clone(),
        };
        let only = credential.owner.clone().filter(|_| !credential.speaks_for_others);
        Caller { actor, only }
    }

    /// The owner that a request is for: the header's, else the body's, else the credential's own.
    pub(crate) fn owner(&self, body: Option<OwnerId>) -> Result<Option<OwnerId>> {
        let own = self.credential.as_ref().and_then(|credential| credential.owner.clone());
        match (&self.user, body, &self.credential) {
            (Some(user), ..) => Ok(Some(user.clone())),
            (None, Some(named), Some(credential)) => named_owner(named, credential).map(Some),
            (None, Some(_), None) | (None, None, _) => Ok(own),
        }
    }

    /// Whether the header names the owner.
    pub(crate) fn names_user(&self) -> bool {
        self.user.is_some()
    }

    /// The owner that it is limited as.
    pub(crate) fn limited_owner(&self) -> Option<&OwnerId> {
        let own = self.credential.as_ref().and_then(|credential| credential.owner.as_ref());
        self.user.as_ref().or(own)
    }
}

/// Checks that the credential may name this owner.
fn named_owner(named: OwnerId, credential: &Credential) -> Result<OwnerId> {
    if credential.speaks_for_others || credential.owner.as_ref() == Some(&named) {
        return Ok(named);
    }
    let message = match &credential.owner {
        Some(own) => format!(
            "this key is for the owner {own} only, and the request names {named}; leave X-User-ID \
             and owner_id out, or use a key that may speak for others"
        ),
        None => "this key may not speak for owners; leave X-User-ID and owner_id out, or use a \
                 key that may speak for others"
            .to_owned(),
    };
    Err(Problem::new(Code::Forbidden, message))
}

impl FromRequestParts<Api> for Identity {
    type Rejection = Infallible;

    /// Nobody, where the guard let nobody in.
    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn owner(name: &str) -> OwnerId {
        OwnerId::parse(name).unwrap()
    }

    fn credential(own: Option<&str>, speaks_for_others: bool) -> Credential {
        Credential {
            name: "key:k".to_owned(),
            role: Role::Api,
            owner: own.map(owner),
            speaks_for_others,
            key: None,
        }
    }

    fn ask(credential: &Credential, header: Option<&str>, body: Option<&str>) -> Option<String> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert("x-user-id", HeaderValue::from_str(header).unwrap());
        }
        let (identity, named) = Identity::of(credential.clone()).naming(&headers);
        named.ok()?;
        let owner = identity.owner(body.map(owner)).ok()?;
        Some(owner.map_or_else(|| "nobody".to_owned(), |owner| owner.to_string()))
    }

    /// R9.4 in part: the owner comes from the credential, never from a header alone.
    #[test]
    fn an_owner_is_named_only_by_who_may_name_it() {
        let (plain, confined) = (credential(None, false), credential(Some("ann"), false));
        let (speaker, named_speaker) = (credential(None, true), credential(Some("ann"), true));
        for (who, header, body, expected) in [
            (&plain, None, None, Some("nobody")),
            (&plain, Some("ann"), None, None),
            (&plain, None, Some("ann"), None),
            (&confined, None, None, Some("ann")),
            (&confined, Some("ann"), None, Some("ann")),
            (&confined, None, Some("ann"), Some("ann")),
            (&confined, Some("bob"), None, None),
            (&confined, None, Some("bob"), None),
            (&speaker, None, None, Some("nobody")),
            (&speaker, Some("bob"), Some("cy"), Some("bob")),
            (&speaker, None, Some("cy"), Some("cy")),
            (&named_speaker, None, None, Some("ann")),
            (&named_speaker, Some("bob"), None, Some("bob")),
        ] {
            let found = ask(who, header, body);
            assert_eq!(found.as_deref(), expected, "{who:?} {header:?} {body:?}");
        }
    }

    /// R9.4 in part: where two are named, none of them is believed.
    #[test]
    fn an_owner_is_named_once_or_not_at_all() {
        let mut headers = HeaderMap::new();
        headers.append("x-user-id", HeaderValue::from_static("ann"));
        headers.append("x-user-id", HeaderValue::from_static("bob"));
        let (identity, named) = Identity::of(Credential::local()).naming(&headers);
        assert!(named.is_err() && !identity.names_user());
    }

    #[test]
    fn only_a_key_of_one_owner_that_speaks_for_nobody_else_is_confined() {
        let of = |credential| Identity::of(credential).caller();
        assert_eq!(of(credential(Some("ann"), false)).only, Some(owner("ann")));
        assert_eq!(of(credential(Some("ann"), true)).only, None);
        assert_eq!(of(credential(None, false)).only, None);
        let mut headers = HeaderMap::new();
        headers.insert("x-user-id", HeaderValue::from_static("bob"));
        let (identity, _) = Identity::of(Credential::local()).naming(&headers);
        assert_eq!(identity.caller().actor, "local/bob");
    }

    #[test]
    fn each_role_may_what_those_before_it_may() {
        for (role, may) in Role::ALL.iter().zip(2..) {
            let credential = Credential { role: *role, ..credential(None, false) };
            let identity = Identity::of(credential);
            let count = Scope::ALL.iter().filter(|scope| identity.may(**scope)).count();
            assert_eq!(count, may, "{role}");
        }
        assert!(!Identity::default().may(Scope::Read) && Identity::default().may(Scope::Probe));
    }
}
