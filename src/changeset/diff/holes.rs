//! Finds the parts of a file that are only zeros.

use std::{fs::File, io, os::unix::fs::FileExt as _};

/// Files with fewer bytes are packed without a map.
const HOLES_FROM: u64 = 64 << 10;
/// Written zeros count as a hole if there are this many of them, at a multiple of this number.
const ZEROS: u64 = 64 << 10;
/// The most such holes of a file: its map has to fit into a record.
const ZEROS_MOST: usize = 10_000;

/// The parts of a file that are not holes, as offsets and lengths.
pub(super) fn data(content: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    match size {
        0 => Ok(Vec::new()),
        size if size < HOLES_FROM => Ok(vec![(0, size)]),
        _ => without_zeros(content, crate::sys::tree_reader::data_ranges(content)?),
    }
}

/// Removes long runs of zeros from these parts. Recently written data is in the page cache, so reading it twice costs
/// little.
fn without_zeros(content: &File, data: Vec<(u64, u64)>) -> io::Result<Vec<(u64, u64)>> {
    let (mut block, mut found, mut holes) = (vec![0; ZEROS as usize], Vec::new(), 0);
    for (start, len) in data {
        let (mut from, mut at, end) = (start, start, start + len);
        while at < end {
            let next = (at / ZEROS + 1).saturating_mul(ZEROS).min(end);
            if next - at == ZEROS && holes < ZEROS_MOST {
                content.read_exact_at(&mut block, at)?;
                if block.iter().all(|byte| *byte == 0) {
                    if at > from {
                        found.push((from, at - from));
                        holes += 1;
                    }
                    from = next;
                }
            }
            at = next;
        }
        if end > from {
            found.push((from, end - from));
        }
    }
    Ok(found)
}
