//! A disk of its own, and a neighbour that writes to it.
//!
//! Deliberately absent: results of the neighbour. It only makes the disk busy.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bench::times::timed;
use crate::driver::process::NodeProcess;
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;

/// Bytes that the neighbour writes, and that a pod writes.
pub const BYTES: usize = 1_500 << 20;

/// The size of the disk. The file is sparse.
const SIZE: u64 = 8 << 30;

/// A file system of its own, in a file.
pub struct Disk {
    /// Where it is mounted.
    pub at: PathBuf,
    /// Its type.
    pub fs_type: String,
}

impl Disk {
    /// Creates and mounts one in this directory.
    ///
    /// # Errors
    /// The disk below is full, or the kernel does not know the type.
    pub fn make(place: &Path, fs_type: &str) -> Result<Self> {
        let (image, at) = (place.join(format!("{fs_type}.img")), place.join(fs_type));
        fs::create_dir_all(&at).context("making a directory")?;
        let file = File::create(&image).with_context(|| format!("making {}", image.display()))?;
        file.set_len(SIZE).context("making a disk")?;
        Cmd::new(format!("mkfs.{fs_type}")).arg("-q").arg(&image).output()?;
        Cmd::new("mount").args(["-o", "loop"]).arg(&image).arg(&at).output()?;
        Ok(Self { at, fs_type: fs_type.to_owned() })
    }

    /// A directory on it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.at.join(name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("making {}", directory.display()))?;
        Ok(directory)
    }

    /// Syncs everything to it.
    ///
    /// # Errors
    /// The disk below is full.
    pub fn sync(&self) -> Result<()> {
        Cmd::new("sync").arg("-f").arg(&self.at).output().map(drop)
    }

    /// How long the sync of one small new file takes: the wait of a call that syncs once.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn one_sync(&self) -> Result<Duration> {
        let path = self.at.join("one");
        let time = timed(|| {
            let mut file = File::create(&path).context("making a file")?;
            file.write_all(&[7; 1500]).and_then(|()| file.sync_all()).context("syncing a file")
        });
        fs::remove_file(&path).context("removing a file")?;
        time
    }

    /// Bytes written to its device (Documentation/block/stat.rst: the seventh number, in sectors).
    fn written(&self) -> Result<u64> {
        let device = fs::metadata(&self.at).context("looking at the disk")?.dev();
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"))
            .context("reading what was written")?;
        let sectors = stat.split_whitespace().nth(6).and_then(|number| number.parse::<u64>().ok());
        Ok(sectors.context("no seventh number")? * 512)
    }

    /// How long the unpublish of a volume takes that was just filled, and how many bytes reach the
    /// disk within the next seconds.
    ///
    /// # Errors
    /// The driver refused.
    pub fn unpublish_written(&self, driver: &NodeProcess, image: &str) -> Result<(Duration, u64)> {
        let volume = driver.volume("written", image);
        driver.publish(&volume)?;
        self.sync()?;
        let mut file = File::create(volume.target().join("large")).context("writing a volume")?;
        let chunk = vec![7_u8; 1 << 20];
        (0..BYTES >> 20).try_for_each(|_| file.write_all(&chunk)).context("writing a volume")?;
        drop(file);
        let before = self.written()?;
        let time = timed(|| driver.unpublish(&volume))?;
        thread::sleep(seconds(5));
        Ok((time, self.written()?.saturating_sub(before)))
    }

    /// Runs work while a neighbour writes [`BYTES`] and removes them, repeatedly.
    ///
    /// # Errors
    /// An error of the work or of the neighbour.
    pub fn beside_neighbour<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let (go_on, begun) = (&AtomicBool::new(true), &AtomicBool::new(false));
        let path = &self.at.join("neighbour");
        thread::scope(|scope| {
            let neighbour = scope.spawn(move || {
                let wrote = write_while(path, go_on, begun);
                wrote.and_then(|()| fs::remove_file(path).context("removing the neighbour's file"))
            });
            while !begun.load(Ordering::Relaxed) && !neighbour.is_finished() {
                thread::sleep(Duration::from_millis(20));
            }
            thread::sleep(seconds(1));
            let done = work();
            go_on.store(false, Ordering::Relaxed);
            let ended = neighbour.join();
            let done = done?;
            ensure!(matches!(ended, Ok(Ok(()))), "the neighbour failed");
            Ok(done)
        })
    }
}

fn write_while(path: &Path, go_on: &AtomicBool, begun: &AtomicBool) -> Result<()> {
    let chunk = vec![7_u8; 1 << 20];
    while go_on.load(Ordering::Relaxed) {
        let mut file = File::create(path).context("the neighbour's file")?;
        for _ in 0..BYTES >> 20 {
            if !go_on.load(Ordering::Relaxed) {
                break;
            }
            file.write_all(&chunk).context("the neighbour's bytes")?;
            begun.store(true, Ordering::Relaxed);
        }
        // In turn there is much dirty data in memory, and the disk is writing it.
        file.sync_data().context("the neighbour's sync")?;
    }
    Ok(())
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The caller unmounts and removes what this does not.
        let _ = Cmd::new("umount").arg(&self.at).output();
        let _ = fs::remove_file(self.at.with_extension("img"));
    }
}
