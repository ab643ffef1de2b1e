//! Users and groups of the sandbox, read from its own `/etc/passwd` and `/etc/group`: hostile text
//! of bounded length.

use stacyvm_agent_proto::FailKind;
use stacyvm_hostkit::process::Ids;

use crate::{
    fail::{Fail, Result},
    files::Root,
    limits::{ACCOUNTS, MAX_GROUPS},
    procfs::number,
};

/// Who a command runs as, with what its environment says about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// `None` is the agent's own user, the sandbox's root.
    pub(crate) ids: Option<Ids>,
    pub(crate) name: String,
    pub(crate) home: String,
    pub(crate) shell: String,
}

#[derive(Debug, PartialEq, Eq)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
    shell: String,
}

/// Finds the user that a request names: `name`, `uid`, `name:group`, `uid:gid`, or nobody.
pub(crate) fn find(root: &Root, wanted: Option<&str>) -> Result<User> {
    // The usual case pays for no file, and trusts none.
    let Some(wanted) = wanted else { return Ok(user(None, None, 0)) };
    let passwd = root.small_file("/etc/passwd", ACCOUNTS);
    let group = root.small_file("/etc/group", ACCOUNTS);
    choose(&passwd, &group, wanted)
}

fn choose(passwd: &[u8], group: &[u8], wanted: &str) -> Result<User> {
    let (name, group_name) = match wanted.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (wanted, None),
    };
    if name.is_empty() || group_name == Some("") {
        return Err(Fail::invalid("user must be a name or a number, optionally with :group"));
    }
    let uid = id(name);
    let account = accounts(passwd).find(|account| account.name == name || Some(account.uid) == uid);
    let (uid, own_gid) = match (&account, uid) {
        (Some(account), _) => (account.uid, account.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) => {
            let message = format!("no user {name:?} in the sandbox");
            return Err(Fail::new(FailKind::Invalid, message));
        }
    };
    let (gid, groups) = match group_name {
        Some(wanted) => {
            let gid = group_id(group, wanted)
                .ok_or_else(|| Fail::invalid(format!("no group {wanted:?} in the sandbox")))?;
            (gid, vec![gid])
        }
        None => {
            let name = account.as_ref().map_or("", |account| &account.name);
            (own_gid, member_of(group, name, own_gid))
        }
    };
    Ok(user(account, Some(Ids { uid, gid, groups }), uid))
}

fn user(account: Option<Account>, ids: Option<Ids>, uid: u32) -> User {
    let root = uid == 0;
    match account {
        Some(account) => User { ids, name: account.name, home: account.home, shell: account.shell },
        None => User {
            ids,
            name: if root { "root".to_owned() } else { uid.to_string() },
            home: if root { "/root" } else { "/" }.to_owned(),
            shell: "/bin/sh".to_owned(),
        },
    }
}

/// A number that can be a user or group; the last one means "none" to the kernel.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

fn fields(line: &[u8]) -> Vec<&[u8]> {
    line.split(|byte| *byte == b':').collect()
}

fn text(field: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(field).ok()?;
    (!text.contains('\0')).then(|| text.to_owned())
}

fn accounts(passwd: &[u8]) -> impl Iterator<Item = Account> {
    passwd.split(|byte| *byte == b'\n').filter_map(|line| {
        let [name, _, uid, gid, _, home, shell] = fields(line)[..] else { return None };
        Some(Account {
            name: text(name).filter(|name| !name.is_empty())?,
            uid: number(uid).filter(|id| *id != u32::MAX)?,
            gid: number(gid).filter(|id| *id != u32::MAX)?,
            home: text(home).filter(|home| home.starts_with('/')).unwrap_or_else(|| "/".into()),
            shell: text(shell)
                .filter(|shell| shell.starts_with('/'))
                .unwrap_or_else(|| "/bin/sh".into()),
        })
    })
}

fn groups(group: &[u8]) -> impl Iterator<Item = (&[u8], u32, &[u8])> {
    group.split(|byte| *byte == b'\n').filter_map(|line| {
        let [name, _, gid, members] = fields(line)[..] else { return None };
        Some((name, number(gid).filter(|id| *id != u32::MAX)?, members))
    })
}

fn group_id(group: &[u8], wanted: &str) -> Option<u32> {
    groups(group)
        .find(|(name, _, _)| *name == wanted.as_bytes())
        .map(|(_, gid, _)| gid)
        .or_else(|| id(wanted))
}

fn member_of(group: &[u8], user: &str, own: u32) -> Vec<u32> {
    let mut all = vec![own];
    for (_, gid, members) in groups(group) {
        let member = members.split(|byte| *byte == b',').any(|name| name == user.as_bytes());
        if member && !user.is_empty() && !all.contains(&gid) && all.len() < MAX_GROUPS {
            all.push(gid);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\nbroken\n\xff:x:1:1::/:/\n\
        ann:x:1000:1000:Ann:/home/ann:/bin/zsh\nneg:x:-1:0::/:/bin/sh\nmax:x:4294967295:0::/:/\n\
        nohome:x:7:7::relative:\n";
    const GROUP: &[u8] = b"root:x:0:\nann:x:1000:\nwheel:x:10:bob,ann\naudio:x:29:ann\n";

    fn ids(wanted: &str) -> Option<(u32, u32, Vec<u32>)> {
        let user = choose(PASSWD, GROUP, wanted).ok()?;
        user.ids.map(|ids| (ids.uid, ids.gid, ids.groups))
    }

    #[test]
    fn a_user_is_found_by_name_or_number_with_or_without_a_group() {
        assert_eq!(ids("ann"), Some((1000, 1000, vec![1000, 10, 29])));
        assert_eq!(ids("1000"), Some((1000, 1000, vec![1000, 10, 29])));
        assert_eq!(ids("ann:wheel"), Some((1000, 10, vec![10])));
        assert_eq!(ids("5:6"), Some((5, 6, vec![6])));
        assert_eq!(ids("77"), Some((77, 0, vec![0])));
    }

    #[test]
    fn what_is_not_there_or_not_an_id_is_refused() {
        for wanted in ["bob", "", ":", "ann:", ":ann", "ann:nope", "4294967295", "-1", "neg", "max"]
        {
            assert_eq!(ids(wanted), None, "{wanted:?}");
        }
    }

    #[test]
    fn missing_files_and_fields_do_not_matter() {
        let user = choose(b"", b"", "0").unwrap();
        assert_eq!((user.name.as_str(), user.home.as_str()), ("root", "/root"));
        let user = choose(PASSWD, GROUP, "nohome").unwrap();
        assert_eq!((user.home.as_str(), user.shell.as_str()), ("/", "/bin/sh"));
    }
}
