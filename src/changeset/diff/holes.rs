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

/// The parts of a file that are not holes, by its bytes alone: equal files have equal parts on every file system. A hole
/// is a whole piece of 64 KiB at a multiple of that, all zeros. The last piece of a file is none if it is shorter.
pub(super) fn canonical_data(content: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    if size < HOLES_FROM {
        return Ok(if size == 0 { Vec::new() } else { vec![(0, size)] });
    }
    let mut block = vec![0; ZEROS as usize];
    let mut found = CanonicalData::default();
    let whole = size / ZEROS * ZEROS;
    for (start, len) in crate::sys::tree_reader::data_ranges(content)? {
        let end = (start + len).div_ceil(ZEROS).saturating_mul(ZEROS).min(whole);
        let mut at = (start / ZEROS * ZEROS).max(found.end());
        while at < end && !found.is_full() {
            content.read_exact_at(&mut block, at)?;
            if block.iter().any(|byte| *byte != 0) {
                found.add(at, at + ZEROS);
            }
            at += ZEROS;
        }
    }
    if found.is_full() {
        // The rest is one part, whatever it contains.
        let end = found.end();
        found.add(end, size);
    } else if whole < size {
        found.add(whole, size);
    }
    Ok(found.0.into_iter().map(|(start, end)| (start, end - start)).collect())
}

/// Parts of a file as starts and ends, sorted and apart.
#[derive(Default)]
struct CanonicalData(Vec<(u64, u64)>);

impl CanonicalData {
    fn end(&self) -> u64 {
        self.0.last().map_or(0, |(_, end)| *end)
    }

    fn is_full(&self) -> bool {
        self.0.len() > ZEROS_MOST
    }

    fn add(&mut self, from: u64, to: u64) {
        match self.0.last_mut() {
            Some((_, end)) if *end == from => *end = to,
            _ => self.0.push((from, to)),
        }
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
