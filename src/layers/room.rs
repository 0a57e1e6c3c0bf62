//! Room on the disk: promised before a byte is written, so that layers that arrive together do not fill it.

use std::{
    fmt, io,
    path::Path,
    sync::{Arc, PoisonError},
};

use super::{AddError, Store};
use crate::{
    digest::Digest,
    sys::space::{self, Space},
};

/// How the store learns of the room on its disk.
pub(super) struct Disk(Box<Ask>);

type Ask = dyn Fn(&Path) -> io::Result<Space> + Send + Sync;

impl Default for Disk {
    fn default() -> Self {
        Self(Box::new(space::of))
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

/// Room for one layer, kept from others until dropped.
#[derive(Debug)]
#[must_use]
pub struct Room {
    store: Arc<Store>,
    pub(super) bytes: u64,
}

impl Room {
    /// How much it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Store {
    /// Promises room for a layer of at least `bytes`. What is written meanwhile counts twice, as written and as promised, so a
    /// disk that is nearly full is taken for full a little early.
    pub fn reserve(self: &Arc<Self>, diff_id: &Digest, bytes: u64) -> Result<Room, AddError> {
        let disk = |source| AddError::Disk { diff_id: *diff_id, source };
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.space().map_err(disk)?.available;
        if free.saturating_sub(*promised) < bytes {
            let (wanted, promised, folder) = (bytes, *promised, self.root.clone());
            return Err(AddError::Full { diff_id: *diff_id, folder, wanted, free, promised });
        }
        *promised += bytes;
        Ok(Room { store: self.clone(), bytes })
    }

    /// The room of the store's file system.
    pub(super) fn space(&self) -> io::Result<Space> {
        (self.disk.0)(&self.root)
    }

    /// Makes the store believe in another disk.
    #[cfg(test)]
    pub(crate) fn set_disk(
        &mut self,
        disk: impl Fn(&Path) -> io::Result<Space> + Send + Sync + 'static,
    ) {
        self.disk = Disk(Box::new(disk));
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        *self.store.promised.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
    }
}
