//! What a layer's tar has in it, for those who compare layers and make none.
//!
//! Deliberately absent: what the entries of several layers are together; and content, of which the digest is handed on.

use std::io::Read;

use super::entry::{Entry, Kind};
use super::error::UnpackError;
use super::mark::Mark;
use super::marks::Marks;
use super::pipe;
use super::reader::Reader;
use super::sparse::Sparse;
use super::{Format, Limits};
use crate::digest::{Digest, Digester};
use crate::erofs::Special;

/// One thing that a layer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Where, from the layer's root, without a slash in front; the root itself is empty. Bytes of a stranger.
    pub path: Vec<u8>,
    /// What.
    pub what: What,
    /// Permission, setuid, setgid and sticky bits.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// Extended attributes by their full names, sorted, without overlay's.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a layer says of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// There is a regular file.
    File {
        /// Bytes, holes with them.
        size: u64,
        /// Of the whole content, holes being zeros. None: a lower layer has it (metacopy).
        content: Option<Digest>,
        /// Where the lower layers have it, if that is elsewhere.
        from: Option<Vec<u8>>,
    },
    /// There is a folder.
    Folder {
        /// What lower layers have in it is hidden.
        opaque: bool,
        /// Where the lower layers have what is in it, if that is elsewhere.
        from: Option<Vec<u8>>,
    },
    /// There is a symbolic link to this text.
    Symlink(Vec<u8>),
    /// It is one more name for the file at this path.
    Link(Vec<u8>),
    /// There is a named pipe or a device.
    Special(Special),
    /// What lower layers have there is gone.
    Gone,
    /// What lower layers have in this folder is gone.
    Emptied,
}

/// Hands on what the layer in `blob` says, in the tar's order, in which a whiteout may come behind what it does not hide; answers
/// the tar's digest. Native marks count only in a native layer. `blob` is read to its very end, as by
/// [`layer_to_erofs`](super::layer_to_erofs).
///
/// # Errors
/// Those of making a layer of it, but for links to what lies elsewhere, which are handed on.
pub fn list(
    blob: impl Read + Send,
    format: Format,
    limits: &Limits,
    mut take: impl FnMut(Listed),
) -> Result<Digest, UnpackError> {
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

/// What an entry says; nothing where it is AUFS's own.
fn listed(
    entry: Entry,
    format: Format,
    reader: &mut Reader<'_>,
) -> Result<Option<Listed>, UnpackError> {
    let Entry { name: at, path, kind, meta, marks } = entry;
    let (mark, marks) = match format {
        Format::Portable => (Mark::of(&path).map_err(|why| at.refuse(why))?, Marks::default()),
        Format::Native => {
            path.unmarked().map_err(|why| at.refuse(why))?;
            (Mark::Entry, marks)
        }
    };
    let Marks { opaque, redirect, metacopy } = marks;
    let from = redirect.map(|redirect| target(path.as_bytes(), &redirect));
    let (path, what) = match (mark, kind) {
        (Mark::Internal, _) => return Ok(None),
        (Mark::Opaque, _) => (above(path.as_bytes()).to_vec(), What::Emptied),
        (Mark::Whiteout(name), _) => (beside(path.as_bytes(), name), What::Gone),
        (Mark::Entry, kind) => {
            let what = match kind {
                Kind::Folder => What::Folder { opaque, from },
                Kind::File(size) => file(size, metacopy, from, || whole(reader))?,
                Kind::Holed(map) => file(map.size, metacopy, from, || whole(reader))?,
                Kind::Sparse(map) => file(map.size, metacopy, from, || filled(&map, reader))?,
                Kind::Symlink(target) => What::Symlink(target),
                Kind::Link(target) => What::Link(target.as_bytes().to_vec()),
                Kind::Special(special) => What::Special(special),
                Kind::Whiteout => What::Gone,
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
) -> Result<What, UnpackError> {
    // Without metacopy a redirect on a file means nothing.
    Ok(match metacopy {
        true => What::File { size, content: None, from },
        false => What::File { size, content: Some(content()?), from: None },
    })
}

/// The digest of content that follows whole.
fn whole(reader: &mut Reader<'_>) -> Result<Digest, UnpackError> {
    let mut digester = Digester::default();
    reader.content(|piece| {
        digester.update(piece);
        Ok(())
    })?;
    Ok(digester.finish())
}

/// The digest of content of which only the parts follow that are no holes.
fn filled(map: &Sparse, reader: &mut Reader<'_>) -> Result<Digest, UnpackError> {
    let mut digester = Digester::default();
    let (mut extents, mut at, mut left) = (map.extents.iter(), 0, 0);
    reader.content(|mut piece| {
        while !piece.is_empty() {
            if left == 0 {
                // As many bytes follow as the extents have together.
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

/// Where a redirect leads: an absolute path, or a name in the same folder.
fn target(path: &[u8], redirect: &[u8]) -> Vec<u8> {
    match redirect.strip_prefix(b"/") {
        Some(absolute) => absolute.to_vec(),
        None => beside(path, redirect),
    }
}

fn above(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(&[], |at| &path[..at])
}

fn beside(path: &[u8], name: &[u8]) -> Vec<u8> {
    match above(path) {
        b"" => name.to_vec(),
        above => [above, name].join(&b'/'),
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
