//! The least work of a command: one overlay mount, one record on the disk, some bytes on the disk.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Bytes of a record.
const RECORD: [u8; 600] = [b'7'; 600];

/// A directory for mounts and records, on the disk that is measured.
pub struct Least {
    place: PathBuf,
}

/// The time of a mount, and of the same with its end.
#[derive(Clone, Copy)]
pub struct Mounted {
    /// The mount alone.
    pub mount: Duration,
    /// The mount and the unmount.
    pub both: Duration,
}

impl Least {
    /// Makes the directory.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(place: PathBuf) -> Result<Self> {
        for part in ["lower", "upper", "work", "merged", "records"] {
            fs::create_dir_all(place.join(part)).context("making a directory")?;
        }
        Ok(Self { place })
    }

    /// Mounts one overlay over an empty directory, and unmounts it.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn overlay(&self) -> Result<Mounted> {
        let path = |part: &str| self.place.join(part).display().to_string();
        let dirs = ["lower", "upper", "work"].map(|part| format!("{part}dir={}", path(part)));
        let (merged, options) = (self.place.join("merged"), dirs.join(","));
        let since = Instant::now();
        mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(&*options))
            .context("mounting an overlay")?;
        let time = since.elapsed();
        umount2(&merged, MntFlags::empty()).context("unmounting an overlay")?;
        Ok(Mounted { mount: time, both: since.elapsed() })
    }

    /// Writes a record that survives a power cut: a file that is synced, renamed and synced with its directory.
    ///
    /// # Errors
    /// The disk is full.
    pub fn record(&self, name: &str) -> Result<Duration> {
        let records = self.place.join("records");
        let (temp, to) = (records.join("temp"), records.join(name));
        let since = Instant::now();
        let mut file = File::create_new(&temp).context("making a record")?;
        file.write_all(&RECORD).and_then(|()| file.sync_all()).context("writing a record")?;
        fs::rename(&temp, &to).context("renaming a record")?;
        sync(&records)?;
        Ok(since.elapsed())
    }

    /// Writes bytes to a new file and syncs it.
    ///
    /// # Errors
    /// The disk is full.
    pub fn bytes(&self, mebibytes: usize) -> Result<Duration> {
        let (path, chunk) = (self.place.join("bytes"), vec![b'7'; 1 << 20]);
        let since = Instant::now();
        let mut file = File::create(&path).context("making a file")?;
        (0..mebibytes).try_for_each(|_| file.write_all(&chunk)).context("writing bytes")?;
        file.sync_all().context("syncing bytes")?;
        let time = since.elapsed();
        fs::remove_file(&path).context("removing a file")?;
        Ok(time)
    }
}

fn sync(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).context("syncing a directory")
}
