//! Work in progress that is no layer.

use std::{fs::File, io};

use super::{Store, layer_meta::LayerMeta};
use crate::{digest::Digest, spill::unnamed_file, sys::durable::at};

impl Store {
    /// An empty file on the store's disk. It has no name, so it goes when it is closed, however the process ends.
    pub fn scratch(&self) -> io::Result<File> {
        let path = self.stage();
        unnamed_file(&path).map_err(at("make", &path))
    }

    /// What a layer takes on the disk, in bytes.
    pub fn bytes_of(&self, key: &Digest) -> io::Result<u64> {
        LayerMeta::read(&self.layer(key)).map(|description| description.image_bytes)
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
