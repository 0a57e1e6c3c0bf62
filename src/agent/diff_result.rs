//! Collects differences into the bounded result of a comparison.

use serde_json::to_string;

use crate::{
    changeset::{Change, Difference, EntryType, Property},
    cluster::overlay_diff::{
        CHANGES_BYTES_MAX, CHANGES_MAX, DiffChange, DiffEntry, DiffFileType, DiffProperty,
        OverlayDiffResultSpec,
    },
    format,
};

/// The first differences of a comparison, and the number of all.
#[derive(Debug, Default)]
pub(super) struct Collected {
    changes: Vec<DiffEntry>,
    /// Bytes of the entries as JSON, with the comma between two.
    bytes: usize,
    /// An entry did not fit. No later one is listed, so that the list is the beginning of all differences.
    is_full: bool,
    added: i64,
    changed: i64,
    removed: i64,
}

impl Collected {
    /// Counts a difference, and lists it if it fits.
    pub(super) fn take(&mut self, difference: Difference) {
        let count = match difference.change {
            Change::Added => &mut self.added,
            Change::Changed => &mut self.changed,
            Change::Removed => &mut self.removed,
        };
        *count += 1;
        if self.is_full {
            return;
        }
        let entry = entry(difference);
        // An entry always serializes.
        let bytes = to_string(&entry).map_or(usize::MAX, |text| text.len() + 1);
        let total = self.bytes.saturating_add(bytes);
        self.is_full = self.changes.len() == CHANGES_MAX || total > CHANGES_BYTES_MAX;
        if !self.is_full {
            self.bytes = total;
            self.changes.push(entry);
        }
    }

    /// The result that this node reports.
    pub(super) fn result(self, driver: &str, node: &str) -> OverlayDiffResultSpec {
        let Self { changes, added, changed, removed, .. } = self;
        let (driver, node_name) = (driver.to_owned(), Some(node.to_owned()));
        OverlayDiffResultSpec { driver, node_name, error: None, changes, added, changed, removed }
    }
}

fn entry(difference: Difference) -> DiffEntry {
    let Difference { path, change, kind, size, properties } = difference;
    DiffEntry {
        path: if path.is_empty() { ".".to_owned() } else { format::path(&path) },
        change: match change {
            Change::Added => DiffChange::Added,
            Change::Changed => DiffChange::Changed,
            Change::Removed => DiffChange::Removed,
        },
        r#type: match kind {
            EntryType::File => DiffFileType::File,
            EntryType::Dir => DiffFileType::Directory,
            EntryType::Symlink => DiffFileType::Symlink,
            EntryType::Fifo => DiffFileType::Fifo,
            EntryType::Socket => DiffFileType::Socket,
            EntryType::Whiteout | EntryType::CharDevice(..) => DiffFileType::CharDevice,
            EntryType::BlockDevice(..) => DiffFileType::BlockDevice,
        },
        size: size.map(|size| i64::try_from(size).unwrap_or(i64::MAX)),
        properties: properties.into_iter().filter_map(property).collect(),
    }
}

/// `None` for the mtime, which an OverlayDiff does not compare.
fn property(property: Property) -> Option<DiffProperty> {
    let property = match property {
        Property::Type => DiffProperty::Type,
        Property::Size => DiffProperty::Size,
        Property::Content => DiffProperty::Content,
        Property::Target => DiffProperty::Target,
        Property::Device => DiffProperty::Device,
        Property::Mode => DiffProperty::Mode,
        Property::Owner => DiffProperty::Owner,
        Property::Xattrs => DiffProperty::Xattrs,
        Property::Mtime => return None,
    };
    Some(property)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn added(path: &[u8]) -> Difference {
        Difference {
            path: path.to_vec(),
            change: Change::Added,
            kind: EntryType::File,
            size: Some(3),
            properties: Vec::new(),
        }
    }

    #[test]
    fn a_difference_becomes_an_entry() {
        let mut collected = Collected::default();
        collected.take(added(b"etc/a\n"));
        collected.take(Difference {
            change: Change::Changed,
            kind: EntryType::Dir,
            size: None,
            properties: vec![Property::Mode, Property::Xattrs],
            ..added(b"")
        });
        collected.take(Difference { change: Change::Removed, ..added(b"gone") });
        let result = json!(collected.result("d", "n-1"));
        let changes = json!([
            { "path": "\"etc/a\\n\"", "change": "added", "type": "file", "size": 3 },
            { "path": ".", "change": "changed", "type": "directory", "properties": ["mode", "xattrs"] },
            { "path": "gone", "change": "removed", "type": "file", "size": 3 },
        ]);
        assert_eq!(
            result,
            json!({ "driver": "d", "nodeName": "n-1", "changes": changes, "added": 1, "changed": 1, "removed": 1 })
        );
    }

    #[test]
    fn the_list_ends_after_a_number_of_entries_and_the_counts_do_not() {
        let mut collected = Collected::default();
        for n in 0..CHANGES_MAX + 10 {
            collected.take(added(n.to_string().as_bytes()));
        }
        let result = collected.result("d", "n-1");
        assert_eq!((result.changes.len(), result.added), (CHANGES_MAX, 1010));
        assert_eq!((result.changes[999].path.as_str(), result.omitted()), ("999", 10));
    }

    #[test]
    fn the_list_ends_before_an_entry_that_is_too_large() {
        let mut collected = Collected::default();
        // A path with escapes takes more bytes than the file system's.
        for name in [&b"first"[..], &b"\xff".repeat(100 << 10), b"second"] {
            collected.take(added(name));
        }
        let result = collected.result("d", "n-1");
        assert_eq!((result.changes.len(), result.added, result.omitted()), (1, 3, 2));
        let mut collected = Collected::default();
        for n in 0..900 {
            collected.take(added(format!("{n:0>1000}").as_bytes()));
        }
        let result = collected.result("d", "n-1");
        assert!(serde_json::to_vec(&result.changes).unwrap().len() <= CHANGES_BYTES_MAX);
        assert!((200..300).contains(&result.changes.len()), "{}", result.changes.len());
    }
}
