//! The table that everything about routes comes from: the router with its `Allow` headers, the
//! scope of a request, and the OpenAPI document. A [`Route`] cannot be made without a scope and a
//! doc.

use std::{collections::HashMap, sync::OnceLock};

use axum::{
    Router,
    extract::{MatchedPath, Request},
    handler::Handler,
    routing::{MethodFilter, MethodRouter, on},
};
use http::Method;

use super::doc::Doc;
use crate::{Api, idempotency::Work, scope::Scope};

/// Where every route lives.
pub(crate) const BASE: &str = "/api/v1";

/// One method of one path.
pub(crate) struct Route {
    pub(crate) method: Method,
    /// Below [`BASE`], in the router's spelling.
    pub(crate) path: &'static str,
    pub(crate) scope: Scope,
    pub(crate) doc: Doc,
    handler: MethodRouter<Api>,
    slashed: bool,
}

impl Route {
    fn new<H, T>(
        (method, filter): (Method, MethodFilter),
        path: &'static str,
        scope: Scope,
        handler: H,
        doc: Doc,
    ) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        Self { method, path, scope, doc, handler: on(filter, handler), slashed: false }
    }

    /// Answers with a slash at the end of the path too: published clients send both, and follow no
    /// redirect.
    pub(crate) fn slashed(mut self) -> Self {
        self.slashed = true;
        self
    }

    /// Every spelling of the path, from the root.
    fn paths(&self) -> impl Iterator<Item = String> {
        let ends: &[&str] = if self.slashed { &["", "/"] } else { &[""] };
        ends.iter().map(|end| format!("{BASE}{}{end}", self.path))
    }
}

macro_rules! methods {
    ($($name:ident => $method:ident;)*) => { $(
        #[doc = concat!("A route for `", stringify!($method), "`.")]
        pub(crate) fn $name<H, T>(
            path: &'static str,
            scope: Scope,
            handler: H,
            doc: Doc,
        ) -> Route
        where
            H: Handler<T, Api>,
            T: 'static,
        {
            Route::new((Method::$method, MethodFilter::$method), path, scope, handler, doc)
        }
    )* };
}

methods! {
    get => GET;
    post => POST;
    put => PUT;
    delete => DELETE;
}

/// The router of a table.
pub(crate) fn router(table: Vec<Route>) -> Router<Api> {
    let add = |router: Router<Api>, route: Route| {
        let paths: Vec<_> = route.paths().collect();
        paths.iter().fold(router, |router, path| router.route(path, route.handler.clone()))
    };
    table.into_iter().fold(Router::new(), add)
}

/// What the route of a request demands; nothing where the path or the method does not exist, which
/// the router answers.
///
/// The matched path is known inside layers of [`crate::router`] only; elsewhere there is nothing.
pub fn demanded(request: &Request) -> Option<Scope> {
    let path = request.extensions().get::<MatchedPath>()?;
    scope(path.as_str(), request.method())
}

/// The scope of a path in the router's spelling. `HEAD` is `GET` without a body.
fn scope(path: &str, method: &Method) -> Option<Scope> {
    static SCOPES: OnceLock<HashMap<String, Vec<(Method, Scope)>>> = OnceLock::new();
    let scopes = SCOPES.get_or_init(|| {
        let mut scopes: HashMap<_, Vec<_>> = HashMap::new();
        for route in super::table() {
            for path in route.paths() {
                scopes.entry(path).or_default().push((route.method.clone(), route.scope));
            }
        }
        scopes
    });
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let (_, scope) = scopes.get(path)?.iter().find(|(known, _)| known == method)?;
    Some(*scope)
}

/// The route of a path in the router's spelling whose `POST` takes an idempotency key, without a
/// slash at its end, and what it does.
pub(crate) fn keyed(path: &str) -> Option<(&'static str, Work)> {
    static KEYED: OnceLock<HashMap<String, (&'static str, Work)>> = OnceLock::new();
    let keyed = KEYED.get_or_init(|| {
        let mut keyed = HashMap::new();
        for route in super::table() {
            let Some(work) = route.doc.once.filter(|_| route.method == Method::POST) else {
                continue;
            };
            keyed.extend(route.paths().map(|path| (path, (route.path, work))));
        }
        keyed
    });
    keyed.get(path).copied()
}

/// A row of the table, for tests that walk it and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The method.
    pub method: Method,
    /// From the root, parameters in braces; one that takes slashes as `{*name}`.
    pub path: String,
    /// What it demands.
    pub scope: Scope,
    /// The operation's id in the OpenAPI document.
    pub operation: &'static str,
    /// What it does, in one sentence.
    pub summary: &'static str,
}

/// Every route, each in every spelling of its path.
pub fn list() -> Vec<Listed> {
    let rows = |route: Route| {
        let row = |path| Listed {
            method: route.method.clone(),
            path,
            scope: route.scope,
            operation: route.doc.id,
            summary: route.doc.summary,
        };
        route.paths().map(row).collect::<Vec<_>>()
    };
    super::table().into_iter().flat_map(rows).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// R9.1: the scope of a request is the one in its row.
    #[test]
    fn every_row_is_found_by_its_path_and_method() {
        for row in list() {
            assert_eq!(scope(&row.path, &row.method), Some(row.scope), "{row:?}");
            assert_eq!(scope(&row.path, &Method::TRACE), None, "{row:?}");
        }
        assert_eq!(scope("/api/v1/live", &Method::HEAD), Some(Scope::Probe));
        assert_eq!(scope("/api/v1/nothing", &Method::GET), None);
    }

    #[test]
    fn an_operation_has_an_id_of_its_own_and_a_sentence() {
        let mut ids = HashSet::new();
        for route in crate::routes::table() {
            let doc = &route.doc;
            assert!(ids.insert(doc.id), "{} is there twice", doc.id);
            assert!(doc.id.chars().all(|c| c.is_ascii_alphabetic()), "{}", doc.id);
            assert!(doc.summary.ends_with('.'), "{}: {}", doc.id, doc.summary);
        }
    }

    /// R9.1: what changes something is never open to those who may only look.
    #[test]
    fn only_reading_is_open_to_readers_and_only_probes_to_everyone() {
        for row in list() {
            let asks = ["/sandboxes/admission", "/providers/test"];
            let reads = row.method == Method::GET || asks.iter().any(|end| row.path.ends_with(end));
            assert!(reads || row.scope > Scope::Read, "{row:?}");
            let probe = matches!(&*row.path, "/api/v1/live" | "/api/v1/ready");
            assert_eq!(row.scope == Scope::Probe, probe, "{row:?}");
            assert!(!row.path.contains("/admin") || row.scope == Scope::Admin, "{row:?}");
        }
    }
}
