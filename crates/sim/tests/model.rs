//! The protocol of leases and assignment, every state of it.

use stacyvm_sim::model::{Rules, check};

#[test]
fn the_protocol_keeps_its_promises_in_every_state() {
    for rules in [Rules::of(1), Rules { marked: false, ..Rules::of(1) }] {
        match check(rules) {
            Ok(checked) => println!("{checked:?} of {rules:?}"),
            Err(broken) => panic!("{broken}"),
        }
    }
}

/// Each rule is there for something: without it a promise is broken, and this is how.
#[test]
fn without_any_of_its_rules_a_promise_is_broken() {
    let all = Rules::of(1);
    for (name, rules, promise) in [
        ("fenced", Rules { fenced: false, ..all }, "one_runtime_per_sandbox"),
        ("margin", Rules { margin: false, ..all }, "one_runtime_per_sandbox"),
        ("ends_itself", Rules { ends_itself: false, ..all }, "one_runtime_per_sandbox"),
        ("bounded", Rules { bounded: false, ..all }, "one_runtime_per_sandbox"),
        ("graves", Rules { graves: false, ..all }, "one_runtime_per_sandbox"),
        ("asking_fences", Rules { asking_fences: false, ..all }, "one_runtime_per_sandbox"),
        ("remembered", Rules { remembered: false, ..all }, "one_runtime_per_sandbox"),
        ("raised", Rules { raised: false, ..all }, "a_generation_is_given_once"),
    ] {
        let broken = check(rules).expect_err(name);
        println!("without {name} {broken}");
        assert_eq!(broken.promise, promise, "{name}");
    }
}
