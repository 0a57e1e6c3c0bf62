//! Checks a whole store.

use std::{
    collections::BTreeMap,
    io,
    num::NonZero,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use parking_lot::Mutex;

use super::{
    layer::{self, CheckedLayer, Content},
    left,
    references::References,
    report::{Fault, FsckReport, Subject, Unchecked},
};
use crate::{
    changeset::Limits,
    layers::{key::LayerKey, provenance, reader::StoreReader},
};

/// The most layers that are read at a time. Each takes up to 40 MiB of memory.
const MOST_THREADS: usize = 4;

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FsckProgress {
    /// The layers that were read.
    pub layers: u64,
    /// All layers.
    pub all_layers: u64,
    /// The bytes that were read so far.
    pub bytes: u64,
}

impl StoreReader {
    /// Checks all layers and records. Reads every layer to its end, several at a time. `progress` is called often, by several
    /// threads. Blocks.
    ///
    /// # Errors
    /// The layers or the records cannot be listed, or a thread cannot be started.
    pub fn fsck(&self, progress: &(dyn Fn(FsckProgress) + Sync)) -> io::Result<FsckReport> {
        let keys = self.keys()?;
        let checked = self.check_layers(&keys, progress)?;
        let references = References::read(self)?;
        let mut report = FsckReport { layers: checked.len() as u64, ..FsckReport::default() };
        for (key, (bytes, checked)) in checked {
            report.bytes += bytes;
            if let Content::Unchecked(content) = checked.content {
                report.unchecked.push(Unchecked { layer: key, content });
            }
            report.faults.extend(checked.faults.into_iter().map(|fault| Fault {
                subject: Subject::Layer(key),
                path: fault.path,
                what: fault.what,
                needed_by: references.of(&key),
                fix: fix_of_layer(checked.is_of_tar).to_owned(),
            }));
            report.faults.extend(self.origins_fault(&key));
        }
        self.check_references(references, &mut report)?;
        report.notes.extend(left::notes(self.root())?);
        Ok(report)
    }

    fn check_layers(
        &self,
        keys: &[LayerKey],
        progress: &(dyn Fn(FsckProgress) + Sync),
    ) -> io::Result<BTreeMap<LayerKey, (u64, CheckedLayer)>> {
        let limits = Limits::default();
        let (next, done) = (Mutex::new(keys.iter()), Mutex::new(BTreeMap::new()));
        let (bytes, layers) = (AtomicU64::new(0), AtomicU64::new(0));
        let report = || {
            progress(FsckProgress {
                layers: layers.load(Ordering::Relaxed),
                all_layers: keys.len() as u64,
                bytes: bytes.load(Ordering::Relaxed),
            });
        };
        let work = || {
            loop {
                // Not in the condition of a `while let`: the lock would be held meanwhile.
                let key = next.lock().next();
                let Some(key) = key else { return };
                let dir = self.dir_of(key);
                let of_layer = AtomicU64::new(0);
                let checked = layer::check(&dir, key, &limits, &|count| {
                    of_layer.fetch_add(count, Ordering::Relaxed);
                    bytes.fetch_add(count, Ordering::Relaxed);
                    report();
                });
                layers.fetch_add(1, Ordering::Relaxed);
                // What was removed meanwhile has no fault.
                if dir.is_dir() {
                    done.lock().insert(*key, (of_layer.into_inner(), checked));
                }
            }
        };
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        thread::scope(|scope| {
            for _ in 0..cores.min(MOST_THREADS) {
                let started = thread::Builder::new().name("fsck".to_owned());
                started.spawn_scoped(scope, work)?;
            }
            Ok::<_, io::Error>(())
        })?;
        report();
        Ok(done.into_inner())
    }

    fn check_references(&self, first: References, report: &mut FsckReport) -> io::Result<()> {
        report.notes.extend(first.later.iter().map(|path| {
            format!("{} was written by a later version of ovl, and was not checked", path.display())
        }));
        let is_missing = |layer: &&LayerKey| !self.dir_of(layer).is_dir();
        let missing: Vec<LayerKey> = first.layers().filter(is_missing).copied().collect();
        if missing.is_empty() && first.unreadable.is_empty() {
            return Ok(());
        }
        // A record may have been removed since, and then its layers. What an unreadable record was is read again, too.
        let again = References::read(self)?;
        let before = first.unreadable;
        report.faults.extend(again.unreadable.iter().filter(|it| before.contains(it)).cloned());
        for layer in missing.iter().filter(|layer| is_missing(layer)) {
            let needed_by = again.of(layer);
            if needed_by.is_empty() {
                continue;
            }
            if let Some(name) = again.sealing(layer) {
                report.notes.push(format!(
                    "a snapshot of workspace {name} was interrupted; the next command on it completes that"
                ));
                continue;
            }
            if let Some(place) = self.quarantined(layer) {
                let place = place.display();
                let names = needed_by.join(", ");
                report.notes.push(format!(
                    "layer {layer} is in the quarantine {place}; {names} cannot be used without it"
                ));
                continue;
            }
            report.faults.push(Fault {
                subject: Subject::Missing(*layer),
                path: self.dir_of(layer),
                what: "the layer is missing".to_owned(),
                needed_by,
                fix: "pull or import the image again, or put the directory back from a backup; `ovl fsck --repair` records \
                      that it is missing"
                    .to_owned(),
            });
        }
        Ok(())
    }

    fn origins_fault(&self, key: &LayerKey) -> Option<Fault> {
        let dir = self.dir_of(key);
        let error = provenance::read(&dir).err()?;
        dir.is_dir().then(|| Fault {
            subject: Subject::File,
            path: provenance::path(&dir),
            what: format!("the record cannot be read: {error}"),
            needed_by: Vec::new(),
            fix: "`ovl fsck --repair` moves it to the quarantine; the next pod of a node pulls the layer again"
                .to_owned(),
        })
    }
}

fn fix_of_layer(is_of_tar: bool) -> &'static str {
    match is_of_tar {
        true => {
            "`ovl fsck --repair` moves it to the quarantine; then pull or import its image again"
        }
        false => {
            "put it back from a backup, or let `ovl fsck --repair` move it to the quarantine; no registry has it unless it \
             was pushed"
        }
    }
}
