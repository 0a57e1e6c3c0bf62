//! Images in files of this machine: an OCI layout folder, or an archive of `docker save`.
//!
//! For the shell, and for nodes that are seeded offline. Deliberately absent: any way from a pod's [`Reference`]
//! to here; this type is made from an operator's text alone. Everything here blocks.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{LayerBlob, docker, error::Problem, layout, reference::Reference};
use crate::{
    changeset::Member,
    digest::{Digest, Digester},
    fault::Class,
};

/// An image on this machine, opened.
#[derive(Debug)]
pub struct Local {
    text: String,
    image: LocalImage,
    files: Files,
}

/// What it is, as far as its documents say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalImage {
    /// The names under which it was saved, if whole ones were.
    pub names: Vec<Reference>,
    /// The manifest for this machine; of a docker archive, which has none, the config.
    pub digest: Digest,
    /// Bottom first. Empty and repeated layers are kept.
    pub layers: Vec<LayerBlob>,
}

/// Where blobs are.
#[derive(Debug)]
pub(super) enum Files {
    /// A folder of an OCI layout.
    Layout(PathBuf),
    /// One file, and in it the blobs.
    Archive(Arc<File>, HashMap<Digest, Member>),
}

impl Local {
    /// Opens `oci:/path[:tag]` or `docker-archive:/path[:name]`. The tag or name may be left out where there is
    /// one image only.
    ///
    /// # Errors
    /// Text that is neither; files that cannot be read, or are not what they should be; no such image.
    pub fn open(text: &str) -> Result<Self, LocalError> {
        let at = |why: Why| LocalError { text: text.to_owned(), why: Arc::new(why) };
        let (kind, rest) = text.split_once(':').ok_or_else(|| at(Why::Spelling))?;
        // Names have colons of their own, folders should not.
        let (path, name) = rest.split_once(':').map_or((rest, None), |(p, name)| (p, Some(name)));
        if path.is_empty() || name == Some("") {
            return Err(at(Why::Spelling));
        }
        let (image, files) = match kind {
            "oci" => layout::open(Path::new(path), name),
            "docker-archive" => docker::open(Path::new(path), name),
            _ => Err(Why::Spelling),
        }
        .map_err(at)?;
        Ok(Self { text: text.to_owned(), image, files })
    }

    /// What was found.
    pub fn image(&self) -> &LocalImage {
        &self.image
    }

    /// Opens one of its layers.
    ///
    /// # Errors
    /// No such file, or the disk's.
    pub fn blob(&self, layer: &LayerBlob) -> Result<LocalBlob, LocalError> {
        let section = match &self.files {
            Files::Layout(folder) => layout::blob(folder, &layer.digest),
            Files::Archive(file, places) => match places.get(&layer.digest) {
                Some(place) => Ok(Section::new(Arc::clone(file), *place)),
                None => Err(Why::Content(Problem::NotFound { what: "layer" })),
            },
        };
        let section = section.map_err(|why| self.failed(why))?;
        let (digester, text) = (Digester::like(&layer.digest), self.text.clone());
        Ok(LocalBlob { section, layer: layer.clone(), digester, found: 0, text })
    }

    fn failed(&self, why: Why) -> LocalError {
        LocalError { text: self.text.clone(), why: Arc::new(why) }
    }
}

/// A part of a file, read without moving the file's own place: layers of one archive are read side by side.
#[derive(Debug)]
pub(super) struct Section {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Section {
    pub(super) fn new(file: Arc<File>, member: Member) -> Self {
        Self { file, at: member.offset, left: member.size }
    }

    /// A whole document.
    pub(super) fn whole(mut self, what: &'static str, limit: u64) -> Result<Vec<u8>, Why> {
        if self.left > limit {
            return Err(Problem::TooLarge { what, limit }.into());
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(|e| Why::Disk(what.to_owned(), e))?;
        Ok(bytes)
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// The bytes of a layer, under the same promise as a [`super::BlobReader`]: they end cleanly only when they are
/// the promised ones. Else the end is an [`io::Error`] of the kind `InvalidData` with a [`LocalError`] inside.
#[derive(Debug)]
pub struct LocalBlob {
    section: Section,
    layer: LayerBlob,
    digester: Digester,
    found: u64,
    text: String,
}

impl Read for LocalBlob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.section.read(buffer)?;
        if count > 0 {
            self.digester.update(&buffer[..count]);
            self.found += count as u64;
            return Ok(count);
        }
        let (what, found) = ("layer", self.digester.clone().finish());
        let problem = if self.found != self.layer.size {
            Problem::WrongSize { what, promised: self.layer.size, found: self.found }
        } else if found != self.layer.digest {
            Problem::Mismatch { what, promised: self.layer.digest, found }
        } else {
            return Ok(0);
        };
        let why = Arc::new(Why::Content(problem));
        Err(io::Error::new(io::ErrorKind::InvalidData, LocalError { text: self.text.clone(), why }))
    }
}

/// Why an image on this machine could not be had.
#[derive(Debug, Clone, thiserror::Error)]
#[error("image {text}: {why}")]
pub struct LocalError {
    text: String,
    why: Arc<Why>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Why {
    #[error("write oci:/path[:tag] or docker-archive:/path[:name]; the path may not hold a colon")]
    Spelling,
    #[error("cannot read {0}: {1}")]
    Disk(String, #[source] io::Error),
    #[error("{0}")]
    Content(#[from] Problem),
    #[error("it has {}", Offered(.0))]
    Which(Vec<String>),
}

struct Offered<'a>(&'a [String]);

impl std::fmt::Display for Offered<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            [] => f.write_str("no image of that name, and none that has one"),
            names => {
                write!(f, "these images: {}; name one of them behind a colon", names.join(", "))
            }
        }
    }
}

impl LocalError {
    /// The class of what went wrong.
    pub fn class(&self) -> Class {
        match &*self.why {
            Why::Spelling => Class::Invalid,
            Why::Which(_) => Class::NotFound,
            Why::Disk(_, error) if error.kind() == io::ErrorKind::NotFound => Class::NotFound,
            Why::Disk(..) => Class::Internal,
            Why::Content(problem) => problem.class(),
        }
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
