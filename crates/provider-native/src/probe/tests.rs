//! Hosts on paper, and what follows from them.

use super::*;

/// A good host, as root.
fn good() -> Facts {
    Facts {
        kernel: (6, 12),
        root: true,
        missing_capabilities: vec![],
        namespaces_refused: None,
        overlay: Overlay::Ready,
        calls: true,
        seccomp: true,
        landlock: Some(6),
        lent_ids: None,
        limits: KeptLimits {
            memory: Some(Version::V1),
            pids: Some(Version::V2),
            cpu: Some(Version::V2),
            reasons: vec![],
        },
        host_image_refused: None,
    }
}

fn rootless() -> Facts {
    let limits = KeptLimits { reasons: vec!["/cg: denied".into()], ..KeptLimits::default() };
    Facts { root: false, limits, ..good() }
}

fn failing(decision: &Decision) -> Vec<&str> {
    decision.probe.findings.iter().filter(|f| !f.ok).map(|f| &*f.name).collect()
}

#[test]
fn each_host_gets_its_rung_and_is_told_what_is_missing() {
    let memory = KeptLimits { memory: None, ..good().limits };
    let limits = ["memory limit", "process limit", "cpu limit"];
    let table: Vec<(Facts, Rung, Vec<&str>)> = vec![
        (good(), Rung::Full, vec![]),
        (Facts { limits: memory, ..good() }, Rung::RootWithoutLimits, vec!["memory limit"]),
        (Facts { landlock: None, ..good() }, Rung::Full, vec!["landlock"]),
        (Facts { kernel: (5, 19), ..good() }, Rung::Full, vec!["kernel"]),
        (Facts { kernel: (5, 18), ..good() }, Rung::Unusable, vec!["kernel"]),
        (Facts { overlay: Overlay::Loadable, ..good() }, Rung::Full, vec![]),
        (Facts { overlay: Overlay::Missing, ..good() }, Rung::Unusable, vec!["overlay"]),
        (Facts { calls: false, ..good() }, Rung::Unusable, vec!["system calls"]),
        (Facts { seccomp: false, ..good() }, Rung::Unusable, vec!["seccomp"]),
        (
            Facts { missing_capabilities: vec!["CAP_SYS_ADMIN"], ..good() },
            Rung::Unusable,
            vec!["privileges"],
        ),
        (
            Facts { namespaces_refused: Some("no".into()), ..good() },
            Rung::Unusable,
            vec!["namespaces"],
        ),
        (Facts { host_image_refused: Some("x".into()), ..good() }, Rung::Full, vec!["host image"]),
        (Facts { lent_ids: Some(65_535), ..rootless() }, Rung::LentUsers, limits.to_vec()),
        (
            Facts { kernel: (5, 12), ..rootless() },
            Rung::OneUser,
            [&["kernel", "users"], &limits[..]].concat(),
        ),
        (
            Facts { kernel: (5, 11), ..rootless() },
            Rung::Unusable,
            [&["kernel", "users"], &limits[..]].concat(),
        ),
    ];
    for (facts, rung, wrong) in table {
        let decision = decide(&facts);
        assert_eq!((decision.rung, failing(&decision)), (rung, wrong), "{facts:?}");
        assert_eq!(decision.probe.usable, rung != Rung::Unusable);
    }
}

#[test]
fn capabilities_claim_what_the_kernel_keeps_and_nothing_more() {
    let full = decide(&good()).capabilities;
    assert!(full.memory_limit && full.pids_limit && full.cpu_limit && full.many_uids);
    let one = decide(&rootless()).capabilities;
    assert!(one.isolation && one.disk_limit && one.images);
    assert!(!one.memory_limit && !one.pids_limit && !one.cpu_limit && !one.many_uids);
    assert!(decide(&Facts { lent_ids: Some(1000), ..rootless() }).capabilities.many_uids);
    let none = decide(&Facts { overlay: Overlay::Missing, ..good() }).capabilities;
    assert_eq!(none, Capabilities::default());
}

#[test]
fn an_unusable_host_is_summed_up_by_what_stops_it() {
    let facts = Facts { overlay: Overlay::Missing, landlock: None, ..rootless() };
    assert!(decide(&facts).probe.summary.contains("modprobe overlay"));
    assert!(decide(&good()).probe.summary.contains("root"));
    let memory = decide(&rootless()).probe.findings;
    let memory = memory.iter().find(|f| f.name == "memory limit").unwrap();
    assert!(memory.detail.contains("/cg: denied") && memory.detail.contains("Delegate=yes"));
}

#[test]
fn better_rungs_compare_as_greater() {
    assert!(Rung::Unusable < Rung::OneUser && Rung::OneUser < Rung::LentUsers);
    assert!(Rung::LentUsers < Rung::RootWithoutLimits && Rung::RootWithoutLimits < Rung::Full);
}

#[test]
fn this_host_can_be_asked() {
    let probe = doctor();
    assert!(!probe.summary.is_empty());
    assert!(probe.findings.iter().all(|finding| !finding.detail.is_empty()));
}
