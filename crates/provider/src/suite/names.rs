//! Names that are unusual, many or deep.

use stacyvm_types::Limits;

use super::{
    Scene, list,
    scene::{argv, body, soon},
};
use crate::{ErrorKind, WriteOptions};

list! {
    odd_names_are_files_like_others if |_| true;
    names_that_are_not_text_are_listed_replaced if |_| true;
    a_name_of_255_bytes_is_the_longest if |_| true;
    a_directory_of_many_files_is_listed if |_| true;
    more_entries_than_can_be_told_are_too_large if |_| true;
    a_deep_tree_is_removed if |_| true;
}

async fn odd_names_are_files_like_others(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let names = [" ", "a\nb", "-rf", "*", "tab\t", "\"quoted'", "日本語", "\\", "…", "a:b;c"];
    for name in names {
        sandbox.put(&format!("/workspace/{name}"), name).await;
    }
    let listed = sandbox.guest.list("/workspace").await.unwrap();
    assert_eq!(listed.len(), names.len());
    for name in names {
        let path = format!("/workspace/{name}");
        assert!(listed.iter().any(|entry| entry.path == path), "{name:?} in {listed:?}");
        assert_eq!(sandbox.get(&path).await.unwrap(), name.as_bytes());
        sandbox.guest.remove(&path, false).await.unwrap();
    }
    assert_eq!(sandbox.ok("ls -A").await, "");
}

async fn names_that_are_not_text_are_listed_replaced(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("mkdir d; touch \"$(printf 'd/bad\\377name')\"").await;
    let listed = sandbox.guest.list("/workspace/d").await.unwrap();
    assert_eq!(listed[0].path, "/workspace/d/bad\u{FFFD}name");
    sandbox.guest.remove("/workspace/d", true).await.unwrap();
    assert_eq!(sandbox.ok("ls -A").await, "");
}

async fn a_name_of_255_bytes_is_the_longest(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let longest = format!("/workspace/{}", "n".repeat(255));
    sandbox.put(&longest, "fits").await;
    assert_eq!(sandbox.get(&longest).await.unwrap(), b"fits");
    sandbox.put(&longest, "again").await;
    assert_eq!(sandbox.get(&longest).await.unwrap(), b"again");
    let longer = format!("{longest}n");
    let write = sandbox.guest.write(&longer, WriteOptions::default(), body("x"));
    assert_eq!(write.await.unwrap_err().kind, ErrorKind::Invalid);
}

async fn a_directory_of_many_files_is_listed(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("mkdir many; cd many; seq 20000 | xargs touch").await;
    let listed = soon("list", sandbox.guest.list("/workspace/many")).await.unwrap();
    assert_eq!(listed.len(), 20_000);
    let found = soon("glob", sandbox.guest.glob("many/*")).await.unwrap();
    assert_eq!(found.len(), 20_000);
}

async fn more_entries_than_can_be_told_are_too_large(scene: Scene) {
    // File systems give out numbers of files by their size.
    let limits = Limits { memory_mb: 1024, vcpus: 1, pids: 64, disk_mb: 2048 };
    let sandbox = scene.limited(limits).await;
    sandbox.ok("mkdir many; cd many; seq 100001 | xargs touch").await;
    let error = soon("list", sandbox.guest.list("/workspace/many")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooLarge);
    let error = soon("glob", sandbox.guest.glob("many/*")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooLarge);
    soon("remove", sandbox.guest.remove("/workspace/many", true)).await.unwrap();
}

async fn a_deep_tree_is_removed(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let line = "mkdir 'top'; chdir 'top'; for (1..3000) { mkdir 'd'; chdir 'd' or die }";
    if sandbox.run(argv(&["perl", "-e", line])).await.exit != crate::Exit::Code(0) {
        return scene.skip("there is no perl to make a deep tree with");
    }
    assert!(sandbox.guest.stat("/workspace/top/d/d").await.is_ok());
    soon("remove", sandbox.guest.remove("/workspace/top", true)).await.unwrap();
    assert_eq!(sandbox.ok("ls -A").await, "");
}
