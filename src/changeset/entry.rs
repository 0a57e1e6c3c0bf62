//! A tar entry as a typed value: made from its header and its extended headers, or refused.
//!
//! Deliberately absent: content. It streams past after the entry.

use tar::Header;

use super::error::{EntryName, Refusal};
use super::header;
use super::marks::{self, Marks};
use super::path::{EntryPath, PATH_MOST, PathError};
use super::pax::Extended;
use super::sparse::Sparse;
use crate::erofs::{Meta, Special, XattrError, Xattrs};

/// What 11 octal digits hold. A size up to this stands in the header itself; only a larger one may be left to
/// pax alone.
const HEADER_SIZE_MOST: u64 = (8 << 30) - 1;

/// One entry of a layer.
#[derive(Debug)]
pub(super) struct Entry {
    /// The name as the tar has it, for messages.
    pub name: EntryName,
    pub path: EntryPath,
    pub kind: Kind,
    pub meta: Meta,
    pub marks: Marks,
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file with so many bytes of content.
    File(u64),
    /// A regular file of which only the parts that are no holes follow. The reader makes it of a file, when it has read
    /// where they are.
    Sparse(Sparse),
    /// A regular file that follows whole, and of which is known where it has holes.
    Holed(Sparse),
    Folder,
    /// A symbolic link to any text.
    Symlink(Vec<u8>),
    /// One more name for an earlier entry.
    Link(EntryPath),
    /// A named pipe or a device.
    Special(Special),
    /// A character device 0:0.
    Whiteout,
}

/// The name in an entry's headers, before anything is known of it.
pub(super) fn name(header: &Header, extended: &Extended) -> EntryName {
    let sparse = extended.sparse.as_ref().and_then(|records| records.name.as_ref());
    match sparse.or(extended.path.as_ref()).or(extended.long_name.as_ref()) {
        Some(longer) => EntryName::new(longer),
        None => EntryName::new(&header.path_bytes()),
    }
}

impl Entry {
    /// The entry that `header` describes, with what stood in front of it.
    pub(super) fn new(
        name: EntryName,
        header: &Header,
        extended: Extended,
    ) -> Result<Self, Refusal> {
        agree(extended.path.as_ref(), extended.long_name.as_ref(), "name")?;
        agree(extended.link.as_ref(), extended.long_link.as_ref(), "link target")?;
        let path = EntryPath::new(name.as_bytes())?;
        let kind = kind(header, &extended, name.as_bytes())?;
        let is_plain = matches!(kind, Kind::File(_)) && header::kind(header) != b'S';
        if (extended.sparse.is_some() || extended.data.is_some()) && !is_plain {
            return Err(Refusal::Contradiction("type"));
        }
        if path.split().is_none() && kind != Kind::Folder {
            return Err(Refusal::Root);
        }
        let marks = Marks::of(&extended.xattrs);
        let meta = meta(header, extended, &kind)?;
        Ok(Self { name, path, kind, meta, marks })
    }
}

/// Two headers that say the same thing must say the same.
fn agree(pax: Option<&Vec<u8>>, gnu: Option<&Vec<u8>>, what: &'static str) -> Result<(), Refusal> {
    match (pax, gnu) {
        (Some(pax), Some(gnu)) if pax != gnu => Err(Refusal::Contradiction(what)),
        _ => Ok(()),
    }
}

/// The bytes that follow. Where header and pax differ, some readers go on at the one and some at the other,
/// and see different archives (CVE-2025-62518).
fn size(header: &Header, extended: &Extended) -> Result<u64, Refusal> {
    let in_header = header::size(header)?;
    match extended.size {
        Some(size) if size != in_header && size <= HEADER_SIZE_MOST => {
            Err(Refusal::Contradiction("size"))
        }
        Some(size) => Ok(size),
        None => Ok(in_header),
    }
}

/// What the entry is. Only a file has content: for all other types a size in the header means nothing (POSIX ustar; Go's archive/tar
/// and GNU tar read on right behind the header).
fn kind(header: &Header, extended: &Extended, name: &[u8]) -> Result<Kind, Refusal> {
    let slash = name.ends_with(b"/");
    match header::kind(header) {
        // Version 7 tars had no type for folders.
        0 if slash => Ok(Kind::Folder),
        b'5' => Ok(Kind::Folder),
        0 | b'0' | b'7' | b'S' | b'1' | b'2' | b'3' | b'4' | b'6' if slash => {
            Err(Refusal::TrailingSlash)
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
        other => Err(Refusal::Type(other)),
    }
}

fn link(header: &Header, extended: &Extended) -> Vec<u8> {
    let longer = extended.link.as_ref().or(extended.long_link.as_ref());
    longer.cloned().or_else(|| header.link_name_bytes().map(Vec::from)).unwrap_or_default()
}

fn symlink(target: Vec<u8>) -> Result<Kind, Refusal> {
    match target.len() {
        0 => Err(PathError::Empty.into()),
        len if len > PATH_MOST => Err(PathError::Long.into()),
        _ if target.contains(&0) => Err(PathError::Nul.into()),
        _ => Ok(Kind::Symlink(target)),
    }
}

fn meta(header: &Header, extended: Extended, kind: &Kind) -> Result<Meta, Refusal> {
    let id = |pax: Option<u64>, in_header: Result<u64, Refusal>, what| {
        let id = pax.map_or(in_header, Ok)?;
        // The last one means "nobody" to chown(2).
        u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or(Refusal::Number(what))
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

/// The attributes, without overlay's and without those that Linux keeps for no file of this kind (xattr(7), acl(5)), which containerd
/// passes over too.
fn xattrs(named: Vec<(Vec<u8>, Vec<u8>)>, kind: &Kind) -> Result<Xattrs, Refusal> {
    let mut xattrs = Xattrs::default();
    for (name, value) in named {
        let is_lost = match kind {
            Kind::File(_) | Kind::Sparse(_) | Kind::Holed(_) | Kind::Folder => false,
            Kind::Symlink(_) => name.starts_with(b"user.") || name.starts_with(b"system."),
            _ => name.starts_with(b"user."),
        };
        if is_lost || marks::is_overlays(&name) {
            continue;
        }
        match xattrs.set(&name, &value) {
            Ok(()) | Err(XattrError::Namespace) => {}
            Err(why) => return Err(Refusal::Xattr { name: EntryName::new(&name), why }),
        }
    }
    Ok(xattrs)
}
