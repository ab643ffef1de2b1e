//! Which paths below the host's `/etc` a sandbox may see.
//!
//! A list of what programs of `/usr` need to run and that holds no secret by its nature.
//! Deliberately not on it although they are often public: shell profiles and `skel` (administrators
//! put tokens there), the settings of wget, pip, npm, maven and git (they hold proxy and registry
//! passwords), `environment`, `machine-id`, and `ld.so.preload`.

use std::path::{Component, Path, PathBuf};

/// Files and whole directories.
const EXACT: [&str; 53] = [
    "alternatives",
    "alpine-release",
    "arch-release",
    "bindresvport.blacklist",
    "ca-certificates",
    "ca-certificates.conf",
    "centos-release",
    "crypto-policies",
    "debian_version",
    "ethertypes",
    "fedora-release",
    "fonts",
    "gai.conf",
    "host.conf",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "login.defs",
    "lsb-release",
    "magic",
    "magic.mime",
    "mime.types",
    "netconfig",
    "networks",
    "openssl",
    "os-release",
    "papersize",
    "perl/Net",
    "perl/sitecustomize.pl",
    "pki/ca-trust/extracted",
    "pki/java",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "protocols",
    "redhat-release",
    "rpc",
    "services",
    "sgml",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    "subversion/config",
    "system-release",
    "terminfo",
    "timezone",
    "vim/vimrc",
    "vim/vimrc.tiny",
    "xattr.conf",
    "xml",
    "zoneinfo",
];

/// Beginnings of names directly below `/etc`.
const PREFIXES: [&str; 4] = ["ImageMagick", "java", "locale.", "python"];

/// Anywhere in a name, in lower case.
const NEVER: [&str; 7] =
    ["password", "passwd", "secret", "credential", "token", "private", "shadow"];
const NEVER_ENDINGS: [&str; 6] = [".key", ".p12", ".pfx", ".jks", ".keytab", ".htpasswd"];

/// Whether a path, relative to `/etc`, may be copied.
pub(super) fn allowed(path: &Path) -> bool {
    let Some(text) = path.to_str() else { return false };
    listed(text) && !text.split('/').any(telling)
}

/// Whether something below this directory, relative to `/etc`, may be allowed.
pub(super) fn leads_to_allowed(dir: &Path) -> bool {
    let Some(text) = dir.to_str() else { return false };
    let inner = |wanted: &&str| wanted.strip_prefix(text).is_some_and(|rest| rest.starts_with('/'));
    allowed(dir) || EXACT.iter().chain(&PREFIXES).any(inner)
}

/// Whether a link at `path`, relative to `/etc`, leads to something that is in a sandbox too:
/// below `/usr` or one of its siblings, or to an allowed path of `/etc`.
pub(super) fn link_allowed(path: &Path, target: &Path) -> bool {
    let Some(end) = resolve(&Path::new("/etc").join(path), target) else { return false };
    let usr = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
    if usr.iter().any(|dir| end.starts_with(dir)) {
        return true;
    }
    end.strip_prefix("/etc").is_ok_and(allowed)
}

/// Where a link points, by its text alone. `None` when it climbs above the root.
fn resolve(link: &Path, target: &Path) -> Option<PathBuf> {
    let mut end = link.parent()?.to_path_buf();
    for part in target.components() {
        match part {
            Component::RootDir => end = PathBuf::from("/"),
            Component::ParentDir => {
                if !end.pop() {
                    return None;
                }
            }
            Component::Normal(name) => end.push(name),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(end)
}

fn listed(path: &str) -> bool {
    let below = |wanted: &&str| {
        path.strip_prefix(*wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    EXACT.iter().any(below) || PREFIXES.iter().any(|prefix| path.starts_with(prefix))
}

fn telling(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    NEVER.iter().any(|word| name.contains(word))
        || NEVER_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_allowed() {
        for good in ["ssl/certs", "ssl/certs/a.pem", "java-17-openjdk/net.properties", "os-release"]
        {
            assert!(allowed(Path::new(good)), "{good}");
        }
        for bad in [
            "",
            "shadow",
            "passwd",
            "ssl",
            "ssl/private",
            "ssl/private/a.pem",
            "ssl/certsx",
            "ssl/certs/server.key",
            "pki/tls/private/a",
            "profile.d/a.sh",
            "environment",
            "ld.so.preload",
            "machine-id",
            "ssh/sshd_config",
            "java/jmxremote.password",
            "pip.conf",
        ] {
            assert!(!allowed(Path::new(bad)), "{bad}");
        }
        assert!(leads_to_allowed(Path::new("ssl")) && leads_to_allowed(Path::new("ssl/certs")));
        assert!(!leads_to_allowed(Path::new("ssh")) && !leads_to_allowed(Path::new("ss")));
    }

    #[test]
    fn a_link_is_kept_only_if_it_stays_in_what_a_sandbox_sees() {
        let kept = |path, target| link_allowed(Path::new(path), Path::new(target));
        assert!(kept("alternatives/java", "/usr/lib/jvm/bin/java"));
        assert!(kept("os-release", "../usr/lib/os-release"));
        assert!(kept("ssl/certs/a.0", "a.pem"));
        for (path, target) in [
            ("alternatives/x", "/opt/x"),
            ("localtime", "/root/tz"),
            ("ssl/certs/a.pem", "../private/a.pem"),
            ("ssl/certs/a.pem", "/etc/shadow"),
            ("ssl/certs/a.pem", "/usr/../root/a"),
            ("localtime", "../../../../../x"),
        ] {
            assert!(!kept(path, target), "{path} -> {target}");
        }
    }
}
