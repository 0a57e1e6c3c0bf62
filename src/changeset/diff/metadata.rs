//! The metadata of an entry as it is packed, and overlay's xattrs in an upper.
//!
//! Deliberately absent: content.

use std::{io, os::unix::fs::MetadataExt as _};

use super::PackOptions;
use crate::{
    erofs::{Special, Time},
    overlay_xattr::{self, METACOPY, OPAQUE, REDIRECT, WHITEOUT},
    owner::Owner,
    sys::tree_reader::{Entry, EntryType},
};

/// Labels that belong to the host, its policy and its keys.
const HOST_LABELS: [&[u8]; 3] = [b"security.selinux", b"security.ima", b"security.evm"];
/// File capabilities and the length of their first fields (`struct vfs_ns_cap_data`).
const CAPABILITY: &[u8] = b"security.capability";
const CAPABILITY_LEN: usize = 20;
/// POSIX ACLs: a version, and entries of tag, permissions and id.
const ACL: &[u8] = b"system.posix_acl_";
const ACL_HEAD: usize = 4;
const ACL_ENTRY: usize = 8;
const ACL_USER: u16 = 2;
const ACL_GROUP: u16 = 8;

/// The metadata of an entry as it is packed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct EntryMetadata {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Extended attributes by name, sorted.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub size: u64,
    /// Device and inode number, if it has more than one name.
    pub linked: Option<(u64, u64)>,
}

impl EntryMetadata {
    pub(super) fn of(entry: &Entry, options: &PackOptions) -> io::Result<Self> {
        let metadata = entry.metadata()?;
        let mtime = Time { seconds: metadata.mtime(), nanos: metadata.mtime_nsec() as u32 };
        let mtime = match options.clamp {
            Some(clamp) if mtime.seconds >= clamp => Time { seconds: clamp, nanos: 0 },
            _ => mtime,
        };
        let owner = options.owner.unwrap_or(Owner::ROOT);
        let mut xattrs = entry.xattrs()?;
        xattrs.retain(|(name, _)| is_packed(name));
        xattrs.sort_unstable();
        for (name, value) in &mut xattrs {
            exchange_ids(name, value, owner);
        }
        Ok(Self {
            mode: metadata.mode() & 0o7777,
            uid: owner.user(metadata.uid()),
            gid: owner.group(metadata.gid()),
            mtime,
            xattrs,
            size: metadata.len(),
            linked: (metadata.nlink() > 1).then(|| (metadata.dev(), metadata.ino())),
        })
    }
}

/// A named pipe or a device. A socket is the address of a process and cannot be kept.
pub(super) fn special(sort: EntryType) -> Option<Special> {
    match sort {
        EntryType::Fifo => Some(Special::Fifo),
        EntryType::CharDevice(major, minor) => Some(Special::CharDevice(major, minor)),
        EntryType::BlockDevice(major, minor) => Some(Special::BlockDevice(major, minor)),
        EntryType::File
        | EntryType::Dir
        | EntryType::Symlink
        | EntryType::Whiteout
        | EntryType::Socket => None,
    }
}

/// Whether an entry of an upper is a whiteout: a device, or an empty file with the whiteout xattr.
pub(super) fn is_whiteout(entry: &Entry) -> io::Result<bool> {
    match entry.entry_type() {
        EntryType::Whiteout => Ok(true),
        EntryType::File => Ok(entry.metadata()?.len() == 0 && entry.xattr(WHITEOUT)?.is_some()),
        _ => Ok(false),
    }
}

/// Overlay's xattrs of an entry in an upper.
#[derive(Debug, Default)]
pub(super) struct UpperXattrs {
    pub opaque: bool,
    pub redirect: Option<Vec<u8>>,
    pub metacopy: bool,
}

impl UpperXattrs {
    pub(super) fn of(entry: &Entry) -> io::Result<Self> {
        let redirect = || entry.xattr(REDIRECT);
        match entry.entry_type() {
            EntryType::Dir => Ok(Self {
                opaque: entry.xattr(OPAQUE)?.is_some_and(|value| value == b"y"),
                redirect: redirect()?,
                metacopy: false,
            }),
            EntryType::File if entry.xattr(METACOPY)?.is_some() => {
                Ok(Self { opaque: false, redirect: redirect()?, metacopy: true })
            }
            _ => Ok(Self::default()),
        }
    }
}

/// Whether an extended attribute is part of a layer.
pub(super) fn is_packed(name: &[u8]) -> bool {
    let is_kept = [&b"user."[..], b"trusted.", b"security.", ACL];
    is_kept.iter().any(|prefix| name.starts_with(prefix))
        && !overlay_xattr::is_overlays(name)
        && !HOST_LABELS.contains(&name)
}

/// Undoes the exchange of root and `owner` for the ids within an attribute. Capabilities without a root id belong to the machine's root and
/// stay as they are.
fn exchange_ids(name: &[u8], value: &mut Vec<u8>, owner: Owner) {
    if name.starts_with(ACL) {
        for entry in value.get_mut(ACL_HEAD..).unwrap_or_default().chunks_exact_mut(ACL_ENTRY) {
            let id = u32_at(entry, 4);
            let id = match u16::from_le_bytes([entry[0], entry[1]]) {
                ACL_USER => owner.user(id),
                ACL_GROUP => owner.group(id),
                _ => continue,
            };
            entry[4..].copy_from_slice(&id.to_le_bytes());
        }
    } else if name == CAPABILITY && value.len() > CAPABILITY_LEN {
        let root = owner.user(u32_at(value, CAPABILITY_LEN));
        if root == 0 {
            // The version without a root id, which every kernel accepts.
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
    fn ids_are_exchanged_back_in_acls_and_capabilities() {
        let owner = Owner { uid: 1000, gid: 50 };
        let acl = |user: u32, group: u32| {
            let mut acl = 2_u32.to_le_bytes().to_vec();
            for (tag, id) in [(1, u32::MAX), (ACL_USER, user), (4, u32::MAX), (ACL_GROUP, group)] {
                acl.extend_from_slice(&[tag.to_le_bytes(), 7_u16.to_le_bytes()].concat());
                acl.extend_from_slice(&id.to_le_bytes());
            }
            acl
        };
        let mut value = acl(1000, 0);
        exchange_ids(b"system.posix_acl_access", &mut value, owner);
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
            exchange_ids(CAPABILITY, &mut value, owner);
            assert_eq!(value, after);
        }
        for mut broken in [vec![], vec![3; 2], vec![3; 21]] {
            exchange_ids(CAPABILITY, &mut broken, owner);
            exchange_ids(b"system.posix_acl_default", &mut broken, owner);
        }
    }

    #[test]
    fn attributes_of_the_host_and_of_overlay_are_not_packed() {
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
