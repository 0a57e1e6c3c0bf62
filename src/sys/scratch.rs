//! A directory for a test, gone with every mount beneath it when the test ends, also when it fails.
//!
//! A [`Disk`] in it can lose its power.
//!
//! Deliberately absent: deleting while a mount is left; then the directory stays and the test fails.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

pub use super::mounts::sample_image as erofs_image;
use super::mounts::{LinuxMounts, Mounts as _};

/// The directory.
#[derive(Debug)]
pub struct Scratch(Option<TempDir>);

#[expect(clippy::new_without_default, reason = "to make a directory is no default")]
impl Scratch {
    /// A new empty directory, whose path has no symlinks.
    pub fn new() -> Self {
        let root =
            std::env::temp_dir().canonicalize().expect("there is a directory for temporaries");
        Self(Some(TempDir::with_prefix_in("ovl-test-", root).expect("a directory can be made")))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("it is there until dropped").path()
    }

    /// Makes the directory `name` in it, with its parents.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(&path).expect("a directory can be made");
        path
    }

    /// Writes the file `name` in it.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, bytes).expect("a file can be written");
        path
    }

    fn mounts(&self) -> Vec<PathBuf> {
        let table = LinuxMounts.table().expect("the mount table can be read");
        let targets = table.into_iter().map(|mount| mount.target);
        targets.filter(|target| target.starts_with(self.path())).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for target in self.mounts().into_iter().rev() {
            // A test that failed may have files open there, so these go lazily.
            let _ = unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
        let left = self.mounts();
        let dir = self.0.take();
        if !left.is_empty() {
            dir.map(TempDir::keep);
            assert!(std::thread::panicking(), "mounts are left: {left:?}");
        }
    }
}

/// How large a [`Disk`] is: no smaller XFS is made.
const DISK_BYTES: u64 = 320 << 20;

/// A file system of its own, on a loop device that goes when it is unmounted: at the latest with its [`Scratch`].
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes one of this type (`ext4`, `xfs`, `btrfs`) and mounts it at the directory `at` of `scratch`.
    pub fn new(scratch: &Scratch, fs_type: &str, at: &Path) -> Self {
        Self::with(scratch, fs_type, &[], at)
    }

    /// The same, with options of its `mkfs`.
    pub fn with(scratch: &Scratch, fs_type: &str, options: &[&str], at: &Path) -> Self {
        Self::make(scratch, scratch.path(), fs_type, options, at, DISK_BYTES)
    }

    /// The same of so many bytes; holes, but for what is written.
    pub fn of(scratch: &Scratch, bytes: u64, fs_type: &str, options: &[&str], at: &Path) -> Self {
        Self::make(scratch, scratch.path(), fs_type, options, at, bytes)
    }

    /// One whose bytes lie on this disk.
    pub fn beneath(&self, scratch: &Scratch, fs_type: &str, at: &Path) -> Self {
        Self::make(scratch, &self.at, fs_type, &[], at, DISK_BYTES)
    }

    fn make(
        scratch: &Scratch,
        on: &Path,
        fs_type: &str,
        options: &[&str],
        at: &Path,
        bytes: u64,
    ) -> Self {
        assert!(at.starts_with(scratch.path()), "{} would stay mounted", at.display());
        let image = on.join(format!("{fs_type}.img"));
        fs::write(&image, "").expect("a file can be written");
        File::options().write(true).open(&image).unwrap().set_len(bytes).unwrap();
        let options = options.iter().map(OsStr::new);
        let arguments = options.chain([OsStr::new("-q"), image.as_ref()]);
        run(&format!("mkfs.{fs_type}"), arguments);
        let disk = Self { image, at: at.to_owned() };
        disk.mount();
        disk
    }

    /// What is not on the disk by now is lost, the log in memory too, and whatever is asked of it from here on fails.
    pub fn cut_power(&self) {
        run("xfs_io", [OsStr::new("-x"), "-c".as_ref(), "shutdown".as_ref(), self.at.as_ref()]);
    }

    /// What is on the disk at this moment, log and all: what a power cut now would leave of it. On [`Disk::boot_from`] it is.
    pub fn as_it_lies(&self) -> PathBuf {
        let copy = self.image.with_extension("copy");
        run("cp", ["--sparse=always".as_ref(), self.image.as_os_str(), copy.as_ref()]);
        copy
    }

    /// Mounts what [`Disk::as_it_lies`] has copied in its place. Nothing may be mounted or open on it any more.
    pub fn boot_from(&self, copy: &Path) {
        self.unmount();
        fs::rename(copy, &self.image).expect("the copy is there");
        self.mount();
    }

    /// Has everything on the disk.
    pub fn sync(&self) {
        run("sync", [OsStr::new("-f"), self.at.as_ref()]);
    }

    /// Bytes that were written to it so far (Documentation/block/stat.rst: the seventh number, in sectors).
    pub fn written(&self) -> u64 {
        let stat = self.device().and_then(|device| fs::read_to_string(device.join("stat")).ok());
        let stat = stat.expect("a loop device has it");
        stat.split_whitespace().nth(6).and_then(|n| n.parse::<u64>().ok()).expect("a number") * 512
    }

    /// Takes no writes until what this returns is dropped: who writes waits.
    pub fn stand_still(&self) -> StandingStill<'_> {
        run("fsfreeze", ["--freeze".as_ref(), self.at.as_os_str()]);
        StandingStill(self)
    }

    /// Mounts it anew: what its log has is done. Nothing may be mounted or open on it any more.
    pub fn boot(&self) {
        self.unmount();
        self.mount();
    }

    fn unmount(&self) {
        // The kernel may be closing what was let go a moment ago.
        let soon = |done: &dyn Fn() -> bool| {
            (0..200).any(|_| {
                done() || {
                    sleep(Duration::from_millis(50));
                    false
                }
            })
        };
        let gone = || unmount(&self.at, UnmountFlags::NOFOLLOW).is_ok();
        assert!(soon(&gone), "{} is in use", self.at.display());
        // Another test's trial in a mount namespace of its own may keep it alive, and mounted now it would be as dead as before.
        assert!(soon(&|| self.device().is_none()), "{} is mounted elsewhere", self.image.display());
    }

    /// The loop device that has it.
    fn device(&self) -> Option<PathBuf> {
        let devices = fs::read_dir("/sys/block").expect("/sys can be read");
        let has_it = |device: &PathBuf| {
            let file = fs::read_to_string(device.join("loop/backing_file"));
            file.is_ok_and(|file| Path::new(file.trim_end()) == self.image)
        };
        devices.filter_map(|device| Some(device.ok()?.path())).find(has_it)
    }

    fn mount(&self) {
        run("mount", [OsStr::new("-o"), "loop".as_ref(), self.image.as_ref(), self.at.as_ref()]);
    }
}

/// A [`Disk`] that takes no writes.
#[derive(Debug)]
pub struct StandingStill<'a>(&'a Disk);

impl Drop for StandingStill<'_> {
    fn drop(&mut self) {
        run("fsfreeze", ["--unfreeze".as_ref(), self.0.at.as_os_str()]);
    }
}

/// Runs a program that has to be here and to succeed.
fn run<'a>(program: &str, args: impl IntoIterator<Item = &'a OsStr>) {
    let done = Command::new(program).args(args).output();
    let done = done.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(done.status.success(), "{program}: {done:?}");
}
