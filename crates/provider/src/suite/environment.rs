//! The environment, the working directory and the user of a command.

use std::collections::BTreeMap;

use super::{
    Scene, list,
    scene::{argv, shell},
};
use crate::{ErrorKind, ExecSpec};

list! {
    variables_are_added_to_the_default_ones if |_| true;
    nothing_of_the_servers_environment_is_seen if |_| true;
    a_broken_variable_is_invalid if |_| true;
    a_command_starts_in_the_workspace if |_| true;
    a_working_directory_is_kept_to if |_| true;
    a_missing_or_relative_working_directory_is_refused if |_| true;
    commands_run_as_root_of_the_sandbox if |c| c.isolation;
    a_user_is_taken_by_name_or_number if |c| c.many_uids;
    an_unknown_user_is_refused if |c| c.many_uids;
    a_plain_user_cannot_write_what_is_roots if |c| c.many_uids;
}

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn variables_are_added_to_the_default_ones(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let env = variables(&[("GREETING", "hello\nwörld"), ("EMPTY", "")]);
    let spec = ExecSpec { env, ..shell("printf '%s|%s|' \"$GREETING\" \"${EMPTY-unset}\"") };
    assert_eq!(sandbox.run(spec).await.text(), "hello\nwörld||");
    let line = "test -n \"$PATH\" && test -n \"$HOME\" && test -n \"$LANG\" && echo all";
    assert_eq!(sandbox.ok(line).await, "all");
    let spec = ExecSpec { env: variables(&[("HOME", "/else")]), ..shell("echo $HOME") };
    assert_eq!(sandbox.run(spec).await.text(), "/else");
}

async fn nothing_of_the_servers_environment_is_seen(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let seen = sandbox.run(argv(&["env"])).await.text();
    let common = ["PATH", "HOME", "LANG", "TERM", "PWD", "SHLVL", "_", "USER", "LOGNAME", "SHELL"];
    let own = std::env::vars().filter(|(name, _)| !common.contains(&&**name));
    let leaked: Vec<String> =
        own.map(|(name, _)| format!("{name}=")).filter(|name| seen.contains(&**name)).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
}

async fn a_broken_variable_is_invalid(scene: Scene) {
    let sandbox = scene.sandbox().await;
    for (name, value) in [("", "x"), ("A=B", "x"), ("A\0B", "x"), ("A", "x\0y")] {
        let spec = ExecSpec { env: variables(&[(name, value)]), ..shell("true") };
        let error = sandbox.guest.exec(spec).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::Invalid, "{name:?}={value:?}");
    }
}

async fn a_command_starts_in_the_workspace(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.put("/workspace/here", "yes").await;
    assert_eq!(sandbox.ok("basename \"$(pwd)\"; cat here").await, "workspace\nyes");
}

async fn a_working_directory_is_kept_to(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.put("/workspace/a dir/b/here", "deep").await;
    let spec = ExecSpec { workdir: Some("/workspace/a dir/b".into()), ..shell("cat here") };
    assert_eq!(sandbox.run(spec).await.text(), "deep");
}

async fn a_missing_or_relative_working_directory_is_refused(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.put("/workspace/file", "").await;
    for workdir in ["/workspace/missing", "relative", "", "/workspace/file"] {
        let spec = ExecSpec { workdir: Some(workdir.into()), ..shell("true") };
        let error = sandbox.guest.exec(spec).await.err().unwrap();
        let refused =
            matches!(error.kind, ErrorKind::NotFound | ErrorKind::Invalid | ErrorKind::Conflict);
        assert!(refused, "{workdir:?}: {error:?}");
    }
}

async fn commands_run_as_root_of_the_sandbox(scene: Scene) {
    let sandbox = scene.sandbox().await;
    assert_eq!(sandbox.ok("id -u; id -g").await, "0\n0");
}

async fn a_user_is_taken_by_name_or_number(scene: Scene) {
    let sandbox = scene.sandbox().await;
    for (user, expected) in [
        ("nobody", "65534"),
        ("1234", "1234"),
        ("1234:5678", "1234 5678"),
        ("root", "0"),
        ("0:0", "0 0"),
    ] {
        let line = if user.contains(':') { "echo $(id -u) $(id -g)" } else { "id -u" };
        let spec = ExecSpec { user: Some(user.into()), ..shell(line) };
        assert_eq!(sandbox.run(spec).await.text(), expected, "{user}");
    }
}

async fn an_unknown_user_is_refused(scene: Scene) {
    let sandbox = scene.sandbox().await;
    for user in ["no-such-user", "-1", "99999999999", "root:no-such-group", ""] {
        let spec = ExecSpec { user: Some(user.into()), ..shell("true") };
        let error = sandbox.guest.exec(spec).await.err().unwrap();
        let refused = matches!(error.kind, ErrorKind::NotFound | ErrorKind::Invalid);
        assert!(refused, "{user:?}: {error:?}");
    }
}

async fn a_plain_user_cannot_write_what_is_roots(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("echo secret > private; chmod 600 private").await;
    let line = "cat private; echo x > /etc/planted; ls /root; id -G";
    let spec = ExecSpec { user: Some("nobody".into()), ..shell(line) };
    let done = sandbox.run(spec).await;
    assert!(!done.text().contains("secret"), "{}", done.text());
    assert!(sandbox.guest.stat("/etc/planted").await.is_err());
    let groups = done.text();
    assert!(!groups.split_whitespace().any(|group| group == "0"), "still in root's group");
}
