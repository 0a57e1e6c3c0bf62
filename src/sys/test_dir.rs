//! A temporary directory for a test. It is removed with all mounts below it when the test ends, also when the test
//! fails.
//!
//! A [`Disk`] in it can simulate a power cut.
//!
//! Deliberately absent: removal of the directory while a mount remains in it. Then the directory stays and the test
//! fails.

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

/// A test's directory. `None` only while it is dropped.
#[derive(Debug)]
pub struct TestDir(Option<TempDir>);

#[expect(clippy::new_without_default, reason = "a default does not make directories")]
impl TestDir {
    /// A new empty directory, whose path has no symlinks.
    pub fn new() -> Self {
        let root = std::env::temp_dir().canonicalize().expect("the temporary directory exists");
        Self(Some(TempDir::with_prefix_in("ovl-test-", root).expect("a directory can be made")))
    }

    /// The absolute path, without symlinks.
    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("it is there until dropped").path()
    }

    /// Makes the directory `name` and its parents below this one. Returns the path.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(&path).expect("a directory can be made");
        path
    }

    /// Writes the file `name` below this directory. Returns the path.
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

impl Drop for TestDir {
    fn drop(&mut self) {
        for target in self.mounts().into_iter().rev() {
            // Lazily: a test that failed may have files open there.
            let _ = unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
        let remaining = self.mounts();
        let dir = self.0.take();
        if !remaining.is_empty() {
            dir.map(TempDir::keep);
            assert!(std::thread::panicking(), "mounts remain: {remaining:?}");
        }
    }
}

/// The default size of a [`Disk`]. `mkfs.xfs` makes no smaller file systems.
const DISK_BYTES: u64 = 320 << 20;

/// A file system on a loop device. Unmounting it frees the device, at the latest when its [`TestDir`] is dropped.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes a file system of the given type (`ext4`, `xfs`, `btrfs`) and mounts it at the directory `at` of `scratch`.
    pub fn new(scratch: &TestDir, fs_type: &str, at: &Path) -> Self {
        Self::with(scratch, fs_type, &[], at)
    }

    /// Like [`Disk::new`], with options for `mkfs`.
    pub fn with(scratch: &TestDir, fs_type: &str, options: &[&str], at: &Path) -> Self {
        Self::make(scratch, scratch.path(), fs_type, options, at, DISK_BYTES)
    }

    /// Like [`Disk::with`], with a size in bytes. The image file is sparse.
    pub fn of(scratch: &TestDir, bytes: u64, fs_type: &str, options: &[&str], at: &Path) -> Self {
        Self::make(scratch, scratch.path(), fs_type, options, at, bytes)
    }

    /// Makes a second disk whose image file is stored on this one.
    pub fn beneath(&self, scratch: &TestDir, fs_type: &str, at: &Path) -> Self {
        Self::make(scratch, &self.at, fs_type, &[], at, DISK_BYTES)
    }

    fn make(
        scratch: &TestDir,
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

    /// Simulates a power cut. Data that is not on the disk is lost, also the log in memory. All later operations fail.
    pub fn cut_power(&self) {
        run("xfs_io", [OsStr::new("-x"), "-c".as_ref(), "shutdown".as_ref(), self.at.as_ref()]);
    }

    /// Copies the image as it is on the disk at this moment, with the log. This is the state after a power cut now.
    /// [`Disk::boot_from`] mounts the copy.
    pub fn copy_image(&self) -> PathBuf {
        let copy = self.image.with_extension("copy");
        run("cp", ["--sparse=always".as_ref(), self.image.as_os_str(), copy.as_ref()]);
        copy
    }

    /// Replaces the image with a copy from [`Disk::as_it_lies`] and mounts it. No file or mount on the disk may be in
    /// use.
    pub fn boot_from(&self, copy: &Path) {
        self.unmount();
        fs::rename(copy, &self.image).expect("the copy is there");
        self.mount();
    }

    /// Writes all data to the disk (`syncfs`).
    pub fn sync(&self) {
        run("sync", [OsStr::new("-f"), self.at.as_ref()]);
    }

    /// The bytes written to the disk so far (Documentation/block/stat.rst: the seventh number, in sectors).
    pub fn written(&self) -> u64 {
        let stat = self.device().and_then(|device| fs::read_to_string(device.join("stat")).ok());
        let stat = stat.expect("a loop device has a stat file");
        stat.split_whitespace().nth(6).and_then(|n| n.parse::<u64>().ok()).expect("a number") * 512
    }

    /// Freezes the file system until the returned guard is dropped. Writers wait.
    pub fn freeze(&self) -> FrozenDisk<'_> {
        run("fsfreeze", ["--freeze".as_ref(), self.at.as_os_str()]);
        FrozenDisk(self)
    }

    /// Mounts the disk again, which replays its log. No file or mount on the disk may be in use.
    pub fn boot(&self) {
        self.unmount();
        self.mount();
    }

    fn unmount(&self) {
        // The kernel may still be closing files that were released a moment ago.
        let soon = |done: &dyn Fn() -> bool| {
            (0..200).any(|_| {
                done() || {
                    sleep(Duration::from_millis(50));
                    false
                }
            })
        };
        let unmounted = || unmount(&self.at, UnmountFlags::NOFOLLOW).is_ok();
        assert!(soon(&unmounted), "{} is in use", self.at.display());
        // A probe of another test in a mount namespace of its own may keep the file system alive. A mount at this time
        // would show that dead file system again.
        assert!(soon(&|| self.device().is_none()), "{} is mounted elsewhere", self.image.display());
    }

    /// The directory in `/sys/block` of the loop device that shows the image.
    fn device(&self) -> Option<PathBuf> {
        let devices = fs::read_dir("/sys/block").expect("/sys can be read");
        let shows_image = |device: &PathBuf| {
            let file = fs::read_to_string(device.join("loop/backing_file"));
            file.is_ok_and(|file| Path::new(file.trim_end()) == self.image)
        };
        devices.filter_map(|device| Some(device.ok()?.path())).find(shows_image)
    }

    fn mount(&self) {
        run("mount", [OsStr::new("-o"), "loop".as_ref(), self.image.as_ref(), self.at.as_ref()]);
    }
}

/// A frozen [`Disk`]. Dropping this thaws it.
#[derive(Debug)]
pub struct FrozenDisk<'a>(&'a Disk);

impl Drop for FrozenDisk<'_> {
    fn drop(&mut self) {
        run("fsfreeze", ["--unfreeze".as_ref(), self.0.at.as_os_str()]);
    }
}

/// Runs a program, and fails the test if it is missing or fails.
fn run<'a>(program: &str, args: impl IntoIterator<Item = &'a OsStr>) {
    let done = Command::new(program).args(args).output();
    let done = done.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(done.status.success(), "{program}: {done:?}");
}
