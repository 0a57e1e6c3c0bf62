//! Images in local files: an OCI layout, as a directory or a tar, or an archive of `docker save`.
//!
//! It is for the command line, and for nodes that get their images offline. Deliberately
//! absent: a path from a pod's [`Reference`](crate::reference::Reference) to this module. [`Local`] is only made from
//! text that an administrator writes. All functions block.

use std::{
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use super::{
    LayerBlob, docker,
    error::Problem,
    layout,
    local_files::{Cause, Files, LocalError, LocalImage, Section},
};
use crate::digest::Digester;

/// An open image in local files.
#[derive(Debug)]
pub struct Local {
    text: String,
    image: LocalImage,
    files: Files,
}

impl Local {
    /// Opens `oci:/path[:tag]`, `oci-archive:/path[:tag]` or `docker-archive:/path[:name]`. The tag or name may be omitted if there is only one
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
            "oci" => layout::open_dir(Path::new(path), name),
            "oci-archive" => layout::open_archive(Path::new(path), name),
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
            Files::Layout(layout) => layout.blob(layer.digest.digest()),
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

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
