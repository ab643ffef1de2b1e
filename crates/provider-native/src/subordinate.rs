//! Ids that the host's administrator lent to a user: `/etc/subuid` and `/etc/subgid`.

use std::{fs, path::Path};

use crate::spawner::protocol::Ids;

const MAPPERS: [&str; 2] = ["newuidmap", "newgidmap"];
const PROGRAMS: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// The ids of sandboxes of this user; `None` where nothing was lent, or nobody could map it.
pub(crate) fn ids(uid: u32, gid: u32) -> Option<Ids> {
    let installed = |name: &&str| PROGRAMS.iter().any(|dir| Path::new(dir).join(name).exists());
    if !MAPPERS.iter().all(installed) {
        return None;
    }
    let name = user_name(&fs::read_to_string("/etc/passwd").ok()?, uid);
    let lent = |file| lent(&fs::read_to_string(file).ok()?, name.as_deref(), uid);
    let ((first_uid, uids), (first_gid, gids)) = (lent("/etc/subuid")?, lent("/etc/subgid")?);
    // Number 0 inside is the user's own, so one less of the 65,536 is borrowed.
    let count = uids.min(gids).min(65_535);
    Some(Ids::Subordinate { uid, gid, first_uid, first_gid, count })
}

fn user_name(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    })
}

/// The first range lent to a user by name or number.
fn lent(text: &str, name: Option<&str>, uid: u32) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let who = fields.next()?;
        let range = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        (Some(who) == name || who == uid.to_string()).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_found_by_name_or_number() {
        let text = "ann:100000:65536\n1001:200000:65536\nbroken\n";
        assert_eq!(lent(text, Some("ann"), 5), Some((100_000, 65_536)));
        assert_eq!(lent(text, None, 1001), Some((200_000, 65_536)));
        assert_eq!(lent(text, Some("bob"), 7), None);
    }

    #[test]
    fn a_users_name_is_found_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1001:1001::/home/ann:/bin/sh\n";
        assert_eq!(user_name(passwd, 1001).as_deref(), Some("ann"));
        assert_eq!(user_name(passwd, 7), None);
    }
}
