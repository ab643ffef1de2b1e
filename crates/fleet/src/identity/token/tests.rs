use stacyvm_types::WorkerId;

use super::*;

const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);
const AT: i64 = 1_800_000_000;

fn w1() -> WorkerId {
    WorkerId::parse("w1").unwrap()
}

fn keys() -> Keys {
    Keys { signing: Some(Secret::new("first-key")), ..Keys::default() }
}

fn good() -> Claims {
    Claims {
        worker_id: "w1".to_owned(),
        jti: Some("t1".to_owned()),
        aud: Some("worker:rpc".to_owned()),
        scopes: vec!["worker:exec".to_owned()],
        exp: AT + 300,
        iat: Some(AT),
        nbf: None,
    }
}

fn check(token: &str, keys: &Keys) -> Result<Scopes, Invalid> {
    verify(keys, token, &w1(), Audience::Rpc, NOW)
}

fn checked(claims: &Claims) -> Result<Scopes, Invalid> {
    check(encode(&Secret::new("first-key"), claims).expose(), &keys())
}

fn order(ttl: u64) -> Order {
    Order {
        worker: w1(),
        audience: Audience::Rpc,
        scopes: [Scope::Exec, Scope::Files].into_iter().collect(),
        ttl: Duration::from_secs(ttl),
        id: None,
    }
}

#[test]
fn what_is_signed_here_is_good_here() {
    let signed = sign(&keys(), &order(900), NOW).unwrap();
    let text = signed.token.expose();
    assert_eq!(check(text, &keys()), Ok([Scope::Exec, Scope::Files].into_iter().collect()));
    assert_eq!(inspect(text), Ok(signed.claims));
    assert_ne!(text, sign(&keys(), &order(900), NOW).unwrap().token.expose());
}

/// Made with openssl, so that both ends of the format cannot be wrong in the same way.
#[test]
fn the_format_is_the_documented_one() {
    let token = "stacyvm-worker-v1.eyJ3b3JrZXJfaWQiOiJ3MSIsImF1ZCI6IndvcmtlcjpycGMiLCJzY29wZXMiOlsi\
                 d29ya2VyOmV4ZWMiXSwiZXhwIjoxODAwMDAwMzAwLCJpYXQiOjE4MDAwMDAwMDB9.\
                 p-ohEJX4-k4Z8zMmjw1V55j86fycEjAKuwmDj2JnIKs";
    assert_eq!(check(token, &keys()), Ok([Scope::Exec].into_iter().collect()));
}

#[test]
fn a_token_is_good_for_its_worker_audience_and_time_only() {
    type Change = fn(&mut Claims);
    let cases: [(Change, Invalid); 15] = [
        (|c| c.worker_id = "w2".to_owned(), Invalid::Worker),
        (|c| c.worker_id = String::new(), Invalid::Worker),
        (|c| c.aud = None, Invalid::Audience(Audience::Rpc)),
        (|c| c.aud = Some(String::new()), Invalid::Audience(Audience::Rpc)),
        (|c| c.aud = Some("worker:control-plane".to_owned()), Invalid::Audience(Audience::Rpc)),
        (|c| c.exp = AT, Invalid::Expired),
        (|c| c.exp = i64::MIN, Invalid::Expired),
        (|c| c.nbf = Some(AT + 31), Invalid::NotYet),
        (|c| c.iat = Some(AT + 31), Invalid::NotYet),
        (|c| c.exp = AT + 901, Invalid::TooLong),
        (|c| (c.exp, c.iat) = (i64::MAX, None), Invalid::TooLong),
        (|c| (c.exp, c.iat) = (i64::MAX, Some(i64::MIN)), Invalid::TooLong),
        (|c| c.iat = Some(AT - 601), Invalid::TooLong),
        (|c| c.scopes.push("worker:everything".to_owned()), Invalid::UnknownScope),
        (|c| c.scopes = vec!["*".to_owned()], Invalid::UnknownScope),
    ];
    for (change, why) in cases {
        let mut claims = good();
        change(&mut claims);
        assert_eq!(checked(&claims), Err(why), "{claims:?}");
    }
    let fine: [Change; 5] = [
        |_| {},
        |c| c.exp = AT + 1,
        |c| (c.iat, c.nbf) = (Some(AT + 30), Some(AT + 30)),
        |c| c.iat = None,
        |c| c.jti = None,
    ];
    for change in fine {
        let mut claims = good();
        change(&mut claims);
        assert_eq!(checked(&claims), Ok([Scope::Exec].into_iter().collect()), "{claims:?}");
    }
}

#[test]
fn no_scopes_open_nothing() {
    assert_eq!(checked(&Claims { scopes: Vec::new(), ..good() }), Ok(Scopes::NONE));
}

#[test]
fn a_revoked_token_is_refused_by_its_id() {
    let keys = Keys { revoked: ["t1".to_owned()].into(), ..keys() };
    let key = Secret::new("first-key");
    assert_eq!(check(encode(&key, &good()).expose(), &keys), Err(Invalid::Revoked));
    let other = Claims { jti: Some("t2".to_owned()), ..good() };
    assert!(check(encode(&key, &other).expose(), &keys).is_ok());
}

#[test]
fn every_changed_byte_makes_a_token_worthless() {
    let signed = sign(&keys(), &order(300), NOW).unwrap();
    let text = signed.token.expose();
    for at in 0..text.len() {
        for other in [b'A', b'B', b'.', b'=', b'!'] {
            let mut bytes = text.as_bytes().to_owned();
            if std::mem::replace(&mut bytes[at], other) == other {
                continue;
            }
            let changed = String::from_utf8(bytes).unwrap();
            let refused = check(&changed, &keys());
            assert!(
                matches!(refused, Err(Invalid::Signature | Invalid::Malformed)),
                "{changed}: {refused:?}"
            );
        }
    }
    for cut in 0..text.len() {
        assert!(check(&text[..cut], &keys()).is_err(), "{cut}");
    }
}

#[test]
fn parts_of_two_tokens_make_none() {
    let signed = |worker: &str| {
        let order = Order { worker: WorkerId::parse(worker).unwrap(), ..order(300) };
        sign(&keys(), &order, NOW).unwrap().token.expose().to_owned()
    };
    let (own, other) = (signed("w1"), signed("w2"));
    let (head, _) = other.rsplit_once('.').unwrap();
    let (own_head, code) = own.rsplit_once('.').unwrap();
    assert_eq!(check(&format!("{head}.{code}"), &keys()), Err(Invalid::Signature));
    assert_eq!(check(&format!("{own_head}."), &keys()), Err(Invalid::Signature));
    assert_eq!(check(&other, &keys()), Err(Invalid::Worker));
}

#[test]
fn what_is_no_token_is_said_to_be_none() {
    let long = format!("{VERSION}.{}.x", "A".repeat(5000));
    let other_version = encode(&Secret::new("first-key"), &good()).expose().replace("v1", "v2");
    for text in
        ["", ".", "..", "hunter2", "stacyvm-worker-v1", "stacyvm-worker-v1.", &long, &other_version]
    {
        assert_eq!(check(text, &keys()), Err(Invalid::Malformed), "{text}");
        assert_eq!(inspect(text), Err(Invalid::Malformed), "{text}");
    }
    // Signed, and no claims.
    let key = Secret::new("first-key");
    for json in
        ["", "{}", "[]", "null", r#"{"worker_id":"w1"}"#, r#"{"worker_id":"w1","exp":"soon"}"#]
    {
        let head = format!("{VERSION}.{}", URL_SAFE_NO_PAD.encode(json));
        let code = URL_SAFE_NO_PAD.encode(key.sign(head.as_bytes()));
        assert_eq!(check(&format!("{head}.{code}"), &keys()), Err(Invalid::Malformed), "{json}");
    }
}

#[test]
fn any_key_verifies_and_the_first_one_signs() {
    let (old, new) = (Secret::new("old-key"), Secret::new("new-key"));
    let rotating = Keys { signing: Some(new.clone()), also: vec![old.clone()], ..Keys::default() };
    let (before, after) = (encode(&old, &good()), encode(&new, &good()));
    assert!(check(before.expose(), &rotating).is_ok());
    assert!(check(after.expose(), &rotating).is_ok());
    let signed = sign(&rotating, &order(60), NOW).unwrap();
    let done = Keys { signing: Some(new), ..Keys::default() };
    assert!(check(signed.token.expose(), &done).is_ok());
    assert_eq!(check(before.expose(), &done), Err(Invalid::Signature));
    let only_old = Keys { also: vec![old], ..Keys::default() };
    assert_eq!(sign(&only_old, &order(60), NOW).unwrap_err(), Unsigned::NoKey);
}

#[test]
fn nothing_is_signed_for_no_time_or_for_too_long() {
    for ttl in [0, 901] {
        assert_eq!(sign(&keys(), &order(ttl), NOW).unwrap_err(), Unsigned::Ttl);
    }
}
