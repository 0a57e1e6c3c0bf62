//! How far a push is, for whoever waits for it.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::format;

/// How far one push is.
#[derive(Debug, Default)]
pub struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// From 1; 0 before the first.
    layer: usize,
    layers: usize,
    doing: Doing,
    /// Bytes of what was done before.
    moved: u64,
}

#[derive(Debug, Default)]
enum Doing {
    /// The registry is asked what it has.
    #[default]
    Asking,
    /// So many bytes are packed.
    Packing(Arc<AtomicU64>),
    /// So many bytes have come from where the layer is.
    Fetching(Arc<AtomicU64>),
    Sending {
        /// Bytes that are there.
        there: u64,
        /// Bytes of the blob.
        size: u64,
    },
}

impl Doing {
    fn moved(&self) -> u64 {
        match self {
            Self::Asking => 0,
            Self::Packing(bytes) | Self::Fetching(bytes) => bytes.load(Ordering::Relaxed),
            Self::Sending { there, .. } => *there,
        }
    }
}

impl Progress {
    /// Layer `layer` of `layers`, counted from 1, is seen to.
    pub(crate) fn layer(&self, layer: usize, layers: usize) {
        self.does(Doing::Asking);
        self.change(|state| (state.layer, state.layers) = (layer, layers));
    }

    /// It is packed; whoever does so counts bytes in the answer.
    pub(super) fn packs(&self) -> Arc<AtomicU64> {
        let packed = Arc::<AtomicU64>::default();
        self.does(Doing::Packing(packed.clone()));
        packed
    }

    /// It is brought from where it is; whoever does so counts bytes in the answer.
    pub(super) fn fetches(&self) -> Arc<AtomicU64> {
        let fetched = Arc::<AtomicU64>::default();
        self.does(Doing::Fetching(fetched.clone()));
        fetched
    }

    /// How many bytes were packed, fetched and sent until now: one that waits for others moves none.
    pub fn moved(&self) -> u64 {
        self.change(|state| state.moved + state.doing.moved())
    }

    fn does(&self, doing: Doing) {
        self.change(|state| state.moved += std::mem::replace(&mut state.doing, doing).moved());
    }

    /// `there` of its `size` bytes are in the registry.
    pub(super) fn sends(&self, there: u64, size: u64) {
        self.change(|state| match &mut state.doing {
            Doing::Sending { there: before, .. } => *before = there,
            other => {
                state.moved += std::mem::replace(other, Doing::Sending { there, size }).moved();
            }
        });
    }

    /// As a sentence; nothing before there is something to say.
    pub fn sentence(&self) -> Option<String> {
        self.change(|State { layer, layers, doing, .. }| {
            let done = match doing {
                _ if *layer == 0 => return None,
                Doing::Asking => return Some(format!("layer {layer} of {layers}")),
                Doing::Packing(bytes) => {
                    format!("{} packed", format::bytes(bytes.load(Ordering::Relaxed)))
                }
                Doing::Fetching(bytes) => {
                    format!("{} fetched", format::bytes(bytes.load(Ordering::Relaxed)))
                }
                Doing::Sending { there, size } => {
                    format!("{} of {} sent", format::bytes(*there), format::bytes(*size))
                }
            };
            Some(format!("layer {layer} of {layers}: {done}"))
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_done_with_which_layer() {
        let progress = Progress::default();
        assert_eq!(progress.sentence(), None);
        progress.layer(1, 2);
        let says = |said: &str| assert_eq!(progress.sentence().as_deref(), Some(said));
        says("layer 1 of 2");
        progress.packs().fetch_add(3_400_000, Ordering::Relaxed);
        says("layer 1 of 2: 3.4 MB packed");
        progress.sends(1_000_000, 3_400_000);
        says("layer 1 of 2: 1.0 MB of 3.4 MB sent");
        progress.layer(2, 2);
        says("layer 2 of 2");
        assert_eq!(progress.moved(), 4_400_000);
        progress.fetches().fetch_add(600_000, Ordering::Relaxed);
        says("layer 2 of 2: 600.0 kB fetched");
        assert_eq!(progress.moved(), 5_000_000);
    }
}
