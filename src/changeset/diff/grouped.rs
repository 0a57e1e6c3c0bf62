//! The names of one directory in several trees, sorted, each with the trees that have it.

use std::io;

use crate::{
    spill::{Sorted, SortedReader, Sorter},
    sys::tree_reader::Entry,
};

/// A name, and the numbers of the trees that have it in a directory, in their order.
pub(super) type Named = (Vec<u8>, Vec<usize>);

/// A name and the number of a tree that has it, as one text. Such texts sort by name and then by tree, because a name
/// has no NUL.
pub(super) fn text(name: &[u8], tree: usize) -> Vec<u8> {
    [name, &[0], &(tree as u16).to_be_bytes()].concat()
}

/// Adds the names in all of these directories, each as one [`text`] with the number of its directory.
pub(super) fn add_names(names: &mut Sorter, dirs: &[Entry]) -> io::Result<()> {
    for (tree, dir) in dirs.iter().enumerate() {
        dir.names(|name| names.push(&text(name, tree)))?;
    }
    Ok(())
}

/// Reads such texts and groups them by name.
pub(super) struct Grouped<'s> {
    texts: SortedReader<'s>,
    next: Option<(Vec<u8>, usize)>,
}

impl<'s> Grouped<'s> {
    /// A reader of sorted texts that [`text`] made.
    pub(super) fn new(texts: &'s Sorted) -> io::Result<Self> {
        let mut grouped = Self { texts: texts.read()?, next: None };
        grouped.read_ahead()?;
        Ok(grouped)
    }

    fn read_ahead(&mut self) -> io::Result<()> {
        let text = self.texts.read_next()?.and_then(<[u8]>::split_last_chunk);
        self.next = text.map(|(name, tree)| {
            (name[..name.len().saturating_sub(1)].to_vec(), usize::from(u16::from_be_bytes(*tree)))
        });
        Ok(())
    }

    /// The next name.
    pub(super) fn next(&mut self) -> io::Result<Option<Named>> {
        let Some((name, tree)) = self.next.take() else { return Ok(None) };
        let mut trees = vec![tree];
        self.read_ahead()?;
        while let Some((_, tree)) = self.next.take_if(|(next, _)| *next == name) {
            trees.push(tree);
            self.read_ahead()?;
        }
        Ok(Some((name, trees)))
    }
}
