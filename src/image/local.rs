//! Images in local files: an OCI layout directory, or an archive of `docker save`.
//!
//! For the command line, and for nodes that get their images offline. Deliberately absent: a path from a pod's
//! [`Reference`] to this module. [`Local`] is only made from text that an operator writes. All functions block.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{LayerBlob, Reference, docker, error::Problem, layout};
use crate::{
    changeset::Member,
    digest::{BlobDigest, Digest, Digester},
    error::Class,
};

/// An open image in local files.
#[derive(Debug)]
pub struct Local {
    text: String,
    image: LocalImage,
    files: Files,
}

/// The description of a local image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalImage {
    /// The full names under which the image was saved; empty if it has only tags.
    pub names: Vec<Reference>,
    /// Digest of the manifest for this host. A docker archive has no manifest, so there it is the digest of the config.
    pub digest: Digest,
    /// Bottom first. Empty and repeated layers are kept.
    pub layers: Vec<LayerBlob>,
}

/// Where the blobs of a local image are.
#[derive(Debug)]
pub(super) enum Files {
    /// The directory of an OCI layout.
    Layout(PathBuf),
    /// An archive file, and the position of each blob in it.
    Archive(Arc<File>, HashMap<BlobDigest, Member>),
}

impl Local {
    /// Opens `oci:/path[:tag]` or `docker-archive:/path[:name]`. The tag or name may be omitted if there is only one
    /// image.
    ///
    /// # Errors
    /// Text in another format; files that cannot be read or are invalid; an image that does not exist.
    pub fn open(text: &str) -> Result<Self, LocalError> {
        let at = |why: Cause| LocalError { text: text.to_owned(), why: Arc::new(why) };
        let (kind, rest) = text.split_once(':').ok_or_else(|| at(Cause::Format))?;
        // A name can contain colons; a path must not.
        let (path, name) = rest.split_once(':').map_or((rest, None), |(p, name)| (p, Some(name)));
        if path.is_empty() || name == Some("") {
            return Err(at(Cause::Format));
        }
        let (image, files) = match kind {
            "oci" => layout::open(Path::new(path), name),
            "docker-archive" => docker::open(Path::new(path), name),
            _ => Err(Cause::Format),
        }
        .map_err(at)?;
        Ok(Self { text: text.to_owned(), image, files })
    }

    /// The description of the image.
    pub fn image(&self) -> &LocalImage {
        &self.image
    }

    /// Opens one of the image's layers.
    ///
    /// # Errors
    /// The file does not exist or cannot be read.
    pub fn blob(&self, layer: &LayerBlob) -> Result<LocalBlob, LocalError> {
        let section = match &self.files {
            Files::Layout(dir) => layout::blob(dir, layer.digest.digest()),
            Files::Archive(file, places) => match places.get(&layer.digest) {
                Some(place) => Ok(Section::new(Arc::clone(file), *place)),
                None => Err(Cause::Content(Problem::NotFound { what: "layer" })),
            },
        };
        let section = section.map_err(|why| self.failed(why))?;
        let (digester, text) = (Digester::like(layer.digest.digest()), self.text.clone());
        Ok(LocalBlob { section, layer: layer.clone(), digester, found: 0, text })
    }

    fn failed(&self, why: Cause) -> LocalError {
        LocalError { text: self.text.clone(), why: Arc::new(why) }
    }
}

/// A section of a file. Reads do not move the file position, so layers of one archive can be read at the same time.
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

    /// Reads a complete document of at most `limit` bytes.
    pub(super) fn read_all(mut self, what: &'static str, limit: u64) -> Result<Vec<u8>, Cause> {
        if self.left > limit {
            return Err(Problem::TooLarge { what, limit }.into());
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(|e| Cause::Disk(what.to_owned(), e))?;
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

/// Reads the bytes of a layer. Like a [`super::BlobReader`], it ends without an error only if size and digest are the
/// expected ones. Otherwise the last read fails with an [`io::Error`] of kind `InvalidData` that contains a
/// [`LocalError`].
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
        let promised = *self.layer.digest.digest();
        let problem = if self.found != self.layer.size {
            Problem::WrongSize { what, promised: self.layer.size, found: self.found }
        } else if found != promised {
            Problem::Mismatch { what, promised, found }
        } else {
            return Ok(0);
        };
        let why = Arc::new(Cause::Content(problem));
        Err(io::Error::new(io::ErrorKind::InvalidData, LocalError { text: self.text.clone(), why }))
    }
}

/// A local image cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("image {text}: {why}")]
pub struct LocalError {
    text: String,
    why: Arc<Cause>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error(
        "write oci:/path[:tag] or docker-archive:/path[:name]; the path must not contain a colon"
    )]
    Format,
    #[error("cannot read {0}: {1}")]
    Disk(String, #[source] io::Error),
    #[error("{0}")]
    Content(#[from] Problem),
    #[error("{}", Offered(.0))]
    NoSingleMatch(Vec<String>),
}

struct Offered<'a>(&'a [String]);

impl std::fmt::Display for Offered<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            [] => f.write_str("no single image matches, and no image there has a name"),
            names => {
                let names = names.join(", ");
                write!(f, "no single image matches; append a colon and one of these names: {names}")
            }
        }
    }
}

impl LocalError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match &*self.why {
            Cause::Format => Class::Invalid,
            Cause::NoSingleMatch(_) => Class::NotFound,
            Cause::Disk(_, error) if error.kind() == io::ErrorKind::NotFound => Class::NotFound,
            Cause::Disk(..) => Class::Internal,
            Cause::Content(problem) => problem.class(),
        }
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
