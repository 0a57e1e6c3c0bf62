//! Unnamed scratch files on the store's disk, and the size of a layer.

use std::{fs::File, io};

use super::{LayerKey, Store, layer_meta::LayerMeta};
use crate::{spill::unnamed_file, sys::durable::at};

impl Store {
    /// Creates an empty file on the store's disk. It has no name, so the kernel frees it when it is closed, also after
    /// a kill.
    pub fn scratch(&self) -> io::Result<File> {
        let path = self.stage();
        unnamed_file(&path).map_err(at("create", &path))
    }

    /// The size of a layer's image, or of a snapshot layer's files, in bytes.
    pub fn bytes_of(&self, key: &LayerKey) -> io::Result<u64> {
        LayerMeta::read(&self.layer(key)).map(|meta| meta.image_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, sync::Arc};

    use super::*;
    use crate::sys::mounts::FakeMounts;

    #[test]
    fn a_scratch_file_leaves_nothing_behind() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Store::open(dir.path(), Arc::new(FakeMounts::default())).unwrap();
        let mut file = store.scratch().unwrap();
        file.write_all(b"work").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 4);
        assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
    }
}
