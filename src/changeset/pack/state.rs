//! What an entry is apart from its name: attributes as a tar is to have them, and overlay's marks in a raw tree.
//!
//! Deliberately absent: content.

use std::{io, os::unix::fs::MetadataExt as _};

use super::Packing;
use crate::{
    changeset::marks::{self, METACOPY, OPAQUE, ORIGIN, REDIRECT, WHITEOUT},
    erofs::{Special, Time},
    sys::inside::{Inside, Sort},
};

/// Labels that belong to the host, and to the policy and the keys that it has.
const OF_THE_HOST: [&[u8]; 3] = [b"security.selinux", b"security.ima", b"security.evm"];
/// File capabilities, and where their fields are (`struct vfs_ns_cap_data`).
const CAPABILITY: &[u8] = b"security.capability";
const CAPABILITY_LEN: usize = 20;
/// POSIX ACLs: a version, and entries of tag, permissions and id.
const ACL: &[u8] = b"system.posix_acl_";
const ACL_HEAD: usize = 4;
const ACL_ENTRY: usize = 8;
const ACL_USER: u16 = 2;
const ACL_GROUP: u16 = 8;

/// Attributes of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// By name, sorted.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub size: u64,
    /// Device and number, if it has more than one name.
    pub linked: Option<(u64, u64)>,
}

impl State {
    pub(super) fn of(entry: &Inside, packing: &Packing) -> io::Result<Self> {
        let metadata = entry.metadata()?;
        let mtime = Time { seconds: metadata.mtime(), nanos: metadata.mtime_nsec() as u32 };
        let mtime = match packing.clamp {
            Some(clamp) if mtime.seconds >= clamp => Time { seconds: clamp, nanos: 0 },
            _ => mtime,
        };
        let (user, group) = packing.owner.unwrap_or_default();
        let mut xattrs = entry.xattrs()?;
        xattrs.retain(|(name, _)| is_packed(name));
        xattrs.sort_unstable();
        for (name, value) in &mut xattrs {
            turn_ids(name, value, user, group);
        }
        Ok(Self {
            mode: metadata.mode() & 0o7777,
            uid: turned(metadata.uid(), user),
            gid: turned(metadata.gid(), group),
            mtime,
            xattrs,
            size: metadata.len(),
            linked: (metadata.nlink() > 1).then(|| (metadata.dev(), metadata.ino())),
        })
    }
}

/// A named pipe or a device; a socket is the address of a process, of which nothing can be kept.
pub(super) fn special(sort: Sort) -> Option<Special> {
    match sort {
        Sort::Fifo => Some(Special::Fifo),
        Sort::CharDevice(major, minor) => Some(Special::CharDevice(major, minor)),
        Sort::BlockDevice(major, minor) => Some(Special::BlockDevice(major, minor)),
        Sort::File | Sort::Folder | Sort::Symlink | Sort::Whiteout | Sort::Socket => None,
    }
}

/// Whether it stands for the absence of its name, in a tree of overlay's own: a device, or an empty file that is marked so.
pub(super) fn is_whiteout(entry: &Inside) -> io::Result<bool> {
    match entry.sort() {
        Sort::Whiteout => Ok(true),
        Sort::File => Ok(entry.metadata()?.len() == 0 && entry.xattr(WHITEOUT)?.is_some()),
        _ => Ok(false),
    }
}

/// Overlay's marks on an entry of such a tree.
#[derive(Debug, Default)]
pub(super) struct Raw {
    pub opaque: bool,
    pub redirect: Option<Vec<u8>>,
    pub metacopy: bool,
    /// It was copied up, and is no new file.
    pub origin: bool,
}

impl Raw {
    pub(super) fn of(entry: &Inside) -> io::Result<Self> {
        let redirect = || entry.xattr(REDIRECT);
        let origin = || Ok::<_, io::Error>(entry.xattr(ORIGIN)?.is_some());
        match entry.sort() {
            Sort::Folder => Ok(Self {
                opaque: entry.xattr(OPAQUE)?.is_some_and(|value| value == b"y"),
                redirect: redirect()?,
                metacopy: false,
                origin: origin()?,
            }),
            Sort::File if entry.xattr(METACOPY)?.is_some() => {
                let (redirect, origin) = (redirect()?, origin()?);
                Ok(Self { opaque: false, redirect, metacopy: true, origin })
            }
            _ => Ok(Self { origin: origin()?, ..Self::default() }),
        }
    }
}

fn is_packed(name: &[u8]) -> bool {
    let is_kept = [&b"user."[..], b"trusted.", b"security.", ACL];
    is_kept.iter().any(|prefix| name.starts_with(prefix))
        && !marks::is_overlays(name)
        && !OF_THE_HOST.contains(&name)
}

/// The id that was shown as `id`, where root and `other` had changed places.
fn turned(id: u32, other: u32) -> u32 {
    match id {
        0 => other,
        id if id == other => 0,
        id => id,
    }
}

/// Turns the ids within an attribute back too. Capabilities that name no root are the machine's root's, and stay so.
fn turn_ids(name: &[u8], value: &mut Vec<u8>, user: u32, group: u32) {
    if name.starts_with(ACL) {
        for entry in value.get_mut(ACL_HEAD..).unwrap_or_default().chunks_exact_mut(ACL_ENTRY) {
            let other = match u16::from_le_bytes([entry[0], entry[1]]) {
                ACL_USER => user,
                ACL_GROUP => group,
                _ => continue,
            };
            let id = turned(u32_at(entry, 4), other);
            entry[4..].copy_from_slice(&id.to_le_bytes());
        }
    } else if name == CAPABILITY && value.len() > CAPABILITY_LEN {
        let root = turned(u32_at(value, CAPABILITY_LEN), user);
        if root == 0 {
            // The form without a root, which every kernel takes.
            value.truncate(CAPABILITY_LEN);
            value[3] = 2;
        } else if let Some(field) = value.get_mut(CAPABILITY_LEN..CAPABILITY_LEN + 4) {
            field.copy_from_slice(&root.to_le_bytes());
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    for (to, from) in number.iter_mut().zip(bytes.get(at..).unwrap_or_default()) {
        *to = *from;
    }
    u32::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_turned_back_wherever_they_stand() {
        assert_eq!([0, 1000, 7].map(|id| turned(id, 1000)), [1000, 0, 7]);
        assert_eq!([0, 7].map(|id| turned(id, 0)), [0, 7]);
        let acl = |user: u32, group: u32| {
            let mut acl = 2_u32.to_le_bytes().to_vec();
            for (tag, id) in [(1, u32::MAX), (ACL_USER, user), (4, u32::MAX), (ACL_GROUP, group)] {
                acl.extend_from_slice(&[tag.to_le_bytes(), 7_u16.to_le_bytes()].concat());
                acl.extend_from_slice(&id.to_le_bytes());
            }
            acl
        };
        let mut value = acl(1000, 0);
        turn_ids(b"system.posix_acl_access", &mut value, 1000, 50);
        assert_eq!(value, acl(0, 50));
        let capability = |version: u8, root: Option<u32>| {
            let fields = [&[1, 0, 0, version][..], &[0, 32, 0, 0], &[0; 12]].concat();
            [fields, root.map_or(Vec::new(), |root| root.to_le_bytes().to_vec())].concat()
        };
        for (before, after) in [
            (capability(3, Some(1000)), capability(2, None)),
            (capability(3, Some(7)), capability(3, Some(7))),
            (capability(2, None), capability(2, None)),
        ] {
            let mut value = before;
            turn_ids(CAPABILITY, &mut value, 1000, 50);
            assert_eq!(value, after);
        }
        for mut broken in [vec![], vec![3; 2], vec![3; 21]] {
            turn_ids(CAPABILITY, &mut broken, 1000, 50);
            turn_ids(b"system.posix_acl_default", &mut broken, 1000, 50);
        }
    }

    #[test]
    fn attributes_of_the_host_and_of_overlay_stay() {
        for (name, packed) in [
            ("user.colour", true),
            ("security.capability", true),
            ("system.posix_acl_access", true),
            ("trusted.md5sum", true),
            ("trusted.overlay.origin", false),
            ("user.overlay.opaque", false),
            ("security.selinux", false),
            ("system.nfs4_acl", false),
        ] {
            assert_eq!(is_packed(name.as_bytes()), packed, "{name}");
        }
    }
}
