//! An OCI image layout: `index.json` and `blobs/<algorithm>/<hex>` (OCI image-spec, image-layout.md).

use std::{fs::File, path::Path, sync::Arc};

use super::{
    config::{self, CONFIG_MAX},
    error::Problem,
    local::{Files, LocalImage, Section, Why},
    manifest::{self, Descriptor, Entry, Manifest},
    platform::Machine,
    reference::Reference,
    resolve::promised,
};
use crate::{changeset::Member, digest::Digest};

/// Most often a tag, sometimes a whole name.
const NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's, always a whole name.
const FULL_NAME: &str = "io.containerd.image.name";
/// How deep an index may lie in another.
const DEPTH: usize = 3;

pub(super) fn open(folder: &Path, tag: Option<&str>) -> Result<(LocalImage, Files), Why> {
    let index = section(&folder.join("index.json"))?.whole("index", manifest::MANIFEST_MAX)?;
    let Manifest::Index(entries) = manifest::parse(&index, manifest::OCI_INDEX)? else {
        return Err(Why::Which(Vec::new()));
    };
    let (mut descriptor, names) = chosen(&entries, tag)?;
    for _ in 0..DEPTH {
        if !descriptor.is_index() {
            break;
        }
        let index = document(folder, "index", &descriptor, manifest::MANIFEST_MAX)?;
        if let Manifest::Index(entries) = manifest::parse(&index, &descriptor.media_type)? {
            descriptor = ours(&entries)?;
        }
    }
    let bytes = document(folder, "manifest", &descriptor, manifest::MANIFEST_MAX)?;
    let Manifest::Image { config, layers } = manifest::parse(&bytes, &descriptor.media_type)?
    else {
        let why = "its indexes lie too deep in one another";
        return Err(Problem::Unsupported(why).into());
    };
    manifest::check(&config, &layers)?;
    let config = config::read(&document(folder, "config", &config, CONFIG_MAX)?)?;
    let layers = manifest::layers(&layers, config.diff_ids)?;
    let image = LocalImage { names, digest: descriptor.digest, layers };
    Ok((image, Files::Layout(folder.to_owned())))
}

/// The entry for this machine; of those that do not say for which they are, the first.
fn ours<'a>(
    entries: impl IntoIterator<Item = &'a Entry, IntoIter: DoubleEndedIterator + Clone>,
) -> Result<Descriptor, Problem> {
    let mut found = manifest::candidates(entries, Machine::this())?;
    Ok(found.swap_remove(0).descriptor)
}

/// The entry that is meant, and its whole names.
fn chosen(entries: &[Entry], tag: Option<&str>) -> Result<(Descriptor, Vec<Reference>), Why> {
    let names = |entry: &Entry| -> Vec<String> {
        let all = [NAME, FULL_NAME].into_iter().filter_map(|key| entry.annotation(key));
        all.map(str::to_owned).collect()
    };
    let meant = |entry: &&Entry| tag.is_none_or(|tag| names(entry).iter().any(|name| name == tag));
    let found: Vec<_> = entries.iter().filter(meant).collect();
    let descriptor = match &found[..] {
        [one] => one.descriptor()?,
        // One image for several machines.
        several @ [first, ..]
            if several.iter().all(|e| e.has_platform() && names(e) == names(first)) =>
        {
            ours(several.iter().copied())?
        }
        _ => return Err(Why::Which(entries.iter().flat_map(names).collect())),
    };
    // What has no slash is a tag, and whose it is nobody says.
    let whole = found.iter().flat_map(|entry| names(entry)).filter(|name| name.contains('/'));
    let mut names: Vec<_> = whole.filter_map(|name| name.parse().ok()).collect();
    names.sort_unstable();
    names.dedup();
    Ok((descriptor, names))
}

pub(super) fn blob(folder: &Path, digest: &Digest) -> Result<Section, Why> {
    section(&folder.join("blobs").join(digest.algorithm()).join(digest.hex()))
}

fn document(
    folder: &Path,
    what: &'static str,
    descriptor: &Descriptor,
    limit: u64,
) -> Result<Vec<u8>, Why> {
    let bytes = blob(folder, &descriptor.digest)?.whole(what, limit)?;
    promised(what, &bytes, descriptor)?;
    Ok(bytes)
}

fn section(path: &Path) -> Result<Section, Why> {
    let disk = |error| Why::Disk(path.display().to_string(), error);
    let file = File::open(path).map_err(disk)?;
    let size = file.metadata().map_err(disk)?.len();
    Ok(Section::new(Arc::new(file), Member { offset: 0, size }))
}
