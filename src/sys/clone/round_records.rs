//! The records of a round: what a round saw of each entry, for the next round to compare.
//!
//! Both rounds walk in the same order, so records are written and read sequentially, and memory holds
//! none of them. The names of a directory are in the order of their bytes. The records of a
//! directory's entries follow its own name.
//!
//! ```text
//! Enter "a"   Entry "a/x"   Enter "a/y"   Leave "a/y"   Leave "a"   Entry "b"   Leave (the root)
//! ```

use std::io;

use super::fingerprint::{CopyState, Fingerprint, OverlayXattrs};
use crate::spill::{Scratch, Spool, SpoolReader};

/// Bytes of records that stay in memory. The records of a larger tree go to a file.
const IN_MEMORY: usize = 4 << 20;

/// The contents of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cloned {
    /// Number of entries in all directories.
    pub entries: u64,
    /// Bytes of the files, without holes.
    pub bytes: u64,
    /// Whether a file has overlay's `metacopy` xattr: its content is in a lower.
    pub metacopy: bool,
    /// Whether an entry has overlay's `redirect` xattr: it has another name in a lower.
    pub redirect: bool,
    /// Number of files whose bytes are of more than one moment: they changed during each attempt to
    /// copy them.
    pub torn: u64,
}

/// One record of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryRecord {
    /// An entry that is not a directory.
    Entry { name: Vec<u8>, state: State },
    /// The start of a directory, whose entries follow.
    Enter { name: Vec<u8> },
    /// The end of a directory.
    Leave(State),
}

/// The state of an entry when it was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct State {
    /// `None` if the copy is incomplete. Then the next round copies it again.
    pub(super) fingerprint: Option<Fingerprint>,
    /// Bytes on the disk, without holes.
    pub(super) bytes: u64,
    /// The largest number of bytes that it takes in a layer's tar.
    pub(super) packed: u64,
    pub(super) xattrs: OverlayXattrs,
    pub(super) copy_state: CopyState,
}

const ENTRY: u8 = 0;
const ENTER: u8 = 1;
const LEAVE: u8 = 2;

impl State {
    const LEN: usize = Fingerprint::LEN + 17;

    fn encode(&self, out: &mut Vec<u8>) {
        let OverlayXattrs { metacopy, redirect } = self.xattrs;
        let CopyState { maybe_direct, torn } = self.copy_state;
        let flags = [self.fingerprint.is_some(), metacopy, redirect, maybe_direct, torn];
        out.push(flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag)));
        out.extend_from_slice(&self.fingerprint.unwrap_or(Fingerprint::WHITEOUT).encode());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.packed.to_le_bytes());
    }

    fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let (flags, fingerprint) = (bytes[0], Fingerprint::decode(&bytes[1..]));
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        Self {
            fingerprint: (flags & 1 > 0).then_some(fingerprint),
            bytes: number(1 + Fingerprint::LEN),
            packed: number(9 + Fingerprint::LEN),
            xattrs: OverlayXattrs { metacopy: flags & 2 > 0, redirect: flags & 4 > 0 },
            copy_state: CopyState { maybe_direct: flags & 8 > 0, torn: flags & 16 > 0 },
        }
    }
}

impl EntryRecord {
    /// The name of the entry. `None` for the end of a directory.
    pub(super) fn name(&self) -> Option<&[u8]> {
        match self {
            Self::Entry { name, .. } | Self::Enter { name } => Some(name),
            Self::Leave(_) => None,
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        if *kind == ENTER {
            return Some(Self::Enter { name: rest.to_vec() });
        }
        let (state, name) = rest.split_first_chunk()?;
        let state = State::decode(state);
        Some(match *kind {
            ENTRY => Self::Entry { name: name.to_vec(), state },
            _ => Self::Leave(state),
        })
    }
}

/// The records of the previous round that the walk has not reached yet.
#[derive(Debug, Default)]
pub(super) struct PreviousRecords {
    reader: SpoolReader,
    next: Option<EntryRecord>,
}

impl PreviousRecords {
    pub(super) fn new(reader: SpoolReader) -> Self {
        Self { reader, next: None }
    }

    /// Returns the next record and does not move past it.
    pub(super) fn peek(&mut self) -> io::Result<Option<&EntryRecord>> {
        if self.next.is_none() {
            let bytes = self.reader.read_next()?;
            let decoded =
                bytes.map(|bytes| EntryRecord::decode(bytes).ok_or(io::ErrorKind::InvalidData));
            self.next = decoded.transpose()?;
        }
        Ok(self.next.as_ref())
    }

    /// Returns the next record and moves past it.
    pub(super) fn next(&mut self) -> io::Result<Option<EntryRecord>> {
        self.peek()?;
        Ok(self.next.take())
    }

    /// Bytes of memory in use.
    pub(super) fn memory(&self) -> usize {
        self.reader.held()
    }

    /// Moves past the next record. If it is an `Enter`, moves past everything in that directory.
    pub(super) fn skip(&mut self) -> io::Result<()> {
        let mut depth = 0_usize;
        while let Some(record) = self.next()? {
            match record {
                EntryRecord::Enter { .. } => depth += 1,
                EntryRecord::Leave(_) => depth = depth.saturating_sub(1),
                EntryRecord::Entry { .. } => {}
            }
            if depth == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// The records of the current round.
#[derive(Debug)]
pub(super) struct RoundRecords {
    spool: Spool,
    buffer: Vec<u8>,
    /// The sum of all records.
    sum: Cloned,
    /// The largest number of bytes that the tree takes in a layer's tar.
    pub(super) packed: u64,
}

impl RoundRecords {
    pub(super) fn new(scratch: &Scratch) -> Self {
        let (spool, sum) = (Spool::new(scratch, IN_MEMORY), Cloned::default());
        Self { spool, buffer: Vec::new(), sum, packed: 0 }
    }

    /// Bytes of memory in use.
    pub(super) fn memory(&self) -> usize {
        self.spool.memory()
    }

    pub(super) fn push(&mut self, record: &EntryRecord) -> io::Result<()> {
        self.buffer.clear();
        self.sum.entries += u64::from(!matches!(record, EntryRecord::Leave(_)));
        match record {
            EntryRecord::Entry { name, state } => self.state(ENTRY, state, name),
            EntryRecord::Enter { name } => {
                self.buffer.push(ENTER);
                self.buffer.extend_from_slice(name);
            }
            EntryRecord::Leave(state) => self.state(LEAVE, state, &[]),
        }
        self.spool.push(&self.buffer)
    }

    fn state(&mut self, kind: u8, state: &State, name: &[u8]) {
        self.buffer.push(kind);
        state.encode(&mut self.buffer);
        self.buffer.extend_from_slice(name);
        self.sum.bytes += state.bytes;
        self.sum.metacopy |= state.xattrs.metacopy;
        self.sum.redirect |= state.xattrs.redirect;
        self.sum.torn += u64::from(state.copy_state.torn);
        self.packed += state.packed;
    }

    /// Copies the remaining records of a directory that was not walked to its end, except its
    /// `Leave`.
    pub(super) fn copy_rest(&mut self, old: &mut PreviousRecords) -> io::Result<()> {
        let mut depth = 0_usize;
        while let Some(record) = old.next()? {
            match record {
                EntryRecord::Enter { .. } => depth += 1,
                EntryRecord::Leave(_) if depth == 0 => break,
                EntryRecord::Leave(_) => depth -= 1,
                EntryRecord::Entry { .. } => {}
            }
            self.push(&record)?;
        }
        Ok(())
    }

    /// Ends the round and returns its records and their sum.
    pub(super) fn finish(self) -> io::Result<(SpoolReader, Cloned)> {
        Ok((self.spool.read()?, self.sum))
    }
}
