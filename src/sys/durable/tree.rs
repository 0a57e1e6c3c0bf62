//! A tree on its disk, without what everybody else has written there.
//!
//! `syncfs` waits for all that is dirty on a file system, whoever wrote it. Here the bytes of the tree's own files are written out,
//! and then one commit of the file system's journal covers their metadata, because the journals of ext4 and xfs are written in
//! order: whatever was changed before a file that is fsynced later is on the disk with it. btrfs has a call that commits without
//! writing others' bytes. Many small files cost more one by one than all that is dirty at once, so the cheaper way is taken.
//! Deliberately absent: that commit on ext4 and xfs. The caller makes and syncs a file afterwards that says that the tree is whole.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd as _,
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, major, minor, openat2, statat, syncfs,
    },
    io::Errno,
};

use super::{
    super::{
        openat2::{self, READ},
        statfs,
    },
    at,
    behind::WriteBehind,
};

/// What a file costs beside its bytes, as bytes: to open it and to wait for it by itself.
const PER_FILE: u64 = 64 << 10;

/// How much is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    /// What it costs file by file, to be compared with [`unwritten`].
    pub fn cost(&self) -> u64 {
        self.files.saturating_mul(PER_FILE).saturating_add(self.bytes)
    }
}

/// Bytes that programs of this machine have written and that are on no disk yet: `Dirty` and `Writeback` of proc_meminfo(5). 0 where
/// that is not told, so that a flush of everything is taken for cheap, as it was before anybody asked.
pub fn unwritten() -> u64 {
    let told = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |line: &str| {
        let rest = line.strip_prefix("Dirty:").or_else(|| line.strip_prefix("Writeback:"))?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    told.lines().filter_map(kilobytes).sum::<u64>() << 10
}

/// Waits until the bytes of `file` are written out; what is written through a mapping from then on changes its times. Errors of
/// earlier writes that nobody was told are told. Not enough for a power cut: metadata, and the disk's own cache, are left.
pub fn write_out(file: &File) -> io::Result<()> {
    range(file, 0, 0, WRITE_OUT)
}

/// The same for `len` bytes from `begin`.
pub(super) fn write_out_part(file: &File, begin: u64, len: u64) -> io::Result<()> {
    range(file, begin, len, WRITE_OUT)
}

/// Has the bytes of `file` written out, and does not wait for them.
pub(super) fn begin_write_out(file: &File) -> io::Result<()> {
    range(file, 0, 0, libc::SYNC_FILE_RANGE_WRITE)
}

const WRITE_OUT: libc::c_uint = libc::SYNC_FILE_RANGE_WAIT_BEFORE
    | libc::SYNC_FILE_RANGE_WRITE
    | libc::SYNC_FILE_RANGE_WAIT_AFTER;

/// `sync_file_range(2)`; no bytes are all from `begin` on.
fn range(file: &File, begin: u64, len: u64, flags: libc::c_uint) -> io::Result<()> {
    let (begin, len) = (begin.cast_signed(), len.cast_signed());
    // SAFETY: it touches no memory of this process, and the descriptor is open as long as it is borrowed.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), begin, len, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Brings the tree `dir` to its disk, as far as the next file that is made and fsynced there does not do that. `dirty` is what
/// was written to it lately; files that share the bytes of others, which are on the disk, are not counted.
///
/// Nobody may change the tree meanwhile.
pub fn settle(dir: &Path, dirty: Amount) -> io::Result<()> {
    let root = File::from(openat2::dir(dir, READ).map_err(|e| at("open", dir)(e.into()))?);
    let kind = statfs::of(dir)?.kind();
    let settled = match kind {
        _ if dirty.cost() >= unwritten() => false,
        Some("xfs") => write_all(&root, dirty)?,
        Some("ext4") if has_journal(&root) => write_all(&root, dirty)?,
        // Its journal of single files covers no others, and what was written out may not be in a transaction yet.
        Some("btrfs") if dirty.files == 0 => commit(&root)?,
        _ => false,
    };
    match settled {
        true => Ok(()),
        false => Ok(syncfs(&root)?),
    }
}

/// Writes out every file of a tree, in pieces.
fn write_all(root: &File, dirty: Amount) -> io::Result<bool> {
    if dirty.files > 0 {
        let mut behind = WriteBehind::default();
        each(root, &mut |file, size| behind.whole(file, size))?;
        behind.flush()?;
    }
    Ok(true)
}

/// Goes to each regular file of a tree, with its size. One directory is open for each step down; a tree that is kept is at most 256 deep.
fn each(root: &File, visit: &mut dyn FnMut(&File, u64) -> io::Result<()>) -> io::Result<()> {
    let step = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let mut open = vec![Dir::read_from(root)?];
    while let Some(dir) = open.last_mut() {
        let Some(entry) = dir.read() else {
            drop(open.pop());
            continue;
        };
        let name = entry?.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = statat(dir.fd()?, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let how = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => READ,
            FileType::RegularFile if stat.st_size > 0 => {
                OFlags::RDONLY | OFlags::NOATIME | OFlags::NOFOLLOW | OFlags::CLOEXEC
            }
            _ => continue,
        };
        let fd = openat2(dir.fd()?, &name, how, Mode::empty(), step)?;
        if how == READ {
            open.push(Dir::new(fd)?);
        } else {
            visit(&File::from(fd), stat.st_size.cast_unsigned())?;
        }
    }
    Ok(())
}

/// Whether an ext4 has a journal: without one, a fsynced file brings no other to the disk.
fn has_journal(on: &File) -> bool {
    let Ok(stat) = rustix::fs::fstat(on) else { return false };
    let device = format!("/sys/dev/block/{}:{}", major(stat.st_dev), minor(stat.st_dev));
    let device = fs::read_link(device).ok();
    let name = device.as_deref().and_then(Path::file_name);
    let task = name.map(|name| Path::new("/sys/fs/ext4").join(name).join("journal_task"));
    let told = task.and_then(|task| fs::read_to_string(task).ok()).unwrap_or_default();
    told.trim().parse::<u64>().is_ok()
}

/// Commits the running transaction of a btrfs (`BTRFS_IOC_START_SYNC`, `BTRFS_IOC_WAIT_SYNC`); false where it knows no such call.
fn commit(on: &File) -> io::Result<bool> {
    /// `_IOR(0x94, 24, __u64)` and `_IOW(0x94, 22, __u64)` of linux/btrfs.h.
    const START: u32 = 0x8008_9418;
    const WAIT: u32 = 0x4008_9416;
    let mut transaction = 0_u64;
    for call in [START, WAIT] {
        // SAFETY: both take the address of a u64, which is read or written during the call alone.
        let done =
            unsafe { libc::ioctl(on.as_raw_fd(), call as _, std::ptr::from_mut(&mut transaction)) };
        if done < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(number) if number == Errno::NOTTY.raw_os_error() => Ok(false),
                _ => Err(error),
            };
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::{Disk, Scratch};

    #[test]
    fn what_is_dirty_is_told_in_bytes() {
        let scratch = Scratch::new();
        let file = scratch.file("new", vec![1; 8 << 20]);
        // Others write and sync meanwhile.
        let before = (0..50).map(|_| unwritten()).max().unwrap_or_default();
        assert!(before > 0);
        write_out(&File::open(file).unwrap()).unwrap();
    }

    /// Neither is lost what is settled, nor does a neighbour pay for it.
    #[test]
    #[ignore = "needs root: mounts file systems on loop devices"]
    fn privileged_a_settled_tree_survives_a_power_cut_and_a_neighbours_bytes_stay_unwritten() {
        for fs_type in ["xfs", "ext4"] {
            let scratch = Scratch::new();
            let disk_at = scratch.dir("disk");
            let disk = Disk::new(&scratch, fs_type, &disk_at);
            let tree = scratch.dir("disk/tree/a/b");
            fs::write(disk_at.join("neighbour"), vec![7; 64 << 20]).unwrap();
            for n in 0..100 {
                fs::write(tree.join(n.to_string()), vec![n as u8; 10_000]).unwrap();
            }
            settle(&disk_at.join("tree"), Amount { files: 100, bytes: 1_000_000 }).unwrap();
            super::super::write_atomic(&disk_at.join("tree/whole"), b"yes").unwrap();
            disk.cut_power();
            disk.boot();
            for n in 0..100 {
                assert!(
                    fs::read(tree.join(n.to_string())).unwrap() == vec![n as u8; 10_000],
                    "{n}"
                );
            }
            let neighbour = fs::read(disk_at.join("neighbour")).unwrap_or_default();
            assert!(neighbour != vec![7; 64 << 20], "{fs_type}: its bytes were forced out");
            // Where it costs more than to flush everything, everything is flushed.
            fs::write(disk_at.join("neighbour"), vec![8; 1 << 20]).unwrap();
            settle(&disk_at.join("tree"), Amount { files: 1 << 40, bytes: 0 }).unwrap();
            disk.cut_power();
            disk.boot();
            assert!(fs::read(disk_at.join("neighbour")).unwrap() == vec![8; 1 << 20], "{fs_type}");
        }
    }
}
