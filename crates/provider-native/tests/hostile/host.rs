//! The host from inside: its files, processes, network and what it leaks.

use std::{
    fs,
    net::TcpListener,
    os::unix::net::{SocketAddr, UnixListener},
    path::PathBuf,
};

use rustix::process::geteuid;
use stacyvm_provider::suite::fresh_id;

use crate::{
    arena::{Arena, Probe, probes},
    subject::Native,
};

pub(crate) fn probes(native: &Native) -> Vec<Probe> {
    let data_dir = native.dir.path().display().to_string();
    let mut probes = probes! {
        secrets_of_the_host_are_read_by_path if |c| c.isolation;
        secrets_of_the_host_are_searched_for if |c| c.isolation;
        the_hosts_own_accounts_are_read if |c| c.isolation;
        the_hosts_account_file_is_changed_through_its_copy if |c| c.isolation;
        programs_of_the_host_are_changed if |c| c.isolation;
        processes_of_the_host_are_looked_for if |c| c.pid_namespace;
        a_listener_on_the_hosts_loopback_is_called if |c| c.network_none;
        an_abstract_socket_of_the_host_is_called if |c| c.network_none;
        a_socket_file_of_the_host_is_called if |c| c.isolation;
        the_world_is_called if |c| c.network_none;
        shared_memory_is_left_for_the_next_sandbox if |c| c.isolation;
        a_neighbour_is_looked_for if |c| c.isolation;
    };
    probes.push(Probe {
        name: "paths_of_the_host_are_read_from_the_mount_table",
        needs: |c| c.isolation,
        run: Box::new(move |arena| Box::pin(leaked_paths(arena, data_dir))),
    });
    probes
}

/// Files that are planted on the host and taken away again.
struct Planted {
    files: Vec<PathBuf>,
    content: String,
}

impl Planted {
    fn new() -> Self {
        let id = fresh_id();
        let content = format!("planted secret {id}");
        let mut places: Vec<PathBuf> = vec![std::env::temp_dir()];
        if geteuid().is_root() {
            places
                .extend(["/etc", "/root", "/home", "/opt", "/var", "/srv", "/mnt"].map(Into::into));
        }
        let name = format!("stacyvm-probe-{}", &id.as_str()[3..]);
        let files = places.iter().map(|place| place.join(&name));
        let files = files.filter(|file| fs::write(file, &content).is_ok()).collect();
        Self { files, content }
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        for file in &self.files {
            // There is nothing more to be done about one that cannot be removed.
            let _ = fs::remove_file(file);
        }
    }
}

async fn secrets_of_the_host_are_read_by_path(arena: Arena) {
    let planted = Planted::new();
    assert!(!planted.files.is_empty());
    for file in &planted.files {
        let path = file.display().to_string();
        let line = format!(
            "cat {path} ../../../../../..{path} /proc/1/root{path} /proc/1/cwd{path} \
                            /proc/self/root{path} /proc/self/cwd/../../..{path}"
        );
        let said = arena.sandbox.sh(&line).await;
        assert!(!said.text().contains("planted"), "{path}");
        for climb in
            ["", "/workspace/../../../..", "/proc/1/root", "/proc/self/root", "/dev/fd/../../../.."]
        {
            assert!(arena.sandbox.get(&format!("{climb}{path}")).await.is_err(), "{climb}{path}");
        }
    }
}

async fn secrets_of_the_host_are_searched_for(arena: Arena) {
    let planted = Planted::new();
    let found = arena.sandbox.sh("find / -xdev -name 'stacyvm-probe-*' 2>/dev/null").await;
    assert_eq!(found.text(), "");
    let line = format!(
        "grep -rl '{}' /etc /root /home /opt /var /srv /mnt /tmp /run 2>/dev/null",
        planted.content
    );
    assert_eq!(arena.sandbox.sh(&line).await.text(), "");
    let globbed = arena.sandbox.guest.glob("/*/stacyvm-probe-*").await.unwrap();
    assert_eq!(globbed, Vec::<String>::new());
}

async fn the_hosts_own_accounts_are_read(arena: Arena) {
    let said = arena
        .sandbox
        .sh("cat /etc/shadow /etc/gshadow /etc/sudoers /etc/ssh/*key* /etc/machine-id")
        .await;
    for file in ["/etc/shadow", "/etc/machine-id"] {
        let Ok(own) = fs::read_to_string(file) else { continue };
        for line in own.lines().filter(|line| 20 < line.len()) {
            assert!(!said.text().contains(line), "{file}: {line}");
        }
    }
    for path in
        ["/root/.ssh", "/root/.bash_history", "/root/.cargo", "/var/lib/dpkg", "/var/log", "/boot"]
    {
        let listed = arena.sandbox.guest.list(path).await.unwrap_or_default();
        assert!(listed.is_empty(), "{path}: {listed:?}");
    }
}

async fn the_hosts_account_file_is_changed_through_its_copy(arena: Arena) {
    let before = fs::read("/etc/passwd").unwrap();
    let line = "echo owned::0:0::/:/bin/sh >> /etc/passwd; ln /etc/passwd hard; echo x > hard; \
                ln -s /etc/passwd soft; echo y > soft; mv hard /etc/passwd; chmod 777 /etc/passwd";
    arena.sandbox.sh(line).await;
    drop(
        arena
            .sandbox
            .guest
            .write("/workspace/soft", Default::default(), stacyvm_provider::suite::body("z"))
            .await,
    );
    assert!(fs::read("/etc/passwd").unwrap() == before, "the host's accounts changed");
}

async fn programs_of_the_host_are_changed(arena: Arena) {
    let before = fs::metadata("/usr/bin/env").unwrap();
    let line = "echo x > /usr/bin/env; rm -f /usr/bin/env; chmod 4777 /usr/bin/env; \
                touch /usr/bin/env; ln /usr/bin/env mine; echo x > mine; mkdir /usr/stacyvm-probe";
    arena.sandbox.sh(line).await;
    drop(arena.sandbox.guest.remove("/usr/bin/env", false).await);
    drop(arena.sandbox.guest.chmod("/usr/bin/env", 0o4777).await);
    drop(arena.sandbox.guest.rename("/usr/bin/env", "/usr/bin/env2").await);
    use std::os::unix::fs::MetadataExt;
    let after = fs::metadata("/usr/bin/env").unwrap();
    assert_eq!(
        (after.ino(), after.mode(), after.mtime(), after.len()),
        (before.ino(), before.mode(), before.mtime(), before.len()),
    );
    assert!(!fs::exists("/usr/stacyvm-probe").unwrap());
}

async fn processes_of_the_host_are_looked_for(arena: Arena) {
    let said = arena.sandbox.sh("cat /proc/[0-9]*/comm /proc/[0-9]*/cmdline | tr '\\0' ' '").await;
    for name in ["kthreadd", "ksoftirqd", "systemd", "hostile-", "cargo"] {
        assert!(!said.text().contains(name), "{name}: {}", said.text());
    }
    let pid = std::process::id();
    let line = format!("kill -0 {pid} && echo BREACH; kill -0 {} && echo BREACH", pid + 1);
    assert!(!arena.sandbox.sh(&line).await.text().contains("BREACH"));
}

async fn connects(arena: &Arena, code: &str) -> bool {
    let line = format!("python3 -c 'import socket\n{code}\nprint(\"CONNECTED\")'");
    let done = arena.sandbox.sh(&line).await;
    done.text().contains("CONNECTED")
}

async fn a_listener_on_the_hosts_loopback_is_called(arena: Arena) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost", "0.0.0.0", "::1"] {
        let code = format!("socket.create_connection((\"{host}\", {port}), 2)");
        assert!(!connects(&arena, &code).await, "{host}");
    }
    assert!(arena.sandbox.guest.dial(port).await.is_err(), "by dial");
}

async fn an_abstract_socket_of_the_host_is_called(arena: Arena) {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("stacyvm-probe-{}", fresh_id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let code = format!("socket.socket(socket.AF_UNIX).connect(\"\\0{name}\")");
    assert!(!connects(&arena, &code).await);
    assert!(!arena.sandbox.sh("cat /proc/net/unix").await.text().contains(&name));
}

async fn a_socket_file_of_the_host_is_called(arena: Arena) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    for path in [
        &*path.display().to_string(),
        "/run/docker.sock",
        "/var/run/docker.sock",
        "/run/dbus/system_bus_socket",
    ] {
        let code = format!("socket.socket(socket.AF_UNIX).connect(\"{path}\")");
        assert!(!connects(&arena, &code).await, "{path}");
    }
}

async fn the_world_is_called(arena: Arena) {
    for code in [
        "socket.create_connection((\"1.1.1.1\", 53), 2)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b\"x\", (\"8.8.8.8\", 53))",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b\"x\", (\"2001:4860:4860::8888\", 53))",
        "socket.create_connection((\"169.254.169.254\", 80), 2)",
        "socket.getaddrinfo(\"example.com\", 80)",
    ] {
        assert!(!connects(&arena, code).await, "{code}");
    }
}

async fn shared_memory_is_left_for_the_next_sandbox(arena: Arena) {
    let before = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let line = "python3 -c 'import ctypes\nlibc = ctypes.CDLL(None)\n\
                print(libc.shmget(0x57AC, 1 << 20, 0o1666), libc.msgget(0x57AC, 0o1666), \
                libc.semget(0x57AC, 1, 0o1666))'; echo left > /dev/shm/stacyvm-left; \
                echo left > /tmp/stacyvm-left";
    arena.sandbox.sh(line).await;
    arena.provider.destroy(&arena.sandbox.id).await.unwrap();
    let next = arena.another().await;
    let seen =
        next.sh("tail -n +2 -q /proc/sysvipc/*; ls -A /dev/shm /tmp /dev/mqueue").await.text();
    arena.provider.destroy(&next.id).await.unwrap();
    assert!(!seen.contains("22444") && !seen.contains("stacyvm-left"), "{seen}");
    assert_eq!(
        fs::read_to_string("/proc/sysvipc/shm").unwrap().lines().count(),
        before.lines().count()
    );
    assert!(!fs::exists("/dev/shm/stacyvm-left").unwrap());
}

async fn a_neighbour_is_looked_for(arena: Arena) {
    let neighbour = arena.another().await;
    neighbour.put("/workspace/stacyvm-neighbour", "private").await;
    let line = "find / -xdev -name 'stacyvm-neighbour' 2>/dev/null; cat /proc/mounts";
    let said = arena.sandbox.sh(line).await.text();
    arena.provider.destroy(&neighbour.id).await.unwrap();
    assert!(!said.contains("stacyvm-neighbour") && !said.contains(neighbour.id.as_str()), "{said}");
}

async fn leaked_paths(arena: Arena, data_dir: String) {
    let said = arena.sandbox.ok("cat /proc/self/mountinfo /proc/self/cgroup /proc/self/mountstats /proc/cmdline || true").await;
    assert!(!said.contains(&data_dir), "{data_dir} in {said}");
}
