//! Paths that cannot be right, and ports.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Scene, list,
    scene::{body, soon},
};
use crate::{ErrorKind, WriteOptions};

list! {
    a_relative_path_is_invalid if |_| true;
    a_path_with_a_zero_byte_is_invalid if |_| true;
    proc_and_sys_are_not_files if |_| true;
    a_port_inside_answers if |c| c.dial;
    many_connections_to_a_port_at_once if |c| c.dial;
    a_port_where_nobody_listens_is_refused if |c| c.dial;
}

async fn refused_everywhere(scene: &Scene, path: &str, allowed: &[ErrorKind]) {
    let sandbox = scene.sandbox().await;
    let guest = &sandbox.guest;
    sandbox.put("/workspace/source", "x").await;
    let outcomes = [
        ("read", guest.read(path, None).await.err()),
        ("write", guest.write(path, WriteOptions::default(), body("x")).await.err()),
        ("list", guest.list(path).await.err()),
        ("stat", guest.stat(path).await.err()),
        ("chmod", guest.chmod(path, 0o777).await.err()),
        ("remove", guest.remove(path, true).await.err()),
        ("rename from", guest.rename(path, "/workspace/x").await.err()),
        ("rename to", guest.rename("/workspace/source", path).await.err()),
    ];
    for (what, error) in outcomes {
        let kind = error.as_ref().map(|error| error.kind);
        assert!(kind.is_some_and(|kind| allowed.contains(&kind)), "{what} {path:?}: {error:?}");
    }
}

async fn a_relative_path_is_invalid(scene: Scene) {
    for path in ["", "workspace/f", "./f", "../f"] {
        refused_everywhere(&scene, path, &[ErrorKind::Invalid]).await;
    }
}

async fn a_path_with_a_zero_byte_is_invalid(scene: Scene) {
    refused_everywhere(&scene, "/workspace/a\0b", &[ErrorKind::Invalid]).await;
}

async fn proc_and_sys_are_not_files(scene: Scene) {
    // Where a sandbox has no /sys at all there is nothing to find in it.
    let refused = [ErrorKind::Denied, ErrorKind::Invalid, ErrorKind::NotFound, ErrorKind::Conflict];
    for path in ["/proc/self/environ", "/proc/1/root/etc/passwd", "/sys/kernel", "//proc/version"] {
        refused_everywhere(&scene, path, &refused).await;
    }
}

/// An echo server on a free port that it prints.
const ECHO: &str = r#"perl -MIO::Socket::INET -e '
    $| = 1;
    $s = IO::Socket::INET->new(Listen => 64, LocalAddr => "127.0.0.1", LocalPort => 0) or die;
    open(F, ">", "port.new"); print F $s->sockport; close F; rename "port.new", "port";
    while ($c = $s->accept) {
        if (fork) { close $c; next } while (sysread($c, $b, 65536)) { while (length $b) {
            $n = syswrite($c, $b); substr($b, 0, $n, ""); } } exit
    }' > /dev/null 2>&1 &"#;

async fn echo_port(sandbox: &super::Sandbox) -> u16 {
    sandbox.ok(ECHO).await;
    sandbox.appears("/workspace/port").await;
    String::from_utf8(sandbox.get("/workspace/port").await.unwrap()).unwrap().parse().unwrap()
}

async fn a_port_inside_answers(scene: Scene) {
    let sandbox = scene.sandbox().await;
    if sandbox.sh("command -v perl").await.exit != crate::Exit::Code(0) {
        return scene.skip("there is no perl to serve a port with");
    }
    let port = echo_port(&sandbox).await;
    let stream = soon("dial", sandbox.guest.dial(port)).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let sent: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    let mut received = Vec::new();
    let send = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    soon("the echo", async { tokio::join!(send, read.read_to_end(&mut received)) })
        .await
        .1
        .unwrap();
    assert!(received == sent);
}

async fn many_connections_to_a_port_at_once(scene: Scene) {
    let sandbox = scene.sandbox().await;
    if sandbox.sh("command -v perl").await.exit != crate::Exit::Code(0) {
        return scene.skip("there is no perl to serve a port with");
    }
    let port = echo_port(&sandbox).await;
    let talk = |n: u8| {
        let guest = sandbox.guest.clone();
        async move {
            let mut stream = guest.dial(port).await.unwrap();
            let mut back = [0; 1000];
            stream.write_all(&[n; 1000]).await.unwrap();
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(back, [n; 1000]);
        }
    };
    soon("all echoes", futures_util::future::join_all((0..20).map(talk))).await;
}

async fn a_port_where_nobody_listens_is_refused(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let error = soon("dial", sandbox.guest.dial(1)).await.err().unwrap();
    let kinds = [ErrorKind::Unavailable, ErrorKind::NotFound, ErrorKind::Conflict];
    assert!(kinds.contains(&error.kind), "{error:?}");
}
