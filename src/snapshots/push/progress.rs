//! The progress of a push, for status messages and to detect a push that makes no progress.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use crate::format;

/// The progress of one push.
#[derive(Debug, Default)]
pub struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The present layer, from 1. 0 before the first.
    layer: usize,
    layers: usize,
    phase: Phase,
    /// Bytes of the earlier phases.
    moved: u64,
}

#[derive(Debug, Default)]
enum Phase {
    /// Looks for the layer in the registry.
    #[default]
    Checking,
    /// Packs the layer. Counts the packed bytes.
    Packing(Arc<AtomicU64>),
    /// Downloads the layer from another registry. Counts the received bytes.
    Fetching(Arc<AtomicU64>),
    Sending {
        /// Bytes that have arrived.
        sent: u64,
        /// Bytes of the blob.
        size: u64,
    },
}

impl Phase {
    fn moved(&self) -> u64 {
        match self {
            Self::Checking => 0,
            Self::Packing(bytes) | Self::Fetching(bytes) => bytes.load(Ordering::Relaxed),
            Self::Sending { sent, .. } => *sent,
        }
    }
}

impl Progress {
    /// Layer `layer` of `layers`, counted from 1, begins.
    pub(crate) fn layer(&self, layer: usize, layers: usize) {
        self.set_phase(Phase::Checking);
        self.change(|state| (state.layer, state.layers) = (layer, layers));
    }

    /// The layer is being packed. The packer counts its bytes in the returned counter.
    pub(super) fn start_packing(&self) -> Arc<AtomicU64> {
        let packed = Arc::<AtomicU64>::default();
        self.set_phase(Phase::Packing(packed.clone()));
        packed
    }

    /// The layer is being downloaded. The download counts its bytes in the returned counter.
    pub(super) fn start_fetching(&self) -> Arc<AtomicU64> {
        let fetched = Arc::<AtomicU64>::default();
        self.set_phase(Phase::Fetching(fetched.clone()));
        fetched
    }

    /// Bytes that were packed, downloaded and sent so far. The number stays the same while the push waits for other
    /// work.
    pub fn bytes_moved(&self) -> u64 {
        self.change(|state| state.moved + state.phase.moved())
    }

    fn set_phase(&self, phase: Phase) {
        self.change(|state| state.moved += std::mem::replace(&mut state.phase, phase).moved());
    }

    /// `sent` of the layer's `size` bytes have arrived in the registry.
    pub(super) fn set_sent(&self, sent: u64, size: u64) {
        self.change(|state| match &mut state.phase {
            Phase::Sending { sent: before, .. } => *before = sent,
            other => {
                state.moved += std::mem::replace(other, Phase::Sending { sent, size }).moved();
            }
        });
    }

    /// The progress as a sentence. `None` before the first layer.
    pub fn sentence(&self) -> Option<String> {
        self.change(|State { layer, layers, phase, .. }| {
            let done = match phase {
                _ if *layer == 0 => return None,
                Phase::Checking => return Some(format!("layer {layer} of {layers}")),
                Phase::Packing(bytes) => {
                    format!("{} packed", format::bytes(bytes.load(Ordering::Relaxed)))
                }
                Phase::Fetching(bytes) => {
                    format!("{} fetched", format::bytes(bytes.load(Ordering::Relaxed)))
                }
                Phase::Sending { sent, size } => {
                    format!("{} sent", format::part(*sent, *size))
                }
            };
            Some(format!("layer {layer} of {layers}: {done}"))
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_has_the_layer_and_its_bytes() {
        let progress = Progress::default();
        assert_eq!(progress.sentence(), None);
        progress.layer(1, 2);
        let expect = |text: &str| assert_eq!(progress.sentence().as_deref(), Some(text));
        expect("layer 1 of 2");
        progress.start_packing().fetch_add(7 << 19, Ordering::Relaxed);
        expect("layer 1 of 2: 3.5 MiB packed");
        progress.set_sent(1 << 20, 7 << 19);
        expect("layer 1 of 2: 1.0 of 3.5 MiB sent");
        progress.layer(2, 2);
        expect("layer 2 of 2");
        assert_eq!(progress.bytes_moved(), 9 << 19);
        progress.start_fetching().fetch_add(1 << 19, Ordering::Relaxed);
        expect("layer 2 of 2: 512.0 KiB fetched");
        assert_eq!(progress.bytes_moved(), 10 << 19);
    }
}
