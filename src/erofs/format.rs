//! The on-disk structures as bytes, all little-endian (Linux `fs/erofs/erofs_fs.h`).
//!
//! The tests read images with a decoder of their own, so that a mistake here cannot cancel itself out.

/// Bytes of a block, the unit of content and of block addresses. 4 KiB is the only size every kernel mounts.
pub(super) const BLOCK: u64 = 4096;
/// [`BLOCK`] as a length in memory.
pub(super) const BLOCK_LEN: usize = BLOCK as usize;
/// Bytes between two possible inode addresses; a nid counts these.
pub(super) const SLOT: u64 = 32;
/// Where the superblock lies.
pub(super) const SUPER_AT: u64 = 1024;
/// Where the root folder's inode lies: right behind the superblock.
pub(super) const ROOT_AT: u64 = SUPER_AT + SUPER_LEN as u64;
/// Bytes of an extended inode, without its attributes.
pub(super) const INODE_LEN: usize = 64;
/// Where an inode keeps its link count.
pub(super) const NLINK_AT: u64 = 44;
/// Bytes of a directory entry, without its name.
pub(super) const DIRENT_LEN: usize = 12;
/// The address of a chunk that is a hole.
pub(super) const HOLE: u32 = u32::MAX;
/// The longest chunk: five bits say how many times a block is doubled.
pub(super) const CHUNK_BITS_MOST: u32 = BLOCK_BITS as u32 + 31;

const SUPER_LEN: usize = 128;
const MAGIC: u32 = 0xE0F5_E1E2;
const COMPAT_CHECKSUM: u32 = 0x1;
const COMPAT_MTIME: u32 = 0x2;
const INCOMPAT_CHUNKED_FILE: u32 = 0x4;
const BLOCK_BITS: u8 = 12;

/// A point in time: seconds since 1970 and nanoseconds after that second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Time {
    /// Whole seconds, rounded down; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

/// An inode without content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// A character device. Major and minor 0 make what overlayfs takes for a whiteout.
    CharDevice(u32, u32),
    /// A block device, by major and minor.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
}

impl Special {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::CharDevice(..) => Kind::CharDevice,
            Self::BlockDevice(..) => Kind::BlockDevice,
            Self::Fifo => Kind::Fifo,
            Self::Socket => Kind::Socket,
        }
    }

    /// The device number as Linux's `new_encode_dev` lays it out; 0 for what is no device.
    pub(super) fn device(self) -> u32 {
        match self {
            Self::CharDevice(major, minor) | Self::BlockDevice(major, minor) => {
                (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
            }
            Self::Fifo | Self::Socket => 0,
        }
    }
}

/// What an inode is, with the two ways the format says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
    Symlink,
}

impl Kind {
    /// Every one.
    pub(super) const ALL: [Self; 7] = [
        Self::File,
        Self::Folder,
        Self::CharDevice,
        Self::BlockDevice,
        Self::Fifo,
        Self::Socket,
        Self::Symlink,
    ];

    /// The type bits of a mode (`S_IFMT`).
    fn mode(self) -> u16 {
        match self {
            Self::File => 0o100_000,
            Self::Folder => 0o040_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::Symlink => 0o120_000,
        }
    }

    /// The type in a directory entry (the kernel's generic `FT_*`).
    pub(super) fn dirent(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Folder => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }
}

/// Where an inode's content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// In one run of blocks.
    Plain,
    /// The same, but for the last partial block, which lies behind the inode.
    Inline,
    /// In chunks of so many bytes, as a power of two; the inode is followed by the address of each.
    Chunks(u32),
}

impl Layout {
    /// The layout's number, at its place in an inode.
    fn bits(self) -> u16 {
        match self {
            Self::Plain => 0,
            Self::Inline => 2 << 1,
            Self::Chunks(_) => 4 << 1,
        }
    }
}

/// The fields of an extended inode.
pub(super) struct InodeFields {
    pub kind: Kind,
    /// Permission, setuid, setgid and sticky bits.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    pub size: u64,
    pub nlink: u32,
    /// Content's first block; a device's number; the length of chunks.
    pub union: u32,
    pub layout: Layout,
    /// A serial number for 32-bit programs.
    pub serial: u32,
}

impl InodeFields {
    /// The inode and `xattrs` behind it, which are nothing, or a header of 12 bytes and a multiple of 4.
    pub(super) fn encode(&self, xattrs: &[u8]) -> Vec<u8> {
        const EXTENDED: u16 = 1;
        let xattr_count = match xattrs.len() {
            0 => 0,
            len => ((len - 12) / 4 + 1) as u16,
        };
        let mut bytes = vec![0; INODE_LEN];
        bytes[0..2].copy_from_slice(&(EXTENDED | self.layout.bits()).to_le_bytes());
        bytes[2..4].copy_from_slice(&xattr_count.to_le_bytes());
        bytes[4..6].copy_from_slice(&(self.kind.mode() | (self.mode & 0o7777)).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.size.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.union.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.serial.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.uid.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.gid.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.mtime.seconds.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.mtime.nanos.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.nlink.to_le_bytes());
        bytes.extend_from_slice(xattrs);
        bytes
    }
}

/// The fields of a superblock that differ between images.
pub(super) struct Superblock {
    pub inodes: u64,
    pub blocks: u32,
    /// The block from which shared attributes' numbers count.
    pub xattr_block: u32,
    pub uuid: [u8; 16],
    /// Some inode's content lies in chunks, which Linux reads since 5.15; without one, any kernel with EROFS will do.
    pub has_chunks: bool,
}

impl Superblock {
    /// Writes itself into the image's first block, with the checksum of everything behind it in that block.
    /// The build time stays 0, so that one tar always makes one image.
    pub(super) fn seal(&self, front: &mut [u8; BLOCK_LEN]) {
        let root_nid = (ROOT_AT / SLOT) as u16;
        let covered = &mut front[SUPER_AT as usize..];
        covered[..SUPER_LEN].fill(0);
        covered[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        covered[8..12].copy_from_slice(&(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        covered[12] = BLOCK_BITS;
        covered[14..16].copy_from_slice(&root_nid.to_le_bytes());
        covered[16..24].copy_from_slice(&self.inodes.to_le_bytes());
        covered[36..40].copy_from_slice(&self.blocks.to_le_bytes());
        covered[44..48].copy_from_slice(&self.xattr_block.to_le_bytes());
        covered[48..64].copy_from_slice(&self.uuid);
        let incompatible = if self.has_chunks { INCOMPAT_CHUNKED_FILE } else { 0 };
        covered[80..84].copy_from_slice(&incompatible.to_le_bytes());
        let checksum = crc32c(covered);
        covered[4..8].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Whether the 3 KiB from the superblock on bear our magic and the checksum of themselves.
pub(super) fn is_sealed(covered: &[u8]) -> bool {
    let mut unsealed = covered.to_vec();
    let claimed: Vec<u8> = unsealed.splice(4..8, [0; 4]).collect();
    covered[0..4] == MAGIC.to_le_bytes() && claimed == crc32c(&unsealed).to_le_bytes()
}

/// CRC-32C without the usual last inversion, as the kernel keeps it. Bit by bit: it runs once, over 3 KiB.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_crc32c() {
        // The check value of CRC-32C (RFC 3720, B.4), before its last inversion.
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn device_numbers_hold_large_minors() {
        assert_eq!(Special::CharDevice(1, 3).device(), 0x103);
        assert_eq!(Special::BlockDevice(0xfff, 0xf_ffff).device(), 0xffff_ffff);
        assert_eq!(Special::BlockDevice(8, 0x101).device(), 0x10_0801);
        assert_eq!(Special::Fifo.device(), 0);
    }
}
