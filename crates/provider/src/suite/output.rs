//! Output: order, offsets, following again, back-pressure and loss.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time;

use super::{
    Scene, list,
    scene::{Done, collect_from, shell, soon},
};
use crate::{ErrorKind, Exec, ExecEvent, Exit, Output, Result};

list! {
    output_keeps_its_order_and_has_no_gaps if |_| true;
    output_without_a_last_newline_arrives if |_| true;
    pieces_never_split_a_utf8_sequence if |_| true;
    bytes_that_are_not_text_arrive_unchanged if |_| true;
    attaching_by_offset_neither_loses_nor_doubles if |_| true;
    following_again_in_the_middle_of_a_run_goes_on_where_it_stopped if |_| true;
    a_dropped_exec_runs_on if |_| true;
    several_followers_see_the_same if |_| true;
    a_hundred_megabytes_arrive_whole if |_| true;
    a_slow_reader_holds_the_command_back if |_| true;
    an_unread_flood_ends_and_is_marked_truncated if |_| true;
    a_forgotten_command_is_not_started_again if |_| true;
    an_ended_command_stays_for_a_while if |_| true;
    logs_are_the_last_lines_of_all_commands if |_| true;
}

async fn output_keeps_its_order_and_has_no_gaps(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let line = "i=0; while [ $i -lt 500 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done";
    let done = sandbox.sh(line).await;
    let expect = |word: &str| -> String { (0..500).map(|i| format!("{word} {i}\n")).collect() };
    assert_eq!(String::from_utf8(done.stdout).unwrap(), expect("out"));
    assert_eq!(String::from_utf8(done.stderr).unwrap(), expect("err"));
}

async fn output_without_a_last_newline_arrives(scene: Scene) {
    let sandbox = scene.sandbox().await;
    assert_eq!(sandbox.sh("printf 'a\\nb'").await.stdout, b"a\nb");
}

async fn pieces(exec: Exec) -> Vec<Vec<u8>> {
    let events: Vec<Result<ExecEvent>> = exec.events.collect().await;
    let pieces = events.into_iter().filter_map(|event| match event.unwrap() {
        ExecEvent::Output { data, .. } => Some(data.to_vec()),
        _ => None,
    });
    pieces.collect()
}

async fn pieces_never_split_a_utf8_sequence(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let slowly = "printf 'a\\342'; sleep 0.05; printf '\\202'; sleep 0.05; printf '\\254b\\360'; \
                  sleep 0.05; printf '\\235\\204'; sleep 0.05; printf '\\236\\n'";
    let exec = sandbox.guest.exec(shell(slowly)).await.unwrap();
    let said = soon("the end", pieces(exec)).await;
    assert_eq!(said.concat(), "a€b𝄞\n".as_bytes());
    for piece in said {
        assert!(std::str::from_utf8(&piece).is_ok(), "split: {piece:?}");
    }
    let fast = "i=0; while [ $i -lt 20000 ]; do printf 'x€𝄞é'; i=$((i+1)); done";
    let exec = sandbox.guest.exec(shell(fast)).await.unwrap();
    let said = soon("the end", pieces(exec)).await;
    assert_eq!(said.concat().len(), 20_000 * "x€𝄞é".len());
    assert!(said.iter().all(|piece| std::str::from_utf8(piece).is_ok()));
}

async fn bytes_that_are_not_text_arrive_unchanged(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).chain([0xE2, 0x82]).collect();
    sandbox.put("/workspace/binary", bytes.clone()).await;
    assert_eq!(sandbox.sh("cat binary").await.stdout, bytes);
}

async fn attaching_by_offset_neither_loses_nor_doubles(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let line = "i=0; while [ $i -lt 2000 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done; exit 3";
    let spec = shell(line);
    let first = sandbox.run(spec.clone()).await;
    let length = first.combined.len();
    for offset in [0, 1, 777, length / 2, length - 1, length] {
        let exec = sandbox.guest.attach(&spec.id, offset as u64).await.unwrap();
        let again = soon("attached", collect_from(exec, offset as u64)).await;
        assert_eq!(again.exit, Exit::Code(3));
        assert!(again.combined == first.combined[offset..], "differs from {offset}");
    }
}

async fn following_again_in_the_middle_of_a_run_goes_on_where_it_stopped(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let line = "i=0; while [ $i -lt 300 ]; do echo line $i; sleep 0.002; i=$((i+1)); done";
    let spec = shell(line);
    let mut exec = sandbox.guest.exec(spec.clone()).await.unwrap();
    let mut text = Vec::new();
    for round in 0.. {
        let mut left = 20;
        let end = loop {
            match soon("more output", exec.events.next()).await.unwrap().unwrap() {
                ExecEvent::Output { offset, data, stream } => {
                    assert_eq!((offset, stream), (text.len() as u64, Output::Stdout));
                    text.extend_from_slice(&data);
                    left -= 1;
                    if left == 0 {
                        break None;
                    }
                }
                ExecEvent::Exit(exit) => break Some(exit),
                ExecEvent::Truncated { .. } => panic!("nothing had to be dropped"),
            }
        };
        if let Some(exit) = end {
            assert_eq!(exit, Exit::Code(0));
            break;
        }
        assert!(round < 1000);
        drop(exec);
        exec = sandbox.guest.attach(&spec.id, text.len() as u64).await.unwrap();
    }
    let expected: String = (0..300).map(|i| format!("line {i}\n")).collect();
    assert_eq!(String::from_utf8(text).unwrap(), expected);
}

async fn a_dropped_exec_runs_on(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let line = "echo a; while [ ! -e go ]; do sleep 0.01; done; echo b; echo > finished; exit 5";
    let spec = shell(line);
    drop(sandbox.guest.exec(spec.clone()).await.unwrap());
    sandbox.put("/workspace/go", "").await;
    sandbox.appears("/workspace/finished").await;
    let exec = sandbox.guest.attach(&spec.id, 0).await.unwrap();
    let done = soon("attached", collect_from(exec, 0)).await;
    assert_eq!((done.exit, done.text()), (Exit::Code(5), "a\nb".into()));
}

async fn several_followers_see_the_same(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let spec = shell("i=0; while [ $i -lt 200 ]; do echo $i; sleep 0.001; i=$((i+1)); done");
    let one = sandbox.guest.exec(spec.clone()).await.unwrap();
    let two = sandbox.guest.attach(&spec.id, 0).await.unwrap();
    let three = sandbox.guest.attach(&spec.id, 0).await.unwrap();
    let (one, two, three) = soon("all followers", async {
        tokio::join!(collect_from(one, 0), collect_from(two, 0), collect_from(three, 0))
    })
    .await;
    assert_eq!(one.stdout.len(), 690);
    assert_eq!(one.stdout, two.stdout);
    assert_eq!(two.stdout, three.stdout);
}

async fn a_hundred_megabytes_arrive_whole(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let exec = sandbox.guest.exec(shell("head -c 100000000 /dev/zero")).await.unwrap();
    let mut events = exec.events;
    let mut position = 0;
    let exit = time::timeout(Duration::from_secs(100), async {
        loop {
            match events.next().await.unwrap().unwrap() {
                ExecEvent::Output { offset, data, .. } => {
                    assert_eq!(offset, position);
                    assert!(data.len() <= 1 << 20, "a piece of {} bytes", data.len());
                    position += data.len() as u64;
                }
                ExecEvent::Truncated { .. } => panic!("a reader that reads loses nothing"),
                ExecEvent::Exit(exit) => break exit,
            }
        }
    });
    assert_eq!(exit.await.unwrap(), Exit::Code(0));
    assert_eq!(position, 100_000_000);
}

async fn a_slow_reader_holds_the_command_back(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let line = "head -c 30000000 /dev/zero; echo > finished";
    let exec = sandbox.guest.exec(shell(line)).await.unwrap();
    time::sleep(Duration::from_millis(500)).await;
    assert!(sandbox.guest.stat("/workspace/finished").await.is_err(), "30 MB were taken in");
    let Done { stdout, truncated, .. } = soon("the rest", collect_from(exec, 0)).await;
    assert_eq!((stdout.len(), truncated), (30_000_000, None));
    sandbox.appears("/workspace/finished").await;
}

async fn an_unread_flood_ends_and_is_marked_truncated(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let spec = shell("head -c 5000000 /dev/zero; echo end; echo > finished");
    drop(sandbox.guest.exec(spec.clone()).await.unwrap());
    let finished = time::timeout(Duration::from_secs(60), async {
        while sandbox.guest.stat("/workspace/finished").await.is_err() {
            time::sleep(Duration::from_millis(100)).await;
        }
    });
    finished.await.expect("a command is held back only for a while when nobody reads");
    let exec = sandbox.guest.attach(&spec.id, 0).await.unwrap();
    let done = soon("attached", collect_from(exec, 0)).await;
    assert!(done.truncated.is_some_and(|resume| 3_000_000 < resume), "{:?}", done.truncated);
    assert!(done.stdout.ends_with(b"end\n"));
    assert_eq!(done.exit, Exit::Code(0));
}

async fn an_ended_command_stays_for_a_while(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let first = shell("echo first");
    sandbox.run(first.clone()).await;
    for _ in 0..10 {
        sandbox.ok("true").await;
    }
    let exec = sandbox.guest.attach(&first.id, 0).await.unwrap();
    assert_eq!(soon("attached", collect_from(exec, 0)).await.text(), "first");
    for _ in 0..40 {
        sandbox.ok("true").await;
    }
    let error = sandbox.guest.attach(&first.id, 0).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::NotFound, "journals are kept without a bound");
}

async fn a_forgotten_command_is_not_started_again(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let first = shell("echo ran >> runs");
    sandbox.run(first.clone()).await;
    for _ in 0..40 {
        sandbox.ok("true").await;
    }
    let error = sandbox.guest.exec(first).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error:?}");
    assert_eq!(sandbox.ok("cat runs").await, "ran");
}

async fn logs_are_the_last_lines_of_all_commands(scene: Scene) {
    let sandbox = scene.sandbox().await;
    assert!(sandbox.guest.logs(10).await.unwrap().is_empty());
    sandbox.ok("echo one; echo two").await;
    sandbox.ok("echo three >&2; echo four").await;
    assert_eq!(sandbox.guest.logs(1).await.unwrap().len(), 1);
    let mut all = sandbox.guest.logs(100).await.unwrap();
    all.sort();
    assert_eq!(all, ["four", "one", "three", "two"]);
    sandbox.sh("head -c 1000000 /dev/zero | tr '\\0' 'x'; echo; echo last").await;
    let logs = sandbox.guest.logs(1000).await.unwrap();
    assert_eq!(logs.last().map(String::as_str), Some("last"));
    assert!(logs.iter().map(String::len).sum::<usize>() <= 64 << 10);
}
