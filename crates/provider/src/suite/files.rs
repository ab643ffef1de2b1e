//! Reading, listing, describing, moving and removing files.

use super::{
    Scene, list,
    scene::{soon, whole},
};
use crate::{ErrorKind, FileKind};

list! {
    a_file_comes_back_byte_for_byte if |_| true;
    a_big_file_comes_back_byte_for_byte if |_| true;
    files_and_commands_see_the_same if |_| true;
    a_range_is_cut_to_the_file if |_| true;
    a_range_past_the_end_is_invalid if |_| true;
    a_missing_file_is_not_found if |_| true;
    a_directory_cannot_be_read_or_written_as_a_file if |_| true;
    a_directory_lists_its_entries_by_name if |_| true;
    stat_describes_size_mode_kind_and_time if |_| true;
    rename_makes_parents_and_replaces_a_file if |_| true;
    rename_refuses_what_cannot_be if |_| true;
    chmod_sets_the_bits if |_| true;
    remove_takes_files_and_empty_directories if |_| true;
    remove_takes_a_tree_only_when_asked if |_| true;
    glob_matches_within_names_and_across_directories if |_| true;
    glob_of_a_broken_pattern_is_invalid if |_| true;
}

async fn a_file_comes_back_byte_for_byte(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let binary: Vec<u8> = (0..=255).cycle().take(100_001).collect();
    for bytes in [Vec::new(), b"x".to_vec(), binary] {
        sandbox.put("/workspace/file", bytes.clone()).await;
        let read = sandbox.guest.read("/workspace/file", None).await.unwrap();
        assert_eq!(
            (read.info.size, read.range.clone()),
            (bytes.len() as u64, 0..bytes.len() as u64)
        );
        assert!(soon("the body", whole(read.body)).await.unwrap() == bytes);
    }
}

async fn a_big_file_comes_back_byte_for_byte(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let bytes: Vec<u8> =
        (0..20_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    sandbox.put("/workspace/big", bytes.clone()).await;
    assert!(sandbox.get("/workspace/big").await.unwrap() == bytes);
    assert_eq!(sandbox.ok("wc -c < big").await, "20000000");
}

async fn files_and_commands_see_the_same(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.put("/workspace/in", "from the API").await;
    assert_eq!(sandbox.ok("cat in; printf 'from a command' > out").await, "from the API");
    assert_eq!(sandbox.get("/workspace/out").await.unwrap(), b"from a command");
}

async fn a_range_is_cut_to_the_file(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.put("/workspace/f", "0123456789").await;
    for (range, expected, cut) in [
        (0..10, "0123456789", 0..10),
        (3..6, "345", 3..6),
        (8..1000, "89", 8..10),
        (4..4, "", 4..4),
        (0..u64::MAX, "0123456789", 0..10),
    ] {
        let read = sandbox.guest.read("/workspace/f", Some(range)).await.unwrap();
        assert_eq!((read.range, read.info.size), (cut, 10));
        assert_eq!(soon("body", whole(read.body)).await.unwrap(), expected.as_bytes());
    }
}

async fn a_range_past_the_end_is_invalid(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.put("/workspace/f", "0123456789").await;
    for range in [11..12, u64::MAX - 1..u64::MAX] {
        let error = sandbox.guest.read("/workspace/f", Some(range)).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::Invalid);
    }
}

async fn a_missing_file_is_not_found(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let (guest, path) = (&sandbox.guest, "/workspace/missing");
    let kinds = [
        guest.read(path, None).await.err().unwrap().kind,
        guest.stat(path).await.unwrap_err().kind,
        guest.list(path).await.unwrap_err().kind,
        guest.chmod(path, 0o600).await.unwrap_err().kind,
        guest.remove(path, false).await.unwrap_err().kind,
        guest.remove(path, true).await.unwrap_err().kind,
        guest.rename(path, "/workspace/other").await.unwrap_err().kind,
    ];
    assert_eq!(kinds, [ErrorKind::NotFound; 7]);
    assert_eq!(sandbox.ok("ls").await, "");
}

async fn a_directory_cannot_be_read_or_written_as_a_file(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.put("/workspace/dir/f", "x").await;
    let error = sandbox.get("/workspace/dir").await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error:?}");
    let body = super::scene::body("x");
    let error = sandbox.guest.write("/workspace/dir", Default::default(), body).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error:?}");
    let error = sandbox.guest.list("/workspace/dir/f").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error:?}");
}

async fn a_directory_lists_its_entries_by_name(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("mkdir d; cd d; mkdir sub; printf abc > b; touch .hidden; ln -s b link").await;
    let entries = sandbox.guest.list("/workspace/d").await.unwrap();
    let seen: Vec<_> = entries.iter().map(|entry| (&*entry.path, entry.kind)).collect();
    assert_eq!(
        seen,
        [
            ("/workspace/d/.hidden", FileKind::File),
            ("/workspace/d/b", FileKind::File),
            ("/workspace/d/link", FileKind::Symlink),
            ("/workspace/d/sub", FileKind::Directory),
        ]
    );
    assert_eq!(entries[1].size, 3);
}

async fn stat_describes_size_mode_kind_and_time(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("printf abc > f; chmod 4751 f; touch -d @1000000000 f; ln -s f l; mkfifo p").await;
    let info = sandbox.guest.stat("/workspace/f").await.unwrap();
    assert_eq!((info.size, info.mode, info.kind), (3, 0o4751, FileKind::File));
    assert_eq!((&*info.path, info.modified.as_micros()), ("/workspace/f", 1_000_000_000_000_000));
    let link = sandbox.guest.stat("/workspace/l").await.unwrap();
    assert_eq!((link.kind, link.size, &*link.path), (FileKind::File, 3, "/workspace/l"));
    let kind = sandbox.guest.stat("/workspace").await.unwrap().kind;
    assert_eq!(kind, FileKind::Directory);
    assert_eq!(sandbox.guest.stat("/workspace/p").await.unwrap().kind, FileKind::Other);
}

async fn rename_makes_parents_and_replaces_a_file(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.put("/workspace/a", "new").await;
    sandbox.put("/workspace/old", "old").await;
    sandbox.guest.rename("/workspace/a", "/workspace/x/y/z").await.unwrap();
    assert_eq!(sandbox.get("/workspace/x/y/z").await.unwrap(), b"new");
    sandbox.guest.rename("/workspace/x/y/z", "/workspace/old").await.unwrap();
    assert_eq!(sandbox.get("/workspace/old").await.unwrap(), b"new");
    sandbox.guest.rename("/workspace/x", "/workspace/moved").await.unwrap();
    assert_eq!(sandbox.ok("ls; ls moved").await, "moved\nold\ny");
    sandbox.ok("ln -s nowhere link").await;
    sandbox.guest.rename("/workspace/link", "/workspace/link2").await.unwrap();
    assert_eq!(sandbox.ok("readlink link2").await, "nowhere");
}

async fn rename_refuses_what_cannot_be(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.put("/workspace/d/f", "1").await;
    sandbox.put("/workspace/e/f", "2").await;
    sandbox.put("/workspace/f", "3").await;
    let error = sandbox.guest.rename("/workspace/d", "/workspace/e").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error:?}");
    let error = sandbox.guest.rename("/workspace/f", "/workspace/e").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error:?}");
    let error = sandbox.guest.rename("/workspace/d", "/workspace/d/in/itself").await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Invalid | ErrorKind::Conflict), "{error:?}");
    assert_eq!(sandbox.ok("cat d/f e/f f").await, "123");
}

async fn chmod_sets_the_bits(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("touch f; ln -s f l; mkdir d").await;
    sandbox.guest.chmod("/workspace/f", 0o640).await.unwrap();
    sandbox.guest.chmod("/workspace/d", 0o1777).await.unwrap();
    assert_eq!(sandbox.ok("stat -c %a f d").await, "640\n1777");
    sandbox.guest.chmod("/workspace/l", 0o600).await.unwrap();
    assert_eq!(sandbox.ok("stat -c %a f").await, "600");
    let error = sandbox.guest.chmod("/workspace/f", 0o10_000).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
}

async fn remove_takes_files_and_empty_directories(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("touch f t; mkdir d; ln -s t l; mkfifo p").await;
    for path in ["f", "d", "l", "p"] {
        sandbox.guest.remove(&format!("/workspace/{path}"), false).await.unwrap();
    }
    assert_eq!(sandbox.ok("ls -A").await, "t");
}

async fn remove_takes_a_tree_only_when_asked(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("mkdir -p d/e/f k; touch d/1 d/e/2 k/kept; ln -s ../k d/link; chmod 0 d/e").await;
    let error = sandbox.guest.remove("/workspace/d", false).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    sandbox.guest.remove("/workspace/d", true).await.unwrap();
    assert_eq!(sandbox.ok("ls -A . k").await, ".:\nk\n\nk:\nkept");
    let error = sandbox.guest.remove("/", true).await.unwrap_err();
    let refused =
        matches!(error.kind, ErrorKind::Invalid | ErrorKind::Denied | ErrorKind::Conflict);
    assert!(refused, "{error:?}");
    assert_eq!(sandbox.ok("ls -A k").await, "kept");
}

async fn glob_matches_within_names_and_across_directories(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox
        .ok("mkdir -p src/deep/er; touch a.rs b.rc .hidden.rs src/c.rs src/deep/d.rs \
             src/deep/er/e.rs 'sp ace.rs' '[x].rs'; ln -s src/deep loop")
        .await;
    for (pattern, expected) in [
        ("/workspace/*.rc", &["b.rc"][..]),
        ("b.r?", &["b.rc"]),
        ("[ab].r[a-d]", &["b.rc"]),
        ("[!b].r[sc]", &["a.rs"]),
        ("/workspace/src/*.rs", &["src/c.rs"]),
        ("*/*.rs", &["loop/d.rs", "src/c.rs"]),
        ("src/**/*.rs", &["src/c.rs", "src/deep/d.rs", "src/deep/er/e.rs"]),
        ("**/e.rs", &["src/deep/er/e.rs"]),
        ("**/d.rs", &["src/deep/d.rs"]),
        ("sp ace.*", &["sp ace.rs"]),
        ("src/deep/er/e.rs", &["src/deep/er/e.rs"]),
        ("nothing*", &[]),
        ("missing/**", &[]),
    ] {
        let found = sandbox.guest.glob(pattern).await.unwrap();
        let expected: Vec<String> = expected.iter().map(|e| format!("/workspace/{e}")).collect();
        assert_eq!(found, expected, "{pattern}");
    }
}

async fn glob_of_a_broken_pattern_is_invalid(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let error = sandbox.guest.glob("/workspace/[a").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
}
