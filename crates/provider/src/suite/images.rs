//! Imported root file systems.

use futures_util::StreamExt;

use super::{
    Scene, list,
    scene::{body, fresh_id, soon},
};
use crate::{ErrorKind, Images, LaunchSpec};

list! {
    an_imported_image_can_be_launched_and_removed if |c| c.images;
    an_import_replaces_an_image_for_later_launches if |c| c.images;
    an_image_in_use_cannot_be_removed if |c| c.images;
    an_unknown_image_cannot_be_removed if |c| c.images;
    hostile_archives_are_refused_and_leave_nothing if |c| c.images;
    an_interrupted_import_leaves_nothing if |c| c.images;
    a_bad_image_name_is_invalid if |c| c.images;
}

/// One entry of a tar archive; names and links are written as they are given.
fn entry(kind: u8, name: &str, link: &str, mode: u32, bytes: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", bytes.len()));
    put(136, "00000000000");
    put(148, "        ");
    put(157, link);
    put(257, "ustar\x0000");
    header[156] = kind;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut entry = header.to_vec();
    entry.extend_from_slice(bytes);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// A root file system that has a shell and says `greeting`.
fn root_fs(greeting: &str) -> Option<Vec<u8>> {
    let shell = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|p| std::fs::read(p).ok())?;
    let is_static = !shell.windows(8).any(|w| w == b"/ld-linu");
    is_static.then(|| {
        let mut entries = vec![
            entry(b'5', "bin/", "", 0o755, b""),
            entry(b'0', "bin/busybox", "", 0o755, &shell),
            entry(b'5', "etc/", "", 0o755, b""),
            entry(b'0', "etc/greeting", "", 0o644, greeting.as_bytes()),
            entry(b'5', "tmp/", "", 0o1777, b""),
        ];
        for name in ["sh", "cat", "ls", "true", "sleep", "id", "rm"] {
            entries.push(entry(b'2', &format!("bin/{name}"), "busybox", 0o777, b""));
        }
        archive(&entries)
    })
}

const NO_SHELL: &str = "there is no static busybox to make an image of";

async fn import(images: &dyn Images, name: &str, bytes: Vec<u8>) {
    let record = soon("import", images.import(name, body(bytes))).await.unwrap();
    assert_eq!(record.name, name);
    assert!(images.list().await.unwrap().contains(&record));
}

fn names_of(prefix: &str) -> String {
    format!("suite-{prefix}-{}:latest", &fresh_id().as_str()[3..])
}

async fn an_imported_image_can_be_launched_and_removed(scene: Scene) {
    let Some(root) = root_fs("hello\n") else { return scene.skip(NO_SHELL) };
    let (images, image) = (scene.provider().images().unwrap(), names_of("launch"));
    import(images, &image, root).await;
    let spec = LaunchSpec { image: image.clone(), ..scene.spec(&fresh_id()) };
    let sandbox = scene.launch(spec).await;
    assert_eq!(
        sandbox.ok("cat /etc/greeting; echo x > /workspace/f; ls /workspace").await,
        "hello\nf"
    );
    assert_eq!(scene.provider().status(&sandbox.id).await.unwrap().image, image);
    assert_eq!(sandbox.get("/etc/greeting").await.unwrap(), b"hello\n");
    sandbox.ok("rm /etc/greeting; echo changed > /bin/new").await;
    scene.provider().destroy(&sandbox.id).await.unwrap();
    let spec = LaunchSpec { image: image.clone(), ..scene.spec(&fresh_id()) };
    let second = scene.launch(spec).await;
    assert_eq!(second.ok("cat /etc/greeting; ls /bin/new || true").await, "hello");
    scene.provider().destroy(&second.id).await.unwrap();
    images.remove(&image).await.unwrap();
    assert!(images.list().await.unwrap().iter().all(|record| record.name != image));
}

async fn an_import_replaces_an_image_for_later_launches(scene: Scene) {
    let (Some(one), Some(two)) = (root_fs("one"), root_fs("two")) else {
        return scene.skip(NO_SHELL);
    };
    let (images, image) = (scene.provider().images().unwrap(), names_of("replace"));
    import(images, &image, one).await;
    let spec = || LaunchSpec { image: image.clone(), ..scene.spec(&fresh_id()) };
    let old = scene.launch(spec()).await;
    import(images, &image, two).await;
    let new = scene.launch(spec()).await;
    assert_eq!(old.ok("cat /etc/greeting").await, "one");
    assert_eq!(new.ok("cat /etc/greeting").await, "two");
    scene.clean().await.unwrap();
    images.remove(&image).await.unwrap();
}

async fn an_image_in_use_cannot_be_removed(scene: Scene) {
    let Some(root) = root_fs("kept") else { return scene.skip(NO_SHELL) };
    let (images, image) = (scene.provider().images().unwrap(), names_of("used"));
    import(images, &image, root).await;
    let spec = LaunchSpec { image: image.clone(), ..scene.spec(&fresh_id()) };
    let sandbox = scene.launch(spec).await;
    assert_eq!(images.remove(&image).await.unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(sandbox.ok("cat /etc/greeting").await, "kept");
    scene.provider().destroy(&sandbox.id).await.unwrap();
    images.remove(&image).await.unwrap();
}

async fn an_unknown_image_cannot_be_removed(scene: Scene) {
    let images = scene.provider().images().unwrap();
    let error = images.remove(&names_of("unknown")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoImage);
}

async fn hostile_archives_are_refused_and_leave_nothing(scene: Scene) {
    let images = scene.provider().images().unwrap();
    let secret = std::env::temp_dir().join(format!("stacyvm-suite-{}", fresh_id()));
    let target = secret.display().to_string();
    let file = |name: &str| entry(b'0', name, "", 0o644, b"planted");
    let hostile = [
        ("climbs", archive(&[file(&format!("../../../../../../../..{target}"))])),
        ("climbs inside", archive(&[file("a/../../../../../../../../tmp/x")])),
        ("absolute", archive(&[file(&target)])),
        ("through a link", archive(&[entry(b'2', "out", "/tmp", 0o777, b""), file("out/x")])),
        ("hard link", archive(&[entry(b'1', "passwd", "/etc/passwd", 0o644, b"")])),
        ("hard link up", archive(&[entry(b'1', "p", "../../../../etc/passwd", 0o644, b"")])),
        ("device", archive(&[entry(b'3', "dev0", "", 0o666, b"")])),
        ("block device", archive(&[entry(b'4', "dev1", "", 0o666, b"")])),
        ("cut off", entry(b'0', "f", "", 0o644, &[0; 4096])[..1024].to_vec()),
        ("garbage", vec![0x5A; 4096]),
        ("broken gzip", [&[0x1F, 0x8B, 8, 0][..], &[7; 1000]].concat()),
        ("nothing", Vec::new()),
    ];
    for (what, bytes) in hostile {
        let image = names_of("hostile");
        let outcome = soon(what, images.import(&image, body(bytes))).await;
        let Err(error) = outcome else {
            images.remove(&image).await.unwrap();
            panic!("an archive that is hostile ({what}) was imported");
        };
        let refused = matches!(error.kind, ErrorKind::Invalid | ErrorKind::TooLarge);
        assert!(refused, "{what}: {error:?}");
        let listed = images.list().await.unwrap();
        assert!(listed.iter().all(|record| record.name != image), "{what}");
        assert!(!secret.exists(), "{what} reached the host");
    }
}

async fn an_interrupted_import_leaves_nothing(scene: Scene) {
    let images = scene.provider().images().unwrap();
    let image = names_of("interrupted");
    let first = entry(b'0', "f", "", 0o644, &[1; 100_000]);
    let endless = body(first).chain(futures_util::stream::pending());
    let import = images.import(&image, endless.boxed());
    assert!(tokio::time::timeout(std::time::Duration::from_millis(300), import).await.is_err());
    assert!(images.list().await.unwrap().iter().all(|record| record.name != image));
    assert_eq!(images.remove(&image).await.unwrap_err().kind, ErrorKind::NoImage);
}

async fn a_bad_image_name_is_invalid(scene: Scene) {
    let images = scene.provider().images().unwrap();
    for name in ["", "../up", "/absolute", "a b", "host", "a\0b", "a/../b", "."] {
        let archive = archive(&[entry(b'5', "etc/", "", 0o755, b"")]);
        let error = soon(name, images.import(name, body(archive))).await.unwrap_err();
        assert!(
            matches!(error.kind, ErrorKind::Invalid | ErrorKind::Conflict),
            "{name:?}: {error:?}"
        );
    }
}
