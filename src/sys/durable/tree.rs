//! Brings a directory tree to its disk, and leaves out the data of other programs.
//!
//! `syncfs` waits for all dirty data of a file system, of all programs. Here the bytes of the
//! tree's own files are written out. Then one commit of the file system's journal covers their
//! metadata, because ext4 and xfs write their journals in order: a change that was made before a
//! file is fsynced is on the disk with that file. btrfs has a call that commits without writing the
//! bytes of others. For many small files this costs more than syncing everything, so the cheaper
//! way is chosen. Deliberately absent: that commit on ext4 and xfs. The caller makes and syncs a
//! file afterwards that says that the tree is complete.

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
    write_behind::WriteBehind,
    write_out::Amount,
};

/// The bytes that programs of this machine have written and that are not on a disk yet: `Dirty` and
/// `Writeback` of proc_meminfo(5). 0 where these are missing: then syncing everything counts as
/// cheap.
pub fn unwritten() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |line: &str| {
        let rest = line.strip_prefix("Dirty:").or_else(|| line.strip_prefix("Writeback:"))?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    meminfo.lines().filter_map(kilobytes).sum::<u64>() << 10
}

/// Brings the tree `dir` to its disk, except for what the next file that is made and fsynced there
/// brings along. `dirty` is the amount that was written to the tree recently. It does not count
/// bytes that are shared with other files, because those are on the disk.
///
/// No other thread may change the tree meanwhile.
pub fn sync_tree(dir: &Path, dirty: Amount) -> io::Result<()> {
    let root = File::from(openat2::dir(dir, READ).map_err(|e| at("open", dir)(e.into()))?);
    let kind = statfs::of(dir)?.kind();
    match kind {
        _ if dirty.cost() >= unwritten() => {}
        Some("xfs") => return write_all(&root, dirty),
        Some("ext4") if has_journal(&root) => return write_all(&root, dirty),
        // btrfs's log of a fsynced file covers no other files, and bytes that were written out may
        // not be in a transaction yet.
        Some("btrfs") if dirty.files == 0 && commit(&root)? => return Ok(()),
        _ => {}
    }
    Ok(syncfs(&root)?)
}

/// Writes out each file of a tree, in pieces.
fn write_all(root: &File, dirty: Amount) -> io::Result<()> {
    if dirty.files == 0 {
        return Ok(());
    }
    let mut behind = WriteBehind::default();
    for_each_file(root, &mut |file, size| behind.whole(file, size))?;
    behind.flush()
}

/// Calls `visit` for each regular file of a tree that is not empty, with its size. One directory is
/// open for each level. A tree that the driver keeps is at most 256 levels deep.
fn for_each_file(
    root: &File,
    visit: &mut dyn FnMut(&File, u64) -> io::Result<()>,
) -> io::Result<()> {
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

/// Whether an ext4 has a journal. Without one, a fsynced file brings no other file to the disk.
fn has_journal(root: &File) -> bool {
    let Ok(stat) = rustix::fs::fstat(root) else { return false };
    let device = format!("/sys/dev/block/{}:{}", major(stat.st_dev), minor(stat.st_dev));
    let device = fs::read_link(device).ok();
    let name = device.as_deref().and_then(Path::file_name);
    let task = name.map(|name| Path::new("/sys/fs/ext4").join(name).join("journal_task"));
    let text = task.and_then(|task| fs::read_to_string(task).ok()).unwrap_or_default();
    text.trim().parse::<u64>().is_ok()
}

/// Commits the running transaction of a btrfs (`BTRFS_IOC_START_SYNC`, `BTRFS_IOC_WAIT_SYNC`).
/// False if the file system does not know these calls.
fn commit(root: &File) -> io::Result<bool> {
    /// `_IOR(0x94, 24, __u64)` and `_IOW(0x94, 22, __u64)` of linux/btrfs.h.
    const START: u32 = 0x8008_9418;
    const WAIT: u32 = 0x4008_9416;
    let mut transaction = 0_u64;
    for call in [START, WAIT] {
        // SAFETY: both take the address of a u64, which is read or written only during the call.
        let done = unsafe {
            libc::ioctl(root.as_raw_fd(), call as _, std::ptr::from_mut(&mut transaction))
        };
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
    use crate::sys::{
        durable::write_out,
        test_dir::{Disk, TestDir},
    };

    #[test]
    fn unwritten_data_is_reported_in_bytes() {
        let scratch = TestDir::new();
        let file = scratch.file("new", vec![1; 8 << 20]);
        // Other programs write and sync meanwhile.
        let before = (0..50).map(|_| unwritten()).max().unwrap_or_default();
        assert!(before > 0);
        write_out(&File::open(file).unwrap()).unwrap();
    }

    /// After a power cut the synced tree is complete, and the bytes of a neighbour were not
    /// written out.
    #[test]
    #[ignore = "needs root: mounts file systems on loop devices"]
    fn privileged_a_settled_tree_survives_a_power_cut_and_a_neighbours_bytes_stay_unwritten() {
        for fs_type in ["xfs", "ext4"] {
            let scratch = TestDir::new();
            let disk_at = scratch.dir("disk");
            let disk = Disk::new(&scratch, fs_type, &disk_at);
            let tree = scratch.dir("disk/tree/a/b");
            fs::write(disk_at.join("neighbour"), vec![7; 64 << 20]).unwrap();
            for n in 0..100 {
                fs::write(tree.join(n.to_string()), vec![n as u8; 10_000]).unwrap();
            }
            sync_tree(&disk_at.join("tree"), Amount { files: 100, bytes: 1_000_000 }).unwrap();
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
            assert!(neighbour != vec![7; 64 << 20], "{fs_type}: its bytes were written out");
            // If it costs more than syncing everything, everything is synced.
            fs::write(disk_at.join("neighbour"), vec![8; 1 << 20]).unwrap();
            sync_tree(&disk_at.join("tree"), Amount { files: 1 << 40, bytes: 0 }).unwrap();
            disk.cut_power();
            disk.boot();
            assert!(fs::read(disk_at.join("neighbour")).unwrap() == vec![8; 1 << 20], "{fs_type}");
        }
    }
}
