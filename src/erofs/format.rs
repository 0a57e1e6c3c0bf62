//! The on-disk structures as bytes; all numbers are little-endian (Linux `fs/erofs/erofs_fs.h`).
//!
//! The tests read images with a decoder of their own, so a mistake here cannot hide itself.

/// Bytes of a block, the unit of content and of block addresses. Every kernel mounts 4 KiB, and no other size.
pub(super) const BLOCK: u64 = 4096;
/// [`BLOCK`] as a length in memory.
pub(super) const BLOCK_LEN: usize = BLOCK as usize;
/// Bytes between two possible inode addresses. A nid is the address in these units.
pub(super) const SLOT: u64 = 32;
/// Address of the superblock.
pub(super) const SUPER_AT: u64 = 1024;
/// Address of the root directory's inode: directly after the superblock.
pub(super) const ROOT_AT: u64 = SUPER_AT + SUPER_LEN as u64;
/// Bytes of an extended inode without its attributes.
pub(super) const INODE_LEN: usize = 64;
/// Offset of the link count in an inode.
pub(super) const NLINK_AT: u64 = 44;
/// Bytes of a directory entry without its name.
pub(super) const DIRENT_LEN: usize = 12;
/// The block address that stands for a chunk that is a hole.
pub(super) const HOLE: u32 = u32::MAX;
/// The longest chunk: five bits hold how many times a block is doubled.
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
    /// A character device: major and minor. 0:0 is an overlayfs whiteout.
    CharDevice(u32, u32),
    /// A block device: major and minor.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A Unix socket.
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

    /// The device number as Linux's `new_encode_dev` encodes it; 0 for a pipe or a socket.
    pub(super) fn device(self) -> u32 {
        match self {
            Self::CharDevice(major, minor) | Self::BlockDevice(major, minor) => {
                (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
            }
            Self::Fifo | Self::Socket => 0,
        }
    }
}

/// The type of an inode. The format encodes it in two ways: mode bits, and the type of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Dir,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
    Symlink,
}

impl Kind {
    pub(super) const ALL: [Self; 7] = [
        Self::File,
        Self::Dir,
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
            Self::Dir => 0o040_000,
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
            Self::Dir => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }
}

/// How an inode's content is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// In one run of blocks.
    Plain,
    /// In one run of blocks, but the last partial block follows the inode.
    Inline,
    /// In chunks, whose addresses follow the inode. The number is the exponent of the chunk length: 2^n bytes.
    Chunks(u32),
}

impl Layout {
    /// The layout's number, shifted to its place in the inode.
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
    /// By type: the content's first block, a device number, or the chunk length.
    pub union: u32,
    pub layout: Layout,
    /// A serial number (`i_ino` of `struct erofs_inode_extended`), which 32-bit programs get as inode number.
    pub serial: u32,
}

impl InodeFields {
    /// Encodes the inode and appends `xattrs`: empty, or a header of 12 bytes and a multiple of 4 bytes.
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
    /// The block from which the numbers of shared attributes count.
    pub xattr_block: u32,
    pub uuid: [u8; 16],
    /// Whether an inode's content is in chunks, which Linux reads since 5.15. Without chunks, every kernel with EROFS
    /// reads the image.
    pub has_chunks: bool,
}

impl Superblock {
    /// Writes the superblock into the image's first block, with the checksum of the block's bytes from 1024 on.
    /// The build time stays 0, so that equal tars make equal images.
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
        set_checksum(covered);
    }
}

/// Sets the checksum in the 3 KiB from the superblock on.
pub(super) fn set_checksum(covered: &mut [u8]) {
    covered[4..8].fill(0);
    let checksum = crc32c(covered);
    covered[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// Whether the 3 KiB from the superblock on have the EROFS magic and the right checksum.
pub(super) fn is_sealed(covered: &[u8]) -> bool {
    let mut unsealed = covered.to_vec();
    let claimed: Vec<u8> = unsealed.splice(4..8, [0; 4]).collect();
    covered[0..4] == MAGIC.to_le_bytes() && claimed == crc32c(&unsealed).to_le_bytes()
}

/// CRC-32C without the usual final inversion, as the kernel stores it. Computed bit by bit, because it runs once over 3
/// KiB.
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
    fn the_checksum_is_crc32c() {
        // The check value of CRC-32C (RFC 3720, B.4), before its final inversion.
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
