//! Turns a layer's tar into the EROFS image that overlay mounts, and what a volume wrote into a layer's tar ([`pack()`]).
//!
//! May use: erofs, spill, sys
//!
//! ```text
//! blob ── pipe ────────── Reader ───────────── Layer ──────────── erofs::Writer
//!         unpacks, counts, headers checked,    names resolved,    one file
//!         hashes beside    made typed entries  whiteouts marked
//! ```
//!
//! Everything is bounded while it streams ([`Limits`]): a layer comes from whoever wrote the image. A tar's
//! names only ever become names inside the image; no file of the host is created, opened or followed by them.
//!
//! How an entry is understood where tools differ:
//!
//! - Names lose `.` and empty parts and a leading slash (OCI layers are relative to the container's root; some
//!   tools write them absolute). `..` takes the part in front of it away; a name that leads out of the layer so is refused.
//! - The directories of a name are looked up as in a root of its own: where this layer has made a symbolic link of one, the way goes
//!   on where that leads, and never above the root (containerd, `pkg/archive`, `fs.RootPath`, which looks at the layer's own directory
//!   alone, as here). A link that a lower layer has there is replaced by a directory. A hard link's target is looked up so too, and
//!   through links of the layers below where that leads to files of theirs.
//! - The last entry of a name wins. A folder over a folder replaces its attributes and keeps what is in it;
//!   anything else takes the place of what was there, with all that is below it.
//! - A folder that no entry names when something comes to lie in it has the owner, mode, time and attributes of the one that the
//!   layers below show there (containerd, `pkg/archive`, `mkparent`), because overlayfs shows those of the topmost; where they show
//!   none it is 0755, root:root, 1970. An entry that names it later holds. Only whoever brings the layers below gets that
//!   ([`layer_to_erofs_onto`]), others an error of its own ([`UnpackError::FolderElsewhere`]). The root is none of these folders:
//!   where a layer does not name it, it is 0755, root:root, 1970 (containerd takes no layer's word for it).
//! - `.wh.NAME` becomes overlayfs's whiteout (a character device 0:0), whatever lies in the layers below, which
//!   are not looked at. Whiteouts are for lower layers only: beside an entry of the same name they vanish, but
//!   make it opaque if it is a folder, whatever the order. So does any non-folder that a folder replaces.
//!   A whiteout in a folder that no lower layer has hides nothing. So that overlay does not list it there, its folder gets an
//!   empty `trusted.overlay.origin`. One below what is no folder of this layer (umoci writes such) is passed over.
//! - `.wh..wh..opq` makes its folder opaque. overlayfs does not look for that mark on a layer's root, so the
//!   answer says it ([`Unpacked::opaque_root`]).
//! - AUFS's own names (`.wh..wh.` and anything but `.opq`) are skipped with all that is below them.
//! - `trusted.overlay.*` and `user.overlay.*` are dropped: an OCI layer has no say in overlay's own marks.
//!   Attributes of namespaces that Linux does not have (macOS's, say) are dropped too.
//! - A native layer ([`native_to_erofs`]) keeps the marks opaque, redirect and metacopy where they are sound, and says which of
//!   them a mount has to follow ([`Features`]). Its names mean nothing but themselves: `.wh.x` is a file.
//! - Sparse files keep their holes, in any of the forms that GNU tar writes and in one of ours. Long zeros in the image become
//!   holes of its own file.
//! - Devices are what they are (a volume's mount is nodev), except a character device 0:0, the other way to write a whiteout.
//! - A symbolic link has every right, whatever its header says, as on any other file system of Linux.
//! - Only files have content, whatever size the header of another type names.
//! - A hard link to a file of a lower layer becomes a copy of it; two to one file are two names of one copy. Only whoever
//!   brings the layers below gets that ([`layer_to_erofs_onto`]), others an error of its own
//!   ([`UnpackError::LinkElsewhere`]).
//! - What two tar readers could read differently is refused: see [`Refusal`].
//!
//! Deliberately absent: reading the layers below to unpack one, but for those links and folders. A layer is made once, alone, and used in
//! any stack; one that needs them is good for one stack only.

mod archive;
mod below;
mod entry;
mod error;
mod features;
mod header;
mod layer;
mod limits;
mod list;
mod mark;
mod marks;
mod names;
mod pack;
mod path;
mod pax;
mod pipe;
mod reader;
mod source;
mod sparse;
mod stream;

#[cfg(test)]
mod below_tests;
#[cfg(test)]
mod hostile_tests;
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
pub use archive::{Member, members};
pub use below::{Below, Linked, LinkedKind, Shown};
pub use error::{EntryName, Exceeded, Refusal, UnpackError};
pub use features::Features;
pub use limits::Limits;
pub use list::{Listed, What, list};
pub use pack::{Change, ChangeKind, Format, PackError, Packed, Packing, changes, media_type, pack};
pub use path::PathError;
pub use pax::PaxError;

pub use crate::erofs::Special;

use crate::digest::Digest;
use crate::erofs::{Output, WRITER_BUFFER};
use layer::Layer;
use reader::Reader;

/// How a layer's blob is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip, of one member or several.
    Gzip,
    /// zstd, of one frame or several.
    Zstd,
}

/// What became of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// The digest of the uncompressed tar, to its very end.
    pub diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub tar_bytes: u64,
    /// Bytes of the EROFS image.
    pub image_bytes: u64,
    /// Entries of the tar.
    pub entries: u64,
    /// The layer hides everything below it (`.wh..wh..opq` at its root). The image cannot say so by itself.
    pub opaque_root: bool,
    /// It has folders that it does not name before what lies in them. Over other layers these have the attributes that they have
    /// there, so it is the same layer nowhere else.
    pub has_unnamed: bool,
    /// What the mount has to follow that this layer becomes a lower of: nothing, unless it is native.
    pub features: Features,
}

/// Writes the layer in `blob` as an EROFS image into `out`, which must be empty: what is skipped in it reads as zeros.
///
/// How the blob is packed its first bytes say: gzip, zstd, or a plain tar.
///
/// `blob` is read to its very end, so a reader that checks what passes through it may report there; and also when
/// what it brought breaks a rule, because damage on the way would then be the reason, and no fault of the image.
/// So a reader must end by itself. Only a limit, and an output that fails, stop the reading.
///
/// On an error, what is in `out` is of no use, and it does not mount. Nothing is synced.
pub fn layer_to_erofs(
    blob: impl Read + Send,
    uuid: [u8; 16],
    out: impl Output,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    unpack(blob, uuid, out, limits, Reading { below: None, format: Format::Portable })
}

/// The same for a native layer, whose marks of overlay are kept where they are sound. Only for what came with our own media
/// type ([`media_type`]).
pub fn native_to_erofs(
    blob: impl Read + Send,
    uuid: [u8; 16],
    out: impl Output,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    unpack(blob, uuid, out, limits, Reading { below: None, format: Format::Native })
}

/// The same for a layer with hard links to files of the layers below it, which become copies of these.
pub fn layer_to_erofs_onto(
    blob: impl Read + Send,
    uuid: [u8; 16],
    out: impl Output,
    limits: &Limits,
    below: &dyn Below,
) -> Result<Unpacked, UnpackError> {
    let reading = Reading { below: Some(below), format: Format::Portable };
    unpack(blob, uuid, out, limits, reading)
}

/// How a layer is understood.
struct Reading<'b> {
    below: Option<&'b dyn Below>,
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

/// Takes every entry in; answers how many there were.
fn read_all(reader: &mut Reader<'_>, layer: &mut Layer<'_>) -> Result<u64, UnpackError> {
    while let Some(entry) = reader.next()? {
        layer.add(entry, reader)?;
    }
    reader.finish()
}
