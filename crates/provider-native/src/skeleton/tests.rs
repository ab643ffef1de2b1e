//! The host's tree out of a pretended host.

use std::{fs, os::unix::fs::MetadataExt, process::Command};

use super::*;

const SECRET: &str = "planted-secret";

/// A host with a merged `/usr`, honest files, and a secret in every place that one could think of.
fn pretended() -> tempfile::TempDir {
    let host = tempfile::tempdir().unwrap();
    let at = |name: &str| host.path().join(name);
    let put = |name: &str, content: &str, mode: u32| {
        fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        fs::write(at(name), content).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::create_dir_all(at("usr/bin")).unwrap();
    symlink("usr/bin", at("bin")).unwrap();
    symlink("usr/lib", at("lib")).unwrap();
    symlink("/usr/lib64", at("lib64")).unwrap();
    put("etc/os-release", "ID=pretended\n", 0o644);
    put("etc/ssl/certs/public.pem", "-----BEGIN CERTIFICATE-----\n", 0o644);
    put("etc/java-17/net.properties", "a=b\n", 0o600 | 0o044);
    put("etc/python3/run", "#!/bin/sh\n", 0o755);
    fs::create_dir_all(at("etc/alternatives")).unwrap();
    symlink("/usr/bin/vim.tiny", at("etc/alternatives/vi")).unwrap();
    let key = format!("-----BEGIN PRIVATE KEY-----\n{SECRET}\n");
    for (name, mode) in [
        ("etc/shadow", 0o644),
        ("etc/passwd", 0o644),
        ("etc/group", 0o644),
        ("etc/hosts", 0o644),
        ("etc/hostname", 0o644),
        ("etc/resolv.conf", 0o644),
        ("etc/nsswitch.conf", 0o644),
        ("etc/fstab", 0o644),
        ("etc/profile", 0o644),
        ("etc/profile.d/proxy.sh", 0o644),
        ("etc/bash.bashrc", 0o644),
        ("etc/skel/.netrc", 0o644),
        ("etc/environment", 0o644),
        ("etc/pip.conf", 0o644),
        ("etc/wgetrc", 0o644),
        ("etc/ld.so.preload", 0o644),
        ("etc/machine-id", 0o644),
        ("etc/app/config", 0o644),
        ("etc/ssl/private/server.pem", 0o644),
        ("etc/ssl/certs/server.key", 0o644),
        ("etc/ssl/certs/closed.pem", 0o640),
        ("etc/services", 0o600),
        ("etc/terminfo/x/inside", 0o644),
        ("etc/java-17/jmxremote.password", 0o644),
        ("root/.ssh/id", 0o644),
        ("home/ann/file", 0o644),
        ("opt/app/file", 0o644),
        ("var/lib/file", 0o644),
        ("srv/file", 0o644),
        ("run/file", 0o644),
        ("tmp/file", 0o644),
        ("workspace/file", 0o644),
    ] {
        put(name, SECRET, mode);
    }
    put("etc/ssl/certs/both.pem", &key, 0o644);
    fs::set_permissions(at("etc/terminfo/x"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("/root/.ssh/id", at("etc/localtime")).unwrap();
    symlink("../../root", at("etc/fonts")).unwrap();
    symlink("../private/server.pem", at("etc/ssl/certs/link.pem")).unwrap();
    fs::hard_link(at("etc/ssl/certs/closed.pem"), at("etc/magic")).unwrap();
    assert!(Command::new("mkfifo").arg(at("etc/rpc")).status().unwrap().success());
    host
}

fn everything(at: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            found.extend(everything(&path));
        }
        found.push(path);
    }
    found
}

#[test]
fn no_secret_of_the_host_is_in_the_tree() {
    let (host, data) = (pretended(), tempfile::tempdir().unwrap());
    let made = prepare(host.path(), data.path()).unwrap();
    for path in everything(&made.lower) {
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_file() {
            let content = fs::read(&path).unwrap();
            assert!(!content.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()), "{path:?}");
            assert_eq!(stat.mode() & 0o6022, 0, "{path:?}");
        } else if stat.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            assert!(!target.to_str().unwrap().contains("root"), "{path:?}");
            assert!(!target.to_str().unwrap().contains("private"), "{path:?}");
        } else {
            assert!(stat.is_dir(), "{path:?}");
        }
    }
}

#[test]
fn the_public_part_of_the_host_and_the_places_of_a_sandbox_are_there() {
    let (host, data) = (pretended(), tempfile::tempdir().unwrap());
    let made = prepare(host.path(), data.path()).unwrap();
    let read = |name: &str| fs::read_to_string(made.lower.join(name)).unwrap();
    let link = |name: &str| fs::read_link(made.lower.join(name)).unwrap();
    let mode = |name: &str| fs::symlink_metadata(made.lower.join(name)).unwrap().mode() & 0o7777;
    assert_eq!(made.binds, ["usr"]);
    assert_eq!(read("etc/os-release"), "ID=pretended\n");
    assert!(read("etc/ssl/certs/public.pem").contains("CERTIFICATE"));
    assert_eq!((mode("etc/java-17/net.properties"), mode("etc/python3/run")), (0o644, 0o755));
    assert_eq!(link("etc/alternatives/vi"), Path::new("/usr/bin/vim.tiny"));
    assert_eq!((link("bin"), link("lib64")), ("usr/bin".into(), "/usr/lib64".into()));
    assert!(read("etc/passwd").contains("sandbox:x:1000:1000:"));
    assert_eq!((mode("tmp"), mode("var/tmp"), mode("root")), (0o1777, 0o1777, 0o700));
    for empty in
        ["usr", "dev", "proc", "sys", "opt", "mnt", "srv", "media", "workspace", "etc/skel"]
    {
        assert_eq!(fs::read_dir(made.lower.join(empty)).unwrap().count(), 0, "{empty}");
    }
    assert!(!made.lower.join("etc/shadow").exists());
}

#[test]
fn a_second_start_finds_the_tree_and_a_changed_host_gets_a_new_one() {
    let (host, data) = (pretended(), tempfile::tempdir().unwrap());
    let first = prepare(host.path(), data.path()).unwrap();
    let inode = fs::metadata(&first.lower).unwrap().ino();
    let same = prepare(host.path(), data.path()).unwrap();
    assert_eq!((&first, inode), (&same, fs::metadata(&same.lower).unwrap().ino()));
    fs::write(host.path().join("etc/os-release"), "ID=changed\n").unwrap();
    let second = prepare(host.path(), data.path()).unwrap();
    assert_ne!(first.lower, second.lower);
    fs::create_dir(data.path().join("host-image/.build-1")).unwrap();
    assert_eq!(collect(&second, |path| path == first.lower).unwrap(), 1);
    assert!(first.lower.exists(), "a sandbox still runs from it");
    assert_eq!(collect(&second, |_| false).unwrap(), 1);
    assert!(!first.lower.exists() && second.lower.exists());
}

#[test]
fn a_host_without_a_merged_usr_binds_its_directories() {
    let (host, data) = (pretended(), tempfile::tempdir().unwrap());
    fs::remove_file(host.path().join("lib")).unwrap();
    fs::create_dir(host.path().join("lib")).unwrap();
    let made = prepare(host.path(), data.path()).unwrap();
    assert_eq!(made.binds, ["usr", "lib"]);
    assert!(fs::symlink_metadata(made.lower.join("lib")).unwrap().is_dir());
}

#[test]
fn a_host_whose_programs_lie_elsewhere_is_refused_with_a_reason() {
    for target in ["/opt/bin", "../bin", "usr/../root"] {
        let (host, data) = (pretended(), tempfile::tempdir().unwrap());
        fs::remove_file(host.path().join("bin")).unwrap();
        symlink(target, host.path().join("bin")).unwrap();
        let error = prepare(host.path(), data.path()).unwrap_err();
        assert!(error.to_string().contains("import an image instead"), "{error}");
    }
}

#[test]
fn this_host_has_a_tree() {
    let data = tempfile::tempdir().unwrap();
    let made = prepare(Path::new("/"), data.path()).unwrap();
    assert!(made.lower.join("etc/passwd").exists());
    assert!(everything(&made.lower).len() < 20_000);
}
