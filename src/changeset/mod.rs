//! Turns a layer's tar into the EROFS image that overlay mounts.
//!
//! May use: erofs
//!
//! ```text
//! blob ── Stream ──────── Reader ───────────── Layer ──────────── erofs::Writer
//!         decompresses,   headers checked,     names resolved,    one file
//!         hashes, counts  made typed entries   whiteouts marked
//! ```
//!
//! Everything is bounded while it streams ([`Limits`]): a layer comes from whoever wrote the image. A tar's
//! names only ever become names inside the image; no file of the host is created, opened or followed by them.
//!
//! How an entry is understood where tools differ:
//!
//! - Names lose `.` and empty parts and a leading slash (OCI layers are relative to the container's root; some
//!   tools write them absolute). `..` is refused.
//! - The last entry of a name wins. A folder over a folder replaces its attributes and keeps what is in it;
//!   anything else takes the place of what was there, with all that is below it.
//! - A folder no entry names is made when something lies in it: 0755, root:root, 1970. In a stack it hides the
//!   attributes that a lower layer gives the folder, because overlayfs shows the topmost.
//! - `.wh.NAME` becomes overlayfs's whiteout (a character device 0:0), whatever lies in the layers below, which
//!   are not looked at. Whiteouts are for lower layers only: beside an entry of the same name they vanish, but
//!   make it opaque if it is a folder, whatever the order. So does any non-folder that a folder replaces.
//!   A whiteout in a folder that no lower layer has hides nothing, and is seen: overlayfs lists a folder that it
//!   need not merge as it is, and `ls` shows a name that cannot be looked up (`c?????????`).
//! - `.wh..wh..opq` makes its folder opaque. overlayfs does not look for that mark on a layer's root, so the
//!   answer says it ([`Unpacked::opaque_root`]).
//! - AUFS's own names (`.wh..wh.` and anything but `.opq`) are skipped with all that is below them.
//! - `trusted.overlay.*` and `user.overlay.*` are dropped: an OCI layer has no say in overlay's own marks.
//!   Attributes of namespaces that Linux does not have (macOS's, say) are dropped too.
//! - Devices are refused, except 0:0, the other way to write a whiteout. So are sparse files, which OCI says
//!   layers should not use, and hard links to files of other layers ([`UnpackError::LinkElsewhere`]).
//! - What two tar readers could read differently is refused: see [`Refusal`].
//!
//! Deliberately absent: reading the layers below. A layer is made once, alone, and used in any stack.

mod entry;
mod error;
mod header;
mod layer;
mod limits;
mod mark;
mod names;
mod path;
mod pax;
mod reader;
mod stream;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;

pub use error::{EntryName, Exceeded, Refusal, UnpackError};
pub use limits::Limits;
pub use path::PathError;
pub use pax::PaxError;

use crate::digest::Digest;
use layer::Layer;
use reader::Reader;
use stream::Stream;

/// How a layer's blob is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip, of one member or several.
    Gzip,
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
}

/// Writes the layer in `blob` as an EROFS image into `out`, which must be empty.
///
/// `blob` is read to its very end, so a reader that checks what passes through it may report there; and also when
/// what it brought breaks a rule, because damage on the way would then be the reason, and no fault of the image.
/// So a reader must end by itself. Only a limit stops the reading at once.
///
/// On an error, what is in `out` is of no use, and it does not mount. Nothing is synced.
pub fn layer_to_erofs(
    blob: impl Read,
    compression: Compression,
    uuid: [u8; 16],
    out: &File,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let mut reader = Reader::new(Stream::new(blob, compression, limits), limits);
    let mut layer = Layer::new(out, limits);
    let read = read_all(&mut reader, &mut layer);
    let (diff_id, tar_bytes, entries) = read.map_err(|why| reader.blame(why))?;
    let (image_bytes, opaque_root) = layer.finish(uuid)?;
    Ok(Unpacked { diff_id, tar_bytes, image_bytes, entries, opaque_root })
}

/// Takes every entry in; answers the tar's digest, its bytes and how many entries it had.
fn read_all<R: Read>(
    reader: &mut Reader<R>,
    layer: &mut Layer<'_>,
) -> Result<(Digest, u64, u64), UnpackError> {
    while let Some(entry) = reader.next()? {
        layer.add(entry, reader)?;
    }
    reader.finish()
}
