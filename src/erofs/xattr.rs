//! Extended attributes, checked when they are named and encoded when an inode is written.
//!
//! Deliberately absent: any opinion on what an attribute means. `trusted.overlay.*` is stored like every other.

use crate::spill::allocation;

/// The most attributes that the root may have: it may need to share all of them, and shared ones are counted in a byte. All other
/// inodes have as many as their bytes allow.
pub const ROOT_MOST: u64 = u8::MAX as u64;
/// The most bytes of an attribute's value, which the format counts in 16 bits.
pub const VALUE_MOST: u64 = u16::MAX as u64;
/// Bytes of the header in front of an inode's attributes.
const HEADER_LEN: usize = 12;
/// The most bytes of attributes an inode can count: 16 bits of 4-byte steps.
const MOST_BYTES: usize = HEADER_LEN + 4 * (u16::MAX as usize - 1);

/// The namespaces the format has, by index. An ACL's name is its index alone.
const NAMESPACES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// So many attributes get no room for more.
const FEW: usize = 16;

/// A namespace's index, and the name behind it.
type Key = (u8, Box<[u8]>);

/// The extended attributes of one inode, sorted; a folder has few, and an image may have many folders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Xattrs {
    all: Vec<(Key, Box<[u8]>)>,
    /// Bytes of all of them behind an inode, without the header.
    bytes: usize,
}

/// Why an attribute cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XattrError {
    /// EROFS has no index for it, as Linux has no handler.
    #[error("it is in no namespace that Linux keeps (user, trusted, security, system.posix_acl_*)")]
    Namespace,
    /// Linux's `XATTR_NAME_MAX`.
    #[error("its name is not 1 to 255 bytes without NUL behind the namespace")]
    Name,
    /// The format counts a value's bytes in 16 bits.
    #[error("its value has {0} bytes, and 65,535 fit")]
    Value(usize),
    /// More than one inode can have.
    #[error("an inode can have attributes of 256 KiB together, and it would pass that")]
    TooMany,
}

impl Xattrs {
    /// Adds an attribute by its full name; one of the same name is replaced.
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
                // A folder has few, and an image may have many folders.
                if self.all.len() < FEW {
                    self.all.reserve_exact(1);
                }
                self.all.insert(at, ((index, suffix.into()), value.into()));
            }
        }
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.all.len() as u64
    }

    /// Bytes that the attributes take behind their inode; 0 when there are none.
    pub fn encoded_len(&self) -> usize {
        if self.all.is_empty() { 0 } else { HEADER_LEN + self.bytes }
    }

    /// What [`Xattrs::inline`] made of it.
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
    pub(super) fn held(&self) -> usize {
        let each = self
            .all
            .iter()
            .map(|((_, name), value)| allocation(name.len()) + allocation(value.len()));
        allocation(self.all.capacity() * size_of::<(Key, Box<[u8]>)>()) + each.sum::<usize>()
    }

    /// The attributes as they stand behind an inode; nothing when there are none.
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

    /// The same for attributes kept elsewhere: what stands behind the inode then, which is the distance of
    /// each entry from the first in steps of 4 bytes, and the entries.
    /// Nothing where they are more than can be counted.
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

/// Bytes of the entry that begins with `head`, without padding.
pub(super) fn decoded_len(head: &[u8]) -> usize {
    4 + usize::from(head[0]) + usize::from(u16::from_le_bytes([head[2], head[3]]))
}

/// Adds the attribute in `entry`, which is as long as [`decoded_len`] says.
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
    fn refuses_what_no_kernel_would_show() {
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
    fn counts_what_an_inode_can_count() {
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
