//! Trees are packed and unpacked again: plain directories without overlay, and uppers of real overlays.

mod bounds;
mod compare;
mod overlays;
mod plain;
mod random;
mod volumes;

use std::{fs::File, path::Path};

use super::*;
use crate::sys::{
    mounts::{LinuxMounts, Mounts as _},
    tree::{Attributes, set_attributes},
};

fn packing(format: Format, compression: Compression) -> PackOptions {
    PackOptions { format, compression, clamp: None, owner: None, hides_below: false }
}

const PORTABLE: PackOptions = PackOptions {
    format: Format::Portable,
    compression: Compression::None,
    clamp: None,
    owner: None,
    hides_below: false,
};
const NATIVE: PackOptions = PackOptions {
    format: Format::Native,
    compression: Compression::None,
    clamp: None,
    owner: None,
    hides_below: false,
};

/// Packs a directory that is both the layer and the merged tree.
fn pack_dir(dir: &Path, packing: &PackOptions) -> Result<(Packed, Vec<u8>), PackError> {
    let tree = LinuxMounts.open_dir(dir).unwrap();
    let mut out = Vec::new();
    let packed = pack(&[&tree], &tree, packing, &Limits::default(), &mut out)?;
    assert_eq!(packed.size, out.len() as u64);
    assert_eq!(packed.digest, BlobDigest::of(&out));
    Ok((packed, out))
}

/// Sets mode, time and extended attributes of a file.
fn give(path: &Path, mode: u16, mtime: (i64, u32), xattrs: &[(&str, &[u8])]) {
    use std::os::unix::fs::MetadataExt as _;
    let file = File::open(path).unwrap();
    let metadata = file.metadata().unwrap();
    let xattrs: Vec<_> =
        xattrs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect();
    let (uid, gid) = (metadata.uid(), metadata.gid());
    set_attributes(&file, &Attributes { mode, uid, gid, mtime, xattrs: &xattrs }).unwrap();
}
