//! Lists the entries of a layer's tar. The fuzz targets compare it with the image that unpacking makes.
//!
//! Deliberately absent: the union of several layers, and content, of which only the digest is returned.

use std::io::Read;

use super::entry::{Entry, Kind};
use super::error::UnpackError;
use super::overlay_xattrs::OverlayXattrs;
use super::pipe;
use super::reader::Reader;
use super::sparse::Sparse;
use super::whiteout::Meaning;
use super::{Format, Limits};
use crate::digest::{DiffId, Digest, Digester};
use crate::erofs::Special;

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The path from the layer's root, without a leading slash; empty for the root. Untrusted bytes.
    pub path: Vec<u8>,
    /// What the layer has at this path.
    pub what: ListedKind,
    /// Permission, setuid, setgid and sticky bits.
    pub mode: u16,
    /// The owner's user id.
    pub uid: u32,
    /// The owning group's id.
    pub gid: u32,
    /// Extended attributes by their full names, sorted, without overlay's own.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a layer has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListedKind {
    /// A regular file.
    File {
        /// Length in bytes, holes included.
        size: u64,
        /// Digest of the whole content, with holes as zeros. `None` if a lower layer has the content (metacopy).
        content: Option<Digest>,
        /// The path of the content in the lower layers, if it is another one.
        from: Option<Vec<u8>>,
    },
    /// A directory.
    Dir {
        /// Whether what lower layers have in it is hidden.
        opaque: bool,
        /// The path in the lower layers of what is in it, if it is another one.
        from: Option<Vec<u8>>,
    },
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// Another name for the file at this path.
    Link(Vec<u8>),
    /// A named pipe or a device.
    Special(Special),
    /// A whiteout: what lower layers have at this path is hidden.
    Whiteout,
    /// An opaque entry: what lower layers have in this directory is hidden.
    OpaqueDir,
}

/// Calls `take` with each entry of the layer in `blob`, in the tar's order. A whiteout can come after an entry that it
/// does not hide. Returns the tar's digest. Overlay xattrs count only in a native layer. `blob` is read to its end, as
/// by [`layer_to_erofs`](super::layer_to_erofs).
///
/// # Errors
/// Those of unpacking the layer. Links to files of other layers are no error here.
pub fn list(
    blob: impl Read + Send,
    format: Format,
    limits: &Limits,
    mut take: impl FnMut(Listed),
) -> Result<DiffId, UnpackError> {
    let share = limits.budget.share();
    share.take(pipe::BUFFERS)?;
    let (_, diff_id, _) = pipe::run(blob, limits, &share, |stream| {
        let mut reader = Reader::new(stream, limits);
        while let Some(entry) = reader.next()? {
            if let Some(listed) = listed(entry, format, &mut reader)? {
                take(listed);
            }
        }
        reader.finish()
    })?;
    Ok(diff_id)
}

/// What an entry says; `None` for AUFS's own names.
fn listed(
    entry: Entry,
    format: Format,
    reader: &mut Reader<'_>,
) -> Result<Option<Listed>, UnpackError> {
    let Entry { name: at, path, kind, meta, marks } = entry;
    let (meaning, marks) = match format {
        Format::Portable => {
            (Meaning::of(&path).map_err(|why| at.refuse(why))?, OverlayXattrs::default())
        }
        Format::Native => {
            path.unmarked().map_err(|why| at.refuse(why))?;
            (Meaning::Entry, marks)
        }
    };
    let OverlayXattrs { opaque, redirect, metacopy } = marks;
    let from = redirect.map(|redirect| target(path.as_bytes(), &redirect));
    let (path, what) = match (meaning, kind) {
        (Meaning::Internal, _) => return Ok(None),
        (Meaning::Opaque, _) => (parent(path.as_bytes()).to_vec(), ListedKind::OpaqueDir),
        (Meaning::Whiteout(name), _) => (sibling(path.as_bytes(), name), ListedKind::Whiteout),
        (Meaning::Entry, kind) => {
            let what = match kind {
                Kind::Dir => ListedKind::Dir { opaque, from },
                Kind::File(size) => file(size, metacopy, from, || whole(reader))?,
                Kind::Mapped(map) => file(map.size, metacopy, from, || whole(reader))?,
                Kind::Sparse(map) => file(map.size, metacopy, from, || filled(&map, reader))?,
                Kind::Symlink(target) => ListedKind::Symlink(target),
                Kind::Link(target) => ListedKind::Link(target.as_bytes().to_vec()),
                Kind::Special(special) => ListedKind::Special(special),
                Kind::Whiteout => ListedKind::Whiteout,
            };
            (path.as_bytes().to_vec(), what)
        }
    };
    let xattrs = meta.xattrs.named().collect();
    Ok(Some(Listed { path, what, mode: meta.mode, uid: meta.uid, gid: meta.gid, xattrs }))
}

fn file(
    size: u64,
    metacopy: bool,
    from: Option<Vec<u8>>,
    content: impl FnOnce() -> Result<Digest, UnpackError>,
) -> Result<ListedKind, UnpackError> {
    // Without metacopy, a redirect on a file means nothing.
    Ok(match metacopy {
        true => ListedKind::File { size, content: None, from },
        false => ListedKind::File { size, content: Some(content()?), from: None },
    })
}

/// The digest of content that follows complete.
fn whole(reader: &mut Reader<'_>) -> Result<Digest, UnpackError> {
    let mut digester = Digester::default();
    reader.content(|piece| {
        digester.update(piece);
        Ok(())
    })?;
    Ok(digester.finish())
}

/// The digest of content of which only the data without the holes follows.
fn filled(map: &Sparse, reader: &mut Reader<'_>) -> Result<Digest, UnpackError> {
    let mut digester = Digester::default();
    let (mut extents, mut at, mut left) = (map.extents.iter(), 0, 0);
    reader.content(|mut piece| {
        while !piece.is_empty() {
            if left == 0 {
                // The bytes that follow are those of all extents together.
                let Some(extent) = extents.next() else { break };
                zeros(&mut digester, extent.offset - at);
                (at, left) = (extent.offset, extent.len);
                continue;
            }
            let len = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            digester.update(&piece[..len]);
            piece = &piece[len..];
            at += len as u64;
            left -= len as u64;
        }
        Ok(())
    })?;
    zeros(&mut digester, map.size - at);
    Ok(digester.finish())
}

fn zeros(digester: &mut Digester, mut count: u64) {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while count > 0 {
        let len = count.min(ZEROS.len() as u64);
        digester.update(&ZEROS[..len as usize]);
        count -= len;
    }
}

/// The path that a redirect names: an absolute path, or a name in the same directory.
fn target(path: &[u8], redirect: &[u8]) -> Vec<u8> {
    match redirect.strip_prefix(b"/") {
        Some(absolute) => absolute.to_vec(),
        None => sibling(path, redirect),
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(&[], |at| &path[..at])
}

fn sibling(path: &[u8], name: &[u8]) -> Vec<u8> {
    match parent(path) {
        b"" => name.to_vec(),
        parent => [parent, name].join(&b'/'),
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
