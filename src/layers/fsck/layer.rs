//! Checks one layer: its metadata, its content digest, and its marks.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::marks::Marks;
use crate::{
    changeset::Limits,
    erofs::Image,
    layers::{
        content_digest::{ContentDigest, ContentError},
        key::LayerKey,
        layer_meta::LayerMeta,
        layer_storage::LayerStorage,
    },
    sys::{
        durable::at,
        mounts::{LinuxMounts, Mounts as _},
    },
};

/// One thing that is wrong with a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::layers) struct LayerFault {
    /// The file or directory.
    pub(in crate::layers) path: PathBuf,
    /// What is wrong, as text that follows the path.
    pub(in crate::layers) what: String,
}

/// What is known of a layer's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::layers) enum Content {
    /// It is what was recorded.
    Matches,
    /// Nothing was recorded. The digest of what is there, or why it has none.
    Unchecked(Result<ContentDigest, String>),
    /// It is damaged, or was not reached.
    Damaged,
}

/// A checked layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::layers) struct CheckedLayer {
    pub(in crate::layers) content: Content,
    pub(in crate::layers) faults: Vec<LayerFault>,
    /// Whether it came from a tar, so that it can be pulled or imported again.
    pub(in crate::layers) is_of_tar: bool,
}

/// Checks the layer `key` in `dir`. Reads all of it. `read` gets the number of bytes, piece by piece.
pub(in crate::layers) fn check(
    dir: &Path,
    key: &LayerKey,
    limits: &Limits,
    read: &(dyn Fn(u64) + Sync),
) -> CheckedLayer {
    let path = dir.join("layer.json");
    let found = LayerMeta::read(dir).and_then(|meta| {
        let record = fs::symlink_metadata(&path).map_err(at("look at", &path))?;
        Ok((meta, (record.ctime(), record.ctime_nsec())))
    });
    let (meta, made) = match found {
        Ok(found) => found,
        Err(error) => {
            let fault = LayerFault { path, what: format!("it cannot be read: {error}") };
            return CheckedLayer {
                content: Content::Damaged,
                faults: vec![fault],
                is_of_tar: true,
            };
        }
    };
    let wrong_key = match meta.key() {
        Some(known) if known == *key => None,
        Some(other) => Some(format!("it is of the layer {other}")),
        None => Some("it has neither a key nor a diff ID".to_owned()),
    };
    let mut check = Check {
        content: dir.join(meta.storage.content()),
        faults: wrong_key.into_iter().map(|what| LayerFault { path: path.clone(), what }).collect(),
        meta,
        made,
    };
    let content = match check.meta.storage {
        LayerStorage::Erofs => check.image(key, limits, read),
        LayerStorage::Dir => check.tree(limits, read),
    };
    let content = content.unwrap_or_else(|error| {
        check.fault(format!("it cannot be read: {error}"));
        Content::Damaged
    });
    let is_of_tar = !check.meta.is_snapshot();
    CheckedLayer { content, faults: check.faults, is_of_tar }
}

struct Check {
    meta: LayerMeta,
    /// The image or the root of the tree.
    content: PathBuf,
    /// When the metadata was written, by the clock of the file system.
    made: (i64, i64),
    faults: Vec<LayerFault>,
}

impl Check {
    fn fault(&mut self, what: String) {
        self.faults.push(LayerFault { path: self.content.clone(), what });
    }

    fn marks(&mut self, marks: Vec<(PathBuf, String)>) {
        let root = self.content.clone();
        let fault = |(path, what)| LayerFault { path: root.join(path), what };
        self.faults.extend(marks.into_iter().map(fault));
    }

    fn image(
        &mut self,
        key: &LayerKey,
        limits: &Limits,
        read: &(dyn Fn(u64) + Sync),
    ) -> io::Result<Content> {
        let file = File::open(&self.content)?;
        let (found, written) = (file.metadata()?.len(), self.meta.image_bytes);
        if found != written {
            self.fault(format!("it has {found} bytes, and {written} were written"));
            return Ok(Content::Damaged);
        }
        let uuid = match Image::open(&file) {
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                self.fault(e.to_string());
                return Ok(Content::Damaged);
            }
            opened => opened?.uuid(),
        };
        if uuid != key.uuid() {
            self.fault("it is the image of another layer: the UUID differs".to_owned());
            return Ok(Content::Damaged);
        }
        let content = self.compare(limits, read)?;
        if matches!(content, Content::Unchecked(_)) {
            // Otherwise the marks are those that were written.
            match Marks::of_image(&file, self.meta.features) {
                Ok(marks) => self.marks(marks.faults),
                Err(e) if e.kind() == io::ErrorKind::InvalidData => self.fault(e.to_string()),
                Err(e) => return Err(e),
            }
        }
        if content == Content::Damaged {
            self.fault("its bytes are not those that were written: the digest differs".to_owned());
        }
        Ok(self.unless_faulty(content))
    }

    fn tree(&mut self, limits: &Limits, read: &(dyn Fn(u64) + Sync)) -> io::Result<Content> {
        if !fs::symlink_metadata(&self.content)?.is_dir() {
            self.fault("it is not a directory".to_owned());
            return Ok(Content::Damaged);
        }
        let tree = LinuxMounts.open_dir(&self.content).map_err(io::Error::other)?;
        let marks = Marks::of_tree(&tree, self.meta.features, self.made)?;
        let content = self.compare(limits, read)?;
        if content == Content::Damaged {
            let changed: Vec<_> =
                marks.changed.iter().map(|path| path.display().to_string()).collect();
            let more = marks.changed_count - changed.len() as u64;
            let which = match (&changed[..], more) {
                ([], _) => {
                    "no file was changed by a program, so look for errors of the disk".to_owned()
                }
                (_, 0) => format!("changed since: {}", changed.join(", ")),
                _ => format!("changed since: {} and {more} more", changed.join(", ")),
            };
            self.fault(format!(
                "the tree is not the one that was recorded: the digest differs; {which}"
            ));
        }
        self.marks(marks.faults);
        Ok(self.unless_faulty(content))
    }

    /// What has a fault gets no digest.
    fn unless_faulty(&self, content: Content) -> Content {
        if self.faults.is_empty() { content } else { Content::Damaged }
    }

    /// Compares the content with the recorded digest.
    fn compare(&self, limits: &Limits, read: &(dyn Fn(u64) + Sync)) -> io::Result<Content> {
        let storage = self.meta.storage;
        let found = match ContentDigest::compute(&self.content, storage, limits, read) {
            Ok(found) => found,
            Err(ContentError::Disk(error)) => return Err(error),
            Err(ContentError::NoTar(_)) if self.meta.content.is_some() => {
                return Ok(Content::Damaged);
            }
            Err(ContentError::NoTar(error)) => {
                return Ok(Content::Unchecked(Err(error.to_string())));
            }
        };
        Ok(match &self.meta.content {
            None => Content::Unchecked(Ok(found)),
            Some(recorded) if *recorded == found => Content::Matches,
            Some(recorded) if recorded.of(storage).is_some() => Content::Damaged,
            Some(_) => Content::Unchecked(Err(
                "a version of ovl that this one does not know has recorded its digest".to_owned(),
            )),
        })
    }
}
