//! Looks at the running system.

use std::fs;

use super::{Facts, KeptLimits, Overlay};
use crate::{spawner::protocol::Ids, subordinate};

/// Capability numbers that a root launch needs.
const NEEDED: [(u32, &str); 6] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (3, "CAP_FOWNER"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (21, "CAP_SYS_ADMIN"),
];

/// Kinds of namespaces that every sandbox has.
const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

impl Facts {
    /// Looks at this host. What only a provider knows is handed in: the limits it keeps, and why
    /// the image `host` is refused.
    pub(crate) fn gather(limits: KeptLimits, host_image_refused: Option<String>) -> Self {
        let user = rustix::process::geteuid();
        let root = user.is_root();
        let kernel = rustix::system::uname();
        let release = kernel.release().to_string_lossy();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let lent = match root {
            true => None,
            false => subordinate::ids(user.as_raw(), rustix::process::getegid().as_raw()),
        };
        Self {
            kernel: version(&release),
            root,
            missing_capabilities: if root { missing(&status) } else { Vec::new() },
            namespaces_refused: refused(root, |path| {
                fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
            }),
            overlay: overlay(&release),
            calls: calls(),
            seccomp: status.lines().any(|line| line.starts_with("Seccomp:")),
            landlock: stacyvm_hostkit::landlock::version(),
            lent_ids: match lent {
                Some(Ids::Subordinate { count, .. }) => Some(count),
                _ => None,
            },
            limits,
            host_image_refused,
        }
    }
}

/// `6.18.44-x` is 6 and 18. What cannot be read counts as too old.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn missing(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let lacks = |number: u32| effective & (1 << number) == 0;
    NEEDED.into_iter().filter(|(number, _)| lacks(*number)).map(|(_, name)| name).collect()
}

/// What stands against namespaces, and what to do about it.
fn refused(root: bool, read: impl Fn(&str) -> Option<String>) -> Option<String> {
    for kind in NAMESPACES {
        let name = format!("user.max_{kind}_namespaces");
        let most = read(&format!("/proc/sys/user/max_{kind}_namespaces"));
        match most.as_deref() {
            Some("0") => {
                return Some(format!("none are allowed here: sysctl {name}=10000 allows them"));
            }
            None => return Some(format!("the kernel has no {kind} namespaces")),
            Some(_) => {}
        }
    }
    if root {
        return None;
    }
    let is = |path: &str, value: &str| read(path).is_some_and(|found| found == value);
    if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        return Some(
            "only root may make user namespaces: sysctl kernel.unprivileged_userns_clone=1 allows \
             them, or start the server as root"
                .to_owned(),
        );
    }
    if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        return Some(
            "AppArmor takes the rights away inside user namespaces of plain users: give this \
             program a profile with the userns rule, set sysctl \
             kernel.apparmor_restrict_unprivileged_userns=0, or start the server as root"
                .to_owned(),
        );
    }
    None
}

fn overlay(release: &str) -> Overlay {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.split_ascii_whitespace().last() == Some("overlay")) {
        return Overlay::Ready;
    }
    // Where the list of modules cannot be read, as in a container, the kernel may still have it.
    match fs::read_to_string(format!("/lib/modules/{release}/modules.dep")) {
        Ok(modules) if !modules.contains("/overlay.ko") => Overlay::Missing,
        _ => Overlay::Loadable,
    }
}

fn calls() -> bool {
    use rustix::{fs, process};
    let resolve = fs::ResolveFlags::BENEATH;
    let opened = fs::openat2(fs::CWD, ".", fs::OFlags::PATH, fs::Mode::empty(), resolve).is_ok();
    opened && process::pidfd_open(process::getpid(), process::PidfdFlags::empty()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_release_is_read_as_two_numbers() {
        assert_eq!(version("6.18.44-fc"), (6, 18));
        assert_eq!(version("5.10-rc1"), (5, 10));
        assert_eq!(version("odd"), (0, 0));
    }

    #[test]
    fn a_capability_that_is_missing_is_named() {
        assert!(missing("CapEff:\t000001ffffffffff\n").is_empty());
        assert_eq!(missing("CapEff:\t000001ffffdfffff\n"), ["CAP_SYS_ADMIN"]);
        assert_eq!(missing("").len(), NEEDED.len());
    }

    #[test]
    fn what_stands_against_namespaces_is_told_with_its_remedy() {
        let host = |changes: &'static [(&'static str, &'static str)]| {
            move |path: &str| {
                let changed = changes.iter().find(|(name, _)| path.ends_with(name));
                match changed {
                    Some((_, value)) => Some((*value).to_owned()),
                    None => path.contains("/user/").then(|| "1000".to_owned()),
                }
            }
        };
        assert_eq!(refused(false, host(&[])), None);
        let none = refused(true, host(&[("max_user_namespaces", "0")])).unwrap();
        assert!(none.contains("user.max_user_namespaces"));
        for (file, word) in [
            (&[("unprivileged_userns_clone", "0")], "unprivileged_userns_clone=1"),
            (&[("apparmor_restrict_unprivileged_userns", "1")], "AppArmor"),
        ] as [(&'static [_; 1], _); 2]
        {
            assert!(refused(false, host(file)).unwrap().contains(word));
            assert_eq!(refused(true, host(file)), None, "root is not concerned");
        }
        assert!(refused(true, |_| None).unwrap().contains("no user namespaces"));
    }
}
