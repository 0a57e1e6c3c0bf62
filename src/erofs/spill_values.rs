//! Encodes the values that a tree keeps in its spill files. No other module reads them.

use super::allocator::Region;
use super::format::{Kind, Time};
use super::inode::{Inode, Meta};
use super::tree::{DirId, Directory, Node};
use super::xattr::Xattrs;
use crate::spill::Value;

impl Value for Node {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Dir(id) => out.extend_from_slice(&id.0.to_le_bytes()),
            Self::Inode(inode) => inode.encode(out),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(match u32::decode(bytes) {
            Some(id) => Self::Dir(DirId(id)),
            None => Self::Inode(Inode::decode(bytes)?),
        })
    }
}

impl Value for Inode {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&{ self.nid }.to_le_bytes());
        out.push(self.kind.dirent());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (nid, kind) = bytes.split_first_chunk()?;
        let kind = Kind::ALL.into_iter().find(|known| kind == [known.dirent()])?;
        Some(Self { nid: u64::from_le_bytes(*nid), kind })
    }
}

impl Value for Region {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.inode.to_le_bytes());
        out.extend_from_slice(&self.content.to_le_bytes());
        out.push(u8::from(self.inline));
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (inode, rest) = bytes.split_first_chunk()?;
        let (content, inline) = rest.split_first_chunk()?;
        let (inode, content) = (u64::from_le_bytes(*inode), u64::from_le_bytes(*content));
        Some(Self { inode, content, inline: inline == [1] })
    }
}

impl Value for Directory {
    fn encode(&self, out: &mut Vec<u8>) {
        let Meta { mode, uid, gid, mtime, xattrs } = &self.meta;
        out.push(self.flags);
        out.extend_from_slice(&self.parent.0.to_le_bytes());
        out.extend_from_slice(&mode.to_le_bytes());
        out.extend_from_slice(&uid.to_le_bytes());
        out.extend_from_slice(&gid.to_le_bytes());
        out.extend_from_slice(&mtime.seconds.to_le_bytes());
        out.extend_from_slice(&mtime.nanos.to_le_bytes());
        out.extend_from_slice(&xattrs.inline());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (flags, rest) = bytes.split_first()?;
        let (parent, rest) = rest.split_first_chunk()?;
        let (mode, rest) = rest.split_first_chunk()?;
        let (uid, rest) = rest.split_first_chunk()?;
        let (gid, rest) = rest.split_first_chunk()?;
        let (seconds, rest) = rest.split_first_chunk()?;
        let (nanos, rest) = rest.split_first_chunk()?;
        let (seconds, nanos) = (i64::from_le_bytes(*seconds), u32::from_le_bytes(*nanos));
        let meta = Meta {
            mode: u16::from_le_bytes(*mode),
            uid: u32::from_le_bytes(*uid),
            gid: u32::from_le_bytes(*gid),
            mtime: Time { seconds, nanos },
            xattrs: Xattrs::of_inline(rest)?,
        };
        Some(Self { meta, parent: DirId(u32::from_le_bytes(*parent)), flags: *flags })
    }

    fn memory(&self) -> usize {
        self.meta.xattrs.memory()
    }
}
