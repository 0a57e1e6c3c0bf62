//! A tar entry as a typed value, made from its header and its extended headers, or refused.
//!
//! Deliberately absent: content. The reader streams it after the entry.

use tar::Header;

use super::error::{EntryName, InvalidLayer};
use super::header;
use super::overlay_xattrs::OverlayXattrs;
use super::path::{EntryPath, PATH_MOST, PathError};
use super::pax::Extended;
use super::sparse::Sparse;
use crate::erofs::{Meta, Special, XattrError, Xattrs};
use crate::overlay_xattr;

/// The most that 11 octal digits hold. A size up to this is in the header itself. Only a larger one may be in
/// pax records alone.
const HEADER_SIZE_MOST: u64 = (8 << 30) - 1;

/// One entry of a layer.
#[derive(Debug)]
pub(super) struct Entry {
    /// The name as the tar has it, for messages.
    pub name: EntryName,
    pub path: EntryPath,
    pub kind: Kind,
    pub meta: Meta,
    pub marks: OverlayXattrs,
}

/// The type of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file with this number of bytes of content.
    File(u64),
    /// A regular file of which only the data without the holes follows. The reader converts a [`Kind::File`] into it
    /// after it has read the map of holes.
    Sparse(Sparse),
    /// A regular file that follows complete, with a map of its holes.
    Mapped(Sparse),
    Dir,
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// Another name for an earlier entry.
    Link(EntryPath),
    /// A named pipe or a device.
    Special(Special),
    /// A character device 0:0.
    Whiteout,
}

/// The name in an entry's headers, before it is checked.
pub(super) fn name(header: &Header, extended: &Extended) -> EntryName {
    let sparse = extended.sparse.as_ref().and_then(|records| records.name.as_ref());
    match sparse.or(extended.path.as_ref()).or(extended.long_name.as_ref()) {
        Some(longer) => EntryName::new(longer),
        None => EntryName::new(&header.path_bytes()),
    }
}

impl Entry {
    /// The entry that `header` and the extended headers before it describe.
    pub(super) fn new(
        name: EntryName,
        header: &Header,
        extended: Extended,
    ) -> Result<Self, InvalidLayer> {
        agree(extended.path.as_ref(), extended.long_name.as_ref(), "name")?;
        agree(extended.link.as_ref(), extended.long_link.as_ref(), "link target")?;
        let path = EntryPath::new(name.as_bytes())?;
        let kind = kind(header, &extended, name.as_bytes())?;
        let is_plain = matches!(kind, Kind::File(_)) && header::kind(header) != b'S';
        if (extended.sparse.is_some() || extended.data.is_some()) && !is_plain {
            return Err(InvalidLayer::Contradiction("type"));
        }
        if path.split().is_none() && kind != Kind::Dir {
            return Err(InvalidLayer::Root);
        }
        let marks = OverlayXattrs::of(&extended.xattrs);
        let meta = meta(header, extended, &kind)?;
        Ok(Self { name, path, kind, meta, marks })
    }
}

/// Checks that two headers which give the same property agree.
fn agree(
    pax: Option<&Vec<u8>>,
    gnu: Option<&Vec<u8>>,
    what: &'static str,
) -> Result<(), InvalidLayer> {
    match (pax, gnu) {
        (Some(pax), Some(gnu)) if pax != gnu => Err(InvalidLayer::Contradiction(what)),
        _ => Ok(()),
    }
}

/// Bytes of content that follow. Where header and pax record differ, one reader uses the one and another the other,
/// and they see different archives (CVE-2025-62518).
fn size(header: &Header, extended: &Extended) -> Result<u64, InvalidLayer> {
    let in_header = header::size(header)?;
    match extended.size {
        Some(size) if size != in_header && size <= HEADER_SIZE_MOST => {
            Err(InvalidLayer::Contradiction("size"))
        }
        Some(size) => Ok(size),
        None => Ok(in_header),
    }
}

/// The type of the entry. Only a regular file has content: for all other types a size in the header means nothing
/// (POSIX ustar; Go's archive/tar and GNU tar continue directly after the header).
fn kind(header: &Header, extended: &Extended, name: &[u8]) -> Result<Kind, InvalidLayer> {
    let slash = name.ends_with(b"/");
    match header::kind(header) {
        // Version 7 tars had no type for directories.
        0 if slash => Ok(Kind::Dir),
        b'5' => Ok(Kind::Dir),
        0 | b'0' | b'7' | b'S' | b'1' | b'2' | b'3' | b'4' | b'6' if slash => {
            Err(InvalidLayer::TrailingSlash)
        }
        0 | b'0' | b'7' | b'S' => Ok(Kind::File(size(header, extended)?)),
        b'1' => Ok(Kind::Link(EntryPath::new(&link(header, extended))?)),
        b'2' => symlink(link(header, extended)),
        b'6' => Ok(Kind::Special(Special::Fifo)),
        b'3' => match header::device(header)? {
            (0, 0) => Ok(Kind::Whiteout),
            (major, minor) => Ok(Kind::Special(Special::CharDevice(major, minor))),
        },
        b'4' => {
            let (major, minor) = header::device(header)?;
            Ok(Kind::Special(Special::BlockDevice(major, minor)))
        }
        other => Err(InvalidLayer::Type(other)),
    }
}

fn link(header: &Header, extended: &Extended) -> Vec<u8> {
    let longer = extended.link.as_ref().or(extended.long_link.as_ref());
    longer.cloned().or_else(|| header.link_name_bytes().map(Vec::from)).unwrap_or_default()
}

fn symlink(target: Vec<u8>) -> Result<Kind, InvalidLayer> {
    match target.len() {
        0 => Err(PathError::Empty.into()),
        len if len > PATH_MOST => Err(PathError::Long.into()),
        _ if target.contains(&0) => Err(PathError::Nul.into()),
        _ => Ok(Kind::Symlink(target)),
    }
}

fn meta(header: &Header, extended: Extended, kind: &Kind) -> Result<Meta, InvalidLayer> {
    let id = |pax: Option<u64>, in_header: Result<u64, InvalidLayer>, what| {
        let id = pax.map_or(in_header, Ok)?;
        // u32::MAX means "do not change" to chown(2).
        u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or(InvalidLayer::Number(what))
    };
    // Linux keeps none for a symbolic link, and shows every right (symlink(7)).
    let mode = header::mode(header)?;
    Ok(Meta {
        mode: if matches!(kind, Kind::Symlink(_)) { 0o777 } else { mode },
        uid: id(extended.uid, header::uid(header), "owner")?,
        gid: id(extended.gid, header::gid(header), "group")?,
        mtime: extended.mtime.map_or_else(|| header::mtime(header), Ok)?,
        xattrs: xattrs(extended.xattrs, kind)?,
    })
}

/// The attributes, without overlay's own and without those that Linux does not keep on files of this type (xattr(7),
/// acl(5)); containerd skips these too.
fn xattrs(named: Vec<(Vec<u8>, Vec<u8>)>, kind: &Kind) -> Result<Xattrs, InvalidLayer> {
    let mut xattrs = Xattrs::default();
    for (name, value) in named {
        let is_lost = match kind {
            Kind::File(_) | Kind::Sparse(_) | Kind::Mapped(_) | Kind::Dir => false,
            Kind::Symlink(_) => name.starts_with(b"user.") || name.starts_with(b"system."),
            _ => name.starts_with(b"user."),
        };
        if is_lost || overlay_xattr::is_overlays(&name) {
            continue;
        }
        match xattrs.set(&name, &value) {
            Ok(()) | Err(XattrError::Namespace) => {}
            Err(why) => return Err(InvalidLayer::Xattr { name: EntryName::new(&name), why }),
        }
    }
    Ok(xattrs)
}
