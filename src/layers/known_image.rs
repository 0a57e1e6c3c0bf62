//! An image record in memory, and when it was last used.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::image_record::ImageRecord;
use crate::digest::ManifestDigest;

/// The seconds of an hour. The last use of an image is written at most once per hour.
const HOUR: i64 = 3600;

/// A record, and what is on disk of it.
#[derive(Debug, Clone)]
pub(super) struct KnownImage {
    pub(super) image: Arc<ImageRecord>,
    /// The bytes of its file.
    pub(super) bytes: u64,
    /// Its last use according to its file.
    pub(super) written_use: Timestamp,
}

impl KnownImage {
    pub(super) fn new(image: ImageRecord, bytes: u64) -> Self {
        let written_use = image.last_use();
        Self { image: Arc::new(image), bytes, written_use }
    }

    /// Whether its last use is in a later hour than the one in its file.
    pub(super) fn is_old(&self) -> bool {
        let hour = |time: Timestamp| time.as_second() / HOUR;
        hour(self.written_use) != hour(self.image.last_use())
    }
}

/// A timestamp for a use that is later than all known ones, even if the clock was set back. Uses are only compared with
/// each other.
pub(super) fn next_use(known: &BTreeMap<ManifestDigest, KnownImage>) -> Timestamp {
    let latest = known.values().map(|known| known.image.last_use()).max();
    let next = latest.and_then(|latest| latest.checked_add(SignedDuration::from_nanos(1)).ok());
    Timestamp::now().max(next.unwrap_or(Timestamp::MIN))
}
