//! Copies the metadata of an entry: owner, mode, times and extended attributes.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat,
        chownat, fchmod, fchown, futimens, getxattr, listxattr, lsetxattr, setxattr, utimensat,
    },
    io::Errno,
};

use super::fingerprint::OverlayXattrs;
use crate::{
    overlay_xattr::{ESCAPED, METACOPY, OPAQUE, ORIGIN, PREFIX, REDIRECT, WHITEOUT, WHITEOUTS},
    sys::{
        attributes::{is_label, read, remove_xattr},
        proc_fd,
    },
};

/// Overlay's xattrs that describe the content of a layer. The others (`uuid`, `impure`, `nlink`, …)
/// describe a single mount, and would be wrong in the next one.
const KEPT: [&str; 6] = [OPAQUE, REDIRECT, METACOPY, ORIGIN, WHITEOUT, WHITEOUTS];

/// An extended attribute: its name and its value.
type Attribute = (Vec<u8>, Vec<u8>);

/// Number and size of extended attributes, to compare them with the limits of a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// Number of attributes.
    pub(super) count: u64,
    /// Bytes of names and values.
    pub(super) bytes: u64,
    /// The name of the longest value, and its bytes.
    pub(super) longest: (String, u64),
    /// A name that a tar cannot hold: it contains a `=`.
    pub(super) invalid_name: Option<String>,
}

impl Weight {
    fn add(&mut self, name: &[u8], value: &[u8]) {
        // A layer holds no attributes of other namespaces.
        if ![&b"user."[..], b"trusted.", b"security.", b"system.posix_acl_"]
            .iter()
            .any(|space| name.starts_with(space))
        {
            return;
        }
        self.count += 1;
        self.bytes += (name.len() + value.len()) as u64;
        let shown = || String::from_utf8_lossy(name).into_owned();
        if value.len() as u64 > self.longest.1 {
            self.longest = (shown(), value.len() as u64);
        }
        if name.contains(&b'=') {
            self.invalid_name = Some(shown());
        }
    }
}

/// What is known of the metadata after it was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) xattrs: OverlayXattrs,
    pub(super) weight: Weight,
}

/// An entry of the tree, opened with `O_PATH`.
#[derive(Debug)]
pub(super) struct Original<'f> {
    pub(super) fd: BorrowedFd<'f>,
    pub(super) stat: Stat,
}

impl Original<'_> {
    /// A path that leads to exactly this entry. Calls like `fgetxattr` fail on an `O_PATH` descriptor.
    pub(super) fn path(&self) -> PathBuf {
        proc_fd::path(self.fd)
    }

    /// Whether it has overlay's `metacopy` xattr: its content is in a lower.
    pub(super) fn is_metacopy(&self) -> io::Result<bool> {
        match getxattr(self.path(), METACOPY, &mut [0; 0][..]) {
            Ok(_) => Ok(true),
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// The attributes that the copy gets, and a summary of them.
    fn attributes(&self) -> io::Result<(Vec<Attribute>, Metadata)> {
        let (path, mut xattrs, mut found) = (self.path(), OverlayXattrs::default(), Vec::new());
        let mut weight = Weight::default();
        for name in names(&path)? {
            if !is_kept(&name) {
                continue;
            }
            xattrs.metacopy |= name == METACOPY.as_bytes();
            xattrs.redirect |= name == REDIRECT.as_bytes();
            match read(|space| getxattr(&path, &name[..], space)) {
                Ok(value) => {
                    weight.add(&name, &value);
                    found.push((name, value));
                }
                // Removed since it was listed: ctime shows the change.
                Err(e) if e.raw_os_error() == Some(Errno::NODATA.raw_os_error()) => {}
                Err(e) => return Err(e),
            }
        }
        Ok((found, Metadata { xattrs, weight }))
    }

    /// Gives an open file or directory the same metadata. Attributes that the original lacks are
    /// removed from the copy: they are of an earlier round, or were inherited when it was made.
    pub(super) fn set_metadata(&self, copy: &OwnedFd) -> io::Result<Metadata> {
        let (attributes, summary) = self.attributes()?;
        let path = proc_fd::path(copy);
        fchown(copy, Some(Uid::from_raw(self.stat.st_uid)), Some(Gid::from_raw(self.stat.st_gid)))?;
        // After the owner: a `chown` removes set-id bits and capabilities.
        fchmod(copy, Mode::from_raw_mode(self.stat.st_mode & 0o7777))?;
        for name in names(&path)? {
            let is_kept = attributes.iter().any(|(kept, _)| *kept == name);
            if !is_kept && !is_label(&name) {
                remove_xattr(&path, &name)?;
            }
        }
        for (name, value) in &attributes {
            setxattr(&path, &name[..], value, XattrFlags::empty())?;
        }
        self.set_times(copy)?;
        Ok(summary)
    }

    /// Gives an open file or directory the same times.
    pub(super) fn set_times(&self, copy: &OwnedFd) -> io::Result<()> {
        Ok(futimens(copy, &self.times())?)
    }

    /// Gives an entry that cannot be opened the same metadata, by its name in the directory `at`.
    /// No other process may write to `at`.
    pub(super) fn set_name_metadata(&self, at: &OwnedFd, name: &Path) -> io::Result<Metadata> {
        let (attributes, summary) = self.attributes()?;
        let (uid, gid) = (Uid::from_raw(self.stat.st_uid), Gid::from_raw(self.stat.st_gid));
        chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(self.stat.st_mode) != FileType::Symlink {
            let mode = Mode::from_raw_mode(self.stat.st_mode & 0o7777);
            chmodat(at, name, mode, AtFlags::empty())?;
        }
        // There is no `setxattrat` before Linux 6.13.
        let path = proc_fd::path(at).join(name);
        for (key, value) in &attributes {
            lsetxattr(&path, &key[..], value, XattrFlags::empty())?;
        }
        utimensat(at, name, &self.times(), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(summary)
    }

    fn times(&self) -> Timestamps {
        let time = |tv_sec: i64, nanos: u64| Timespec { tv_sec, tv_nsec: nanos.cast_signed() };
        #[allow(clippy::useless_conversion, reason = "on some machines these have 32 bits")]
        Timestamps {
            last_access: time(self.stat.st_atime.into(), self.stat.st_atime_nsec.into()),
            last_modification: time(self.stat.st_mtime.into(), self.stat.st_mtime_nsec.into()),
        }
    }
}

fn names(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let list = read(|space| listxattr(path, space))?;
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(<[u8]>::to_vec).collect())
}

fn is_kept(name: &[u8]) -> bool {
    !name.starts_with(PREFIX.as_bytes())
        || name.starts_with(ESCAPED.as_bytes())
        || KEPT.iter().any(|kept| kept.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xattrs_of_a_single_mount_are_not_copied() {
        for (name, kept) in [
            ("user.colour", true),
            ("security.capability", true),
            ("trusted.other", true),
            ("trusted.overlay.opaque", true),
            ("trusted.overlay.redirect", true),
            ("trusted.overlay.metacopy", true),
            ("trusted.overlay.origin", true),
            ("trusted.overlay.overlay.opaque", true),
            ("trusted.overlay.uuid", false),
            ("trusted.overlay.impure", false),
            ("trusted.overlay.nlink", false),
            ("trusted.overlay.upper", false),
            ("trusted.overlay.protattr", false),
            ("trusted.overlay.opaque2", false),
        ] {
            assert_eq!(is_kept(name.as_bytes()), kept, "{name}");
        }
    }
}
