//! Every method of the client against the real HTTP surface, and streams over a breaking network.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

mod streams;
mod world;

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use stacyvm_api_types::{
    Code, ExecRequest, SpawnRequest, TemplateRequest, TemplateSpawnRequest, WriteRequest,
};
use stacyvm_client::{Client, Error, Server, Settings, Show, Upload};
use stacyvm_types::SandboxId;
use world::World;

/// R1.1: spawn, admission, get, list, extend, logs, stats, destroy, prune.
#[tokio::test]
async fn a_sandbox_lives_and_ends() {
    let world = World::start().await;
    let client = &world.client;
    let request = SpawnRequest {
        ttl: Some("10m".to_owned()),
        metadata: Some([("a".to_owned(), "b".to_owned())].into()),
        ..SpawnRequest::default()
    };
    assert!(client.admission(&request).await.unwrap().allowed);
    let made = client.spawn(&request).await.unwrap();
    assert_eq!((made.state.as_str(), made.metadata["a"].as_str()), ("running", "b"));
    let id = SandboxId::parse(&made.id).unwrap();
    assert_eq!(client.sandbox(&id, Show::Live).await.unwrap().id, made.id);
    assert_eq!(client.sandboxes(Show::Live).await.unwrap().len(), 1);
    let longer = client.extend(&id, Duration::from_secs(7200)).await.unwrap();
    assert!(made.expires_at < longer.expires_at);
    client.exec(&id, &shell("echo logged")).await.unwrap();
    assert_eq!(*client.logs(&id, 10).await.unwrap(), ["logged"]);
    assert!(client.stats(&id).await.unwrap().supported);
    assert_eq!(client.destroy(&id).await.unwrap().status, "destroyed");
    let gone = client.sandbox(&id, Show::Live).await.unwrap_err();
    let failure = gone.api().unwrap();
    assert_eq!((failure.code, failure.status), (Code::NotFound, 404));
    assert!(!failure.request_id.is_empty() && failure.details.is_some(), "{failure:?}");
    assert_eq!(client.sandbox(&id, Show::Ended).await.unwrap().state, "destroyed");
    assert_eq!(client.sandboxes(Show::Ended).await.unwrap().len(), 1);
    assert_eq!(client.prune().await.unwrap().pruned, 0);
}

#[tokio::test]
async fn a_command_is_waited_for() {
    let world = World::start().await;
    let id = world.sandbox().await;
    let reply = world.client.exec(&id, &shell("echo out; echo err >&2; exit 3")).await.unwrap();
    assert_eq!(
        (reply.exit_code, reply.stdout.as_str(), reply.stderr.as_str()),
        (3, "out\n", "err\n")
    );
    let slow = ExecRequest { timeout: Some("100ms".to_owned()), ..shell("sleep 30") };
    assert_eq!(world.client.exec(&id, &slow).await.unwrap_err().code(), Some(Code::Timeout));
}

/// R1.3: files in both directions, parts of them, and everything else that is done to them.
#[tokio::test]
async fn files_are_read_and_written_as_streams() {
    let world = World::start().await;
    let (client, id) = (&world.client, world.sandbox().await);
    let path = "/workspace/a ü?#%/file";
    let pieces = (0..40u8).map(|n| Ok(Bytes::from(vec![n; 10_000])));
    let content: Vec<u8> = (0..40u8).flat_map(|n| vec![n; 10_000]).collect();
    let upload = Upload::stream(stream::iter(pieces));
    let reply = client.write_file(&id, path, Some("0600"), upload).await.unwrap();
    assert_eq!(reply.file.as_ref().unwrap().size, 400_000);
    let download = client.read_file(&id, path).await.unwrap();
    assert_eq!(download.bytes(1 << 20).await.unwrap(), content);
    let part = client.read_file_part(&id, path, 9_999, 2).await.unwrap();
    assert_eq!(part.bytes(9).await.unwrap(), &[0, 1][..]);
    let past = client.read_file_part(&id, path, 400_000, 1).await.err().unwrap();
    assert_eq!(past.code(), Some(Code::RangeNotSatisfiable));
    client.move_file(&id, path, "/workspace/b/moved").await.unwrap();
    client.chmod_file(&id, "/workspace/b/moved", "0644").await.unwrap();
    let info = client.stat_file(&id, "/workspace/b/moved").await.unwrap();
    assert_eq!((info.size, info.mode.as_str()), (400_000, "0644"));
    assert_eq!(client.list_files(&id, "/workspace/b").await.unwrap()[0].name, "moved");
    let found = client.glob_files(&id, "/workspace/**/mov*").await.unwrap();
    assert_eq!(*found, ["/workspace/b/moved"]);
    client.remove_file(&id, "/workspace/b/moved").await.unwrap();
    client.remove_tree(&id, "/workspace/b").await.unwrap();
    let text =
        WriteRequest { path: "/workspace/t".to_owned(), content: "text".to_owned(), mode: None };
    client.write_text(&id, &text).await.unwrap();
    let empty = client.write_file(&id, "/workspace/t", None, Upload::bytes("")).await.unwrap();
    assert_eq!(empty.file.as_ref().unwrap().size, 0);
}

#[tokio::test]
async fn an_upload_whose_source_fails_changes_nothing_and_says_why() {
    let world = World::start().await;
    let (client, id) = (&world.client, world.sandbox().await);
    let pieces = [Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("disk on fire"))];
    let upload = Upload::stream(stream::iter(pieces));
    let error = client.write_file(&id, "/workspace/x", None, upload).await.unwrap_err();
    assert!(matches!(&error, Error::Source(why) if why.to_string() == "disk on fire"), "{error:?}");
    let missing = client.stat_file(&id, "/workspace/x").await.unwrap_err();
    assert_eq!(missing.code(), Some(Code::NotFound));
}

/// R1.4: templates.
#[tokio::test]
async fn templates_are_kept_and_used() {
    let world = World::start().await;
    let client = &world.client;
    let request = TemplateRequest {
        name: Some("py".to_owned()),
        image: Some("host".to_owned()),
        ..TemplateRequest::default()
    };
    let missing = client.update_template("py", &request).await.unwrap_err();
    assert_eq!(missing.code(), Some(Code::NotFound));
    client.create_template(&request).await.unwrap();
    let again = client.create_template(&request).await.unwrap_err();
    assert_eq!(again.code(), Some(Code::Conflict));
    let change = TemplateRequest { ttl: Some("1h".to_owned()), ..request };
    assert_eq!(client.update_template("py", &change).await.unwrap().ttl_seconds, 3600);
    assert_eq!(client.templates().await.unwrap().len(), 1);
    assert_eq!(client.template("py").await.unwrap().image, "host");
    let request = TemplateSpawnRequest::default();
    assert_eq!(client.spawn_template("py", &request).await.unwrap().template, "py");
    client.delete_template("py").await.unwrap();
    assert_eq!(client.template("py").await.unwrap_err().code(), Some(Code::NotFound));
}

#[tokio::test]
async fn the_server_tells_about_itself() {
    let world = World::start().await;
    let client = &world.client;
    assert_eq!(client.health().await.unwrap().status, "ok");
    assert_eq!(client.live().await.unwrap().status, "alive");
    assert_eq!(client.ready().await.unwrap().ready_providers, 1);
    assert_eq!(client.providers().await.unwrap()[0].name, "mock");
    assert!(client.provider("mock").await.unwrap().healthy);
    assert!(client.test_providers().await.unwrap()["mock"]);
    assert!(!client.pool_status().await.unwrap().enabled);
    assert_eq!(client.quota_summary().await.unwrap().total, 0);
    assert!(client.quotas().await.unwrap().is_empty());
    assert!(client.snapshots().await.unwrap().is_empty());
}

#[tokio::test]
async fn images_that_a_provider_does_not_have_are_refused_with_its_reason() {
    let world = World::start().await;
    let client = &world.client;
    for error in [
        client.images(None).await.unwrap_err(),
        client.import_image("a/b:c", None, Upload::bytes("x")).await.unwrap_err(),
        client.remove_image("a/b:c", None).await.unwrap_err(),
    ] {
        assert_eq!(error.code(), Some(Code::Unsupported), "{error:?}");
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_so_quickly() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let begun = Instant::now();
    let error = world::client(address).health().await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert!(error.is_retryable() && !error.may_have_happened());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for_without_end() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let first_byte_timeout = Duration::from_millis(200);
    let client = Client::new(Settings { first_byte_timeout, ..Settings::new(server) }).unwrap();
    let error = client.health().await.unwrap_err();
    assert!(matches!(error, Error::NoAnswer(_)), "{error:?}");
    assert!(error.may_have_happened());
}

#[tokio::test]
async fn a_key_that_no_header_can_carry_is_refused_before_anything_is_sent() {
    let server = Server::parse(Server::DEFAULT).unwrap();
    let settings = Settings { api_key: Some("a\nb".to_owned()), ..Settings::new(server) };
    assert!(matches!(Client::new(settings).unwrap_err(), Error::Invalid(_)));
}

fn shell(line: &str) -> ExecRequest {
    ExecRequest { command: line.to_owned(), ..ExecRequest::default() }
}
