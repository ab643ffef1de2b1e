//! The cases.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use stacyvm_provider::{
    Error, ErrorKind, ExecEvent, ExecInput, Exit, FileKind, Guest, Outcome, Output, RuntimeState,
    Stdin, WriteOptions,
    suite::{body, collect_from, eventually, fresh_id, shell, soon},
};
use stacyvm_types::{Generation, SandboxId};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{Case, Scene};

/// Lists the cases.
macro_rules! list {
    ($($name:ident),* $(,)?) => {
        /// All cases.
        pub fn cases() -> Vec<Case> {
            vec![$(Case { name: stringify!($name), run: |scene| Box::pin($name(scene)) },)*]
        }
    };
}

list![
    a_spawned_sandbox_is_found_and_runs_commands,
    spawn_and_destroy_may_be_repeated,
    an_unknown_sandbox_has_no_status_and_no_inside,
    a_stale_generation_is_fenced_and_changes_nothing,
    an_unknown_provider_is_unsupported,
    a_launch_that_cannot_be_right_is_invalid,
    the_inventory_is_complete_and_carries_the_newest_generation,
    a_draining_worker_takes_no_spawns_and_keeps_what_runs,
    the_providers_report,
    a_deadline_is_moved_for_a_known_sandbox_only,
    the_ends_of_commands_keep_their_kinds,
    output_is_live_and_goes_on_from_an_offset,
    bytes_that_are_no_text_arrive_as_they_were_written,
    a_running_command_is_told_things,
    a_command_runs_on_when_nobody_listens,
    many_commands_follow_each_other,
    a_large_file_travels_both_ways_in_pieces,
    a_part_of_a_file_is_read,
    a_write_that_breaks_off_leaves_the_old_file,
    a_write_that_is_refused_says_why_also_while_it_is_being_sent,
    files_are_described_found_moved_and_removed,
    errors_about_files_keep_their_kinds,
    a_port_is_dialled_and_closed_from_both_sides,
    a_port_that_nobody_listens_on_is_unavailable,
    what_a_sandbox_uses_and_says_is_told,
];

/// A sandbox of a case.
struct Own {
    scene: Scene,
    id: SandboxId,
    guest: Arc<dyn Guest>,
}

impl Scene {
    async fn own(&self) -> Own {
        let id = fresh_id();
        soon("spawn", self.worker.spawn(&self.provider, &self.spec(&id, 1))).await.unwrap();
        let guest = self.worker.guest(&self.provider, &id, Generation(1)).await.unwrap();
        Own { scene: self.clone(), id, guest }
    }

    async fn destroy(&self, id: &SandboxId, generation: u64) -> Result<(), Error> {
        soon("destroy", self.worker.destroy(&self.provider, id, Generation(generation))).await
    }

    /// What reaching into a sandbox says.
    async fn reach(&self, id: &SandboxId, generation: u64) -> Result<(), Error> {
        let guest = self.worker.guest(&self.provider, id, Generation(generation)).await?;
        soon("stat", guest.stat("/workspace")).await.map(|_| ())
    }
}

impl Own {
    async fn sh(&self, line: &str) -> stacyvm_provider::suite::Done {
        let exec = soon(line, self.guest.exec(shell(line))).await.unwrap();
        soon(line, collect_from(exec, 0)).await
    }

    async fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        let write = self.guest.write(path, WriteOptions::default(), body(bytes));
        soon(path, write).await.unwrap();
    }

    async fn get(&self, path: &str) -> Result<Vec<u8>, Error> {
        let mut read = soon(path, self.guest.read(path, None)).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = soon(path, read.body.next()).await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes)
    }

    async fn end(self) {
        self.scene.destroy(&self.id, 1).await.unwrap();
    }
}

/// Bytes that do not repeat soon.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

async fn a_spawned_sandbox_is_found_and_runs_commands(scene: Scene) {
    let id = fresh_id();
    let spawned = scene.worker.spawn(&scene.provider, &scene.spec(&id, 1)).await.unwrap();
    let status = scene.worker.status(&scene.provider, &id).await.unwrap();
    assert_eq!((&spawned, status.state), (&status, RuntimeState::Running));
    assert_eq!((status.id, status.generation), (id.clone(), Generation(1)));
    let guest = scene.worker.guest(&scene.provider, &id, Generation(1)).await.unwrap();
    let exec = guest.exec(shell("echo out; echo err >&2; exit 3")).await.unwrap();
    let done = soon("the end", collect_from(exec, 0)).await;
    assert_eq!(
        (done.exit, &*done.stdout, &*done.stderr),
        (Exit::Code(3), &b"out\n"[..], &b"err\n"[..])
    );
    scene.destroy(&id, 1).await.unwrap();
    let gone = scene.worker.status(&scene.provider, &id).await.unwrap_err();
    assert_eq!((gone.kind, gone.outcome), (ErrorKind::NoSandbox, Outcome::NotDone));
}

async fn spawn_and_destroy_may_be_repeated(scene: Scene) {
    let own = scene.own().await;
    own.put("/workspace/mine", "kept").await;
    let again = scene.worker.spawn(&scene.provider, &scene.spec(&own.id, 1)).await.unwrap();
    assert_eq!(again.id, own.id);
    assert_eq!(own.get("/workspace/mine").await.unwrap(), b"kept");
    for _ in 0..2 {
        scene.destroy(&own.id, 1).await.unwrap();
    }
    scene.destroy(&fresh_id(), 1).await.unwrap();
}

async fn an_unknown_sandbox_has_no_status_and_no_inside(scene: Scene) {
    let id = fresh_id();
    let error = scene.worker.status(&scene.provider, &id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoSandbox);
    let error = scene.reach(&id, 1).await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::NoSandbox, Outcome::NotDone));
}

async fn a_stale_generation_is_fenced_and_changes_nothing(scene: Scene) {
    let id = fresh_id();
    scene.worker.spawn(&scene.provider, &scene.spec(&id, 2)).await.unwrap();
    let remaining = Duration::from_secs(60);
    let stale = Generation(1);
    let late = scene.worker.guest(&scene.provider, &id, stale).await;
    let late = match late {
        Ok(guest) => guest.remove("/workspace", true).await.unwrap_err(),
        Err(error) => error,
    };
    for error in [
        scene.worker.spawn(&scene.provider, &scene.spec(&id, 1)).await.unwrap_err(),
        scene.destroy(&id, 1).await.unwrap_err(),
        scene.worker.set_deadline(&scene.provider, &id, stale, remaining).await.unwrap_err(),
        late,
    ] {
        assert_eq!((error.kind, error.outcome), (ErrorKind::Fenced, Outcome::NotDone), "{error:?}");
    }
    scene.reach(&id, 2).await.unwrap();
    scene.reach(&id, 5).await.unwrap();
    assert_eq!(scene.reach(&id, 4).await.unwrap_err().kind, ErrorKind::Fenced);
    scene.destroy(&id, 5).await.unwrap();
    let error = scene.worker.spawn(&scene.provider, &scene.spec(&id, 5)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Fenced, "a late launch brings nothing back");
}

async fn an_unknown_provider_is_unsupported(scene: Scene) {
    let id = fresh_id();
    let unsupported = |error: Error| assert_eq!(error.kind, ErrorKind::Unsupported, "{error:?}");
    unsupported(scene.worker.spawn("none", &scene.spec(&id, 1)).await.unwrap_err());
    unsupported(scene.worker.destroy("none", &id, Generation(1)).await.unwrap_err());
    unsupported(scene.worker.status("none", &id).await.unwrap_err());
    unsupported(scene.worker.capabilities("none").unwrap_err());
    unsupported(scene.worker.images("none").err().unwrap());
}

async fn a_launch_that_cannot_be_right_is_invalid(scene: Scene) {
    let id = fresh_id();
    let mut spec = scene.spec(&id, 1);
    spec.limits.vcpus = 0;
    let error = scene.worker.spawn(&scene.provider, &spec).await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Invalid, Outcome::NotDone));
    let gone = scene.worker.status(&scene.provider, &id).await.unwrap_err();
    assert_eq!(gone.kind, ErrorKind::NoSandbox);
}

async fn the_inventory_is_complete_and_carries_the_newest_generation(scene: Scene) {
    let (one, two) = (scene.own().await, scene.own().await);
    scene.reach(&two.id, 7).await.unwrap();
    let (runtimes, silent) = scene.worker.runtimes().await;
    assert!(silent.is_empty(), "{silent:?}");
    let find = |id: &SandboxId| {
        let found = runtimes.iter().find(|(_, runtime)| runtime.id == *id).unwrap();
        assert_eq!(*found.0, *scene.provider);
        found.1.generation
    };
    assert_eq!((find(&one.id), find(&two.id)), (Generation(1), Generation(7)));
    scene.destroy(&two.id, 7).await.unwrap();
    one.end().await;
    assert!(scene.worker.runtimes().await.0.is_empty());
}

async fn a_draining_worker_takes_no_spawns_and_keeps_what_runs(scene: Scene) {
    let own = scene.own().await;
    scene.worker.drain().await.unwrap();
    let error = scene.worker.spawn(&scene.provider, &scene.spec(&fresh_id(), 1)).await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Unavailable, Outcome::NotDone));
    assert_eq!(error.message, "worker is draining");
    assert_eq!(own.sh("echo on").await.text(), "on");
    scene.worker.undrain().await.unwrap();
    scene.own().await.end().await;
    own.end().await;
}

async fn the_providers_report(scene: Scene) {
    let reports = scene.worker.providers().await;
    let [report] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!(
        (&*report.name, report.default, report.probe.usable),
        (&*scene.provider, true, true)
    );
    assert_eq!(report.capabilities, scene.worker.capabilities(&scene.provider).unwrap());
    assert_eq!(report.runtimes, Some(0));
    assert!(!report.probe.summary.is_empty());
}

async fn a_deadline_is_moved_for_a_known_sandbox_only(scene: Scene) {
    let own = scene.own().await;
    let remaining = Duration::from_secs(3600);
    let worker = &scene.worker;
    worker.set_deadline(&scene.provider, &own.id, Generation(1), remaining).await.unwrap();
    let unknown = worker.set_deadline(&scene.provider, &fresh_id(), Generation(1), remaining).await;
    assert_eq!(unknown.unwrap_err().kind, ErrorKind::NoSandbox);
    own.end().await;
}

async fn the_ends_of_commands_keep_their_kinds(scene: Scene) {
    let own = scene.own().await;
    assert_eq!(own.sh("exit 42").await.exit, Exit::Code(42));
    assert_eq!(own.sh("kill -9 $$").await.exit, Exit::Signal(9));
    let mut spec = shell("sleep 1000");
    spec.deadline = Some(Duration::from_millis(200));
    let exec = own.guest.exec(spec).await.unwrap();
    assert_eq!(soon("the deadline", collect_from(exec, 0)).await.exit, Exit::Timeout);
    let spec = stacyvm_provider::suite::argv(&["/no/such/program"]);
    let error = own.guest.exec(spec).await.err().unwrap();
    assert_eq!((error.kind, error.outcome), (ErrorKind::NotExecutable, Outcome::NotDone));
    own.end().await;
}

async fn output_is_live_and_goes_on_from_an_offset(scene: Scene) {
    let own = scene.own().await;
    let spec = shell("printf one; while [ ! -e go ]; do sleep 0.01; done; printf two >&2; exit 5");
    let mut exec = own.guest.exec(spec.clone()).await.unwrap();
    let event = soon("output while it runs", exec.events.next()).await.unwrap().unwrap();
    let ExecEvent::Output { offset: 0, stream: Output::Stdout, data } = event else {
        panic!("{event:?}")
    };
    assert_eq!(data, "one");
    drop(exec);
    let again = own.guest.attach(&spec.id, 1).await.unwrap();
    own.put("/workspace/go", "").await;
    let done = soon("the end", collect_from(again, 1)).await;
    assert_eq!((done.exit, done.stdout, done.stderr), (Exit::Code(5), b"ne".into(), b"two".into()));
    let after = own.guest.attach(&spec.id, 3).await.unwrap();
    let done = soon("the end again", collect_from(after, 3)).await;
    assert_eq!((done.exit, done.stderr), (Exit::Code(5), b"two".to_vec()));
    let unknown = own.guest.attach(&shell("").id, 0).await.err().unwrap();
    assert_eq!(unknown.kind, ErrorKind::NotFound);
    own.end().await;
}

async fn bytes_that_are_no_text_arrive_as_they_were_written(scene: Scene) {
    let own = scene.own().await;
    let bytes = noise(3 << 20);
    own.put("/workspace/noise", bytes.clone()).await;
    let done = own.sh("cat noise").await;
    assert_eq!((done.exit, done.truncated), (Exit::Code(0), None));
    assert!(done.stdout == bytes, "{} of {} bytes are the same", done.stdout.len(), bytes.len());
    own.end().await;
}

async fn a_running_command_is_told_things(scene: Scene) {
    let own = scene.own().await;
    let mut spec = shell("cat > all; wc -c < all");
    spec.stdin = Stdin::Pipe;
    let bytes = noise(1 << 20);
    let exec = own.guest.exec(spec).await.unwrap();
    let input = exec.input.clone();
    let send = async {
        for piece in bytes.chunks(300_000) {
            input.send(ExecInput::Data(piece.to_vec().into())).await.unwrap();
        }
        input.send(ExecInput::Eof).await.unwrap();
        drop(input);
    };
    let (done, ()) = soon("all is read", async { tokio::join!(collect_from(exec, 0), send) }).await;
    assert_eq!(done.text(), bytes.len().to_string());
    assert!(own.get("/workspace/all").await.unwrap() == bytes);
    let mut exec = own
        .guest
        .exec(shell("trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done"))
        .await
        .unwrap();
    soon("it is up", exec.events.next()).await.unwrap().unwrap();
    exec.input.send(ExecInput::Signal(15)).await.unwrap();
    // The shell may say that what it waited for was told too.
    let rest = soon("the end", exec.events.map(Result::unwrap).collect::<Vec<_>>()).await;
    assert_eq!(rest.last(), Some(&ExecEvent::Exit(Exit::Code(9))));
    own.end().await;
}

async fn a_command_runs_on_when_nobody_listens(scene: Scene) {
    let own = scene.own().await;
    let spec = shell("while [ ! -e go ]; do sleep 0.01; done; echo done > done");
    let exec = own.guest.exec(spec.clone()).await.unwrap();
    drop(exec);
    own.put("/workspace/go", "").await;
    eventually("it ran on", || async {
        own.get("/workspace/done").await.is_ok_and(|d| !d.is_empty())
    })
    .await;
    let again = own.guest.attach(&spec.id, 0).await.unwrap();
    assert_eq!(soon("the end", collect_from(again, 0)).await.exit, Exit::Code(0));
    own.end().await;
}

async fn many_commands_follow_each_other(scene: Scene) {
    let own = scene.own().await;
    for round in 0..100 {
        assert_eq!(own.sh(&format!("echo {round}")).await.text(), round.to_string());
    }
    let all = (0..32).map(|n| {
        let own = &own;
        async move { assert_eq!(own.sh(&format!("echo {n}")).await.text(), n.to_string()) }
    });
    futures_util::future::join_all(all).await;
    own.end().await;
}

async fn a_large_file_travels_both_ways_in_pieces(scene: Scene) {
    let own = scene.own().await;
    let bytes = noise(24 << 20);
    let options = WriteOptions { mode: Some(0o640) };
    let info = soon("write", own.guest.write("/workspace/a/b", options, body(bytes.clone()))).await;
    let info = info.unwrap();
    assert_eq!((info.size, info.mode, info.kind), (bytes.len() as u64, 0o640, FileKind::File));
    assert!(own.get("/workspace/a/b").await.unwrap() == bytes);
    own.put("/workspace/empty", "").await;
    assert!(own.get("/workspace/empty").await.unwrap().is_empty());
    own.end().await;
}

async fn a_part_of_a_file_is_read(scene: Scene) {
    let own = scene.own().await;
    own.put("/workspace/f", "0123456789").await;
    for (range, expected) in
        [(2..5, "234"), (8..100, "89"), (10..20, ""), (0..u64::MAX, "0123456789")]
    {
        let read = own.guest.read("/workspace/f", Some(range.clone())).await.unwrap();
        assert_eq!(read.range, range.start..range.end.min(10));
        assert_eq!((read.info.size, &*read.info.path), (10, "/workspace/f"));
        let pieces: Vec<_> = read.body.map(Result::unwrap).collect().await;
        assert_eq!(pieces.concat(), expected.as_bytes());
    }
    let error = own.guest.read("/workspace/f", Some(11..12)).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Invalid);
    own.end().await;
}

async fn a_write_that_breaks_off_leaves_the_old_file(scene: Scene) {
    let own = scene.own().await;
    own.put("/workspace/f", "old").await;
    let pieces = [Ok(noise(200_000).into()), Err(Error::new(ErrorKind::TooLarge, "enough"))];
    let cut = stream::iter(pieces).boxed();
    let error = own.guest.write("/workspace/f", WriteOptions::default(), cut).await.unwrap_err();
    assert_eq!((error.kind, &*error.message), (ErrorKind::TooLarge, "enough"));
    assert_eq!(own.get("/workspace/f").await.unwrap(), b"old");
    // One whose caller goes away in the middle is cut too.
    let stuck = stream::iter([Ok(noise(200_000).into())]).chain(stream::pending()).boxed();
    let write = own.guest.write("/workspace/f", WriteOptions::default(), stuck);
    let dropped = tokio::time::timeout(Duration::from_millis(100), write).await;
    assert!(dropped.is_err());
    assert_eq!(own.get("/workspace/f").await.unwrap(), b"old");
    assert_eq!(own.sh("ls -A").await.text(), "f");
    own.end().await;
}

async fn a_write_that_is_refused_says_why_also_while_it_is_being_sent(scene: Scene) {
    let own = scene.own().await;
    own.put("/workspace/dir/inner", "").await;
    for _ in 0..3 {
        let long = stream::repeat_with(|| Ok(noise(60_000).into())).take(500).boxed();
        let write = own.guest.write("/workspace/dir", WriteOptions::default(), long);
        let error = soon("the refusal", write).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict, "{error:?}");
    }
    let guest = scene.worker.guest(&scene.provider, &fresh_id(), Generation(1)).await;
    if let Ok(guest) = guest {
        let long = stream::repeat_with(|| Ok(noise(60_000).into())).take(500).boxed();
        let write = guest.write("/workspace/f", WriteOptions::default(), long);
        let error = soon("the refusal", write).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NoSandbox, "{error:?}");
    }
    own.end().await;
}

async fn files_are_described_found_moved_and_removed(scene: Scene) {
    let own = scene.own().await;
    own.put("/workspace/a/one.txt", "1").await;
    own.put("/workspace/a/b/two.txt", "22").await;
    let listed = own.guest.list("/workspace/a").await.unwrap();
    let listed: Vec<_> = listed.iter().map(|info| (&*info.path, info.kind)).collect();
    assert_eq!(
        listed,
        [("/workspace/a/b", FileKind::Directory), ("/workspace/a/one.txt", FileKind::File)]
    );
    let found = own.guest.glob("a/**/*.txt").await.unwrap();
    assert_eq!(found, ["/workspace/a/b/two.txt", "/workspace/a/one.txt"]);
    own.guest.chmod("/workspace/a/one.txt", 0o600).await.unwrap();
    let info = own.guest.stat("/workspace/a/one.txt").await.unwrap();
    assert_eq!((info.mode, info.size), (0o600, 1));
    own.guest.rename("/workspace/a/one.txt", "/workspace/c/d").await.unwrap();
    assert_eq!(own.get("/workspace/c/d").await.unwrap(), b"1");
    own.guest.remove("/workspace/a", true).await.unwrap();
    assert_eq!(own.sh("ls").await.text(), "c");
    own.end().await;
}

async fn errors_about_files_keep_their_kinds(scene: Scene) {
    let own = scene.own().await;
    own.put("/workspace/dir/f", "x").await;
    let guest = &own.guest;
    let write = |path: &'static str| guest.write(path, WriteOptions::default(), body("y"));
    for (what, error, kind) in [
        ("a missing file", own.get("/workspace/none").await.err(), ErrorKind::NotFound),
        ("a missing one", guest.stat("/workspace/none").await.err(), ErrorKind::NotFound),
        ("relative", guest.stat("none").await.err(), ErrorKind::Invalid),
        ("not empty", guest.remove("/workspace/dir", false).await.err(), ErrorKind::Conflict),
        ("a directory", write("/workspace/dir").await.err(), ErrorKind::Conflict),
        ("a mode", guest.chmod("/workspace/dir/f", 0o10_000).await.err(), ErrorKind::Invalid),
    ] {
        let error = error.unwrap_or_else(|| panic!("{what} is refused"));
        assert_eq!((error.kind, error.outcome), (kind, Outcome::NotDone), "{what}: {error:?}");
    }
    own.end().await;
}

async fn a_port_is_dialled_and_closed_from_both_sides(scene: Scene) {
    if !scene.worker.capabilities(&scene.provider).unwrap().dial {
        return;
    }
    // The provider of this suite has the network of its host.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let own = scene.own().await;
    let echo = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        socket.read_to_end(&mut all).await.unwrap();
        socket.write_all(&all).await.unwrap();
    };
    let bytes = noise(2 << 20);
    let dial = async {
        let mut port = own.guest.dial(port).await.unwrap();
        port.write_all(&bytes).await.unwrap();
        port.shutdown().await.unwrap();
        let mut all = Vec::new();
        port.read_to_end(&mut all).await.unwrap();
        all
    };
    let ((), all) = soon("the echo", async { tokio::join!(echo, dial) }).await;
    assert!(all == bytes);
    own.end().await;
}

async fn a_port_that_nobody_listens_on_is_unavailable(scene: Scene) {
    let own = scene.own().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = own.guest.dial(port).await.err().unwrap();
    let kinds = [ErrorKind::Unavailable, ErrorKind::Unsupported];
    assert!(kinds.contains(&error.kind), "{error:?}");
    own.end().await;
}

async fn what_a_sandbox_uses_and_says_is_told(scene: Scene) {
    let own = scene.own().await;
    own.sh("echo first; echo second").await;
    assert_eq!(own.guest.logs(1).await.unwrap(), ["second"]);
    if scene.worker.capabilities(&scene.provider).unwrap().stats {
        assert!(own.guest.stats().await.unwrap().disk_bytes.is_some());
    }
    own.end().await;
}
