use std::{os::unix::fs::symlink, time::Duration};

use tempfile::TempDir;

use super::*;

/// A host with a data directory on a disk; what is below `tmpfs` or `full` counts as memory.
struct Host {
    dir: TempDir,
    memory: Memory,
}

fn free(path: &Path) -> Option<u64> {
    let within = |name: &str| path.components().any(|part| part.as_os_str() == name);
    match (within("tmpfs"), within("full")) {
        (true, _) => Some(1 << 30),
        (_, true) => Some(4096),
        _ => None,
    }
}

impl Host {
    fn with(places: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let places: Vec<_> = places.iter().map(|name| dir.path().join(name)).collect();
        places.iter().for_each(|place| make_private(place).unwrap());
        Self { memory: Memory { places, free }, dir }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn open_at(&self, data: &str) -> RunDir {
        let fresh = || format!("{:016x}", rand::random::<u64>());
        RunDir::open(&self.path(data), &self.memory, fresh).unwrap()
    }

    fn open(&self) -> RunDir {
        self.open_at("data")
    }

    /// Copies the data directory as `cp -a` does. A child process could hold locks for a moment.
    fn copy(&self, to: &str) {
        copy(&self.path("data"), &self.path(to));
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// What is in a place in memory.
    fn names(&self, place: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(place)).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn copy(from: &Path, to: &Path) {
    let kind = fs::symlink_metadata(from).unwrap().file_type();
    if kind.is_symlink() {
        symlink(fs::read_link(from).unwrap(), to).unwrap();
    } else if kind.is_dir() {
        make_private(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

fn id() -> SandboxId {
    SandboxId::from_entropy([7; 10])
}

/// Leaves a runtime, so that what is closed stays.
fn occupy(run: &RunDir) -> PathBuf {
    let dir = run.sandbox(&id());
    fs::create_dir(&dir).unwrap();
    dir
}

fn link(host: &Host, data: &str) -> Option<PathBuf> {
    fs::read_link(host.path(data).join("run/runtimes")).ok()
}

#[test]
fn two_servers_cannot_use_one_data_directory() {
    let host = Host::with(&["tmpfs"]);
    let first = host.open();
    let error =
        RunDir::open(&host.path("data"), &host.memory, || unreachable!("it has one")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(error.message.contains("another server"), "{error}");
    drop(first);
    host.open();
}

#[test]
fn the_instance_keeps_its_name() {
    let host = Host::with(&["tmpfs"]);
    let first = host.open().instance().to_owned();
    assert_eq!(host.open().instance(), first);
}

#[test]
fn runtimes_are_in_the_first_memory_that_is_fit_for_them() {
    let host = Host::with(&["disk", "full", "tmpfs/open", "tmpfs/good", "tmpfs/later"]);
    fs::set_permissions(host.path("tmpfs/open"), fs::Permissions::from_mode(0o777)).unwrap();
    let run = host.open();
    let dir = host.path("tmpfs/good").join(format!("stacyvm-{}", run.instance()));
    assert_eq!(run.runtimes(), dir);
    assert_eq!(link(&host, "data"), Some(dir.clone()));
    assert_eq!(fs::metadata(dir).unwrap().mode() & 0o777, 0o700);
    fs::rename(occupy(&run), run.gone("rt-1")).unwrap();
    assert!(host.path("data/run/runtimes/gone/rt-1").is_dir());
    assert_eq!(run.leftovers().unwrap(), [run.gone("rt-1")]);
}

#[test]
fn a_place_that_is_open_to_all_will_do_where_nobody_can_remove_what_is_ours() {
    let host = Host::with(&["tmpfs"]);
    fs::set_permissions(host.path("tmpfs"), fs::Permissions::from_mode(0o1777)).unwrap();
    assert!(host.open().runtimes().starts_with(host.path("tmpfs")));
}

#[test]
fn without_a_fit_memory_runtimes_are_in_the_data_directory() {
    for (host, data) in
        [(Host::with(&["disk", "full", "missing"]), "data"), (Host::with(&["tmpfs"]), "tmpfs/data")]
    {
        let _ = fs::remove_dir(host.path("missing"));
        let run = host.open_at(data);
        assert_eq!(run.runtimes(), host.path(data).join("run/runtimes"));
        drop(run);
        assert_eq!(link(&host, data), None);
        assert_eq!(
            fs::metadata(host.path(data).join("run/runtimes")).unwrap().mode() & 0o777,
            0o700
        );
    }
}

/// Whoever can make directories where ours would be, learns and changes nothing by it.
#[test]
fn what_somebody_else_put_in_the_way_is_not_touched() {
    let in_the_way: [fn(&Path); 4] = [
        |path| fs::create_dir(path).unwrap(),
        |path| fs::write(path, "").unwrap(),
        |path| {
            let to = path.with_file_name("elsewhere");
            make_private(&to).unwrap();
            symlink(to, path).unwrap();
        },
        |path| symlink("/nonexistent", path).unwrap(),
    ];
    for put in in_the_way {
        let host = Host::with(&["tmpfs/first", "tmpfs/second"]);
        let fresh = || "0123456789abcdef".to_owned();
        let squatted = host.path("tmpfs/first/stacyvm-0123456789abcdef");
        put(&squatted);
        let run = RunDir::open(&host.path("data"), &host.memory, fresh).unwrap();
        assert!(run.runtimes().starts_with(host.path("tmpfs/second")), "{run:?}");
        let within = fs::read_dir(&squatted);
        assert!(within.is_err() || within.is_ok_and(|entries| entries.count() == 0));
    }
}

/// After a restart of the host anybody may make what the link leads to.
#[test]
fn a_link_to_what_somebody_else_made_is_made_anew() {
    let host = Host::with(&["tmpfs"]);
    let run = host.open();
    let dir = run.runtimes().to_owned();
    occupy(&run);
    drop(run);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let run = host.open();
    assert_eq!(run.runtimes(), host.path("data/run/runtimes"));
    assert!(run.sandboxes().unwrap().is_empty());
    assert!(dir.join("sandboxes").is_dir());
}

#[test]
fn the_choice_stays_while_there_are_runtimes() {
    let mut host = Host::with(&["tmpfs"]);
    let run = host.open();
    let kept = occupy(&run);
    drop(run);
    host.memory.places = vec![];
    let run = host.open();
    assert_eq!(run.sandboxes().unwrap(), std::slice::from_ref(&kept));
    fs::remove_dir(kept).unwrap();
    drop(run);

    let run = host.open();
    let kept = occupy(&run);
    assert!(kept.starts_with(host.path("data")));
    drop(run);
    host.memory.places = vec![host.path("tmpfs")];
    let run = host.open();
    assert_eq!(run.sandboxes().unwrap(), std::slice::from_ref(&kept));
    fs::remove_dir(kept).unwrap();
    drop(run);
    assert!(host.open().runtimes().starts_with(host.path("tmpfs")));
}

#[test]
fn a_restart_of_the_host_leaves_no_runtimes() {
    let host = Host::with(&["tmpfs"]);
    let run = host.open();
    let name = run.instance().to_owned();
    occupy(&run);
    drop(run);
    for place in host.names("tmpfs") {
        fs::remove_dir_all(host.path("tmpfs").join(place)).unwrap();
    }
    let run = host.open();
    assert_eq!((run.instance(), run.sandboxes().unwrap().len()), (&*name, 0));
    assert!(run.runtimes().starts_with(host.path("tmpfs")));
}

#[test]
fn a_server_that_leaves_no_runtime_leaves_nothing_outside_of_its_data() {
    let host = Host::with(&["tmpfs"]);
    let groups = host.path("group");
    fs::create_dir(&groups).unwrap();
    let run = host.open();
    run.remember_groups(std::slice::from_ref(&groups)).unwrap();
    let (runtime, group) = (occupy(&run), groups.join("rt-1"));
    fs::create_dir(&group).unwrap();
    drop(run);
    assert!(runtime.is_dir() && group.is_dir());

    let run = host.open();
    fs::remove_dir(runtime).unwrap();
    fs::remove_dir(group).unwrap();
    drop(run);
    assert_eq!(host.names("tmpfs"), Vec::<String>::new());
    assert!(!host.path("data/run/runtimes").is_symlink());
    assert!(!groups.exists());
}

/// Killed between the directory and the link to it.
#[test]
fn a_directory_that_nothing_leads_to_yet_is_taken() {
    let host = Host::with(&["tmpfs"]);
    let run = host.open();
    let dir = run.runtimes().to_owned();
    drop(run);
    make_private(&dir).unwrap();
    assert_eq!(host.open().runtimes(), dir);
    assert_eq!(host.names("tmpfs"), Vec::<String>::new());
}

#[test]
fn a_copy_of_a_data_directory_gets_runtimes_and_a_name_of_its_own() {
    for places in [&["tmpfs"][..], &[]] {
        for original_serves in [true, false] {
            let host = Host::with(places);
            let run = host.open();
            run.remember_groups(&[host.path("group")]).unwrap();
            let kept = occupy(&run);
            let name = run.instance().to_owned();
            host.copy("copy");
            let run = original_serves.then_some(run);

            let copy = host.open_at("copy");
            assert_ne!(copy.instance(), name);
            assert!(copy.sandboxes().unwrap().is_empty());
            assert!(copy.groups().unwrap().is_empty());
            let own = copy.instance().to_owned();
            drop((run, copy));
            assert_eq!(host.open_at("copy").instance(), own);

            let run = host.open();
            assert_eq!((run.instance(), run.sandboxes().unwrap()), (&*name, vec![kept]));
        }
    }
}

/// The copy is first: there was nothing to tell it from its original.
#[test]
fn of_two_with_one_name_the_second_gets_another() {
    let host = Host::with(&["tmpfs"]);
    let name = host.open().instance().to_owned();
    host.copy("copy");
    let copy = host.open_at("copy");
    let run = host.open();
    assert_eq!(copy.instance(), name);
    assert_ne!(run.instance(), name);
}

/// The kernel lets go of a killed server's locks one after another. Taken for a copy, the data
/// directory would lose its sandboxes.
#[test]
fn a_predecessor_that_is_still_ending_is_waited_for() {
    let host = Host::with(&["tmpfs"]);
    let run = host.open();
    let kept = occupy(&run);
    let dir = fs::File::open(run.runtimes()).unwrap();
    drop(run);
    flock(&dir, FlockOperation::LockExclusive).unwrap();
    let fresh = || unreachable!("it has a name");
    let refused = RunDir::open(&host.path("data"), &host.memory, fresh).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Internal);

    std::thread::scope(|scope| {
        let run = scope.spawn(|| host.open());
        std::thread::sleep(Duration::from_millis(50));
        drop(dir);
        assert_eq!(run.join().unwrap().sandboxes().unwrap(), [kept]);
    });
}

#[test]
fn a_data_directory_that_was_moved_keeps_its_runtimes() {
    for places in [&["tmpfs"][..], &[]] {
        let host = Host::with(places);
        let run = host.open();
        let name = run.instance().to_owned();
        occupy(&run);
        drop(run);
        host.rename("data", "moved");
        // Somebody starts a server where it was.
        let other = host.open();
        occupy(&other);
        let run = host.open_at("moved");
        assert_eq!((run.instance(), run.sandboxes().unwrap().len()), (&*name, 1));
        assert_eq!(run.sandboxes().unwrap(), [run.sandbox(&id())]);
        assert_ne!(run.runtimes(), other.runtimes());
    }
}

#[test]
fn a_tmpfs_is_told_from_other_file_systems() {
    assert_eq!(runtimes::free_in_memory(Path::new("/proc")), None);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    for place in ["/run", "/dev/shm"] {
        let kind = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some(place));
        let is_tmpfs = kind.is_some_and(|line| line.split(' ').nth(2) == Some("tmpfs"));
        assert_eq!(runtimes::free_in_memory(Path::new(place)).is_some(), is_tmpfs, "{place}");
    }
}
