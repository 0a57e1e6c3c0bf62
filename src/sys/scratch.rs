//! A folder for a test, gone with every mount beneath it when the test ends, also when it fails.
//!
//! Deliberately absent: deleting while a mount is left; then the folder stays and the test fails.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use super::mounts::{LinuxMounts, Mounts as _};

/// The folder.
#[derive(Debug)]
pub struct Scratch(Option<TempDir>);

#[expect(clippy::new_without_default, reason = "to make a folder is no default")]
impl Scratch {
    /// A new empty folder, whose path has no symlinks.
    pub fn new() -> Self {
        let root = std::env::temp_dir().canonicalize().expect("there is a folder for temporaries");
        Self(Some(TempDir::with_prefix_in("ovl-test-", root).expect("a folder can be made")))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("it is there until dropped").path()
    }

    /// Makes the folder `name` in it, with its parents.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(&path).expect("a folder can be made");
        path
    }

    /// Writes the file `name` in it.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, bytes).expect("a file can be written");
        path
    }

    fn mounts(&self) -> Vec<PathBuf> {
        let table = LinuxMounts.table().expect("the mount table can be read");
        let targets = table.into_iter().map(|mount| mount.target);
        targets.filter(|target| target.starts_with(self.path())).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for target in self.mounts().into_iter().rev() {
            // A test that failed may have files open there, so these go lazily.
            let _ = unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
        let left = self.mounts();
        let folder = self.0.take();
        if !left.is_empty() {
            folder.map(TempDir::keep);
            assert!(std::thread::panicking(), "mounts are left: {left:?}");
        }
    }
}

/// A whole EROFS image with one file, `name`, that holds `text` (kernel: fs/erofs/erofs_fs.h).
///
/// Written out here by hand, so that this room's tests need no other room and no tool.
pub fn erofs_image(uuid: [u8; 16], name: &str, text: &str) -> Vec<u8> {
    const BLOCK: usize = 4096;
    let mut image = vec![0; 2 * BLOCK];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    // The superblock: magic, 4 KiB blocks, root nid 0, two inodes, two blocks, metadata in block 1.
    put(1024, &0xe0f5_e1e2_u32.to_le_bytes());
    put(1024 + 12, &[12]);
    put(1024 + 16, &2_u64.to_le_bytes());
    put(1024 + 36, &2_u32.to_le_bytes());
    put(1024 + 40, &1_u32.to_le_bytes());
    put(1024 + 48, &uuid);
    // A compact inode with its data right behind it: format, mode, links, size, number.
    let mut inode = |slot: usize, number: u32, mode: u16, links: u16, data: &[u8]| {
        let at = BLOCK + slot * 32;
        put(at, &(2_u16 << 1).to_le_bytes());
        put(at + 4, &mode.to_le_bytes());
        put(at + 6, &links.to_le_bytes());
        put(at + 8, &u32::try_from(data.len()).expect("small").to_le_bytes());
        put(at + 20, &number.to_le_bytes());
        put(at + 32, data);
    };
    // The names sort after dots; the file's inode is the eighth slot of 32 bytes.
    let names = [(".", 0_u64, 2_u8), ("..", 0, 2), (name, 8, 1)];
    let mut entries = Vec::new();
    let mut offset = 12 * names.len();
    for (name, nid, kind) in names {
        entries.extend(nid.to_le_bytes());
        entries.extend(u16::try_from(offset).expect("small").to_le_bytes());
        entries.extend([kind, 0]);
        offset += name.len();
    }
    entries.extend(names.iter().flat_map(|(name, ..)| name.bytes()));
    assert!(32 + entries.len() <= 8 * 32, "the name is too long for this little image");
    inode(0, 1, 0o040_755, 2, &entries);
    inode(8, 2, 0o100_644, 1, text.as_bytes());
    image
}
