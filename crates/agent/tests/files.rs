//! Files through a real agent, among hostile names and links.

#![expect(dead_code, reason = "each test program uses a part of what they share")]
#![expect(clippy::unwrap_used, reason = "what the tests share fails by panic, as they do")]

mod common;

use std::{fs, os::unix::ffi::OsStrExt, time::Duration};

use bytes::Bytes;
use common::{LIMIT, Sandbox, body, collect};
use futures_util::{StreamExt, stream};
use stacyvm_provider::{Error, ErrorKind, FileKind, Guest, Result, WriteOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind)
}

#[tokio::test]
async fn a_file_comes_back_as_it_was_written_whole_or_in_part() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let path = sandbox.path("deep/er/file");
    let big: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let info = sandbox.guest.write(&path, WriteOptions::default(), body([&big, b"end"])).await;
    let info = info.unwrap();
    assert_eq!((info.size, info.mode, info.kind), (3_000_003, 0o644, FileKind::File));
    assert!(sandbox.get(&path).await.starts_with(&big));
    let part = sandbox.guest.read(&path, Some(2_999_999..9_000_000)).await.unwrap();
    assert_eq!(part.range, 2_999_999..3_000_003);
    assert_eq!(&collect(part.body).await[1..], b"end");
    assert_eq!(
        kind(sandbox.guest.read(&path, Some(3_000_004..3_000_005)).await),
        Some(ErrorKind::Invalid)
    );
    let names: Vec<String> = sandbox
        .guest
        .list(&sandbox.path("deep/er"))
        .await
        .unwrap()
        .into_iter()
        .map(|f| f.path)
        .collect();
    assert_eq!(names, [path]);
}

#[tokio::test]
async fn an_existing_file_keeps_its_mode_and_owner_and_a_link_its_place() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let (file, link) = (sandbox.path("file"), sandbox.path("link"));
    sandbox.put(&file, "old").await;
    sandbox.sh(&format!("chown 12:34 {file}; chmod 4750 {file}; ln -s file {link}")).await;
    sandbox.put(&link, "new").await;
    assert_eq!(sandbox.get(&file).await, b"new");
    let ran = sandbox.sh(&format!("stat -c '%a %u %g' {file}; readlink {link}")).await;
    assert_eq!(ran.out(), "4750 12 34\nfile\n");
    let options = WriteOptions { mode: Some(0o600) };
    assert_eq!(sandbox.guest.write(&link, options, body([b"x"])).await.unwrap().mode, 0o600);
    sandbox
        .sh(&format!(
            "ln -s loop {0}; ln -s nowhere/new {1}",
            sandbox.path("loop"),
            sandbox.path("dangling")
        ))
        .await;
    let looping = sandbox.path("loop");
    let result = sandbox.guest.write(&looping, WriteOptions::default(), body([b""])).await;
    assert_eq!(kind(result), Some(ErrorKind::Invalid));
    sandbox.put(&sandbox.path("dangling"), "made").await;
    assert_eq!(sandbox.get(&sandbox.path("nowhere/new")).await, b"made");
}

#[tokio::test]
async fn an_interrupted_write_leaves_the_old_file_and_nothing_else() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let file = sandbox.path("d/file");
    sandbox.put(&file, "old").await;
    let failing = stream::iter([
        Ok(Bytes::from(vec![b'n'; 500_000])),
        Err(Error::new(ErrorKind::Internal, "the sender broke")),
    ]);
    let result = sandbox.guest.write(&file, WriteOptions::default(), failing.boxed()).await;
    assert_eq!(kind(result), Some(ErrorKind::Internal));
    let guest = sandbox.other_guest();
    let stuck = stream::iter([Ok(Bytes::from_static(b"half"))]).chain(stream::pending());
    let write = guest.write(&file, WriteOptions::default(), stuck.boxed());
    assert!(tokio::time::timeout(Duration::from_millis(100), write).await.is_err());
    drop(guest);
    assert_eq!(sandbox.get(&file).await, b"old");
    let dir = sandbox.path("d");
    let started = std::time::Instant::now();
    while sandbox.guest.list(&dir).await.unwrap().len() != 1 {
        assert!(started.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_is_not_a_regular_file_is_refused_at_once() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let (fifo, dir) = (sandbox.path("fifo"), sandbox.path("dir"));
    sandbox
        .sh(&format!(
            "mkfifo {fifo}; mkdir {dir}; ln -s /proc {0}/p; ln -s /proc/self/fd/0 {0}/m",
            sandbox.path("dir")
        ))
        .await;
    for path in [&fifo, "/dev/null", "/dev/tty"] {
        assert_eq!(kind(sandbox.guest.read(path, None).await), Some(ErrorKind::Invalid), "{path}");
        let write = sandbox.guest.write(path, WriteOptions::default(), body([b"x"])).await;
        assert_eq!(kind(write), Some(ErrorKind::Invalid), "{path}");
    }
    assert_eq!(kind(sandbox.guest.read(&dir, None).await), Some(ErrorKind::Conflict));
    let through = format!("{dir}/p/self/environ");
    for path in ["/proc", "/proc/self/environ", "/sys/kernel", "/proc/1/root/etc/passwd", &through]
    {
        for error in [
            kind(sandbox.guest.read(path, None).await),
            kind(sandbox.guest.stat(path).await),
            kind(sandbox.guest.list(path).await),
            kind(
                sandbox
                    .guest
                    .write(&format!("{path}/x"), WriteOptions::default(), body([b"x"]))
                    .await,
            ),
            kind(sandbox.guest.chmod(path, 0o777).await),
        ] {
            // A path that goes on below a file of the kernel's fails at that file already.
            let refused = matches!(error, Some(ErrorKind::Invalid | ErrorKind::Conflict));
            assert!(refused, "{path}: {error:?}");
        }
    }
    let magic = kind(sandbox.guest.read(&format!("{dir}/m"), None).await);
    assert!(matches!(magic, Some(ErrorKind::Invalid)), "{magic:?}");
}

#[tokio::test]
async fn bad_paths_are_told_apart() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let file = sandbox.path("file");
    sandbox.put(&file, "x").await;
    let long = format!("/{}", "a/".repeat(4096));
    for path in ["relative", "", "/nul\0byte", &long] {
        assert_eq!(kind(sandbox.guest.stat(path).await), Some(ErrorKind::Invalid), "{path:?}");
    }
    assert_eq!(kind(sandbox.guest.stat(&sandbox.path("no")).await), Some(ErrorKind::NotFound));
    assert_eq!(kind(sandbox.guest.list(&file).await), Some(ErrorKind::Conflict));
    assert_eq!(kind(sandbox.guest.remove("/", true).await), Some(ErrorKind::Invalid));
    assert_eq!(
        kind(sandbox.guest.remove(&format!("{file}/.."), true).await),
        Some(ErrorKind::Invalid)
    );
    // `..` above the root is the root.
    assert_eq!(sandbox.guest.stat("/../../..").await.unwrap().kind, FileKind::Directory);
}

#[tokio::test]
async fn hostile_names_break_nothing() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let dir = sandbox.path("names");
    fs::create_dir(&dir).unwrap();
    let names: [&[u8]; 5] = [b"new\nline", b"bad\xff\xfeutf8", b"*star*", b"-rf", b"\x1b[31m"];
    for name in names {
        fs::write(std::path::Path::new(&dir).join(std::ffi::OsStr::from_bytes(name)), "").unwrap();
    }
    let listed = sandbox.guest.list(&dir).await.unwrap();
    assert_eq!(listed.len(), 5);
    assert!(listed.iter().any(|info| info.path.ends_with("bad\u{fffd}\u{fffd}utf8")));
    assert_eq!(sandbox.guest.glob(&format!("{dir}/*")).await.unwrap().len(), 5);
    assert_eq!(sandbox.guest.glob(&format!("{dir}/\\*star\\*")).await.unwrap().len(), 1);
    sandbox.guest.remove(&format!("{dir}/new\nline"), false).await.unwrap();
    sandbox.guest.remove(&dir, true).await.unwrap();
    assert!(!fs::exists(&dir).unwrap());
}

#[tokio::test]
async fn patterns_cross_directories_but_not_links() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let top = sandbox.path("g");
    let line = format!(
        "mkdir -p {top}/a/b/c {top}/x; touch {top}/a/1.py {top}/a/b/c/2.py {top}/3.py {top}/x/n.txt; ln -s . {top}/a/loop; ln -s a {top}/link"
    );
    sandbox.sh(&line).await;
    let glob = async |pattern: &str| {
        let found = sandbox.guest.glob(&format!("{top}/{pattern}")).await.unwrap();
        found.iter().map(|path| path[top.len() + 1..].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(glob("**/*.py").await, ["3.py", "a/1.py", "a/b/c/2.py"]);
    assert_eq!(glob("*/*.py").await, ["a/1.py", "link/1.py"]);
    assert_eq!(glob("a/**/c").await, ["a/b/c"]);
    assert_eq!(glob("x/**").await, ["x/n.txt"]);
    assert_eq!(glob("[!a-l]").await, ["x"]);
    assert_eq!(glob("no/*").await, [""; 0]);
    assert_eq!(sandbox.guest.glob("/proc/*/status").await.unwrap(), [""; 0]);
    assert_eq!(kind(sandbox.guest.glob("/a/[").await), Some(ErrorKind::Invalid));
}

#[tokio::test]
async fn a_huge_or_deep_tree_does_not_stall_the_agent() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let dir = sandbox.path("huge");
    let deep = "d/".repeat(300);
    sandbox.sh(&format!("mkdir -p {dir}/many {dir}/{deep}; cd {dir}/many; seq 100001 | xargs touch; touch {dir}/{deep}/f")).await;
    let many = format!("{dir}/many");
    assert_eq!(kind(sandbox.guest.list(&many).await), Some(ErrorKind::TooLarge));
    assert_eq!(kind(sandbox.guest.glob(&format!("{dir}/**")).await), Some(ErrorKind::TooLarge));
    fs::remove_file(format!("{many}/1")).unwrap();
    assert_eq!(sandbox.guest.list(&many).await.unwrap().len(), 100_000);
    let removal = sandbox.guest.remove(&dir, true);
    let meanwhile = async {
        let started = std::time::Instant::now();
        assert_eq!(sandbox.sh("echo here").await.out(), "here\n");
        started.elapsed()
    };
    let (removed, answered) = tokio::join!(removal, meanwhile);
    removed.unwrap();
    assert!(answered < Duration::from_secs(1), "{answered:?}");
    assert!(!fs::exists(&dir).unwrap());
}

#[tokio::test]
async fn rename_chmod_and_remove_do_what_they_say() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let (one, two) = (sandbox.path("one"), sandbox.path("new/two"));
    sandbox.put(&one, "1").await;
    sandbox.guest.rename(&one, &two).await.unwrap();
    assert_eq!(sandbox.get(&two).await, b"1");
    assert_eq!(kind(sandbox.guest.rename(&one, &two).await), Some(ErrorKind::NotFound));
    sandbox.put(&one, "replaced").await;
    sandbox.guest.rename(&one, &two).await.unwrap();
    assert_eq!(sandbox.get(&two).await, b"replaced");
    let link = sandbox.path("link");
    sandbox.sh(&format!("ln -s new/two {link}")).await;
    sandbox.guest.chmod(&link, 0o4711).await.unwrap();
    assert_eq!(sandbox.guest.stat(&two).await.unwrap().mode, 0o4711);
    assert_eq!(kind(sandbox.guest.chmod(&two, 0o10000).await), Some(ErrorKind::Invalid));
    assert_eq!(
        kind(sandbox.guest.remove(&sandbox.path("new"), false).await),
        Some(ErrorKind::Conflict)
    );
    sandbox.guest.remove(&link, false).await.unwrap();
    assert_eq!(sandbox.get(&two).await, b"replaced");
    sandbox.guest.remove(&sandbox.path("new"), true).await.unwrap();
    assert_eq!(kind(sandbox.guest.remove(&two, false).await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_the_old_file() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let mount = sandbox.path("small");
    let ran =
        sandbox.sh(&format!("mkdir {mount} && mount -t tmpfs -o size=256k none {mount}")).await;
    assert_eq!(ran.exit.map(stacyvm_provider::Exit::code), Some(0), "{ran:?}");
    let file = format!("{mount}/file");
    sandbox.put(&file, "old").await;
    let big = vec![0; 1 << 20];
    let result = sandbox.guest.write(&file, WriteOptions::default(), body([&big])).await;
    assert_eq!(kind(result), Some(ErrorKind::DiskFull));
    assert_eq!(sandbox.get(&file).await, b"old");
    assert_eq!(sandbox.guest.list(&mount).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_port_is_dialled_with_half_close_and_figures_are_given() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        socket.read_to_end(&mut all).await.unwrap();
        socket.write_all(&all).await.unwrap();
    };
    let sent = vec![b'z'; 2_000_000];
    let dial = async {
        let mut channel = sandbox.guest.dial(port).await.unwrap();
        channel.write_all(&sent).await.unwrap();
        channel.shutdown().await.unwrap();
        let mut all = Vec::new();
        channel.read_to_end(&mut all).await.unwrap();
        all
    };
    let ((), received) =
        tokio::time::timeout(LIMIT, async { tokio::join!(echo, dial) }).await.unwrap();
    assert!(received == sent);
    drop(listener);
    assert_eq!(kind(sandbox.guest.dial(port).await), Some(ErrorKind::Unavailable));
    assert_eq!(kind(sandbox.guest.dial(0).await), Some(ErrorKind::Invalid));
    let stats = sandbox.guest.stats().await.unwrap();
    assert!(stats.pids.is_some_and(|pids| 0 < pids), "{stats:?}");
    assert!(stats.disk_limit_bytes.is_some() && stats.net_rx_bytes.is_some(), "{stats:?}");
}

#[tokio::test]
async fn a_client_that_talks_nonsense_disturbs_nobody() {
    let Some(sandbox) = Sandbox::start().await else { return };
    for noise in [&[0xff; 4096][..], &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 9, 255, 255, 255, 255]] {
        let mut socket = tokio::net::UnixStream::connect(sandbox.socket()).await.unwrap();
        let _ = socket.write_all(noise).await;
    }
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(tokio::net::UnixStream::connect(sandbox.socket()).await.unwrap());
    }
    assert_eq!(sandbox.sh("echo fine").await.out(), "fine\n");
}
