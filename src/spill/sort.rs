//! Byte strings that are written in any order and read sorted.

use std::{cmp::Reverse, collections::BinaryHeap, io};

use super::{Scratch, file::File};

/// Bytes that are written at once, and the most bytes of a run that are read at once.
const PIECE: usize = 16 << 10;
/// Bytes that are read of all runs together, if there are many; each run gets at least [`PIECE_LEAST`].
const PIECES: usize = 1 << 20;
const PIECE_LEAST: usize = 512;
/// Bytes of the entry of a run in the merge heap: its next text, which is a file name, and the heap's own fields.
const HEAD: usize = 320;

/// Bytes of memory for the names in the root of a tree. A directory one level deeper gets half as many, and never fewer
/// than [`LEAST`]. So a path of 256 directories gets about 16 MiB together.
const ROOT: usize = 4 << 20;
const LEAST: usize = 32 << 10;

/// Collects texts of at most 64 KiB each.
#[derive(Debug)]
pub struct Sorter {
    scratch: Scratch,
    most: usize,
    sorted: Sorted,
}

/// Texts that can be read sorted, any number of times. Equal texts are all kept.
#[derive(Debug, Default)]
pub struct Sorted {
    /// The texts in memory without separators, and where each lies.
    text: Vec<u8>,
    places: Vec<(u32, u16)>,
    /// Sorted runs in the file: start and end of each.
    runs: Vec<(u64, u64)>,
    file: Option<File>,
    len: u64,
}

impl Sorter {
    /// An empty sorter that keeps about `most` bytes in memory; `most` is less than 4 GiB.
    pub fn new(scratch: &Scratch, most: usize) -> Self {
        Self { scratch: scratch.clone(), most, sorted: Sorted::default() }
    }

    /// A sorter for the names of a directory `depth` levels below a tree's root. It counts on the sorters of all levels
    /// above being in use.
    pub fn of_names(scratch: &Scratch, depth: usize) -> Self {
        Self::new(scratch, (ROOT >> depth.min(31)).max(LEAST))
    }

    /// Adds a text.
    pub fn push(&mut self, text: &[u8]) -> io::Result<()> {
        let Sorted { text: all, places, len: count, .. } = &mut self.sorted;
        let len = u16::try_from(text.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        places.push((all.len() as u32, len));
        all.extend_from_slice(text);
        *count += 1;
        // Vectors double their capacity.
        if 2 * (all.len() + size_of_val(places.as_slice())) > self.most {
            self.write()?;
        }
        Ok(())
    }

    /// Writes the texts in memory as a run.
    fn write(&mut self) -> io::Result<()> {
        self.sorted.sort();
        let Sorted { text, places, runs, file, .. } = &mut self.sorted;
        if file.is_none() {
            *file = Some(self.scratch.file()?);
        }
        let Some(file) = file else { return Ok(()) };
        let start = runs.last().map_or(0, |(_, end)| *end);
        let (mut at, mut piece) = (start, Vec::with_capacity(2 * PIECE));
        for (from, len) in places.drain(..) {
            piece.extend_from_slice(&len.to_le_bytes());
            piece.extend_from_slice(&text[from as usize..from as usize + usize::from(len)]);
            if piece.len() >= PIECE {
                file.write_all_at(&piece, at)?;
                at += piece.len() as u64;
                piece.clear();
            }
        }
        file.write_all_at(&piece, at)?;
        runs.push((start, at + piece.len() as u64));
        text.clear();
        Ok(())
    }

    /// Ends the writing.
    pub fn sorted(mut self) -> io::Result<Sorted> {
        if self.sorted.file.is_some() && !self.sorted.places.is_empty() {
            self.write()?;
        }
        self.sorted.sort();
        if self.sorted.file.is_some() {
            (self.sorted.text, self.sorted.places) = (Vec::new(), Vec::new());
        }
        Ok(self.sorted)
    }
}

impl Sorted {
    /// The number of texts.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory in use, with those of one reader.
    pub fn memory(&self) -> usize {
        let places = self.places.capacity() * size_of::<(u32, u16)>();
        let runs = self.runs.len() * (self.piece_len() + size_of::<Run>() + HEAD);
        self.text.capacity() + places + runs
    }

    /// Bytes of a run that are read at once.
    fn piece_len(&self) -> usize {
        (PIECES / self.runs.len().max(1)).clamp(PIECE_LEAST, PIECE)
    }

    fn sort(&mut self) {
        let text = &self.text;
        self.places.sort_unstable_by(|a, b| in_text(text, *a).cmp(in_text(text, *b)));
    }

    /// Reads all texts in byte order.
    pub fn read(&self) -> io::Result<SortedReader<'_>> {
        let mut runs = Vec::with_capacity(self.runs.len());
        let mut heads = BinaryHeap::with_capacity(self.runs.len());
        let piece_len = self.piece_len();
        for (number, (at, end)) in self.runs.iter().enumerate() {
            let mut run = Run { at: *at, end: *end, piece: Vec::new(), piece_len, from: 0 };
            if let (Some(file), false) = (&self.file, at == end) {
                heads.push(Reverse((run.next(file)?, number)));
            }
            runs.push(run);
        }
        Ok(SortedReader { sorted: self, next: 0, runs, heads, last: Vec::new() })
    }
}

fn in_text(text: &[u8], (from, len): (u32, u16)) -> &[u8] {
    &text[from as usize..from as usize + usize::from(len)]
}

/// Reads the texts in order.
#[derive(Debug)]
pub struct SortedReader<'s> {
    sorted: &'s Sorted,
    next: usize,
    runs: Vec<Run>,
    /// The next text of each run that has one.
    heads: BinaryHeap<Reverse<(Vec<u8>, usize)>>,
    last: Vec<u8>,
}

impl SortedReader<'_> {
    /// The next text; `None` at the end.
    pub fn read_next(&mut self) -> io::Result<Option<&[u8]>> {
        let Some(file) = &self.sorted.file else {
            let place = self.sorted.places.get(self.next).copied();
            self.next += 1;
            return Ok(place.map(|place| in_text(&self.sorted.text, place)));
        };
        let Some(Reverse((text, number))) = self.heads.pop() else { return Ok(None) };
        let run = &mut self.runs[number];
        if run.has_more() {
            self.heads.push(Reverse((run.next(file)?, number)));
        }
        self.last = text;
        Ok(Some(&self.last))
    }
}

#[derive(Debug)]
struct Run {
    /// Position in the file of the first byte that is not in `piece` yet.
    at: u64,
    end: u64,
    piece: Vec<u8>,
    /// Bytes that are read at once.
    piece_len: usize,
    from: usize,
}

impl Run {
    fn has_more(&self) -> bool {
        self.at < self.end || self.from < self.piece.len()
    }

    fn next(&mut self, file: &File) -> io::Result<Vec<u8>> {
        let mut len = [0; 2];
        len.copy_from_slice(self.take(file, 2)?);
        self.take(file, usize::from(u16::from_le_bytes(len))).map(<[u8]>::to_vec)
    }

    fn take(&mut self, file: &File, wanted: usize) -> io::Result<&[u8]> {
        if self.piece.len() - self.from < wanted {
            self.piece.drain(..self.from);
            self.from = 0;
            let have = self.piece.len();
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            let more = (wanted.max(self.piece_len) - have).min(left);
            self.piece.resize(have + more, 0);
            file.read_exact_at(&mut self.piece[have..], self.at)?;
            self.at += more as u64;
            if self.piece.len() < wanted {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let start = self.from;
        self.from += wanted;
        Ok(&self.piece[start..self.from])
    }
}
