//! Extended attributes: checked when they are set, encoded when an inode is written.
//!
//! Deliberately absent: the meaning of an attribute. `trusted.overlay.*` is stored like every other.

use crate::spill::allocation;

/// The most attributes of the root. It may have to share all of them, and shared ones are counted in one byte. Other
/// inodes may have as many as fit into their bytes.
pub const ROOT_MOST: u64 = u8::MAX as u64;
/// The most bytes of an attribute's value; the format has 16 bits for it.
pub const VALUE_MOST: u64 = u16::MAX as u64;
/// Bytes of the header before an inode's attributes.
const HEADER_LEN: usize = 12;
/// The most bytes of attributes of an inode: the format counts them in 16 bits, in units of 4 bytes.
const MOST_BYTES: usize = HEADER_LEN + 4 * (u16::MAX as usize - 1);

/// The namespaces of the format and their indexes. The index of an ACL is its whole name.
const NAMESPACES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// Up to this number of attributes, no memory is reserved for more.
const FEW: usize = 16;

/// A namespace's index, and the name without the namespace.
type Key = (u8, Box<[u8]>);

/// The extended attributes of one inode, sorted. A directory usually has few, but an image may have many directories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Xattrs {
    all: Vec<(Key, Box<[u8]>)>,
    /// Encoded bytes of all attributes, without the header.
    bytes: usize,
}

/// Why an attribute cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XattrError {
    /// The format has no index for its namespace, because Linux has no handler for it.
    #[error(
        "its namespace is not one that Linux keeps (user, trusted, security, system.posix_acl_*)"
    )]
    Namespace,
    /// The name is empty, too long (Linux's `XATTR_NAME_MAX`), or has a NUL.
    #[error("its name must have 1 to 255 bytes and no NUL after the namespace")]
    Name,
    /// The value is too long; the format counts its bytes in 16 bits.
    #[error("its value has {0} bytes; at most 65,535 fit")]
    Value(usize),
    /// The inode would have more bytes of attributes than it can.
    #[error("with it, the attributes would exceed 256 KiB, the most that an inode can have")]
    TooMany,
}

impl Xattrs {
    /// Sets an attribute by its full name. An attribute with the same name is replaced.
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), XattrError> {
        let (prefix, index) = NAMESPACES
            .into_iter()
            .find(|(prefix, _)| name.starts_with(prefix))
            .ok_or(XattrError::Namespace)?;
        let suffix = &name[prefix.len()..];
        let is_acl = prefix.starts_with(b"system.");
        if is_acl && !suffix.is_empty() {
            return Err(XattrError::Namespace);
        }
        if (suffix.is_empty() && !is_acl) || name.len() > 255 || suffix.contains(&0) {
            return Err(XattrError::Name);
        }
        if value.len() as u64 > VALUE_MOST {
            return Err(XattrError::Value(value.len()));
        }
        let at = self.all.binary_search_by(|((i, name), _)| (*i, &**name).cmp(&(index, suffix)));
        let replaced = at.map_or(0, |at| entry_len(suffix, &self.all[at].1));
        let bytes = self.bytes - replaced + entry_len(suffix, value);
        if HEADER_LEN + bytes > MOST_BYTES {
            return Err(XattrError::TooMany);
        }
        self.bytes = bytes;
        match at {
            Ok(at) => self.all[at].1 = value.into(),
            Err(at) => {
                // Saves memory: a directory has few attributes, but an image may have many directories.
                if self.all.len() < FEW {
                    self.all.reserve_exact(1);
                }
                self.all.insert(at, ((index, suffix.into()), value.into()));
            }
        }
        Ok(())
    }

    /// The number of attributes.
    pub fn count(&self) -> u64 {
        self.all.len() as u64
    }

    /// Bytes of the encoded attributes after their inode; 0 without attributes.
    pub fn encoded_len(&self) -> usize {
        if self.all.is_empty() { 0 } else { HEADER_LEN + self.bytes }
    }

    /// Decodes what [`Xattrs::inline`] encoded.
    pub(super) fn of_inline(raw: &[u8]) -> Option<Self> {
        let mut xattrs = Self::default();
        let mut rest = raw.get(HEADER_LEN..).unwrap_or_default();
        while rest.len() >= 4 {
            let entry = rest.get(..decoded_len(rest))?;
            decode(entry, &mut xattrs).ok()?;
            rest = rest.get(entry.len().next_multiple_of(4)..).unwrap_or_default();
        }
        Some(xattrs)
    }

    /// The attributes by their full names.
    pub fn named(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        self.all.iter().map(|((index, name), value)| {
            let prefix = NAMESPACES.iter().find(|(_, known)| known == index);
            let prefix = prefix.map_or(&b""[..], |(prefix, _)| prefix);
            ([prefix, name].concat(), value.to_vec())
        })
    }

    /// Bytes of memory that the attributes take.
    pub(super) fn memory(&self) -> usize {
        let each = self
            .all
            .iter()
            .map(|((_, name), value)| allocation(name.len()) + allocation(value.len()));
        allocation(self.all.capacity() * size_of::<(Key, Box<[u8]>)>()) + each.sum::<usize>()
    }

    /// The attributes as they follow an inode; empty without attributes.
    pub(super) fn inline(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        if !self.all.is_empty() {
            out.extend_from_slice(&[0; HEADER_LEN]);
        }
        for ((index, name), value) in &self.all {
            append_entry(*index, name, value, &mut out);
        }
        out
    }

    /// The attributes for the shared area. The first part follows the inode: for each entry its distance from the first
    /// one in units of 4 bytes. The second part is the entries. `None` if there are more than can be counted.
    pub(super) fn shared(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let (mut pointers, mut entries) = (vec![0; HEADER_LEN], Vec::new());
        pointers[4] = u8::try_from(self.all.len()).ok()?;
        for ((index, name), value) in &self.all {
            pointers.extend_from_slice(&((entries.len() / 4) as u32).to_le_bytes());
            append_entry(*index, name, value, &mut entries);
        }
        Some((pointers, entries))
    }
}

fn entry_len(name: &[u8], value: &[u8]) -> usize {
    (4 + name.len() + value.len()).next_multiple_of(4)
}

/// Bytes of the entry that starts with `head`, without padding.
pub(super) fn decoded_len(head: &[u8]) -> usize {
    4 + usize::from(head[0]) + usize::from(u16::from_le_bytes([head[2], head[3]]))
}

/// Sets the attribute in `entry`, whose length is that of [`decoded_len`].
pub(super) fn decode(entry: &[u8], xattrs: &mut Xattrs) -> Result<(), XattrError> {
    let prefix = NAMESPACES.iter().find(|(_, index)| *index == entry[1]);
    let (prefix, _) = prefix.ok_or(XattrError::Namespace)?;
    let (name, value) = entry[4..].split_at(usize::from(entry[0]));
    xattrs.set(&[prefix, name].concat(), value)
}

fn append_entry(index: u8, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let end = out.len() + entry_len(name, value);
    out.extend_from_slice(&[name.len() as u8, index]);
    out.extend_from_slice(&(value.len() as u16).to_le_bytes());
    out.extend_from_slice(name);
    out.extend_from_slice(value);
    out.resize(end, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_no_kernel_would_show_are_refused() {
        let mut xattrs = Xattrs::default();
        let long = [b"user.", [b'x'; 251].as_slice()].concat();
        for (name, value, why) in [
            (b"com.apple.quarantine".as_slice(), 1, XattrError::Namespace),
            (b"system.posix_acl_access2", 1, XattrError::Namespace),
            (b"user.", 1, XattrError::Name),
            (b"user.a\0b", 1, XattrError::Name),
            (&long, 1, XattrError::Name),
            (b"user.a", 65_536, XattrError::Value(65_536)),
        ] {
            assert_eq!(xattrs.set(name, &vec![0; value]), Err(why));
        }
        assert_eq!(xattrs.encoded_len(), 0);
    }

    #[test]
    fn attributes_are_counted_up_to_what_an_inode_can_have() {
        let mut xattrs = Xattrs::default();
        for i in 0..=ROOT_MOST {
            assert_eq!(xattrs.shared().is_some(), i <= ROOT_MOST, "{i}");
            xattrs.set(format!("user.{i}").as_bytes(), b"value").unwrap();
        }
        assert_eq!(xattrs.shared(), None);
        xattrs.set(b"user.0", b"replaced").unwrap();
        assert_eq!(xattrs.inline().len(), xattrs.encoded_len());
        assert_eq!(Xattrs::of_inline(&xattrs.inline()), Some(xattrs));

        let mut large = Xattrs::default();
        for name in [b"user.a", b"user.b", b"user.c", b"user.d"] {
            large.set(name, &[1; 65_500]).unwrap();
        }
        assert_eq!(large.set(b"user.e", &[1; 200]), Err(XattrError::TooMany));
        assert_eq!(large.inline().len(), large.encoded_len());
    }
}
