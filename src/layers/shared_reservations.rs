//! Reservations of processes that share a store: each process shows how much it has reserved, and adds up what the
//! others show.
//!
//! ```text
//! reservations/                locked while a process adds up and reserves
//! reservations/process-<pid>   locked by its process; the bytes that it has reserved and not written, as a number
//! ```
//!
//! A process shows more before it reserves more. It shows less when it has written a whole [`STEP`], or all. So two
//! processes never reserve the same bytes, and each of them may see up to one step too little free space for every other
//! process. After a kill the file is there without a lock and does not count.
//!
//! Deliberately absent: the limits of captures, which hold within one process and count the snapshots that are recorded.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::store_lock::private_dir;
use crate::sys::{
    durable::at,
    flock::{self, Kind, Lock},
};

/// The bytes by which reservations grow, and after which less is shown.
pub(super) const STEP: u64 = 64 << 20;

/// The reservations of all processes, as one process sees them.
#[derive(Debug)]
pub(super) struct SharedReservations {
    dir: PathBuf,
    path: PathBuf,
    /// `None` before the first reservation: most commands reserve nothing.
    own: Option<Lock>,
    /// The number in `own`.
    shown: u64,
}

/// The right to reserve, which one process has at a time.
#[derive(Debug)]
pub(super) struct ReserveTurn {
    /// The bytes that other processes show.
    pub(super) others: u64,
    _lock: Lock,
}

impl SharedReservations {
    /// Opens the reservations in `dir`, and removes the files of processes that have ended. No other process has this `name`.
    pub(super) fn open(dir: PathBuf, name: &OsStr) -> io::Result<Self> {
        private_dir(&dir)?;
        let path = dir.join(name);
        let reservations = Self { dir, path, own: None, shown: 0 };
        drop(reservations.turn()?);
        Ok(reservations)
    }

    /// Waits for the turn, and adds up what the other processes show. Removes the files of processes that have ended.
    pub(super) fn turn(&self) -> io::Result<ReserveTurn> {
        let lock = lock(&self.dir)?;
        let mut others = 0_u64;
        for entry in fs::read_dir(&self.dir).map_err(at("list", &self.dir))? {
            let path = entry.map_err(at("list", &self.dir))?.path();
            if path == self.path && self.own.is_some() {
                continue;
            }
            let file = File::open(&path).map_err(at("open", &path))?;
            let shown = io::read_to_string(&file).map_err(at("read", &path))?;
            match Lock::try_take(file, Kind::Exclusive)? {
                Some(_ended) => fs::remove_file(&path).map_err(at("remove", &path))?,
                // Empty before its first reservation.
                None => others = others.saturating_add(shown.trim().parse().unwrap_or(0)),
            }
        }
        Ok(ReserveTurn { others, _lock: lock })
    }

    /// Shows that this process has reserved and not written `bytes`.
    pub(super) fn show(&mut self, bytes: u64, _turn: &ReserveTurn) -> io::Result<()> {
        if bytes != self.shown {
            let own = match self.own.take() {
                Some(own) => own,
                None => self.create()?,
            };
            // Always 20 digits, so that the number is replaced whole.
            let text = format!("{bytes:020}");
            let own = self.own.insert(own);
            own.file().write_all_at(text.as_bytes(), 0).map_err(at("write", &self.path))?;
            self.shown = bytes;
        }
        Ok(())
    }

    /// Makes the file of this process. It is this one's turn, so no other process looks at the file meanwhile. Locked by one
    /// that looks, it would count as abandoned.
    fn create(&self) -> io::Result<Lock> {
        let own = Lock::try_take(flock::open_file(&self.path)?, Kind::Exclusive)?;
        own.ok_or_else(|| at("lock", &self.path)(io::ErrorKind::WouldBlock.into()))
    }

    /// Records that only `bytes` are left, because the others were written or released.
    pub(super) fn reduce_to(&mut self, bytes: u64) {
        let less = self.shown.saturating_sub(bytes);
        if less < STEP && (bytes > 0 || less == 0) {
            return;
        }
        let shown = self.turn().and_then(|turn| self.show(bytes, &turn));
        if let Err(error) = shown {
            tracing::warn!(%error, "other processes see too little free space until this one ends");
        }
    }
}

impl Drop for SharedReservations {
    fn drop(&mut self) {
        if self.own.is_some() {
            // If that fails, another process removes it: it has no lock then.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn lock(dir: &Path) -> io::Result<Lock> {
    Lock::wait(flock::open_dir(dir)?, Kind::Exclusive)
}
