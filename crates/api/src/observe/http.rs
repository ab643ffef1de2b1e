//! Requests by method, route and class of status.

use std::{
    array,
    hash::{BuildHasher as _, RandomState},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Method, StatusCode};
use stacyvm_types::{Histogram, Tally};

/// More than twice as many as there are methods of routes: what does not find a place counts as
/// [`OTHER`].
const PLACES: usize = 512;
/// The route of requests that reached none.
pub(crate) const UNMATCHED: &str = "unmatched";
/// The method and the route of what there was no place for.
const OTHER: &str = "other";
/// The classes of status, by their first digit.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The record of requests. Adding to it takes no lock.
pub(crate) struct HttpMetrics {
    /// An open hash table that only grows.
    places: Box<[OnceLock<Box<Route>>]>,
    other: Route,
    hasher: RandomState,
    in_flight: AtomicUsize,
}

struct Route {
    method: &'static str,
    route: Box<str>,
    classes: [Histogram; CLASSES.len()],
}

/// What was recorded of one method of one route, of one class of status.
pub(crate) struct RouteTally<'m> {
    pub(crate) method: &'static str,
    pub(crate) route: &'m str,
    pub(crate) class: &'static str,
    /// The times until the heads of the replies.
    pub(crate) times: Tally,
}

/// One request in flight; the end of it is the end of the reply's head.
pub(crate) struct InFlight<'m>(&'m HttpMetrics);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Default for HttpMetrics {
    fn default() -> Self {
        Self {
            places: (0..PLACES).map(|_| OnceLock::new()).collect(),
            other: Route::new(OTHER, OTHER),
            hasher: RandomState::new(),
            in_flight: AtomicUsize::new(0),
        }
    }
}

impl Route {
    fn new(method: &'static str, route: &str) -> Self {
        Self { method, route: route.into(), classes: array::from_fn(|_| Histogram::default()) }
    }
}

impl HttpMetrics {
    /// Counts a request as in flight until the guard is dropped.
    pub(crate) fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(self)
    }

    /// Adds a request to a route, which is a pattern and no path, and the time it took until the
    /// head of the reply was there.
    pub(crate) fn record(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.place(known(method), route).classes[class].record(took);
    }

    /// Requests in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// What was recorded, in no order that means anything but always the same.
    pub(crate) fn tallies(&self) -> Vec<RouteTally<'_>> {
        let routes = self.places.iter().filter_map(OnceLock::get).map(|route| &**route);
        let tallies = routes.chain([&self.other]).flat_map(|route| {
            route.classes.iter().zip(CLASSES).map(|(times, class)| RouteTally {
                method: route.method,
                route: &route.route,
                class,
                times: times.tally(),
            })
        });
        let mut tallies: Vec<_> = tallies.filter(|tally| 0 < tally.times.count()).collect();
        tallies.sort_by(|a, b| (a.route, a.method, a.class).cmp(&(b.route, b.method, b.class)));
        tallies
    }

    fn place(&self, method: &'static str, route: &str) -> &Route {
        let hash = self.hasher.hash_one((method, route));
        let first = usize::try_from(hash % PLACES as u64).unwrap_or(0);
        for place in self.places[first..].iter().chain(&self.places[..first]) {
            let found = place.get_or_init(|| Box::new(Route::new(method, route)));
            if found.method == method && *found.route == *route {
                return found;
            }
        }
        &self.other
    }
}

/// The method, unless somebody made it up.
fn known(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_by_method_route_and_class() {
        let metrics = HttpMetrics::default();
        let second = Duration::from_secs(1);
        metrics.record(&Method::GET, "/a/{id}", StatusCode::OK, second);
        metrics.record(&Method::GET, "/a/{id}", StatusCode::NOT_FOUND, second);
        metrics.record(&Method::GET, "/a/{id}", StatusCode::GONE, second);
        let made_up = Method::from_bytes(b"MADE-UP").unwrap();
        metrics.record(&made_up, UNMATCHED, StatusCode::METHOD_NOT_ALLOWED, second);
        let seen: Vec<_> = metrics
            .tallies()
            .into_iter()
            .map(|tally| (tally.method, tally.route.to_owned(), tally.class, tally.times.count()))
            .collect();
        assert_eq!(
            seen,
            [
                ("GET", "/a/{id}".to_owned(), "2xx", 1),
                ("GET", "/a/{id}".to_owned(), "4xx", 2),
                (OTHER, UNMATCHED.to_owned(), "4xx", 1),
            ]
        );
    }

    #[test]
    fn more_routes_than_places_are_counted_together() {
        let metrics = HttpMetrics::default();
        for n in 0..PLACES + 7 {
            let route = format!("/{n}");
            metrics.record(&Method::GET, &route, StatusCode::OK, Duration::ZERO);
        }
        let tallies = metrics.tallies();
        assert_eq!(tallies.len(), PLACES + 1);
        let other = tallies.iter().find(|tally| tally.route == OTHER).unwrap();
        assert_eq!(other.times.count(), 7);
    }

    #[test]
    fn a_request_is_in_flight_until_its_end() {
        let metrics = HttpMetrics::default();
        let request = metrics.begin();
        assert_eq!(metrics.in_flight(), 1);
        drop(request);
        assert_eq!(metrics.in_flight(), 0);
    }
}
