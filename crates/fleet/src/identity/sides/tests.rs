use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use stacyvm_types::{Timestamp, time::ManualClock};

use super::*;
use crate::identity::{Keys, Load, Secret, token::Invalid};

const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

fn worker(id: &str) -> WorkerId {
    WorkerId::parse(id).unwrap()
}

fn signing(key: &str) -> Keys {
    Keys { signing: Some(Secret::new(key)), ..Keys::default() }
}

fn shared(token: &str) -> Keys {
    Keys { shared: token.split(' ').map(Secret::new).collect(), ..Keys::default() }
}

fn own(id: &str, token: &str) -> Keys {
    let tokens = BTreeMap::from([(worker(id), token.split(' ').map(Secret::new).collect())]);
    Keys { tokens, ..shared("for-everyone") }
}

fn shows(audience: Audience, keys: Keys) -> Shown {
    Shown::to(audience, Arc::new(KeyRing::of(keys)), Arc::new(ManualClock::new(NOW)))
}

fn checks(audience: Audience, keys: Keys) -> Checked {
    Checked::at(audience, Arc::new(KeyRing::of(keys)), Arc::new(ManualClock::new(NOW)))
}

fn headers(id: &str, token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(WORKER_ID, HeaderValue::from_str(id).unwrap());
    headers.insert(WORKER_TOKEN, HeaderValue::from_str(token).unwrap());
    headers
}

/// Both audiences, which are the two sides that check.
const SIDES: [Audience; 2] = [Audience::ControlPlane, Audience::Rpc];

#[test]
fn what_one_side_shows_the_other_accepts_for_that_call_only() {
    for side in SIDES {
        let headers = shows(side, signing("k")).headers(&worker("w1"), Scope::Exec).unwrap();
        let grant = checks(side, signing("k")).authenticate(&worker("w1"), &headers).unwrap();
        for scope in Scope::ALL {
            let expected = match scope {
                Scope::Exec => Ok(()),
                other => Err(Refusal::Scope(*other)),
            };
            assert_eq!(grant.permit(*scope), expected);
        }
        assert!(headers[WORKER_TOKEN].is_sensitive());
    }
}

#[test]
fn each_kind_of_wrong_token_is_refused_on_both_sides() {
    for side in SIDES {
        let [other_side] = SIDES.into_iter().filter(|other| *other != side).collect::<Vec<_>>()[..]
        else {
            panic!("there are two sides")
        };
        let order = |id: &str, audience| Order {
            worker: worker(id),
            audience,
            scopes: [Scope::Heartbeat].into_iter().collect(),
            ttl: token::USUAL,
            id: Some("t1".to_owned()),
        };
        let made = |key: &str, id: &str, audience, at: i64| {
            let at = Timestamp::from_micros(NOW.as_micros() + at * 1_000_000);
            let signed = token::sign(&signing(key), &order(id, audience), at).unwrap();
            signed.token.expose().to_owned()
        };
        let good = made("k", "w1", side, 0);
        let mut tampered = good.clone();
        tampered.replace_range(30..31, if &good[30..31] == "A" { "B" } else { "A" });
        let keys = || Keys { revoked: ["gone".to_owned()].into(), ..signing("k") };
        let gone = Order { id: Some("gone".to_owned()), ..order("w1", side) };
        let gone = token::sign(&keys(), &gone, NOW).unwrap().token.expose().to_owned();
        for (token, why) in [
            (made("k", "w2", side, 0), Invalid::Worker),
            (made("k", "w1", other_side, 0), Invalid::Audience(side)),
            (made("k", "w1", side, -300), Invalid::Expired),
            (made("k", "w1", side, 31), Invalid::NotYet),
            (made("other", "w1", side, 0), Invalid::Signature),
            (tampered, Invalid::Signature),
            (gone, Invalid::Revoked),
            ("stacyvm-worker-v1.x".to_owned(), Invalid::Malformed),
        ] {
            let refused = checks(side, keys()).authenticate(&worker("w1"), &headers("w1", &token));
            assert_eq!(refused, Err(Refusal::Token(why)), "{token}");
        }
        let grant = checks(side, keys()).authenticate(&worker("w1"), &headers("w1", &good));
        let forbidden = grant.unwrap().permit(Scope::Lease).unwrap_err();
        assert!(forbidden.is_forbidden(), "{forbidden}");
    }
}

#[test]
fn a_call_names_its_worker_and_its_token_once() {
    let checks = checks(Audience::Rpc, shared("hunter2-hunter2"));
    let ask = |headers: &HeaderMap| checks.authenticate(&worker("w1"), headers);
    let good = headers("w1", "hunter2-hunter2");
    assert_eq!(ask(&good), Ok(Grant::of(Scopes::all())));

    assert_eq!(ask(&headers("w2", "hunter2-hunter2")), Err(Refusal::OtherWorker));
    for wrong in ["hunter2", "hunter2-hunter22", "x"] {
        assert_eq!(ask(&headers("w1", wrong)), Err(Refusal::Unknown), "{wrong}");
    }
    let without = |name: &str| {
        let mut headers = good.clone();
        headers.remove(name);
        headers
    };
    let twice = |name: &'static str| {
        let mut headers = good.clone();
        headers.append(name, headers[name].clone());
        headers
    };
    for half in [
        HeaderMap::new(),
        without(WORKER_ID),
        without(WORKER_TOKEN),
        twice(WORKER_ID),
        twice(WORKER_TOKEN),
        headers("w1", ""),
    ] {
        assert_eq!(ask(&half), Err(Refusal::Missing), "{half:?}");
    }

    let mut bearer = without(WORKER_TOKEN);
    bearer.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer hunter2-hunter2"));
    assert_eq!(ask(&bearer), Ok(Grant::of(Scopes::all())));
    bearer.insert(header::AUTHORIZATION, HeaderValue::from_static("Basic hunter2-hunter2"));
    assert_eq!(ask(&bearer), Err(Refusal::Missing));
}

#[test]
fn a_workers_own_token_takes_the_place_of_the_shared_one_on_both_sides() {
    for side in SIDES {
        let headers_of =
            |id: &str| shows(side, own("w1", "for-one")).headers(&worker(id), Scope::Spawn);
        let (one, two) = (headers_of("w1").unwrap(), headers_of("w2").unwrap());
        assert_eq!(
            (&one[WORKER_TOKEN], &two[WORKER_TOKEN]),
            (&HeaderValue::from_static("for-one"), &HeaderValue::from_static("for-everyone"),)
        );
        let checks = checks(side, own("w1", "for-one"));
        assert!(checks.authenticate(&worker("w1"), &one).is_ok());
        assert!(checks.authenticate(&worker("w2"), &two).is_ok());
        for (id, token) in [("w1", "for-everyone"), ("w2", "for-one")] {
            let refused = checks.authenticate(&worker(id), &headers(id, token));
            assert_eq!(refused, Err(Refusal::Unknown));
        }
    }
}

/// One side after the other learns of each step: what one shows the other accepts throughout.
#[test]
fn a_static_token_is_changed_without_a_refused_call() {
    let (of_one, of_all) = (|token: &str| own("w1", token), shared);
    let kinds: [&dyn Fn(&str) -> Keys; 2] = [&of_one, &of_all];
    let steps = ["old", "old new", "new old", "new"];
    for keys in kinds {
        for pair in steps.windows(2) {
            for (shower, checker) in [(pair[0], pair[1]), (pair[1], pair[0]), (pair[1], pair[1])] {
                let shown = shows(Audience::Rpc, keys(shower));
                let shown = shown.headers(&worker("w1"), Scope::Exec).unwrap();
                let checked = checks(Audience::Rpc, keys(checker));
                assert!(checked.authenticate(&worker("w1"), &shown).is_ok(), "{shower}, {checker}");
            }
        }
        let late = checks(Audience::Rpc, keys("new"));
        let refused = late.authenticate(&worker("w1"), &headers("w1", "old"));
        assert_eq!(refused, Err(Refusal::Unknown));
    }
}

#[test]
fn nothing_is_right_where_nothing_is_configured() {
    let checks = checks(Audience::ControlPlane, Keys::default());
    let refused = checks.authenticate(&worker("w1"), &headers("w1", "x"));
    assert_eq!(refused, Err(Refusal::NotConfigured));
    let shown = shows(Audience::Rpc, Keys::default()).headers(&worker("w1"), Scope::Exec);
    assert_eq!(shown.unwrap_err(), NoCredential);
}

/// A worker may be given a signed token to show, such as one that a program writes to a file again
/// and again. It is no secret that others can be asked for.
#[test]
fn a_signed_token_that_is_configured_is_shown_and_opens_nothing_by_itself() {
    let order = Order {
        worker: worker("w1"),
        audience: Audience::ControlPlane,
        scopes: [Scope::Heartbeat].into_iter().collect(),
        ttl: token::USUAL,
        id: None,
    };
    let token = token::sign(&signing("k"), &order, NOW).unwrap().token;
    let keys = Keys { shared: vec![token], ..Keys::default() };
    let shown = shows(Audience::ControlPlane, keys.clone());
    let shown = shown.headers(&worker("w1"), Scope::Heartbeat).unwrap();
    let accepts = |keys| checks(Audience::ControlPlane, keys).authenticate(&worker("w1"), &shown);
    assert!(accepts(signing("k")).unwrap().permit(Scope::Heartbeat).is_ok());
    assert_eq!(accepts(keys), Err(Refusal::Token(Invalid::Signature)));
}

#[test]
fn what_is_refused_is_never_repeated() {
    let checks = checks(Audience::Rpc, shared("hunter2-hunter2"));
    let refused = checks.authenticate(&worker("w1"), &headers("w1", "guess-guess")).unwrap_err();
    let shown = format!("{refused} {refused:?} {checks:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("guess"), "{shown}");
}

fn load(keys: &Keys) -> Load<Keys> {
    let keys = keys.clone();
    Load { files: Vec::new(), read: Box::new(move || Ok(keys.clone())) }
}

/// R6.5: rotation without a dropped request. Each host learns of each step at its own time, and
/// calls go on throughout.
#[test]
fn keys_are_rotated_while_calls_go_on() {
    let (old, new) = (Secret::new("old"), Secret::new("new"));
    let with = |signing: &Secret, also: &[&Secret]| Keys {
        signing: Some(signing.clone()),
        also: also.iter().map(|key| (*key).clone()).collect(),
        ..Keys::default()
    };
    let steps = [with(&old, &[&new]), with(&new, &[&old]), with(&new, &[])];
    let ring = || Arc::new(KeyRing::of(with(&old, &[])));
    let (control, worker_side) = (ring(), ring());
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW));
    let shown = Shown::to(Audience::Rpc, control.clone(), clock.clone());
    let checked = Checked::at(Audience::Rpc, worker_side.clone(), clock);
    let (id, is_over) = (worker("w1"), AtomicBool::new(false));
    let calls = |least: usize| {
        let mut made = 0;
        while made < least || !is_over.load(Ordering::Acquire) {
            let headers = shown.headers(&id, Scope::Exec).unwrap();
            checked.authenticate(&id, &headers).unwrap().permit(Scope::Exec).unwrap();
            made += 1;
        }
    };
    std::thread::scope(|scope| {
        let callers = [scope.spawn(|| calls(1000)), scope.spawn(|| calls(1000))];
        // A key is taken away only once nobody signs with it any more and what it signed is over:
        // here that is what was shown and is not checked yet.
        for step in &steps[..2] {
            for side in [&control, &worker_side] {
                side.replace(load(step)).unwrap();
            }
        }
        is_over.store(true, Ordering::Release);
        for caller in callers {
            caller.join().unwrap();
        }
    });
    for side in [&control, &worker_side] {
        side.replace(load(&steps[2])).unwrap();
    }
    let headers = shown.headers(&id, Scope::Exec).unwrap();
    assert!(checked.authenticate(&id, &headers).is_ok());
    let late = shows(Audience::Rpc, with(&old, &[])).headers(&id, Scope::Exec).unwrap();
    let refused = checked.authenticate(&id, &late);
    assert_eq!(refused, Err(Refusal::Token(Invalid::Signature)));
}

#[test]
fn keys_in_a_file_are_read_again_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "one").unwrap();
    let file = path.clone();
    let read = move || match std::fs::read_to_string(&file) {
        Ok(text) if !text.is_empty() => Ok(shared(&text)),
        Ok(_) | Err(_) => Err("it holds no token".to_owned()),
    };
    let mut keys = KeyRing::new(Load { files: vec![path.clone()], read: Box::new(read) }).unwrap();
    keys.0.look_always();
    let clock = Arc::new(ManualClock::new(NOW));
    let checked = Checked::at(Audience::Rpc, Arc::new(keys), clock);
    let accepts = |token: &str| checked.authenticate(&worker("w1"), &headers("w1", token)).is_ok();
    assert!(accepts("one"));
    std::fs::write(&path, "two").unwrap();
    assert!(accepts("two") && !accepts("one"));
    std::fs::write(&path, "").unwrap();
    assert!(accepts("two"));
}
