//! An OCI image layout: `index.json` and `blobs/<algorithm>/<hex>` (OCI image-spec, image-layout.md).

use std::{fs::File, path::Path, sync::Arc};

use super::{
    Reference,
    config::{self, CONFIG_MAX},
    error::Problem,
    local_files::{Cause, Files, LocalImage, Section},
    manifest::{self, Descriptor, Entry, Manifest},
    platform::HostPlatform,
    resolve::check_content,
};
use crate::{changeset::Member, digest::Digest, media_type::OCI_INDEX};

/// The annotation with the name of an image: usually a tag, sometimes a full name.
const NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's annotation with the name of an image, always a full name.
const FULL_NAME: &str = "io.containerd.image.name";
/// How deep indexes may be nested.
const DEPTH: usize = 3;

pub(super) fn open(dir: &Path, tag: Option<&str>) -> Result<(LocalImage, Files), Cause> {
    let index = section(&dir.join("index.json"))?.read_all("index", manifest::MANIFEST_MAX)?;
    let Manifest::Index(entries) = manifest::parse(&index, OCI_INDEX)? else {
        return Err(Cause::NoSingleMatch(Vec::new()));
    };
    let (mut descriptor, names) = chosen(&entries, tag)?;
    for _ in 0..DEPTH {
        if !descriptor.is_index() {
            break;
        }
        let index = document(dir, "index", &descriptor, manifest::MANIFEST_MAX)?;
        if let Manifest::Index(entries) = manifest::parse(&index, &descriptor.media_type)? {
            descriptor = ours(&entries)?;
        }
    }
    let bytes = document(dir, "manifest", &descriptor, manifest::MANIFEST_MAX)?;
    let Manifest::Image { config, layers } = manifest::parse(&bytes, &descriptor.media_type)?
    else {
        let why = "the indexes of the image are nested too deeply";
        return Err(Problem::Unsupported(why).into());
    };
    manifest::check(&config, &layers)?;
    let config = config::read(&document(dir, "config", &config, CONFIG_MAX)?)?;
    let layers = manifest::layers(&layers, config.diff_ids)?;
    let image = LocalImage { names, digest: descriptor.digest, config: config.kept, layers };
    Ok((image, Files::Layout(dir.to_owned())))
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

pub(super) fn blob(dir: &Path, digest: &Digest) -> Result<Section, Cause> {
    section(&dir.join("blobs").join(digest.algorithm()).join(digest.hex()))
}

fn document(
    dir: &Path,
    what: &'static str,
    descriptor: &Descriptor,
    limit: u64,
) -> Result<Vec<u8>, Cause> {
    let bytes = blob(dir, &descriptor.digest)?.read_all(what, limit)?;
    check_content(what, &bytes, descriptor)?;
    Ok(bytes)
}

fn section(path: &Path) -> Result<Section, Cause> {
    let disk = |error| Cause::Disk(path.display().to_string(), error);
    let file = File::open(path).map_err(disk)?;
    let size = file.metadata().map_err(disk)?.len();
    Ok(Section::new(Arc::new(file), Member { offset: 0, size }))
}
