//! What a round noted of each entry. The next round walks in the same order, so notes are read and written one behind another, and
//! memory holds none of them: names of a directory in the order of their bytes, what is in a directory behind its own name.
//!
//! ```text
//! Enter "a"   Entry "a/x"   Enter "a/y"   Leave "a/y"   Leave "a"   Entry "b"   Leave (the root)
//! ```

use std::io;

use super::{
    Cloned,
    fingerprint::{Fingerprint, Marks, Taken},
};
use crate::spill::{Scratch, Spool, SpoolReader};

/// Bytes of notes in memory; those of larger trees go to a file.
const IN_MEMORY: usize = 4 << 20;

/// One note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Note {
    /// What is no directory.
    Entry { name: Vec<u8>, state: State },
    /// A directory, whose entries follow.
    Enter { name: Vec<u8> },
    /// The end of a directory.
    Leave(State),
}

/// How something looked when it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct State {
    /// `None` while the copy is not like what it was taken of: then it is not to be taken for the same.
    pub(super) look: Option<Fingerprint>,
    /// What it takes on the disk, without holes.
    pub(super) bytes: u64,
    /// The most that it takes in a layer's tar.
    pub(super) packed: u64,
    pub(super) marks: Marks,
    pub(super) taken: Taken,
}

const ENTRY: u8 = 0;
const ENTER: u8 = 1;
const LEAVE: u8 = 2;

impl State {
    const LEN: usize = Fingerprint::LEN + 17;

    fn encode(&self, out: &mut Vec<u8>) {
        let Marks { metacopy, redirect } = self.marks;
        let Taken { maybe_direct, torn } = self.taken;
        let flags = [self.look.is_some(), metacopy, redirect, maybe_direct, torn];
        out.push(flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag)));
        out.extend_from_slice(&self.look.unwrap_or(Fingerprint::WHITEOUT).encode());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.packed.to_le_bytes());
    }

    fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let (flags, look) = (bytes[0], Fingerprint::decode(&bytes[1..]));
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        Self {
            look: (flags & 1 > 0).then_some(look),
            bytes: number(1 + Fingerprint::LEN),
            packed: number(9 + Fingerprint::LEN),
            marks: Marks { metacopy: flags & 2 > 0, redirect: flags & 4 > 0 },
            taken: Taken { maybe_direct: flags & 8 > 0, torn: flags & 16 > 0 },
        }
    }
}

impl Note {
    /// The name that it is about; none for the end of a directory.
    pub(super) fn name(&self) -> Option<&[u8]> {
        match self {
            Self::Entry { name, .. } | Self::Enter { name } => Some(name),
            Self::Leave(_) => None,
        }
    }

    fn decode(record: &[u8]) -> Option<Self> {
        let (kind, rest) = record.split_first()?;
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

/// The notes of the round before, from the place on where the walk is.
#[derive(Debug, Default)]
pub(super) struct Old {
    reader: SpoolReader,
    peeked: Option<Note>,
}

impl Old {
    pub(super) fn new(reader: SpoolReader) -> Self {
        Self { reader, peeked: None }
    }

    /// The next note, which stays.
    pub(super) fn peek(&mut self) -> io::Result<Option<&Note>> {
        if self.peeked.is_none() {
            let record = self.reader.read_next()?;
            let decoded =
                record.map(|record| Note::decode(record).ok_or(io::ErrorKind::InvalidData));
            self.peeked = decoded.transpose()?;
        }
        Ok(self.peeked.as_ref())
    }

    /// The next note.
    pub(super) fn next(&mut self) -> io::Result<Option<Note>> {
        self.peek()?;
        Ok(self.peeked.take())
    }

    /// Bytes of memory that they take.
    pub(super) fn memory(&self) -> usize {
        self.reader.held()
    }

    /// Moves past the next note, and past all that is in the directory that it enters.
    pub(super) fn skip(&mut self) -> io::Result<()> {
        let mut depth = 0_usize;
        while let Some(note) = self.next()? {
            match note {
                Note::Enter { .. } => depth += 1,
                Note::Leave(_) => depth = depth.saturating_sub(1),
                Note::Entry { .. } => {}
            }
            if depth == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// The notes of this round.
#[derive(Debug)]
pub(super) struct Notes {
    spool: Spool,
    record: Vec<u8>,
    /// What was noted, all together.
    sum: Cloned,
    /// The most that this takes in a layer's tar.
    pub(super) packed: u64,
}

impl Notes {
    pub(super) fn new(scratch: &Scratch) -> Self {
        let (spool, sum) = (Spool::new(scratch, IN_MEMORY), Cloned::default());
        Self { spool, record: Vec::new(), sum, packed: 0 }
    }

    /// Bytes of memory that they take.
    pub(super) fn held(&self) -> usize {
        self.spool.memory()
    }

    pub(super) fn push(&mut self, note: &Note) -> io::Result<()> {
        self.record.clear();
        self.sum.entries += u64::from(!matches!(note, Note::Leave(_)));
        match note {
            Note::Entry { name, state } => self.state(ENTRY, state, name),
            Note::Enter { name } => {
                self.record.push(ENTER);
                self.record.extend_from_slice(name);
            }
            Note::Leave(state) => self.state(LEAVE, state, &[]),
        }
        self.spool.push(&self.record)
    }

    fn state(&mut self, kind: u8, state: &State, name: &[u8]) {
        self.record.push(kind);
        state.encode(&mut self.record);
        self.record.extend_from_slice(name);
        self.sum.bytes += state.bytes;
        self.sum.metacopy |= state.marks.metacopy;
        self.sum.redirect |= state.marks.redirect;
        self.sum.torn += u64::from(state.taken.torn);
        self.packed += state.packed;
    }

    /// Takes over what is left of a directory that was not walked to its end, up to the end itself.
    pub(super) fn rest_of(&mut self, old: &mut Old) -> io::Result<()> {
        let mut depth = 0_usize;
        while let Some(note) = old.next()? {
            match note {
                Note::Enter { .. } => depth += 1,
                Note::Leave(_) if depth == 0 => break,
                Note::Leave(_) => depth -= 1,
                Note::Entry { .. } => {}
            }
            self.push(&note)?;
        }
        Ok(())
    }

    /// Ends the round.
    pub(super) fn finish(self) -> io::Result<(SpoolReader, Cloned)> {
        Ok((self.spool.read()?, self.sum))
    }
}
