//! `db`: copies of the database of a running server, and what a server makes of one that is put back.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::process::{Pid, Signal, kill_process};

use crate::world::{Said, World, command, port, serve, wait_for};

const MOCK: &[&str] = &["--provider", "mock"];

fn db(dir: &Path, args: &[&str]) -> Said {
    let data = dir.join("data");
    command(["db"]).args(args).arg("--data-dir").arg(data).current_dir(dir).output().unwrap().into()
}

fn stop(world: &mut World) {
    kill_process(Pid::from_child(&world.server), Signal::TERM).unwrap();
    assert_eq!(wait_for("the end", || world.server.try_wait().unwrap()).code(), Some(0));
}

fn start(world: &mut World) {
    fs::remove_file(world.dir.path().join("port")).unwrap();
    world.server = serve(world.dir.path(), MOCK);
    world.url = format!("http://127.0.0.1:{}", port(world.dir.path()));
}

fn listed(world: &World, args: &[&str]) -> BTreeSet<String> {
    world.out(args).lines().map(str::to_owned).collect()
}

/// What happened while sandboxes were spawned.
struct Load<T> {
    result: T,
    /// Spawned before it began.
    before: BTreeSet<String>,
    /// Spawned in all.
    all: BTreeSet<String>,
}

/// Spawns sandboxes until the end of `work`.
fn under_load<T>(world: &World, work: impl FnOnce() -> T) -> Load<T> {
    let (done, spawned) = (AtomicBool::new(false), Mutex::new(BTreeSet::new()));
    let (result, before) = std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let id = world.sandbox();
                    spawned.lock().unwrap().insert(id);
                }
            });
        }
        wait_for("some sandboxes", || (10 < spawned.lock().unwrap().len()).then_some(()));
        let before = spawned.lock().unwrap().clone();
        let result = work();
        done.store(true, Ordering::SeqCst);
        (result, before)
    });
    Load { result, before, all: spawned.into_inner().unwrap() }
}

#[test]
fn a_backup_under_load_holds_one_instant_and_a_server_starts_from_it() {
    let world = World::start(MOCK);
    let file = world.dir.path().join("copy.db");
    let name = file.to_str().unwrap();
    let Load { result: said, before, all } =
        under_load(&world, || db(world.dir.path(), &["backup", name, "-o", "json"]));
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    assert!(said.out.contains("\"problems\":[]"), "{said:?}");
    let checked = db(world.dir.path(), &["check"]);
    assert_eq!(checked.code, 0, "beside the running server: {checked:?}");
    let again = db(world.dir.path(), &["backup", name]);
    assert_eq!(again.code, 4, "{again:?}");
    assert!(again.err.contains("--force"), "{again:?}");

    let other = tempfile::tempdir().unwrap();
    let said = db(other.path(), &["restore", name, "-o", "json"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    let server = serve(other.path(), MOCK);
    let url = format!("http://127.0.0.1:{}", port(other.path()));
    let restored = World { server, url, dir: other };
    let rows = listed(&restored, &["list", "--all", "-q"]);
    assert!(before.is_subset(&rows), "what was answered before the backup is in it");
    assert!(rows.is_subset(&all), "and nothing that never was");
    assert!(said.out.contains(&format!("\"sandboxes\":{},", rows.len())), "{said:?}");
    // Their runtimes are on no host that this server has.
    assert_eq!(listed(&restored, &["list", "-q"]), BTreeSet::new());
}

#[test]
fn a_database_is_put_back_only_without_a_server_and_the_old_one_is_kept() {
    let mut world = World::start(MOCK);
    let first = world.sandbox();
    let file = world.dir.path().join("copy.db");
    let name = file.to_str().unwrap().to_owned();
    assert_eq!(db(world.dir.path(), &["backup", &name]).code, 0);
    let later = world.sandbox();
    let refused = db(world.dir.path(), &["restore", &name]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("another server uses the data directory"), "{refused:?}");
    assert_eq!(listed(&world, &["list", "-q"]), BTreeSet::from([first.clone(), later.clone()]));
    stop(&mut world);
    let said = db(world.dir.path(), &["restore", &name]);
    assert_eq!(said.code, 0, "{said:?}");
    let old = said.err.trim().rsplit(' ').next().unwrap();
    let kept = db(world.dir.path(), &["check", old, "-o", "json"]);
    assert!(kept.out.contains("\"sandboxes\":2"), "{kept:?}");
    start(&mut world);
    assert_eq!(listed(&world, &["list", "--all", "-q"]), BTreeSet::from([first]));
}

#[test]
fn a_backup_that_is_killed_disturbs_no_server_and_leaves_no_half_of_itself_under_its_name() {
    let world = World::start(MOCK);
    for _ in 0..5 {
        world.sandbox();
    }
    let file = world.dir.path().join("copy.db");
    let partial = |dir: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
        entries.filter(|path| path.display().to_string().contains("partial")).collect()
    };
    for _ in 0..10 {
        let mut child = command(["db", "backup", "--force"])
            .arg(&file)
            .arg("--data-dir")
            .arg(world.dir.path().join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("its work", || {
            let begun = !partial(world.dir.path()).is_empty();
            (begun || child.try_wait().unwrap().is_some()).then_some(())
        });
        let _ = child.kill();
        child.wait().unwrap();
        for path in partial(world.dir.path()) {
            fs::remove_file(path).unwrap();
        }
        if file.exists() {
            let name = file.to_str().unwrap();
            assert_eq!(db(world.dir.path(), &["check", name]).code, 0);
        }
        world.sandbox();
    }
    assert_eq!(listed(&world, &["list", "-q"]).len(), 15);
    assert_eq!(db(world.dir.path(), &["check"]).code, 0);
}

#[test]
fn what_cannot_be_copied_checked_or_put_back_is_said_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let said = db(dir.path(), &["check"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("cannot be opened"), "{said:?}");
    assert!(!dir.path().join("data").exists(), "looking makes nothing");
    fs::write(dir.path().join("text"), "no database".repeat(100)).unwrap();
    let said = db(dir.path(), &["restore", "text"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("text is not a StacyVM database"), "{said:?}");
    assert!(!dir.path().join("data").exists(), "a refusal makes nothing");
    fs::write(dir.path().join("stacyvm.yaml"), "database: {driver: memory}\n").unwrap();
    let said = db(dir.path(), &["backup", "copy"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("database.driver is memory"), "{said:?}");
}
