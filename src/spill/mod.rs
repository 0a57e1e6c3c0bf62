//! Collections that go on in a file when they outgrow memory: names of layers and uppers, of which strangers choose the number.
//!
//! May use: nothing
//!
//! ```text
//! Map, List   looked up in any order   in memory ── spill() ──▶ a B-tree in a file, of which a few MiB are cached
//! Sorter      written, then read sorted   in memory ── full ──▶ sorted runs in a file, merged when they are read
//! Spool       written, then read in that order   in memory ── full ──▶ a file
//! ```
//!
//! The files have no name, so they go with the process, however it ends. The kernel caches them too: a memory cgroup counts these
//! pages, and gets them back when it needs them, which it cannot do with what a process holds itself.
//!
//! Deliberately absent: durability; and what the bytes mean.

mod file;
mod map;
mod sort;
mod spool;
mod table;
#[cfg(test)]
mod tests;

pub use file::{Scratch, nameless};
pub use map::{List, Map, Value};
pub use sort::{Sorted, SortedReader, Sorter};
pub use spool::{Spool, SpoolReader};

/// Bytes that an allocator takes to give `len`: glibc a head, 16-byte steps and no less than 32; mimalloc steps of a quarter.
pub fn allocation(len: usize) -> usize {
    if len == 0 { 0 } else { (len + len / 4 + 8).next_multiple_of(16).max(32) }
}
