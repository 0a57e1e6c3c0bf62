//! An OCI image layout: `index.json` and `blobs/<algorithm>/<hex>` (OCI image-spec, image-layout.md). It is a directory, or a
//! tar of one, whose blobs are read in place.

use std::{fs::File, path::Path, sync::Arc};

use super::{
    Reference,
    config::{self, CONFIG_MAX},
    error::Problem,
    local_files::{Cause, Files, Layout, LocalImage, Section},
    manifest::{self, Descriptor, Entry, Manifest},
    platform::HostPlatform,
    resolve::check_content,
};
use crate::{
    changeset::{self, Member},
    digest::Digest,
    media_type::OCI_INDEX,
};

/// The annotation with the name of an image: usually a tag, sometimes a full name.
const NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's annotation with the name of an image, always a full name.
const FULL_NAME: &str = "io.containerd.image.name";
/// How deep indexes may be nested.
const DEPTH: usize = 3;

/// Opens an image of the layout in a directory.
pub(super) fn open_dir(dir: &Path, tag: Option<&str>) -> Result<(LocalImage, Files), Cause> {
    open(Layout::Dir(dir.to_owned()), tag)
}

/// Opens an image of the layout in a tar.
pub(super) fn open_archive(path: &Path, tag: Option<&str>) -> Result<(LocalImage, Files), Cause> {
    let disk = |error| Cause::Disk(path.display().to_string(), error);
    let file = Arc::new(File::open(path).map_err(disk)?);
    let members = changeset::members(&file).map_err(disk)?;
    open(Layout::Archive(file, members), tag)
}

fn open(layout: Layout, tag: Option<&str>) -> Result<(LocalImage, Files), Cause> {
    let index = layout.section("index.json")?.read_all("index", manifest::MANIFEST_MAX)?;
    let Manifest::Index(entries) = manifest::parse(&index, OCI_INDEX)? else {
        return Err(Cause::NoSingleMatch(Vec::new()));
    };
    let (mut descriptor, names) = chosen(&entries, tag)?;
    for _ in 0..DEPTH {
        if !descriptor.is_index() {
            break;
        }
        let index = layout.document("index", &descriptor, manifest::MANIFEST_MAX)?;
        if let Manifest::Index(entries) = manifest::parse(&index, &descriptor.media_type)? {
            descriptor = ours(&entries)?;
        }
    }
    let bytes = layout.document("manifest", &descriptor, manifest::MANIFEST_MAX)?;
    let Manifest::Image { config, layers } = manifest::parse(&bytes, &descriptor.media_type)?
    else {
        let why = "the indexes of the image are nested too deeply";
        return Err(Problem::Unsupported(why).into());
    };
    manifest::check(&config, &layers)?;
    let config = config::read(&layout.document("config", &config, CONFIG_MAX)?)?;
    let layers = manifest::layers(&layers, config.diff_ids)?;
    let image = LocalImage { names, digest: descriptor.digest, config: config.kept, layers };
    Ok((image, Files::Layout(layout)))
}

/// The entry for this host; without one, the first entry without a platform.
fn ours<'a>(
    entries: impl IntoIterator<Item = &'a Entry, IntoIter: DoubleEndedIterator + Clone>,
) -> Result<Descriptor, Problem> {
    let mut found = manifest::candidates(entries, HostPlatform::this())?;
    Ok(found.swap_remove(0).descriptor)
}

/// The entry for `tag`, or the only one, and its full names.
fn chosen(entries: &[Entry], tag: Option<&str>) -> Result<(Descriptor, Vec<Reference>), Cause> {
    let names = |entry: &Entry| -> Vec<String> {
        let all = [NAME, FULL_NAME].into_iter().filter_map(|key| entry.annotation(key));
        all.map(str::to_owned).collect()
    };
    let matches = |entry: &&Entry| tag.is_none_or(|tag| names(entry).iter().any(|it| it == tag));
    let found: Vec<_> = entries.iter().filter(matches).collect();
    let descriptor = match &found[..] {
        [one] => one.descriptor()?,
        // One image for several platforms.
        several @ [first, ..]
            if several.iter().all(|e| e.has_platform() && names(e) == names(first)) =>
        {
            ours(several.iter().copied())?
        }
        _ => return Err(Cause::NoSingleMatch(entries.iter().flat_map(names).collect())),
    };
    // A name without a slash is only a tag, and the layout does not say of which repository.
    let full = found.iter().flat_map(|entry| names(entry)).filter(|name| name.contains('/'));
    let mut names: Vec<_> = full.filter_map(|name| name.parse().ok()).collect();
    names.sort_unstable();
    names.dedup();
    Ok((descriptor, names))
}

impl Layout {
    /// The content of a blob, which is not checked.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Section, Cause> {
        self.section(&format!("blobs/{}/{}", digest.algorithm(), digest.hex()))
    }

    fn document(
        &self,
        what: &'static str,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, Cause> {
        let bytes = self.blob(&descriptor.digest)?.read_all(what, limit)?;
        check_content(what, &bytes, descriptor)?;
        Ok(bytes)
    }

    /// The file with this name in the layout.
    fn section(&self, name: &str) -> Result<Section, Cause> {
        match self {
            Self::Dir(dir) => {
                let path = dir.join(name);
                let disk = |error| Cause::Disk(path.display().to_string(), error);
                let file = File::open(&path).map_err(disk)?;
                let size = file.metadata().map_err(disk)?.len();
                Ok(Section::new(Arc::new(file), Member { offset: 0, size }))
            }
            Self::Archive(file, members) => match members.get(name) {
                Some(member) => Ok(Section::new(Arc::clone(file), *member)),
                None => {
                    let why = format!("it has no file {name}");
                    Err(Problem::Malformed { what: "archive", why }.into())
                }
            },
        }
    }
}
