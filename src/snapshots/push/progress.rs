//! How far a push is, for whoever waits for it.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::units;

/// How far one push is.
#[derive(Debug, Default)]
pub struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// From 1; 0 before the first.
    layer: usize,
    layers: usize,
    doing: Doing,
}

#[derive(Debug, Default)]
enum Doing {
    /// The registry is asked what it has.
    #[default]
    Asking,
    /// So many bytes are packed.
    Packing(Arc<AtomicU64>),
    Sending {
        /// Bytes that are there.
        there: u64,
        /// Bytes of the blob.
        size: u64,
    },
}

impl Progress {
    /// Layer `layer` of `layers`, counted from 1, is seen to.
    pub(crate) fn layer(&self, layer: usize, layers: usize) {
        self.change(|state| *state = State { layer, layers, doing: Doing::Asking });
    }

    /// It is packed; whoever does so counts bytes in the answer.
    pub(super) fn packs(&self) -> Arc<AtomicU64> {
        let packed = Arc::<AtomicU64>::default();
        self.change(|state| state.doing = Doing::Packing(packed.clone()));
        packed
    }

    /// `there` of its `size` bytes are in the registry.
    pub(super) fn sends(&self, there: u64, size: u64) {
        self.change(|state| state.doing = Doing::Sending { there, size });
    }

    /// As a sentence; nothing before there is something to say.
    pub fn sentence(&self) -> Option<String> {
        self.change(|State { layer, layers, doing }| {
            let done = match doing {
                _ if *layer == 0 => return None,
                Doing::Asking => return Some(format!("layer {layer} of {layers}")),
                Doing::Packing(bytes) => {
                    format!("{} packed", units::bytes(bytes.load(Ordering::Relaxed)))
                }
                Doing::Sending { there, size } => {
                    format!("{} of {} sent", units::bytes(*there), units::bytes(*size))
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
    }
}
