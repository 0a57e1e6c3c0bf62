//! A tree that was an upper → a layer's tar.
//!
//! ```text
//! own trees ── names ──▶ portable ─┐
//! merged ───── state ──▶           ├─▶ Tar ──▶ Sink ─┬─▶ hash
//! own tree ────────────▶ native ───┘  headers        └─▶ compress ─▶ out
//! ```
//!
//! What both formats share:
//!
//! - Folders come before what is in them, and names of a folder in the order of their bytes. Access and change times, and names
//!   of users, are left out; pax records stand in a fixed order. So the same trees give the same bytes.
//! - A header is ustar's where the value fits, and a pax record stands in front where it does not: names of more than 100
//!   bytes, sizes from 8 GiB, owners from 2^21, fractions of seconds, times before 1970. Names are bytes, whatever they mean.
//! - Extended attributes are `SCHILY.xattr.*` records: those of `user`, `trusted`, `security` and the two POSIX ACLs. Overlay's
//!   own are no attributes, and labels of SELinux, IMA and EVM are the host's.
//! - The second name of an inode is a hard link to the first that is packed.
//! - A socket is nobody's once its process is gone: it is left out, and what a lower layer has in its place is hidden.
//!
//! A portable layer holds what the merged tree shows of each name that an own tree has, with the folders above it. What that
//! tree does not show is a whiteout. A folder that is opaque or was renamed, or that stands where an own tree has something
//! else, is opaque in the layer (`.wh..wh..opq`), and all that the merged tree shows in it is packed. So it is the kernel who
//! says what redirects and metacopies mean, and several own trees become one layer in the same way. The map of a file with holes
//! stands in a record `OVL.data` (offsets and lengths of its data), and its content follows whole, as the image-spec wants it.
//!
//! A native layer holds what its tree has: whiteouts as character devices 0:0, and overlay's marks opaque, redirect and metacopy
//! as attributes. A file with holes is sparse as in GNU's pax format 1.0; one whose content lies below (metacopy) is a hole from
//! its begin to its end.
//!
//! What a reader of layers refuses ([`Limits`]) is refused here, before a registry has it. Zeros that were written count as holes, so
//! that they are not taken for a bomb.
//!
//! Deliberately absent: the layers below. Nothing is read that no own tree touches.

mod changes;
mod error;
mod holes;
mod known;
mod native;
mod out;
mod portable;
mod state;
mod tar;

#[cfg(test)]
mod tests;

use std::io::Write;

pub use changes::{Change, ChangeKind, changes};
pub use error::PackError;

use super::{Compression, Limits};
use crate::{digest::Digest, sys::mounts::Detached};
use tar::Tar;

/// How a layer says what is hidden, renamed or kept below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// As OCI's image-spec has it: any runtime can use it.
    Portable,
    /// With overlay's own marks: smaller, for ovl-csi only.
    Native,
}

/// How a layer is written.
#[derive(Debug, Clone)]
pub struct Packing {
    /// How it says what it hides.
    pub format: Format,
    /// What is around the tar.
    pub compression: Compression,
    /// No time is later than this one, in seconds since 1970, if given.
    pub clamp: Option<i64>,
    /// What the volume showed as this owner was root's, and the other way round, as (uid, gid).
    pub owner: Option<(u32, u32)>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Of the tar.
    pub diff_id: Digest,
    /// Of what was written.
    pub digest: Digest,
    /// Bytes written.
    pub size: u64,
    /// Bytes of the tar.
    pub tar_bytes: u64,
    /// Entries of the tar.
    pub entries: u64,
    /// What is around it.
    pub compression: Compression,
}

/// The media type of a layer packed so.
pub fn media_type(format: Format, compression: Compression) -> &'static str {
    match (format, compression) {
        (Format::Portable, Compression::None) => "application/vnd.oci.image.layer.v1.tar",
        (Format::Portable, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
        (Format::Portable, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
        (Format::Native, Compression::None) => "application/vnd.ovl-csi.layer.v1.native.tar",
        (Format::Native, Compression::Gzip) => "application/vnd.ovl-csi.layer.v1.native.tar+gzip",
        (Format::Native, Compression::Zstd) => "application/vnd.ovl-csi.layer.v1.native.tar+zstd",
    }
}

/// Writes what `own`, layers bottom first, say of the stack below them as one layer. `merged` is the read-only overlay of the whole
/// stack, these at its top; a portable layer's files get content and attributes from there. A native one is made of a single
/// tree, in which owners are as the volume showed them.
///
/// The same trees give the same bytes. On an error, what is in `out` is of no use. Names and paths that outgrow memory go to files
/// where `limits` says. Blocks while other work has the memory of its budget.
pub fn pack(
    own: &[&Detached],
    merged: &Detached,
    packing: &Packing,
    limits: &Limits,
    out: &mut (dyn Write + Send),
) -> Result<Packed, PackError> {
    let share = limits.budget.share();
    let (entries, written) = out::run(packing.compression, limits.clone(), &share, out, |sink| {
        let tar = Tar::new(sink);
        let tar = match (packing.format, own) {
            (Format::Portable, own) => portable::pack(own, merged, packing, tar, &share)?,
            (Format::Native, [own]) => native::pack(own, packing, tar, &share)?,
            (Format::Native, own) => return Err(PackError::Several(own.len())),
        };
        tar.finish()
    })?;
    let out::Written { diff_id, digest, size, tar_bytes } = written;
    let compression = packing.compression;
    Ok(Packed { diff_id, digest, size, tar_bytes, entries, compression })
}
