//! Manifests: what the bytes say, and everything that makes us refuse them.
//!
//! Pure: bytes and a content type in, typed values out. Deliberately absent: any guess. A document that could
//! be read as two kinds is refused, not read as one of them (CVE-2021-41190).

use std::collections::HashMap;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    LayerBlob, config,
    config::CONFIG_MAX,
    error::Problem,
    platform::{Machine, Platform},
};
use crate::{
    changeset::{Compression, Format},
    digest::Digest,
};

/// OCI distribution-spec, "Pushing Manifests": registries should take manifests of at least 4 MiB, and those in
/// use stop there.
pub(super) const MANIFEST_MAX: u64 = 4 << 20;

pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// What we ask for.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// The key in which ORAS writes the diff id of a folder that it packed: such a layer's config names none.
const ORAS_DIFF_ID: &str = "io.deis.oras.content.digest";

/// A pointer from one document to another, or to a layer.
#[derive(Debug, Clone)]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Of a layer: its diff id, where the descriptor claims one.
    pub(super) diff_id: Option<Digest>,
}

/// A descriptor as it is written. Its digest is text until somebody needs what it leads to: entries of an index for other
/// machines may use algorithms that we do not know.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    annotations: Option<HashMap<String, String>>,
}

impl Entry {
    /// What it leads to.
    pub(super) fn descriptor(&self) -> Result<Descriptor, Problem> {
        let digest = self.digest.parse();
        let digest = digest
            .map_err(|_| malformed("a digest in it is neither sha256 nor sha512, in lower case"))?;
        let diff_id = self.annotation(ORAS_DIFF_ID).and_then(config::diff_id);
        Ok(Descriptor { media_type: self.media_type.clone(), digest, size: self.size, diff_id })
    }

    /// Whether it says which machine it is for.
    pub(super) fn has_platform(&self) -> bool {
        self.platform.is_some()
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

impl Descriptor {
    /// Whether it leads to an index.
    pub(super) fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }

    /// Whether it leads to an image.
    fn is_image(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST)
    }
}

/// A manifest whose kind is beyond doubt.
#[derive(Debug)]
pub(super) enum Manifest {
    Image { config: Descriptor, layers: Vec<Descriptor> },
    Index(Vec<Entry>),
}

/// Every field whose presence tells the kinds apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<Entry>,
    layers: Option<Vec<Entry>>,
    #[serde(borrow)]
    manifests: Option<Vec<&'a RawValue>>,
    fs_layers: Option<IgnoredAny>,
}

fn malformed(why: impl Into<String>) -> Problem {
    Problem::Malformed { what: "manifest", why: why.into() }
}

/// Says where JSON is wrong, never with its text.
pub(super) fn unreadable(what: &'static str, error: &serde_json::Error) -> Problem {
    let why = format!("it is not valid at line {} column {}", error.line(), error.column());
    Problem::Malformed { what, why }
}

/// A content type without its parameters.
pub(super) fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Reads a manifest that came with `content_type`.
///
/// # Errors
/// Another content type than the four we asked for, or one that the document contradicts by its `mediaType` or
/// by its fields; schema 1.
pub(super) fn parse(bytes: &[u8], content_type: &str) -> Result<Manifest, Problem> {
    let kind = media_type(content_type);
    if kind.starts_with("application/vnd.docker.distribution.manifest.v1") {
        return Err(SCHEMA_1);
    }
    let is_index = match kind.as_str() {
        OCI_INDEX | DOCKER_LIST => true,
        OCI_MANIFEST | DOCKER_MANIFEST => false,
        _ => return Err(malformed("its Content-Type is not that of an image manifest or index")),
    };
    let document: Document<'_> =
        serde_json::from_slice(bytes).map_err(|e| unreadable("manifest", &e))?;
    if document.fs_layers.is_some() || document.schema_version == Some(1) {
        return Err(SCHEMA_1);
    }
    if document.schema_version != Some(2) {
        return Err(malformed("its schemaVersion is not 2"));
    }
    if document.media_type.is_some_and(|inner| inner != kind) {
        return Err(malformed("its mediaType is not its Content-Type"));
    }
    match (is_index, document.config, document.layers, document.manifests) {
        (true, None, None, Some(entries)) => Ok(Manifest::Index(readable(&entries))),
        // What some tools write of an image without layers.
        (false, Some(config), layers, None) => {
            let layers =
                layers.iter().flatten().map(Entry::descriptor).collect::<Result<_, _>>()?;
            Ok(Manifest::Image { config: config.descriptor()?, layers })
        }
        (_, _, Some(_), Some(_)) => Err(malformed("it has both layers and manifests")),
        (true, ..) => Err(malformed("an index has manifests, and neither config nor layers")),
        (false, ..) => Err(malformed("a manifest has config and layers, and no manifests")),
    }
}

const SCHEMA_1: Problem = Problem::Unsupported(
    "it is an image of schema 1, which is not supported; push the image again with a current tool",
);

/// The entries of an index that can be read: one that cannot be is for nobody, and costs only itself.
fn readable(entries: &[&RawValue]) -> Vec<Entry> {
    entries.iter().filter_map(|entry| serde_json::from_str(entry.get()).ok()).collect()
}

/// An entry of an index that may be for this machine.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) descriptor: Descriptor,
    /// The index says that it is. Where it says nothing, the image's config has to.
    pub(super) is_named: bool,
}

/// The entries of an index that may be for `machine`, in the order in which to try them: the best fit, the first among equals,
/// then those that do not say what they are for.
///
/// # Errors
/// [`Problem::NoPlatform`], or a best fit that is neither an image's manifest nor an index.
pub(super) fn candidates<'a>(
    entries: impl IntoIterator<Item = &'a Entry, IntoIter: DoubleEndedIterator + Clone>,
    machine: Machine,
) -> Result<Vec<Candidate>, Problem> {
    let fit = |entry: &Entry| entry.platform.as_ref().and_then(|p| machine.fit(p));
    // max_by_key gives the last of equals.
    let entries = entries.into_iter();
    let best = entries.clone().rev().filter(|e| fit(e).is_some()).max_by_key(|e| fit(e));
    if let Some(best) = best {
        let descriptor = best.descriptor()?;
        return match descriptor.is_image() || descriptor.is_index() {
            true => Ok(vec![Candidate { descriptor, is_named: true }]),
            false => Err(Problem::Unsupported(
                "its index leads to something else than an image manifest",
            )),
        };
    }
    let unsaid = entries.clone().filter(|entry| !entry.has_platform());
    let unsaid = unsaid.filter_map(|entry| entry.descriptor().ok());
    let found: Vec<_> = unsaid
        .filter(|descriptor| descriptor.is_image() || descriptor.is_index())
        .map(|descriptor| Candidate { descriptor, is_named: false })
        .take(CANDIDATES)
        .collect();
    if found.is_empty() { Err(no_platform(entries, machine)) } else { Ok(found) }
}

/// How many entries of an index that do not say what they are for are looked at.
const CANDIDATES: usize = 8;

fn no_platform<'a>(entries: impl Iterator<Item = &'a Entry>, machine: Machine) -> Problem {
    let names = entries.filter_map(|e| e.platform.as_ref()?.name());
    let offered: Vec<_> = names.filter(|name| name != "unknown/unknown").take(12).collect();
    let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
    Problem::NoPlatform { wanted: machine.name(), offered }
}

/// Whether `config` describes a container image that is worth fetching. Some tools give an image of files alone a config that
/// says nothing, by one of these types.
///
/// # Errors
/// An artifact of another kind; a config beyond [`CONFIG_MAX`]; a layer that we cannot take, before anything is
/// downloaded.
pub(super) fn check(config: &Descriptor, layers: &[Descriptor]) -> Result<(), Problem> {
    if !matches!(
        config.media_type.as_str(),
        OCI_CONFIG
            | DOCKER_CONFIG
            | "application/vnd.oci.empty.v1+json"
            | "application/octet-stream"
            | "application/json"
            | ""
    ) {
        return Err(Problem::Unsupported("it is an artifact, not a container image"));
    }
    if config.size > CONFIG_MAX {
        return Err(Problem::TooLarge { what: "config", limit: CONFIG_MAX });
    }
    if layers.len() > LAYERS_MAX {
        let limit = LAYERS_MAX as u64;
        return Err(Problem::TooMany { what: "layers", limit });
    }
    layers.iter().try_for_each(|layer| kind(&layer.media_type).map(drop))
}

/// The most layers of an image, of which no kernel takes half as many; the same one may be there twice.
const LAYERS_MAX: usize = 1_024;

/// Joins the manifest's layers with the config's diff ids, bottom first. What is around a layer's tar is only what its media type
/// says: its first bytes decide.
///
/// # Errors
/// A config that names diff ids, and not one for each layer; one that names none, and a layer that is compressed and says none
/// itself.
pub(super) fn layers(
    layers: &[Descriptor],
    diff_ids: Option<Vec<Digest>>,
) -> Result<Vec<LayerBlob>, Problem> {
    let diff_ids = self::diff_ids(layers, diff_ids)?;
    let join = |(layer, diff_id): (&Descriptor, Digest)| {
        let (format, compression) = kind(&layer.media_type)?;
        let media_type = layer.media_type.clone();
        Ok(LayerBlob {
            digest: layer.digest,
            size: layer.size,
            media_type,
            format,
            compression,
            diff_id,
        })
    };
    layers.iter().zip(diff_ids).map(join).collect()
}

fn diff_ids(layers: &[Descriptor], named: Option<Vec<Digest>>) -> Result<Vec<Digest>, Problem> {
    let refused = |why: String| Problem::Malformed { what: "config", why };
    let named = named.filter(|ids| !ids.is_empty() || layers.is_empty());
    let Some(ids) = named else {
        let own = |layer: &Descriptor| {
            match kind(&layer.media_type)?.1 {
            Compression::None if layer.digest.algorithm() == "sha256" => Ok(layer.digest),
            _ => layer.diff_id.ok_or_else(|| {
                refused(
                    "its rootfs.diff_ids names no layer, and the manifest has layers whose sha256 before compression it does not say"
                        .into(),
                )
            }),
        }
        };
        return layers.iter().map(own).collect();
    };
    if ids.len() != layers.len() {
        let count = layers.len();
        let why = format!("it names {} diff ids for the manifest's {count} layers", ids.len());
        return Err(refused(why));
    }
    Ok(ids)
}

/// Layers that "may not be distributed" are taken like others where the registry has them; where they are only
/// elsewhere, the registry says so by 404, and the URLs in the manifest are not followed.
fn kind(media_type: &str) -> Result<(Format, Compression), Problem> {
    let compression = match media_type {
        "application/vnd.ovl-csi.layer.v1.native.tar" => {
            return Ok((Format::Native, Compression::None));
        }
        "application/vnd.ovl-csi.layer.v1.native.tar+gzip" => {
            return Ok((Format::Native, Compression::Gzip));
        }
        "application/vnd.ovl-csi.layer.v1.native.tar+zstd" => {
            return Ok((Format::Native, Compression::Zstd));
        }
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar" => Compression::None,
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Compression::Gzip,
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd" => Compression::Zstd,
        _ => return Err(Problem::Unsupported("it has a layer that is not a tar of a file system")),
    };
    Ok((Format::Portable, compression))
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
