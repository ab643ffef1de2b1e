//! What a sandbox sees of its host: nothing.

use super::{Scene, list, scene::Planted};

list! {
    there_is_no_network_but_loopback if |c| c.network_none;
    a_listener_of_the_host_is_not_reached if |c| c.network_none;
    processes_of_the_host_are_not_seen if |c| c.pid_namespace;
    files_of_the_host_are_not_seen if |c| c.isolation;
    system_directories_are_writable_inside_only if |c| c.writable_root;
    system_directories_of_the_host_image_cannot_be_written if |c| c.isolation && !c.writable_root;
    sandboxes_have_their_own_host_name if |c| c.isolation;
}

async fn there_is_no_network_but_loopback(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let devices = sandbox.ok("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '").await;
    assert_eq!(devices, "lo");
}

async fn a_listener_of_the_host_is_not_reached(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let line = format!(
        "perl -MIO::Socket::INET -e 'exit(IO::Socket::INET->new(\"127.0.0.1:{port}\") ? 0 : 3)'"
    );
    assert_eq!(sandbox.sh(&line).await.exit, crate::Exit::Code(3));
    assert!(sandbox.guest.dial(port).await.is_err());
}

async fn processes_of_the_host_are_not_seen(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let own = std::process::id();
    let count: u32 = sandbox.ok("ls -d /proc/[0-9]* | wc -l").await.parse().unwrap();
    assert!(count < 10, "{count} processes in an idle sandbox");
    let comm = sandbox.sh(&format!("cat /proc/{own}/cmdline; cat /proc/2/comm")).await;
    assert!(!comm.text().contains("kthreadd"), "{}", comm.text());
}

async fn files_of_the_host_are_not_seen(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let secret = Planted::new();
    let path = secret.0.display();
    let seen = sandbox.sh(&format!("cat {path}")).await;
    assert_ne!(seen.exit, crate::Exit::Code(0));
    assert!(sandbox.get(&path.to_string()).await.is_err());
}

async fn system_directories_are_writable_inside_only(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let name = format!("/usr/bin/stacyvm-{}", sandbox.id);
    sandbox
        .ok(&format!("printf '#!/bin/sh\\necho mine\\n' > {name}; chmod 755 {name}; {name}"))
        .await;
    assert!(!std::path::Path::new(&name).exists());
}

async fn system_directories_of_the_host_image_cannot_be_written(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let name = format!("/usr/bin/stacyvm-{}", sandbox.id);
    assert_ne!(sandbox.sh(&format!("echo x > {name}")).await.exit, crate::Exit::Code(0));
    assert!(!std::path::Path::new(&name).exists());
}

async fn sandboxes_have_their_own_host_name(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_ne!(sandbox.ok("cat /proc/sys/kernel/hostname").await, own.trim());
}
