//! tmp
use std::{io::{Read, Write}, os::unix::net::UnixStream, sync::Arc, time::Instant};
use stacyvm_provider::*; use stacyvm_provider_native::*; use stacyvm_types::*;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
fn main() {
    spawner::run_if_requested();
    let rt = tokio::runtime::Runtime::new().unwrap();
    let dir = std::path::PathBuf::from("/work/ta/dd"); std::fs::create_dir_all(&dir).unwrap();
    let tasks = TaskTracker::new(); let stopping = CancellationToken::new();
    let p = rt.block_on(async { NativeProvider::new(NativeSettings { data_dir: dir.clone(), pool_size: 0, pool_limits: Limits::DEFAULT, uid_base: UID_BASE, spawner: Spawner::start().unwrap(), tasks: tasks.clone(), stopping: stopping.clone(), clock: Arc::new(time::SystemClock) }) }).unwrap();
    println!("{:?} {:?}", p.capabilities(), rt.block_on(p.list()));
    let id = SandboxId::from_entropy(rand::random());
    let spec = LaunchSpec { id: id.clone(), generation: Generation(1), image: "host".into(), limits: Limits::DEFAULT };
    let t = Instant::now();
    let r = rt.block_on(p.launch(&spec)); println!("{r:?} {:?}", t.elapsed());
    if r.is_ok() {
        let mut s = UnixStream::connect(dir.join("run/sandboxes").join(id.as_str()).join("agent.sock")).unwrap();
        let cmd = std::env::args().nth(1).unwrap_or("id; ls -la / /dev /proc/1 /sys; cat /proc/self/status /proc/mounts /proc/self/cgroup; ps aux; hostname".into());
        writeln!(s, "{cmd}").unwrap(); let mut o = String::new(); s.read_to_string(&mut o).unwrap(); println!("{o}");
        for _ in 0..20 { let t = Instant::now(); let id2 = SandboxId::from_entropy(rand::random());
            rt.block_on(p.launch(&LaunchSpec { id: id2.clone(), ..spec.clone() })).unwrap(); let a = t.elapsed(); rt.block_on(p.destroy(&id2)).unwrap(); println!("launch {a:?} destroy {:?}", t.elapsed() - a); }
        println!("{:?} {:?}", rt.block_on(p.destroy(&id)), rt.block_on(p.list()));
    }
    stopping.cancel(); tasks.close(); rt.block_on(tasks.wait());
}
