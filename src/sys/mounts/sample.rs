//! A minimal EROFS image for probes of the kernel.
//!
//! Deliberately absent: everything else that layers need. The module `erofs` writes layers.

/// Makes an EROFS image with one file `name` with the content `text`. Both must be short (kernel: fs/erofs/erofs_fs.h).
///
/// It is written by hand, so that the result of a probe does not depend on the module that writes layers.
pub fn sample_image(uuid: [u8; 16], name: &str, text: &str) -> Vec<u8> {
    const BLOCK: usize = 4096;
    let mut image = vec![0; 2 * BLOCK];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    // The superblock: magic, 4 KiB blocks, root nid 0, two inodes, two blocks, metadata in block 1.
    put(1024, &0xe0f5_e1e2_u32.to_le_bytes());
    put(1024 + 12, &[12]);
    put(1024 + 16, &2_u64.to_le_bytes());
    put(1024 + 36, &2_u32.to_le_bytes());
    put(1024 + 40, &1_u32.to_le_bytes());
    put(1024 + 48, &uuid);
    // A compact inode, directly followed by its data: format, mode, links, size, number.
    let mut inode = |slot: usize, number: u32, mode: u16, links: u16, data: &[u8]| {
        let at = BLOCK + slot * 32;
        put(at, &(2_u16 << 1).to_le_bytes());
        put(at + 4, &mode.to_le_bytes());
        put(at + 6, &links.to_le_bytes());
        put(at + 8, &(data.len() as u32).to_le_bytes());
        put(at + 20, &number.to_le_bytes());
        put(at + 32, data);
    };
    // `name` sorts after the dots. The file's inode is in slot 8 of 32 bytes.
    let names = [(".", 0_u64, 2_u8), ("..", 0, 2), (name, 8, 1)];
    let mut entries = Vec::new();
    let mut offset = 12 * names.len();
    for (name, nid, kind) in names {
        entries.extend(nid.to_le_bytes());
        entries.extend((offset as u16).to_le_bytes());
        entries.extend([kind, 0]);
        offset += name.len();
    }
    entries.extend(names.iter().flat_map(|(name, ..)| name.bytes()));
    assert!(32 + entries.len() <= 8 * 32, "the name is too long for this small image");
    inode(0, 1, 0o040_755, 2, &entries);
    inode(8, 2, 0o100_644, 1, text.as_bytes());
    image
}
