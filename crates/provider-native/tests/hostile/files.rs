//! The file calls as a target: what the sandbox changes while the host's side works.

use std::{fs, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use stacyvm_provider::{
    ErrorKind, WriteOptions,
    suite::{body, eventually, fresh_id, shell, soon},
};

use crate::arena::{Arena, Probe, probes};

pub(crate) fn probes() -> Vec<Probe> {
    probes! {
        a_link_to_a_secret_of_the_host_is_read if |_| true;
        a_directory_becomes_a_link_while_files_are_read_and_written if |_| true;
        a_file_becomes_a_pipe_while_it_is_read if |_| true;
        a_hard_link_to_a_file_of_the_host_is_made if |c| c.isolation;
        proc_is_reached_by_the_file_calls if |_| true;
        devices_are_read_by_the_file_calls if |c| c.isolation;
        the_name_of_an_unfinished_upload_is_taken_over if |_| true;
        an_upload_is_turned_into_a_link if |_| true;
        a_file_is_written_below_the_hosts_programs if |c| c.isolation;
        names_that_are_no_text_are_made if |_| true;
        ten_thousand_directories_deep if |_| true;
        a_tree_grows_while_it_is_removed if |_| true;
        a_hundred_thousand_links_are_followed if |_| true;
        a_sparse_file_of_terabytes_is_read if |_| true;
        a_file_grows_while_it_is_read if |_| true;
        a_pattern_that_explodes_is_globbed if |_| true;
        unreadable_directories_are_removed if |_| true;
    }
}

/// A file of the host that nobody inside may read or change.
struct Secret(std::path::PathBuf);

impl Secret {
    fn plant() -> Self {
        let path = std::env::temp_dir().join(format!("stacyvm-probe-{}", fresh_id()));
        fs::write(&path, "planted").unwrap();
        Self(path)
    }

    fn name(&self) -> String {
        self.0.file_name().unwrap().to_string_lossy().into_owned()
    }

    fn directory(&self) -> String {
        self.0.parent().unwrap().display().to_string()
    }

    fn is_untouched(&self) {
        assert_eq!(fs::read_to_string(&self.0).unwrap(), "planted");
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

async fn a_link_to_a_secret_of_the_host_is_read(arena: Arena) {
    let secret = Secret::plant();
    let path = secret.0.display();
    let climb = "../".repeat(40);
    let line = format!(
        "ln -s {path} a; ln -s {climb}{path} b; ln -s {} d; ln -s /proc/1/root{path} e",
        secret.directory()
    );
    arena.sandbox.ok(&line).await;
    for link in ["a", "b", "e", &format!("d/{}", secret.name())] {
        assert!(arena.sandbox.get(&format!("/workspace/{link}")).await.is_err(), "{link}");
    }
    for link in ["a", "b", "e"] {
        let link = format!("/workspace/{link}");
        let write = arena.sandbox.guest.write(&link, WriteOptions::default(), body("changed"));
        drop(soon("write", write).await);
    }
    secret.is_untouched();
}

async fn a_directory_becomes_a_link_while_files_are_read_and_written(arena: Arena) {
    let (secret, sandbox) = (Secret::plant(), &arena.sandbox);
    let (name, outside) = (secret.name(), secret.directory());
    sandbox
        .ok(&format!("mkdir real; echo inside > real/{name}; ln -s {outside} link; ln -s real d"))
        .await;
    let flip = "perl -e 'while (1) { rename q(link), q(x); rename q(d), q(link); rename q(x), q(d); \
                rename q(real), q(y); symlink q(..), q(real); unlink q(real); rename q(y), q(real); }'";
    let exec = sandbox.guest.exec(shell(flip)).await.unwrap();
    let guest = &sandbox.guest;
    for round in 0..400 {
        let path = format!("/workspace/d/{name}");
        if let Ok(bytes) = sandbox.get(&path).await {
            assert_ne!(bytes, b"planted", "read after {round} rounds");
        }
        let write = guest.write(&path, WriteOptions::default(), body("changed"));
        drop(soon("write", write).await);
        drop(soon("chmod", guest.chmod(&path, 0o600)).await);
        drop(soon("rename", guest.rename(&path, &format!("/workspace/real/{name}"))).await);
        drop(soon("remove", guest.remove(&format!("/workspace/d/{name}"), true)).await);
        drop(soon("glob", guest.glob("/workspace/d/**/s*")).await);
    }
    exec.input.send(stacyvm_provider::ExecInput::Signal(9)).await.unwrap();
    secret.is_untouched();
}

async fn a_file_becomes_a_pipe_while_it_is_read(arena: Arena) {
    let sandbox = &arena.sandbox;
    sandbox.ok("echo x > f; mkfifo p; echo y > keep").await;
    let flip = "perl -e 'while (1) { rename q(f), q(t); rename q(p), q(f); rename q(f), q(p); rename q(t), q(f) }'";
    let exec = sandbox.guest.exec(shell(flip)).await.unwrap();
    for _ in 0..300 {
        drop(sandbox.get("/workspace/f").await);
        let write = sandbox.guest.write("/workspace/f", WriteOptions::default(), body("z"));
        drop(soon("write", write).await);
    }
    exec.input.send(stacyvm_provider::ExecInput::Signal(9)).await.unwrap();
    arena.lives().await;
}

async fn a_hard_link_to_a_file_of_the_host_is_made(arena: Arena) {
    let before = fs::read("/usr/bin/env").unwrap();
    arena.sandbox.sh("ln /usr/bin/env e; ln /usr/lib/os-release r; ln /proc/self/exe x").await;
    for name in ["e", "r", "x"] {
        let path = format!("/workspace/{name}");
        drop(
            soon("write", arena.sandbox.guest.write(&path, WriteOptions::default(), body("x")))
                .await,
        );
        drop(soon("chmod", arena.sandbox.guest.chmod(&path, 0o4777)).await);
    }
    assert!(fs::read("/usr/bin/env").unwrap() == before);
}

async fn proc_is_reached_by_the_file_calls(arena: Arena) {
    let sandbox = &arena.sandbox;
    sandbox.ok("ln -s /proc/self/environ e; ln -s /proc/self/mem m; ln -s /proc p; \
                ln -s /proc/self/fd/0 zero; ln -s /proc/1/root r; ln -s /dev/fd fds; ln -s /dev/stdin in").await;
    for path in [
        "/proc/self/environ",
        "/proc/self/mem",
        "/proc/1/root/etc/passwd",
        "/proc/1/environ",
        "/proc/thread-self/root/etc/passwd",
        "/workspace/e",
        "/workspace/m",
        "/workspace/p/version",
        "/workspace/zero",
        "/workspace/r/etc/passwd",
        "/workspace/fds/0",
        "/workspace/in",
        "/dev/fd/0",
        "/dev/stdin",
        "//proc//version",
        "/./proc/version",
        "/workspace/../proc/version",
    ] {
        assert!(sandbox.get(path).await.is_err(), "{path} was read");
        let write = sandbox.guest.write(path, WriteOptions::default(), body("x"));
        assert!(soon("write", write).await.is_err(), "{path} was written");
    }
    for pattern in ["/proc/*", "/proc/self/*", "/workspace/p/*", "/**/environ"] {
        let found = soon("glob", sandbox.guest.glob(pattern)).await.unwrap_or_default();
        assert!(
            found.iter().all(|path| !path.contains("/proc/") && !path.contains("/p/")),
            "{found:?}"
        );
    }
}

async fn devices_are_read_by_the_file_calls(arena: Arena) {
    for path in ["/dev/zero", "/dev/random", "/dev/tty", "/dev/full", "/dev/null", "/dev/ptmx"] {
        assert!(arena.sandbox.get(path).await.is_err(), "{path}");
        let write = arena.sandbox.guest.write(path, WriteOptions::default(), body("x"));
        assert!(soon("write", write).await.is_err(), "{path}");
    }
    arena.sandbox.ok("echo x > /dev/null; test -c /dev/null").await;
}

async fn the_name_of_an_unfinished_upload_is_taken_over(arena: Arena) {
    let (secret, sandbox) = (Secret::plant(), &arena.sandbox);
    let slowly = stream::unfold(0, |sent| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        (sent < 40).then(|| (Ok(Bytes::from(vec![b'u'; 10_000])), sent + 1))
    });
    let upload = sandbox.guest.write("/workspace/f", WriteOptions::default(), slowly.boxed());
    let path = secret.0.display();
    let attack = format!(
        "i=0; while [ $i -lt 60 ]; do for t in .[!.]*; do [ -f \"$t\" ] && \
                          ln -sf {path} \"$t\"; done; sleep 0.01; i=$((i+1)); done"
    );
    let (outcome, _) = tokio::join!(soon("upload", upload), sandbox.sh(&attack));
    secret.is_untouched();
    if outcome.is_ok() {
        // What was uploaded, or what the sandbox put there; nothing of the host.
        assert_ne!(sandbox.get("/workspace/f").await.unwrap_or_default(), b"planted");
    }
    arena.lives().await;
}

async fn an_upload_is_turned_into_a_link(arena: Arena) {
    let (secret, sandbox) = (Secret::plant(), &arena.sandbox);
    let path = secret.0.display();
    let flip = format!("while :; do ln -sf {path} f; rm -f f; echo x > f; done");
    let exec = sandbox.guest.exec(shell(&flip)).await.unwrap();
    for _ in 0..100 {
        let write = sandbox.guest.write("/workspace/f", WriteOptions::default(), body("changed"));
        drop(soon("write", write).await);
        drop(soon("chmod", sandbox.guest.chmod("/workspace/f", 0o777)).await);
    }
    exec.input.send(stacyvm_provider::ExecInput::Signal(9)).await.unwrap();
    secret.is_untouched();
}

async fn a_file_is_written_below_the_hosts_programs(arena: Arena) {
    let name = format!("stacyvm-probe-{}", fresh_id());
    arena.sandbox.ok("ln -s /usr/bin bin; ln -s /usr/lib lib").await;
    for place in ["/workspace/bin", "/workspace/lib", "/usr/bin", "/usr/local/bin", "/bin"] {
        let path = format!("{place}/{name}");
        drop(arena.sandbox.guest.write(&path, WriteOptions::default(), body("x")).await);
    }
    for place in ["/usr/bin", "/usr/lib", "/usr/local/bin"] {
        assert!(!fs::exists(format!("{place}/{name}")).unwrap(), "{place}");
    }
}

async fn names_that_are_no_text_are_made(arena: Arena) {
    let line = "perl -e 'for my $i (1..31, 127..255) { my $n = chr($i); open(F, q(>), qq(n$n)) } \
                mkdir qq(d\\xff); open(F, q(>), qq(d\\xff/\\xfe\\n)); symlink qq(\\xff\\xfe), q(link)'";
    arena.sandbox.ok(line).await;
    let listed = soon("list", arena.sandbox.guest.list("/workspace")).await.unwrap();
    assert!(150 < listed.len(), "{}", listed.len());
    drop(soon("glob", arena.sandbox.guest.glob("**")).await);
    drop(arena.sandbox.get("/workspace/link").await);
    drop(soon("stat", arena.sandbox.guest.stat("/workspace/link")).await);
}

async fn ten_thousand_directories_deep(arena: Arena) {
    let line = "perl -e 'for (1..10000) { mkdir q(d); chdir q(d) or die }'";
    arena.sandbox.ok(line).await;
    drop(soon("glob", arena.sandbox.guest.glob("**/x")).await);
    soon("remove", arena.sandbox.guest.remove("/workspace/d", true)).await.unwrap();
    assert_eq!(arena.sandbox.ok("ls -A").await, "");
    // And once more, for the destroy.
    arena.sandbox.ok(line).await;
}

async fn a_tree_grows_while_it_is_removed(arena: Arena) {
    let sandbox = &arena.sandbox;
    let grow = "while :; do mkdir -p t/a/b/c; echo x > t/a/b/c/f; echo y > t/g; done 2> /dev/null";
    let exec = sandbox.guest.exec(shell(grow)).await.unwrap();
    for _ in 0..20 {
        drop(soon("remove", sandbox.guest.remove("/workspace/t", true)).await);
    }
    exec.input.send(stacyvm_provider::ExecInput::Signal(9)).await.unwrap();
    arena.lives().await;
}

async fn a_hundred_thousand_links_are_followed(arena: Arena) {
    let line = "perl -e 'symlink q(l1), q(l0); for (1..3000) { symlink q(l) . ($_ + 1), qq(l$_) } \
                mkdir q(d); symlink q(.), q(d/s)'";
    arena.sandbox.ok(line).await;
    assert!(arena.sandbox.get("/workspace/l0").await.is_err());
    let deep = format!("/workspace/d/{}x", "s/".repeat(1500));
    let read = arena.sandbox.get(&deep).await.err().unwrap();
    assert!(
        matches!(read.kind, ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Conflict),
        "{read:?}"
    );
    let write = arena.sandbox.guest.write("/workspace/l0", WriteOptions::default(), body("x"));
    drop(soon("write", write).await);
}

async fn a_sparse_file_of_terabytes_is_read(arena: Arena) {
    arena.sandbox.sh("truncate -s 4T huge || truncate -s 60M huge").await;
    let read = soon("open", arena.sandbox.guest.read("/workspace/huge", None)).await.unwrap();
    let mut body = read.body;
    let mut bytes = 0;
    while bytes < 20_000_000 {
        match soon("a piece", body.next()).await {
            Some(piece) => bytes += piece.unwrap().len(),
            None => break,
        }
    }
    drop(body);
    arena.lives().await;
}

async fn a_file_grows_while_it_is_read(arena: Arena) {
    let sandbox = &arena.sandbox;
    sandbox.ok("head -c 1000000 /dev/zero > f").await;
    let grow = "while :; do head -c 100000 /dev/zero >> f; truncate -s 0 f; done 2> /dev/null";
    let exec = sandbox.guest.exec(shell(grow)).await.unwrap();
    for _ in 0..100 {
        if let Ok(read) = soon("open", sandbox.guest.read("/workspace/f", None)).await {
            let (wanted, mut got, mut body) = (read.range.end, 0, read.body);
            while let Some(Ok(piece)) = soon("a piece", body.next()).await {
                got += piece.len() as u64;
            }
            assert!(got <= wanted, "{got} bytes of {wanted}");
        }
    }
    exec.input.send(stacyvm_provider::ExecInput::Signal(9)).await.unwrap();
}

async fn a_pattern_that_explodes_is_globbed(arena: Arena) {
    let line = "mkdir -p a/a/a/a/a/a/a/a/a/a/a/a; touch $(printf 'a%.0s' $(seq 200)); \
                d=a; for i in $(seq 60); do d=$d/b; done; mkdir -p $d";
    arena.sandbox.ok(line).await;
    let stars = format!("/workspace/{}b", "a*".repeat(60));
    let deep = format!("/workspace/{}x", "**/".repeat(30));
    let braces = format!("/workspace/{}", "[a-z]".repeat(100));
    for pattern in [stars, deep, braces, "/**/**/**/**/**/nothing".into(), "/".repeat(5000)] {
        drop(soon("glob", arena.sandbox.guest.glob(&pattern)).await);
    }
    eventually("the sandbox answers", || async {
        arena.sandbox.guest.stat("/workspace").await.is_ok()
    })
    .await;
}

async fn unreadable_directories_are_removed(arena: Arena) {
    arena.sandbox.ok("mkdir -p t/a/b; echo x > t/a/b/f; chmod 0 t/a/b t/a t").await;
    drop(soon("remove", arena.sandbox.guest.remove("/workspace/t", true)).await);
    arena.sandbox.ok("mkdir -p u/a; chmod 0 u/a; chmod +t u").await;
}
