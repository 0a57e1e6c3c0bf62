//! What both formats of local images have in common: where the blobs are, how they are read, and the errors.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::Arc,
};

use super::{LayerBlob, Reference, error::Problem};
use crate::{
    changeset::Member,
    digest::{BlobDigest, Digest},
    error::Class,
};

/// The description of a local image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalImage {
    /// The full names under which the image was saved; empty if it has only tags.
    pub names: Vec<Reference>,
    /// Digest of the manifest for this host. A docker archive has no manifest, so there it is the digest of the config.
    pub digest: Digest,
    /// The fields of the config that the image of a snapshot inherits: JSON.
    pub config: String,
    /// Bottom first. Empty and repeated layers are kept.
    pub layers: Vec<LayerBlob>,
}

/// Where the blobs of a local image are.
#[derive(Debug)]
pub(super) enum Files {
    /// An OCI layout.
    Layout(Layout),
    /// An archive file, and the position of each blob in it.
    Archive(Arc<File>, HashMap<BlobDigest, Member>),
}

/// Where the files of a layout are.
#[derive(Debug)]
pub(super) enum Layout {
    Dir(PathBuf),
    /// A tar, and its members by name.
    Archive(Arc<File>, HashMap<String, Member>),
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

/// A local image cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("image {text}: {why}")]
pub struct LocalError {
    pub(super) text: String,
    pub(super) why: Arc<Cause>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error(
        "write oci:/path[:tag], oci-archive:/path[:tag] or docker-archive:/path[:name]; the path must not contain a colon"
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
