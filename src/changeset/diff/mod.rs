//! Packs uppers into a layer's tar, and compares stacks of layers ([`compare()`]).
//!
//! The *uppers* are the trees that become the layer: one volume's writes, or those of several snapshots on each other.
//! The *merged tree* is the overlay of the whole stack, with the uppers at its top.
//!
//! ```text
//! uppers ───── names ──▶ portable ─┐
//! merged ───── state ──▶           ├─▶ Tar ──▶ TarSink ─┬─▶ hash
//! one upper ───────────▶ native ───┘  headers           └─▶ compress ─▶ out
//! ```
//!
//! Common to both formats:
//!
//! - Directories come before what is in them, and the names in a directory come in byte order. Access and change times,
//!   and user names, are left out. Pax records have a fixed order. So equal trees give equal bytes.
//! - A value that does not fit into the ustar header is in a pax record before it: names of more than 100 bytes, sizes
//!   from 8 GiB, owners from 2^21, fractions of seconds, times before 1970. Names are bytes, in any encoding.
//! - Extended attributes are `SCHILY.xattr.*` records: those of `user`, `trusted`, `security` and the two POSIX ACLs.
//!   Overlay's own xattrs are left out, and so are the labels of SELinux, IMA and EVM, which belong to the host.
//! - The second name of an inode is a hard link to the name that is packed first.
//! - A socket is useless without its process, so it is left out, and what a lower layer has in its place is hidden.
//!
//! A portable layer has what the merged tree shows for each name in one of the uppers, and the directories above it.
//! A name that the merged tree does not show becomes a whiteout. A directory is opaque in the layer (`.wh..wh..opq`),
//! with all that the merged tree shows in it, if it is opaque or renamed in an upper, or if another upper has
//! something else in its place. So the kernel resolves redirects and metacopies, and several uppers become one layer
//! in the same way. The map of a file with holes is in a record `OVL.data` (offsets and lengths of its data). The
//! file's content follows complete, as the image-spec requires.
//!
//! A native layer has what its upper has: whiteouts as character devices 0:0, and overlay's xattrs opaque, redirect and
//! metacopy as attributes. A file with holes is sparse as in GNU's pax format 1.0. A file whose content is in a lower
//! layer (metacopy) is one hole.
//!
//! What a reader of layers refuses ([`Limits`]) is refused here, before it is in a registry. Written zeros count as
//! holes, so that the layer is not taken for a decompression bomb.
//!
//! Deliberately absent: the layers below. Nothing is read that no upper has.

mod compare;
mod content;
mod difference;
mod error;
mod grouped;
mod holes;
mod metadata;
mod native;
mod options;
mod portable;
mod tar;
mod tar_sink;
mod walk_memory;

#[cfg(test)]
mod tests;

use std::io::Write;

pub use compare::{Comparison, compare, xattrs};
pub use difference::{Change, CompareError, Difference, Property};
pub use error::PackError;
pub use options::PackOptions;

use native::HolesOf;
use tar::Tar;

use super::{Compression, Format, Limits};
use crate::{
    digest::{BlobDigest, DiffId, Digest},
    sys::mounts::Detached,
};

/// A layer that was packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Digest of the written bytes.
    pub digest: BlobDigest,
    /// Number of written bytes.
    pub size: u64,
    /// Length of the uncompressed tar in bytes.
    pub tar_bytes: u64,
    /// Number of the tar's entries.
    pub entries: u64,
    /// The compression of the tar.
    pub compression: Compression,
}

/// Packs the changes in `uppers`, bottom first, as one layer. `merged` is the read-only overlay of the whole stack,
/// with `uppers` at its top. A portable layer's files get their content and attributes from it. A native layer is made
/// from a single tree, in which owners are as the volume showed them.
///
/// Equal trees give equal bytes. After an error the content of `out` is useless. Names and paths that outgrow memory go
/// to the files of `limits`. Blocks while other work has the memory of its budget.
pub fn pack(
    uppers: &[&Detached],
    merged: &Detached,
    options: &PackOptions,
    limits: &Limits,
    out: &mut (dyn Write + Send),
) -> Result<Packed, PackError> {
    let share = limits.budget.share();
    let (entries, written) =
        tar_sink::run(options.compression, limits.clone(), &share, out, |sink| {
            let tar = Tar::new(sink);
            let tar = match (options.format, uppers) {
                (Format::Portable, uppers) => portable::pack(uppers, merged, options, tar, &share)?,
                (Format::Native, [upper]) => {
                    native::pack(upper, options, HolesOf::FileSystem, tar, &share)?
                }
                (Format::Native, uppers) => return Err(PackError::Several(uppers.len())),
            };
            tar.finish()
        })?;
    let tar_sink::Written { diff_id, digest, size, tar_bytes } = written;
    let compression = options.compression;
    Ok(Packed { diff_id, digest, size, tar_bytes, entries, compression })
}

/// The digest of a tree: of its native tar without compression, whose holes are where its bytes say so. Equal trees have
/// equal digests, on every file system and in every version. `out` gets the tar, for example to count its bytes.
///
/// # Errors
/// The tree cannot be read, or it has something that no tar can hold.
pub fn tree_digest(
    tree: &Detached,
    limits: &Limits,
    out: &mut (dyn Write + Send),
) -> Result<Digest, PackError> {
    let (format, compression) = (Format::Native, Compression::None);
    let options = PackOptions { format, compression, clamp: None, owner: None, hides_below: false };
    let share = limits.budget.share();
    let (_, written) = tar_sink::run(compression, limits.clone(), &share, out, |sink| {
        native::pack(tree, &options, HolesOf::Bytes, Tar::new(sink), &share)?.finish()
    })?;
    Ok(*written.diff_id.digest())
}
