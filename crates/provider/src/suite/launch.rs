//! Launching, listing and destroying.

use std::time::Duration;

use futures_util::StreamExt;
use stacyvm_types::Generation;
use tokio::{join, time};

use super::{
    Scene, list,
    scene::{body, collect_from, eventually, fresh_id, shell, soon},
};
use crate::{Error, ErrorKind, ExecEvent, Exit, LaunchSpec, RuntimeState, WriteOptions};

list! {
    a_launched_runtime_answers_and_is_listed if |_| true;
    launch_is_idempotent_by_id if |_| true;
    two_launches_of_one_id_at_once_give_one_runtime if |_| true;
    a_dropped_launch_leaves_nothing_or_what_list_shows if |_| true;
    an_unknown_image_is_refused_and_leaves_nothing if |c| c.images;
    destroy_is_idempotent_and_forgets if |_| true;
    destroy_of_an_unknown_id_succeeds if |_| true;
    destroy_leaves_no_process if |_| true;
    a_destroyed_sandbox_ends_its_streams_and_refuses_calls if |_| true;
    an_unknown_id_has_no_status_and_no_guest if |_| true;
    sandboxes_do_not_share_files if |_| true;
    what_is_not_declared_is_unsupported_and_changes_nothing if |_| true;
    a_paused_runtime_stands_still_until_it_is_resumed if |c| c.pause;
    a_second_instance_finds_runtimes_and_running_commands if |c| c.adoption;
}

async fn a_launched_runtime_answers_and_is_listed(scene: Scene) {
    let spec = LaunchSpec { generation: Generation(7), ..scene.spec(&fresh_id()) };
    let sandbox = scene.launch(spec.clone()).await;
    assert_eq!(sandbox.ok("echo hello").await, "hello");
    let status = scene.provider().status(&spec.id).await.unwrap();
    assert_eq!((status.state, status.generation), (RuntimeState::Running, Generation(7)));
    assert_eq!((status.id.clone(), &*status.image), (spec.id, "host"));
    assert!(scene.provider().list().await.unwrap().contains(&status));
}

async fn launch_is_idempotent_by_id(scene: Scene) {
    let spec = scene.spec(&fresh_id());
    let sandbox = scene.launch(spec.clone()).await;
    sandbox.put("/workspace/mine", "kept").await;
    let first = scene.provider().status(&spec.id).await.unwrap();
    let again = scene.provider().launch(&spec).await.unwrap();
    assert_eq!((again.id, again.created), (first.id, first.created));
    assert_eq!(sandbox.ok("cat mine").await, "kept");
}

async fn two_launches_of_one_id_at_once_give_one_runtime(scene: Scene) {
    let spec = scene.spec(&fresh_id());
    let provider = scene.provider();
    let (one, two) = join!(provider.launch(&spec), provider.launch(&spec));
    assert_eq!(one.unwrap().created, two.unwrap().created);
    let listed = provider.list().await.unwrap();
    assert_eq!(listed.iter().filter(|runtime| runtime.id == spec.id).count(), 1);
}

async fn a_dropped_launch_leaves_nothing_or_what_list_shows(scene: Scene) {
    for micros in [0, 50, 200, 500, 1000, 2000, 5000] {
        let spec = scene.spec(&fresh_id());
        let launch = scene.provider().launch(&spec);
        let dropped = time::timeout(Duration::from_micros(micros), launch).await.is_err();
        // Whatever is going on ends in one of the two.
        eventually("listed and answering, or nothing", || async {
            let listed = scene.provider().list().await.unwrap();
            let listed = listed.iter().any(|runtime| runtime.id == spec.id);
            match scene.provider().guest(&spec.id).await {
                Ok(guest) => listed && guest.exec(shell("true")).await.is_ok(),
                Err(_) => dropped && !listed,
            }
        })
        .await;
        scene.provider().destroy(&spec.id).await.unwrap();
    }
}

async fn an_unknown_image_is_refused_and_leaves_nothing(scene: Scene) {
    let spec = LaunchSpec { image: "no-such-image:1".into(), ..scene.spec(&fresh_id()) };
    let error = scene.provider().launch(&spec).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoImage);
    assert!(scene.provider().list().await.unwrap().iter().all(|runtime| runtime.id != spec.id));
}

async fn destroy_is_idempotent_and_forgets(scene: Scene) {
    let sandbox = scene.sandbox().await;
    for _ in 0..2 {
        scene.provider().destroy(&sandbox.id).await.unwrap();
        let listed = scene.provider().list().await.unwrap();
        assert!(listed.iter().all(|runtime| runtime.id != sandbox.id));
    }
    let error = scene.provider().status(&sandbox.id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoSandbox);
}

async fn destroy_of_an_unknown_id_succeeds(scene: Scene) {
    scene.provider().destroy(&fresh_id()).await.unwrap();
}

async fn destroy_leaves_no_process(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let mark = format!("1000{}", sandbox.id.as_str().bytes().map(u64::from).sum::<u64>());
    let mark = format!("{mark}.{}", u32::from_str_radix(&sandbox.id.as_str()[3..10], 16).unwrap());
    sandbox.ok(&format!("setsid sh -c 'trap \"\" TERM HUP; sleep {mark} & sleep {mark}' & ")).await;
    let running = || {
        std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).any(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| line.starts_with(format!("sleep\0{mark}").as_bytes()))
        })
    };
    eventually("the background command runs", || async { running() }).await;
    soon("destroy", scene.provider().destroy(&sandbox.id)).await.unwrap();
    assert!(!running(), "a process outlived its sandbox");
}

async fn a_destroyed_sandbox_ends_its_streams_and_refuses_calls(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let exec = sandbox.guest.exec(shell("echo up; sleep 1000")).await.unwrap();
    let mut events = exec.events;
    events.next().await.unwrap().unwrap();
    soon("destroy", scene.provider().destroy(&sandbox.id)).await.unwrap();
    soon("the stream ends", async { while events.next().await.is_some() {} }).await;
    let error = soon("exec", sandbox.guest.exec(shell("true"))).await.err().unwrap();
    assert!(matches!(error.kind, ErrorKind::NoSandbox | ErrorKind::Unavailable), "{error:?}");
    let error = soon("stat", sandbox.guest.stat("/workspace")).await.err().unwrap();
    assert!(matches!(error.kind, ErrorKind::NoSandbox | ErrorKind::Unavailable), "{error:?}");
}

async fn an_unknown_id_has_no_status_and_no_guest(scene: Scene) {
    let id = fresh_id();
    let error = scene.provider().status(&id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoSandbox);
    let error = scene.provider().guest(&id).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::NoSandbox);
}

async fn sandboxes_do_not_share_files(scene: Scene) {
    let (one, two) = join!(scene.sandbox(), scene.sandbox());
    one.put("/workspace/only-here", "1").await;
    assert_eq!(two.get("/workspace/only-here").await.err().unwrap().kind, ErrorKind::NotFound);
    assert_eq!(two.ok("ls").await, "");
}

async fn what_is_not_declared_is_unsupported_and_changes_nothing(scene: Scene) {
    let can = scene.provider().capabilities();
    let sandbox = scene.sandbox().await;
    let refused = |what: &str, error: Option<Error>| {
        let kind = error.map(|error| error.kind);
        assert_eq!(kind, Some(ErrorKind::Unsupported), "{what}");
    };
    if !can.pause {
        refused("pause", scene.provider().pause(&sandbox.id).await.err());
        refused("resume", scene.provider().resume(&sandbox.id).await.err());
    }
    if !can.pty {
        let terminal = Some(crate::Size { rows: 24, cols: 80 });
        let spec = crate::ExecSpec { terminal, ..shell("echo ran > ran") };
        refused("a terminal", sandbox.guest.exec(spec).await.err());
    }
    if !can.many_uids {
        let user = Some("1234".to_owned());
        let spec = crate::ExecSpec { user, ..shell("echo ran > ran") };
        refused("a user", sandbox.guest.exec(spec).await.err());
    }
    if !can.dial {
        refused("dial", sandbox.guest.dial(80).await.err());
    }
    if !can.stats {
        refused("stats", sandbox.guest.stats().await.err());
    }
    assert_eq!(can.images, scene.provider().images().is_some(), "images");
    assert_eq!(sandbox.ok("ls").await, "");
    let status = scene.provider().status(&sandbox.id).await.unwrap();
    assert_eq!(status.state, RuntimeState::Running);
}

async fn a_paused_runtime_stands_still_until_it_is_resumed(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("(while :; do echo x >> beat; sleep 0.01; done) > /dev/null 2>&1 &").await;
    sandbox.appears("/workspace/beat").await;
    scene.provider().pause(&sandbox.id).await.unwrap();
    let status = scene.provider().status(&sandbox.id).await.unwrap();
    assert_eq!(status.state, RuntimeState::Paused);
    scene.provider().pause(&sandbox.id).await.unwrap();
    scene.provider().resume(&sandbox.id).await.unwrap();
    let before = sandbox.get("/workspace/beat").await.unwrap().len();
    eventually("beats again", || async {
        before < sandbox.get("/workspace/beat").await.unwrap().len()
    })
    .await;
}

async fn a_second_instance_finds_runtimes_and_running_commands(scene: Scene) {
    let Some(restart) = scene.restart.clone() else {
        panic!("adoption is declared, but the test gives no way to restart the provider");
    };
    let first = restart.open().await.unwrap();
    let id = fresh_id();
    first.launch(&scene.spec(&id)).await.unwrap();
    let guest = first.guest(&id).await.unwrap();
    let line = "echo before; while [ ! -e go ]; do echo x; sleep 0.01; done; echo after; exit 9";
    let spec = shell(line);
    let mut exec = guest.exec(spec.clone()).await.unwrap();
    let event = soon("output", exec.events.next()).await.unwrap().unwrap();
    let ExecEvent::Output { offset: 0, data, .. } = event else { panic!("{event:?}") };
    drop((exec, guest));
    restart.close(first).await;

    let second = restart.open().await.unwrap();
    let listed = second.list().await.unwrap();
    let own = listed.iter().find(|runtime| runtime.id == id).unwrap();
    assert_eq!((own.state, &*own.image), (RuntimeState::Running, "host"));
    let guest = second.guest(&id).await.unwrap();
    let exec = guest.attach(&spec.id, data.len() as u64).await.unwrap();
    guest.write("/workspace/go", WriteOptions::default(), body("")).await.unwrap();
    let done = soon("the end", collect_from(exec, data.len() as u64)).await;
    let said = String::from_utf8([&data, &*done.stdout].concat()).unwrap();
    assert_eq!(done.exit, Exit::Code(9));
    assert!(said.starts_with("before\nx\n") && said.ends_with("x\nafter\n"), "{said}");
    second.destroy(&id).await.unwrap();
    assert!(second.list().await.unwrap().is_empty());
    drop(guest);
    restart.close(second).await;
}
