//! Collections that move to a file when they outgrow memory: names of layers and uppers, whose number a tenant or an
//! image decides.
//!
//! May use: nothing
//!
//! ```text
//! Map, List   random access                    in memory ── spill() ──▶ a B-tree in a file, a few MiB of it cached
//! Sorter      written, then read sorted        in memory ── full ─────▶ sorted runs in a file, merged on reading
//! Spool       written, then read in that order in memory ── full ─────▶ a file
//! ```
//!
//! The files have no name, so they end with the process, even when it is killed. The kernel caches their pages. A
//! memory cgroup counts these pages and can reclaim them, which is impossible for the process's own memory.
//!
//! Deliberately absent: durability, and the meaning of the bytes.

mod file;
mod map;
mod sort;
mod spool;
mod table;
#[cfg(test)]
mod tests;

pub use file::{Scratch, unnamed_file};
pub use map::{List, Map, Value};
pub use sort::{Sorted, SortedReader, Sorter};
pub use spool::{Spool, SpoolReader};

/// The bytes that an allocator needs for an allocation of `len` bytes. glibc: a header, steps of 16 bytes, and at least
/// 32. mimalloc: size classes in steps of a quarter.
pub fn allocation(len: usize) -> usize {
    if len == 0 { 0 } else { (len + len / 4 + 8).next_multiple_of(16).max(32) }
}
