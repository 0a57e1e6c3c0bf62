//! Where a file has nothing but zeros.

use std::{fs::File, io, os::unix::fs::FileExt as _};

/// Files with fewer bytes have no holes worth a map.
const HOLES_FROM: u64 = 64 << 10;
/// Zeros that were written count as a hole if there are so many, and in a place that is a multiple of it.
const ZEROS: u64 = 64 << 10;
/// How many such holes a file has at most: its map has to fit in a record.
const ZEROS_MOST: usize = 10_000;

/// The parts of a file that are no holes, of one that may have some.
pub(super) fn data(content: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    match size {
        0 => Ok(Vec::new()),
        size if size < HOLES_FROM => Ok(vec![(0, size)]),
        _ => without_zeros(content, crate::sys::inside::data(content)?),
    }
}

/// The parts of these that are more than zeros. What was written lately is in memory still, so to read it twice costs little.
fn without_zeros(content: &File, data: Vec<(u64, u64)>) -> io::Result<Vec<(u64, u64)>> {
    let (mut block, mut found, mut holes) = (vec![0; ZEROS as usize], Vec::new(), 0);
    for (begin, len) in data {
        let (mut from, mut at, end) = (begin, begin, begin + len);
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
