//! What an entry is apart from its content: owner, mode, times, extended attributes.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat,
        chownat, fchmod, fchown, futimens, getxattr, listxattr, lsetxattr, removexattr, setxattr,
        utimensat,
    },
    io::Errno,
};

use super::fingerprint::Marks;
use crate::sys::attributes::read;

const OVERLAY: &[u8] = b"trusted.overlay.";

/// Overlay's marks that say what a layer holds. The others are about one mount (`uuid`, `impure`, `nlink`, …), and lies in the next.
const KEPT: [&[u8]; 6] =
    [b"opaque", b"redirect", b"metacopy", b"origin", b"whiteout", b"whiteouts"];

/// What marks begin with that a pod has set itself, within an overlay.
const ESCAPED: &[u8] = b"overlay.";

/// An extended attribute: its name and its value.
type Attribute = (Vec<u8>, Vec<u8>);

/// What attributes weigh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// How many there are.
    pub(super) count: u64,
    /// Bytes of names and values.
    pub(super) bytes: u64,
    /// The name of the longest value, and its bytes.
    pub(super) longest: (String, u64),
    /// A name that a tar cannot hold.
    pub(super) odd: Option<String>,
}

impl Weight {
    fn add(&mut self, name: &[u8], value: &[u8]) {
        // Others are in no layer.
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
            self.odd = Some(shown());
        }
    }
}

/// How something was dressed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) marks: Marks,
    pub(super) weight: Weight,
}

/// One thing of the tree, open without the right to read it.
#[derive(Debug)]
pub(super) struct Original<'f> {
    pub(super) fd: BorrowedFd<'f>,
    pub(super) stat: Stat,
}

impl Original<'_> {
    /// A path that leads to it and nowhere else: such a descriptor takes no reads of its own.
    pub(super) fn path(&self) -> PathBuf {
        path_of(self.fd)
    }

    /// Whether it has overlay's mark of content that lies below.
    pub(super) fn is_metacopy(&self) -> io::Result<bool> {
        match getxattr(self.path(), "trusted.overlay.metacopy", &mut [0; 0][..]) {
            Ok(_) => Ok(true),
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Its attributes that the copy gets, and what they say.
    fn attributes(&self) -> io::Result<(Vec<Attribute>, Metadata)> {
        let (path, mut marks, mut found) = (self.path(), Marks::default(), Vec::new());
        let mut weight = Weight::default();
        for name in names(&path)? {
            if !is_kept(&name) {
                continue;
            }
            match name.strip_prefix(OVERLAY) {
                Some(b"metacopy") => marks.metacopy = true,
                Some(b"redirect") => marks.redirect = true,
                _ => {}
            }
            match read(|space| getxattr(&path, &name[..], space)) {
                Ok(value) => {
                    weight.add(&name, &value);
                    found.push((name, value));
                }
                // Removed since they were listed: its ctime tells.
                Err(e) if e.raw_os_error() == Some(Errno::NODATA.raw_os_error()) => {}
                Err(e) => return Err(e),
            }
        }
        Ok((found, Metadata { marks, weight }))
    }

    /// Dresses an open file or directory like it. What it has and this has not goes: of an earlier round, or inherited when it was made.
    pub(super) fn set_metadata(&self, copy: &OwnedFd) -> io::Result<Metadata> {
        let (attributes, dressed) = self.attributes()?;
        let path = path_of(copy.as_fd());
        fchown(copy, Some(Uid::from_raw(self.stat.st_uid)), Some(Gid::from_raw(self.stat.st_gid)))?;
        // After the owner, whose change takes set-id bits and capabilities away.
        fchmod(copy, Mode::from_raw_mode(self.stat.st_mode & 0o7777))?;
        for name in names(&path)? {
            // A security module labels by itself, and lets nobody take its label away.
            let ours = !name.starts_with(b"security.") || name == b"security.capability";
            if ours && !attributes.iter().any(|(kept, _)| *kept == name) {
                removexattr(&path, &name[..])?;
            }
        }
        for (name, value) in &attributes {
            setxattr(&path, &name[..], value, XattrFlags::empty())?;
        }
        self.set_times(copy)?;
        Ok(dressed)
    }

    /// Gives an open file or directory its times.
    pub(super) fn set_times(&self, copy: &OwnedFd) -> io::Result<()> {
        Ok(futimens(copy, &self.times())?)
    }

    /// Dresses what cannot be opened, by its name in the directory `at`, where nobody else writes.
    pub(super) fn set_name_metadata(&self, at: &OwnedFd, name: &Path) -> io::Result<Metadata> {
        let (attributes, dressed) = self.attributes()?;
        let (uid, gid) = (Uid::from_raw(self.stat.st_uid), Gid::from_raw(self.stat.st_gid));
        chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(self.stat.st_mode) != FileType::Symlink {
            let mode = Mode::from_raw_mode(self.stat.st_mode & 0o7777);
            chmodat(at, name, mode, AtFlags::empty())?;
        }
        // There is no `setxattrat` before Linux 6.13.
        let path = path_of(at.as_fd()).join(name);
        for (key, value) in &attributes {
            lsetxattr(&path, &key[..], value, XattrFlags::empty())?;
        }
        utimensat(at, name, &self.times(), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(dressed)
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

fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string())
}

fn names(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let list = read(|space| listxattr(path, space))?;
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(<[u8]>::to_vec).collect())
}

fn is_kept(name: &[u8]) -> bool {
    let mark = name.strip_prefix(OVERLAY);
    mark.is_none_or(|mark| KEPT.contains(&mark) || mark.starts_with(ESCAPED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_one_mount_stay_behind() {
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
