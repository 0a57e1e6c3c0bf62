//! Converts a layer's tar into the EROFS image that overlay mounts, and an overlay upper into a layer's tar
//! ([`pack()`]). Compares stacks of layers ([`compare()`]).
//!
//! May use: erofs, spill, sys
//!
//! ```text
//! blob ── pipe ────────── Reader ───────────── Layer ──────────── erofs::Writer
//!         unpacks, counts, headers checked,    names resolved,    one file
//!         hashes           made typed entries  whiteouts made
//! ```
//!
//! All resources are bounded while the tar streams ([`Limits`]), because a layer's author is not trusted. The tar's
//! names become only names inside the image. They never create, open or follow a file of the host.
//!
//! How entries are interpreted where tools differ:
//!
//! - A name loses `.`, empty parts and a leading slash. (OCI layers are relative to the container's root, but some
//!   tools write absolute names.) `..` removes the part before it. A name that leads out of the layer is refused.
//! - The directories of a name are resolved as in a chroot. If this layer has a symbolic link in place of one, the path
//!   continues at its target, and never above the root (containerd, `pkg/archive`, `fs.RootPath`, which looks only at
//!   the layer's own directory, as here). A link that a lower layer has there is replaced by a directory.
//! - The target of a hard link is resolved in the same way, and also through links of the layers below, to files of
//!   theirs.
//! - The last entry of a name wins. A directory over a directory replaces its attributes and keeps its content.
//!   Everything else replaces what was there, with all that is below it.
//! - An unnamed directory is one that has content before any entry names it. It gets owner, mode, time and xattrs of
//!   the directory that the layers below show there (containerd, `pkg/archive`, `mkparent`), because overlayfs shows
//!   those of the topmost layer. If the layers below show none, it is 0755, root:root, 1970. A later entry that names
//!   it replaces them.
//! - This needs the layers below ([`layer_to_erofs_with_layers_below`]). Without them unpacking fails with
//!   [`UnpackError::DirElsewhere`].
//! - The root is never unnamed: if no entry names it, it is 0755, root:root, 1970 (containerd takes the root's
//!   attributes from no layer).
//! - `.wh.NAME` becomes an overlayfs whiteout (a character device 0:0). It hides only the layers below, which are not
//!   read. `dir_tree.rs` has a table of a whiteout beside an entry of the same name.
//! - Each directory with a whiteout, except the root, gets an empty `trusted.overlay.origin`. Otherwise overlay would
//!   list the whiteout where no lower layer has the directory.
//! - A whiteout below something that is not a directory in this layer (umoci writes such) is skipped.
//! - `.wh..wh..opq` makes its directory opaque. overlayfs ignores the opaque xattr on a layer's root, so
//!   [`Unpacked::opaque_root`] reports it.
//! - AUFS's own names (all other names that begin with `.wh..wh.`) are skipped with all that is below them.
//! - `trusted.overlay.*` and `user.overlay.*` are dropped: an OCI layer must not set overlay's own xattrs. Attributes
//!   of namespaces that Linux does not have (macOS's, for example) are dropped too.
//! - A native layer ([`native_to_erofs`]) keeps the xattrs opaque, redirect and metacopy where they are valid, and
//!   reports which of them a mount must support ([`LayerFeatures`]). Its names have no special meaning: `.wh.x` is a file.
//! - Sparse files keep their holes, in every form that GNU tar writes and in one of ours. Long runs of zeros become
//!   holes of the image file.
//! - Devices stay devices (a volume is mounted with nodev), except a character device 0:0, which is the other way to
//!   write a whiteout.
//! - A symbolic link has mode 0777, whatever its header says, as on other file systems of Linux (symlink(7)).
//! - Only regular files have content, whatever size the header of another type has.
//! - A hard link to a file of a lower layer becomes a copy of it. Two links to one file are two names of one copy. This
//!   needs the layers below ([`layer_to_erofs_with_layers_below`]); without them unpacking fails with
//!   [`UnpackError::LinkElsewhere`].
//! - What two tar readers could read differently is refused: see [`InvalidLayer`].
//!
//! Deliberately absent: reading the layers below, except for those links and directories. A layer is unpacked once, by
//! itself, and used in any stack. A layer that needs the layers below is valid in one stack only.

mod archive;
mod decompress;
mod diff;
mod diff_id;
mod dir_tree;
mod entry;
mod error;
mod features;
mod header;
mod layer;
mod layers_below;
mod limits;
#[cfg(any(test, fuzzing))]
mod list;
mod overlay_xattrs;
mod path;
mod pax;
mod pax_value;
mod piece;
mod pipe;
mod reader;
mod sparse;
mod stream;
mod whiteout;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod layers_below_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod sparse_tests;
#[cfg(test)]
mod stack_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::io::Read;

#[cfg(test)]
pub(crate) use archive::archive_of;
pub use archive::{ArchiveWriter, Member, members};
pub use diff::{
    Change, CompareError, Comparison, Difference, PackError, PackOptions, Packed, Property,
    compare, pack, tree_digest, xattrs,
};
pub use diff_id::diff_id_of;
pub use error::{EntryName, Exceeded, InvalidLayer, UnpackError};
pub use features::LayerFeatures;
pub use layers_below::{EntryBelow, EntryBelowKind, LayersBelow, LookupBelow};
pub use limits::Limits;
#[cfg(any(test, fuzzing))]
pub(crate) use list::{ListedKind, list};
pub use overlay_xattrs::is_redirect;
pub use path::PathError;
pub use pax_value::PaxError;

pub use crate::erofs::Special;
pub use crate::sys::tree_reader::EntryType;

use crate::digest::DiffId;
use crate::erofs::{Output, WRITER_BUFFER};
use crate::media_type::{Compression, Format};
use layer::Layer;
use reader::Reader;

/// The result of unpacking a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// The digest of the whole uncompressed tar.
    pub diff_id: DiffId,
    /// Length of the uncompressed tar in bytes.
    pub tar_bytes: u64,
    /// Length of the EROFS image in bytes.
    pub image_bytes: u64,
    /// Number of the tar's entries.
    pub entries: u64,
    /// Whether the layer hides everything below it (`.wh..wh..opq` at its root). The image cannot express this.
    pub opaque_root: bool,
    /// Whether it has unnamed directories that a layer below may have. Over other layers their attributes differ, so
    /// the image is valid over these layers only.
    pub has_unnamed: bool,
    /// The overlay features that a mount with this layer as a lower needs. None, unless the layer is native.
    pub features: LayerFeatures,
}

/// Writes the layer in `blob` as an EROFS image into `out`, which must be empty, because skipped parts have to read as
/// zeros.
///
/// The blob's first bytes decide its compression: gzip, zstd, or a plain tar.
///
/// `blob` is read to its end, so a reader that verifies the digest can report a mismatch there. That error takes
/// precedence over an invalid tar, because damage in transit can be the cause of that, and is no fault of the image. So
/// the reader must end by itself. Only a limit or a failing output stops the reading early.
///
/// After an error the content of `out` is useless and cannot be mounted. Nothing is synced.
pub fn layer_to_erofs(
    blob: impl Read + Send,
    uuid: [u8; 16],
    out: impl Output,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    unpack(blob, uuid, out, limits, Reading { below: None, format: Format::Portable })
}

/// Like [`layer_to_erofs`], for a native layer, whose overlay xattrs are kept where they are valid. Use it only for
/// layers with our own media type ([`crate::media_type`]).
pub fn native_to_erofs(
    blob: impl Read + Send,
    uuid: [u8; 16],
    out: impl Output,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    unpack(blob, uuid, out, limits, Reading { below: None, format: Format::Native })
}

/// Like [`layer_to_erofs`], for a layer that needs the layers `below` it: for hard links to their files, which become
/// copies, and for unnamed directories.
pub fn layer_to_erofs_with_layers_below(
    blob: impl Read + Send,
    uuid: [u8; 16],
    out: impl Output,
    limits: &Limits,
    below: &dyn LayersBelow,
) -> Result<Unpacked, UnpackError> {
    let reading = Reading { below: Some(below), format: Format::Portable };
    unpack(blob, uuid, out, limits, reading)
}

/// How a layer is interpreted.
struct Reading<'b> {
    below: Option<&'b dyn LayersBelow>,
    format: Format,
}

fn unpack(
    blob: impl Read + Send,
    uuid: [u8; 16],
    out: impl Output,
    limits: &Limits,
    reading: Reading<'_>,
) -> Result<Unpacked, UnpackError> {
    let share = limits.budget.share();
    share.take(pipe::BUFFERS + WRITER_BUFFER)?;
    let mut out = out;
    let mut layer = Layer::new(&mut out, limits, &share, reading.below, reading.format);
    let (entries, diff_id, tar_bytes) = pipe::run(blob, limits, &share, |stream| {
        read_all(&mut Reader::new(stream, limits), &mut layer)
    })?;
    let has_unnamed = layer.has_unnamed();
    let (image_bytes, opaque_root, features) = layer.finish(uuid)?;
    Ok(Unpacked { diff_id, tar_bytes, image_bytes, entries, opaque_root, has_unnamed, features })
}

/// Adds all entries to the layer; returns their number.
fn read_all(reader: &mut Reader<'_>, layer: &mut Layer<'_>) -> Result<u64, UnpackError> {
    while let Some(entry) = reader.next()? {
        layer.add(entry, reader)?;
    }
    reader.finish()
}
