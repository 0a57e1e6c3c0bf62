//! The progress of a pull.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use crate::format;

/// The progress of the pull of a volume's layers. A clone is cheap and shows the same pull.
///
/// The bytes of a layer that another volume's pull fetches count too, as they arrive there.
#[derive(Clone, Default)]
pub struct Progress(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    items: Vec<Arc<Item>>,
    /// What the pull waits for before it can fetch layers, as a part of a sentence.
    awaits: Option<String>,
}

/// One layer of the pull.
#[derive(Debug)]
pub(super) struct Item {
    /// The bytes of the blob, which are fetched if the layer is not in the store.
    size: u64,
    /// The bytes that have arrived, for this or another volume. `None` for a layer that is not fetched.
    arrived: Mutex<Option<Arc<AtomicU64>>>,
    done: AtomicBool,
}

impl Item {
    /// Marks the layer as being fetched. `arrived` counts its bytes.
    pub(super) fn fetched(&self, arrived: &Arc<AtomicU64>) {
        *self.arrived.lock() = Some(arrived.clone());
    }

    /// Marks the layer as being in the store.
    pub(super) fn done(&self) {
        self.done.store(true, Relaxed);
    }

    /// The bytes that have arrived, and the bytes in all.
    fn bytes(&self) -> (u64, u64) {
        let arrived = self.arrived.lock();
        match (&*arrived, self.done.load(Relaxed)) {
            (None, true) => (0, 0),
            (None, false) => (0, self.size),
            (Some(_), true) => (self.size, self.size),
            (Some(arrived), false) => (arrived.load(Relaxed).min(self.size), self.size),
        }
    }
}

impl Progress {
    /// Starts again with layers of these sizes, in bytes.
    pub(super) fn begin(&self, sizes: impl IntoIterator<Item = u64>) -> Vec<Arc<Item>> {
        let item = |size| Arc::new(Item { size, arrived: Mutex::default(), done: false.into() });
        let items: Vec<_> = sizes.into_iter().map(item).collect();
        *self.0.lock() = State { items: items.clone(), awaits: None };
        items
    }

    /// Sets what the pull waits for before it can fetch layers, as a part of a sentence. `None` if nothing.
    pub(in crate::volumes) fn awaits(&self, what: Option<String>) {
        self.0.lock().awaits = what;
    }

    /// The bytes that have arrived, of the layers that were not in the store.
    pub fn bytes_done(&self) -> u64 {
        self.items().iter().map(|item| item.bytes().0).sum()
    }

    /// The bytes in all of the layers that were not in the store.
    pub fn bytes_wanted(&self) -> u64 {
        self.items().iter().map(|item| item.bytes().1).sum()
    }

    /// The number of layers in the store.
    pub fn layers_done(&self) -> usize {
        self.items().iter().filter(|item| item.done.load(Relaxed)).count()
    }

    /// The number of layers in all. 0 while the images are not resolved.
    pub fn layers(&self) -> usize {
        self.items().len()
    }

    /// The progress as a part of a sentence.
    pub fn sentence(&self) -> String {
        if let Some(what) = self.0.lock().awaits.clone() {
            return what;
        }
        if self.layers() == 0 {
            return "resolving the images".to_owned();
        }
        let bytes = format::part(self.bytes_done(), self.bytes_wanted());
        format!("{} of {} layers, {bytes}", self.layers_done(), self.layers())
    }

    fn items(&self) -> Vec<Arc<Item>> {
        self.0.lock().items.clone()
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Progress({})", self.sentence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_fetched_layers_are_counted_and_those_of_present_layers_are_not() {
        let progress = Progress::default();
        assert_eq!(progress.sentence(), "resolving the images");
        progress.awaits(Some("waiting for a snapshot".to_owned()));
        assert_eq!(progress.sentence(), "waiting for a snapshot");
        let items = progress.begin([5 << 20, 700 << 20, 1 << 10]);
        assert_eq!(progress.sentence(), "0 of 3 layers, 0.0 of 705.0 MiB");
        items[0].done();
        let arrived = Arc::new(AtomicU64::new(120 << 20));
        items[1].fetched(&arrived);
        assert_eq!(progress.clone().sentence(), "1 of 3 layers, 120.0 of 700.0 MiB");
        items[1].done();
        items[2].done();
        assert_eq!(progress.sentence(), "3 of 3 layers, 700.0 of 700.0 MiB");
        assert_eq!((progress.bytes_done(), progress.bytes_wanted()), (700 << 20, 700 << 20));
    }
}
