//! Users by name, from `/etc/passwd` and `/etc/group` of a tree or of the host (passwd(5), group(5)).
//!
//! The rules are those of the OCI image specification for `User`. Files of a tree are not trusted: a line that has not
//! the format is skipped.
//!
//! Deliberately absent: NIS, LDAP and other sources of nsswitch.conf(5).

use std::{
    fs::File,
    io::{self, Read as _},
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::spec::{Root, User};
use crate::sys::container::{open_in, open_regular_in};

/// The most bytes of `/etc/passwd` and of `/etc/group` that are read.
const LIMIT: u64 = 16 << 20;

/// The shell of an account without one.
const DEFAULT_SHELL: &str = "/bin/sh";

/// A user who can run a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// What the kernel needs.
    pub user: User,
    /// The name, if the user has an entry.
    pub name: Option<String>,
    /// The login shell, if the user has an entry with one.
    pub shell: Option<PathBuf>,
}

/// A text that names no user.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// It does not have the form.
    #[error("{text:?} is not a user: write NAME or UID, or one of them with :GROUP or :GID")]
    Form {
        /// The text.
        text: String,
    },
    /// There is no such user.
    #[error("there is no user {name:?} in /etc/passwd of {place}: use a number, or add the user")]
    NoUser {
        /// The name.
        name: String,
        /// Whose `/etc/passwd`.
        place: &'static str,
    },
    /// There is no such group.
    #[error("there is no group {name:?} in /etc/group of {place}: use a number, or add the group")]
    NoGroup {
        /// The name.
        name: String,
        /// Whose `/etc/group`.
        place: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {file} of {place}: {error}")]
    File {
        /// The file.
        file: &'static str,
        /// Whose file.
        place: &'static str,
        /// The reason.
        error: io::Error,
    },
}

/// Finds the user that `text` names: `USER` or `USER:GROUP`, each a name or a number. A number needs no entry.
///
/// Without a group, the user has the group and the supplementary groups of the files (group 0 without an entry). With
/// one, only that.
///
/// # Errors
/// See [`UserError`].
pub fn account(root: &Root, text: &str) -> Result<Account, UserError> {
    Files::read(root)?.account(text, place(root))
}

/// The user `uid`, who owns a directory of the group `gid`, with the groups that the files of `root` give this user. A
/// user without an entry has the group of the directory.
///
/// # Errors
/// A file cannot be read.
pub fn account_of_owner(root: &Root, uid: u32, gid: u32) -> Result<Account, UserError> {
    let files = Files::read(root)?;
    let entry = files.user(uid);
    let (gid, groups) = files.groups_of(entry.as_ref(), gid);
    Ok(Account::new(uid, gid, groups, entry))
}

/// The shell to be started: `wanted` if it is an absolute path of a program in `root`, else `/bin/sh`.
pub fn shell(root: &Root, wanted: Option<&Path>) -> PathBuf {
    let is_program = |path: &&Path| {
        let found = open_root(root).and_then(|root| open_in(root.as_fd(), path));
        let metadata = found.and_then(|found| File::from(found).metadata());
        path.is_absolute()
            && metadata.is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    wanted.filter(is_program).unwrap_or(Path::new(DEFAULT_SHELL)).to_owned()
}

impl Account {
    fn new(uid: u32, gid: u32, groups: Vec<u32>, entry: Option<Entry<'_>>) -> Self {
        let home = entry.map(|entry| entry.home).filter(|home| home.starts_with('/'));
        let shell = entry.map(|entry| entry.shell).filter(|shell| shell.starts_with('/'));
        Self {
            user: User { uid, gid, groups, home: home.unwrap_or("/").into() },
            name: entry.map(|entry| entry.name.to_owned()),
            shell: shell.map(PathBuf::from),
        }
    }
}

/// The text of both files. A missing file is empty.
pub(super) struct Files {
    pub(super) passwd: String,
    pub(super) group: String,
}

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, Copy)]
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

impl Files {
    fn read(root: &Root) -> Result<Self, UserError> {
        let read = |file| {
            read(root, file).map_err(|error| UserError::File { file, place: place(root), error })
        };
        Ok(Self { passwd: read("/etc/passwd")?, group: read("/etc/group")? })
    }

    /// See [`account`]. `place` says whose files these are.
    pub(super) fn account(&self, text: &str, place: &'static str) -> Result<Account, UserError> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if user.is_empty() || group.is_some_and(|group| group.is_empty() || group.contains(':')) {
            return Err(UserError::Form { text: text.to_owned() });
        }
        let (uid, entry) = match (self.user_named(user), id(user)) {
            (Some(entry), _) => (entry.uid, Some(entry)),
            (None, Some(uid)) => (uid, self.user(uid)),
            (None, None) => return Err(UserError::NoUser { name: user.to_owned(), place }),
        };
        let (gid, groups) = match group {
            Some(group) => {
                let gid = self.group_named(group).or_else(|| id(group));
                let gid =
                    gid.ok_or_else(|| UserError::NoGroup { name: group.to_owned(), place })?;
                (gid, Vec::new())
            }
            None => self.groups_of(entry.as_ref(), 0),
        };
        Ok(Account::new(uid, gid, groups, entry))
    }

    fn users(&self) -> impl Iterator<Item = Entry<'_>> {
        self.passwd.lines().filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
            Some(Entry { name, uid: id(uid)?, gid: id(gid)?, home, shell })
        })
    }

    fn user_named(&self, name: &str) -> Option<Entry<'_>> {
        self.users().find(|entry| entry.name == name)
    }

    fn user(&self, uid: u32) -> Option<Entry<'_>> {
        self.users().find(|entry| entry.uid == uid)
    }

    /// The groups: name, id, and the members with commas between them.
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [name, _, gid, members] = fields[..] else { return None };
            Some((name, id(gid)?, members))
        })
    }

    fn group_named(&self, wanted: &str) -> Option<u32> {
        self.groups().find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid)
    }

    /// The group and the supplementary groups of a user.
    fn groups_of(&self, entry: Option<&Entry<'_>>, gid_without_entry: u32) -> (u32, Vec<u32>) {
        let Some(entry) = entry else { return (gid_without_entry, Vec::new()) };
        let is_member = |members: &str| members.split(',').any(|member| member == entry.name);
        let groups = self.groups().filter(|(.., members)| is_member(members));
        let mut groups: Vec<_> = groups.map(|(_, gid, _)| gid).collect();
        groups.sort_unstable();
        groups.dedup();
        (entry.gid, groups)
    }
}

/// A user or group id. To the kernel, all ones (`(uid_t)-1`) means "no user".
fn id(text: &str) -> Option<u32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| is_number && *id != u32::MAX)
}

fn place(root: &Root) -> &'static str {
    if root.is_tree() { "the workspace" } else { "this machine" }
}

fn open_root(root: &Root) -> io::Result<File> {
    File::open(match root {
        Root::Tree(tree) => tree.path(),
        Root::Host(_) => PathBuf::from("/"),
    })
}

fn read(root: &Root, path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    match open_regular_in(open_root(root)?, path.as_ref()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        file => {
            if file?.take(LIMIT + 1).read_to_end(&mut bytes)? as u64 > LIMIT {
                let why = format!("it has more than {LIMIT} bytes");
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
            }
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
#[path = "users_tests.rs"]
mod tests;
