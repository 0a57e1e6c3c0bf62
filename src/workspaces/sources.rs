//! Where the layers of a tree come from: images of registries and of files, a tar, and a directory that is copied.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{
    chains::is_chain_id, error::WorkspaceError, fetching::Fetching, lock::OnLocked,
    open::Workspaces,
};
use crate::{
    changeset::{self, LayerFeatures, Limits},
    digest::{BlobDigest, ManifestDigest},
    error::Class,
    image::{Access, Image, ImageError, Keyring, LayerBlob, Local, Registries},
    layers::{
        AddError, ImageDetails, LayerKey, Lease, NewLayer, Origin, PackedBlob, SnapshotContents,
        SnapshotId,
    },
    media_type::{Compression, Format},
    reference::Reference,
    sys::clone::{CloneError, Round, TreeClone},
};

/// The registry of layers that came from files of this machine. No reference can name it.
const FILES: &str = "file:";

/// A source of layers, as users write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An image of a registry.
    Reference(Reference),
    /// An image in local files: `oci:PATH[:TAG]`, `oci-archive:PATH[:TAG]` or `docker-archive:PATH[:NAME]`.
    Files(String),
    /// One layer: `tar:PATH`, compressed or not.
    Tar(PathBuf),
    /// A directory that is copied: `rootfs:PATH`.
    RootFs(PathBuf),
    /// Layers of the store: the ChainID of their stack.
    Chain(String),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = |path: &str| match path {
            "" => Err(format!("{text:?} has no path")),
            path => Ok(PathBuf::from(path)),
        };
        match text.split_once(':') {
            Some(("oci" | "oci-archive" | "docker-archive", rest)) => {
                path(rest).map(|_| Self::Files(text.to_owned()))
            }
            Some(("sha256", digits)) if digits.len() == 64 && is_chain_id(text) => {
                Ok(Self::Chain(text.to_owned()))
            }
            Some(("tar", rest)) => path(rest).map(Self::Tar),
            Some(("rootfs", rest)) => path(rest).map(Self::RootFs),
            _ => text.parse().map(Self::Reference).map_err(|e| {
                format!(
                    "{e}; or write oci:PATH, oci-archive:PATH, docker-archive:PATH, tar:PATH or rootfs:PATH"
                )
            }),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reference(reference) => write!(f, "{reference}"),
            Self::Files(text) | Self::Chain(text) => f.write_str(text),
            Self::Tar(path) => write!(f, "tar:{}", path.display()),
            Self::RootFs(path) => write!(f, "rootfs:{}", path.display()),
        }
    }
}

/// Layers of sources, all of them in the store.
#[derive(Debug, Default)]
pub struct Stacked {
    /// Their keys, bottom first.
    pub layers: Vec<LayerKey>,
    /// The manifests of the images.
    pub manifests: Vec<ManifestDigest>,
    /// Keeps the layers until a record names them.
    pub lease: Vec<Lease>,
}

impl Workspaces {
    /// Brings the layers of `sources` to the store, bottom first.
    ///
    /// # Errors
    /// A source cannot be read, or the disk is full.
    pub async fn add_sources(
        &self,
        sources: &[Source],
        registries: &Registries,
        keyring: &Keyring,
    ) -> Result<Stacked, WorkspaceError> {
        let mut stacked = Stacked::default();
        let mut copied: Vec<(&Path, LayerKey)> = Vec::new();
        for source in sources {
            match source {
                Source::Reference(reference) => {
                    self.pull(reference, registries, keyring, &mut stacked).await?;
                }
                Source::Files(text) => self.add_files(text, &mut stacked).await?,
                Source::Tar(path) => {
                    let (format, below) = (Format::Portable, Vec::new());
                    let keys = self.add_tar_file(below, path, format, &mut stacked).await?;
                    stacked.layers.extend(keys);
                }
                Source::RootFs(path) => match copied.iter().find(|(other, _)| other == path) {
                    // One copy is enough for a directory that is named twice.
                    Some((_, key)) => stacked.layers.push(*key),
                    None => copied.push((path, self.add_directory(path, &mut stacked)?)),
                },
                Source::Chain(text) => {
                    let (layers, leases) = self.state(text, OnLocked::Wait)?.without_directory()?;
                    stacked.layers.extend(layers);
                    stacked.lease.extend(leases);
                }
            }
        }
        Ok(stacked)
    }

    async fn pull(
        &self,
        reference: &Reference,
        registries: &Registries,
        keyring: &Keyring,
        stacked: &mut Stacked,
    ) -> Result<(), WorkspaceError> {
        let failed = |e: ImageError| source_error(reference, e);
        let image = registries.resolve(reference, keyring).await.map_err(failed)?;
        let open =
            async |layer: &LayerBlob| registries.blob(&image, layer, keyring).await.map_err(failed);
        let origin = |layer: &LayerBlob| origin_in_registry(&image, layer);
        let text = reference.to_string();
        let layers = &image.layers;
        let keys = self.add_layers(&text, Vec::new(), layers, origin, open, stacked).await?;
        let details = ImageDetails {
            index: image.index,
            config_digest: Some(image.config_digest),
            config: Some(image.config),
        };
        self.record_image(&text, &keys, stacked, image.digest, details)
    }

    async fn add_files(&self, text: &str, stacked: &mut Stacked) -> Result<(), WorkspaceError> {
        let failed = |e| source_error(text, e);
        let local = Local::open(text).map_err(failed)?;
        let open = async |layer: &LayerBlob| local.blob(layer).map_err(failed);
        let origin = |layer: &LayerBlob| origin_in_files(text, layer.digest);
        let image = local.image();
        let keys = self.add_layers(text, Vec::new(), &image.layers, origin, open, stacked).await?;
        let details =
            ImageDetails { config: Some(image.config.clone()), ..ImageDetails::default() };
        self.record_image(text, &keys, stacked, ManifestDigest::new(image.digest), details)
    }

    /// Adds layers on top of those with `keys`, bottom first, without those that the store has. Returns the keys of all.
    async fn add_layers<B: Read + Send>(
        &self,
        text: &str,
        mut keys: Vec<LayerKey>,
        layers: &[LayerBlob],
        origin: impl Fn(&LayerBlob) -> Origin,
        open: impl AsyncFn(&LayerBlob) -> Result<B, WorkspaceError>,
        stacked: &mut Stacked,
    ) -> Result<Vec<LayerKey>, WorkspaceError> {
        for (number, layer) in layers.iter().enumerate() {
            if let Some(key) = self.use_layer(layer, &keys, stacked)? {
                keys.push(key);
                continue;
            }
            let LayerBlob { diff_id, format, size, .. } = *layer;
            let new = NewLayer { diff_id, format, origin: origin(layer) };
            let at = Fetching {
                image: text.to_owned(),
                layer: number + 1,
                layers: layers.len(),
                done: 0,
                size,
            };
            let counted = |blob| self.on_fetching.counted(blob, at.clone());
            let key = match self.add(&new, size, alone(&keys), counted(open(layer).await?)) {
                Err(error) if needs_below(&error) => {
                    self.add(&new, size, Some(&keys), counted(open(layer).await?))?
                }
                added => added?,
            };
            self.keep(key, stacked)?;
            keys.push(key);
        }
        Ok(keys)
    }

    /// One layer of a tar file, on top of those with `keys`. Returns the keys of all.
    pub(super) async fn add_tar_file(
        &self,
        keys: Vec<LayerKey>,
        path: &Path,
        format: Format,
        stacked: &mut Stacked,
    ) -> Result<Vec<LayerKey>, WorkspaceError> {
        let text = format!("tar:{}", path.display());
        let open = || fs::File::open(path).map_err(|e| source_error(&text, e));
        let size = open()?.metadata()?.len();
        self.add_tar(keys, &text, size, format, open, stacked).await
    }

    /// One layer of a tar of `size` bytes, compressed or not, on top of those with `keys`. Its bytes are read twice: its name
    /// in the store is the digest of all of them. Returns the keys of all.
    pub(super) async fn add_tar<B: Read + Send>(
        &self,
        keys: Vec<LayerKey>,
        text: &str,
        size: u64,
        format: Format,
        open: impl Fn() -> Result<B, WorkspaceError>,
        stacked: &mut Stacked,
    ) -> Result<Vec<LayerKey>, WorkspaceError> {
        let limits = Limits { budget: self.store.budget.clone(), ..Limits::default() };
        let diff_id = changeset::diff_id_of(open()?, &limits).map_err(|e| source_error(text, e))?;
        let digest = BlobDigest::new(*diff_id.digest());
        let (media_type, compression) = (String::new(), Compression::None);
        let layer = LayerBlob { digest, size, media_type, format, compression, diff_id };
        let origin = |_: &LayerBlob| origin_in_files(text, digest);
        self.add_layers(text, keys, &[layer], origin, async |_: &LayerBlob| open(), stacked).await
    }

    /// A copy of a directory, as one layer.
    fn add_directory(
        &self,
        path: &Path,
        stacked: &mut Stacked,
    ) -> Result<LayerKey, WorkspaceError> {
        let text = format!("rootfs:{}", path.display());
        let path = path.canonicalize().map_err(|e| source_error(&text, e))?;
        let id = SnapshotId::unique("rootfs")?;
        let staged = self.store.layers.stage_snapshot(&id)?;
        self.keep(staged.key(), stacked)?;
        let (bounds, scratch) = (Limits::default().bounds(), self.store.disk.scratch());
        let mut clone = TreeClone::new(&path, &staged.tree(), &staged.aside(), bounds, &scratch)?;
        let copy = |clone: &mut TreeClone| -> Result<(), CloneError> {
            clone.sync()?;
            clone.catch_up(Round::PreCopy, &|| true)?;
            clone.sync()?;
            clone.catch_up(Round::Live, &|| true)
        };
        copy(&mut clone).map_err(|error| match error {
            // It is not the source that is full.
            CloneError::Entry { source, .. } | CloneError::Records(source)
                if Class::of_disk(&source) == Class::Exhausted =>
            {
                io::Error::new(source.kind(), format!("cannot copy {text}: {source}")).into()
            }
            error => source_error(&text, error),
        })?;
        let (contents, dirty) = (clone.contents(), clone.dirty());
        drop(clone);
        let features = LayerFeatures::default();
        let contents = SnapshotContents { features, ..contents.into() };
        let key = staged.key();
        staged.commit(contents, dirty)?;
        stacked.layers.push(key);
        Ok(key)
    }

    /// The key of a layer that the store has already, alone or on top of the layers `below`.
    fn use_layer(
        &self,
        layer: &LayerBlob,
        below: &[LayerKey],
        stacked: &mut Stacked,
    ) -> Result<Option<LayerKey>, WorkspaceError> {
        let layers = &self.store.layers;
        for key in layers.possible_keys(&layer.diff_id, layer.format, below)? {
            if let Some(lease) = self.store.leases.take_if_present(&[key])? {
                stacked.lease.push(lease);
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    fn keep(&self, key: LayerKey, stacked: &mut Stacked) -> Result<(), WorkspaceError> {
        stacked.lease.push(self.store.leases.take(&[key])?);
        Ok(())
    }

    fn add(
        &self,
        layer: &NewLayer,
        size: u64,
        below: Option<&[LayerKey]>,
        blob: impl Read + Send,
    ) -> Result<LayerKey, WorkspaceError> {
        let reservation = self.store.disk.reserve(size)?;
        let layers = &self.store.layers;
        match below {
            Some(below) => Ok(layers.add_with_layers_below(layer, below, reservation, blob)?),
            None => {
                layers.add(layer, reservation, blob)?;
                Ok(LayerKey::alone(&layer.diff_id, layer.format))
            }
        }
    }

    fn record_image(
        &self,
        name: &str,
        keys: &[LayerKey],
        stacked: &mut Stacked,
        manifest: ManifestDigest,
        details: ImageDetails,
    ) -> Result<(), WorkspaceError> {
        let put = self.store.images.put(name, manifest, keys, &details);
        put.map_err(|e| source_error(name, e))?;
        stacked.layers.extend(keys);
        stacked.manifests.push(manifest);
        Ok(())
    }
}

/// The layers below a layer that is first unpacked alone. The bottom layer has none, so nothing that it needs is elsewhere.
fn alone(below: &[LayerKey]) -> Option<&[LayerKey]> {
    below.is_empty().then_some(below)
}

fn needs_below(error: &WorkspaceError) -> bool {
    matches!(error, WorkspaceError::Add(error) if AddError::needs_layers_below(error))
}

fn origin_in_registry(image: &Image, layer: &LayerBlob) -> Origin {
    Origin {
        registry: image.reference.registry().to_owned(),
        repository: image.reference.repository().to_owned(),
        blob: layer.digest,
        public: image.access == Access::Anonymous,
        packed: Some(PackedBlob {
            media_type: layer.media_type.clone(),
            size: layer.size,
            diff_id: layer.diff_id,
        }),
        namespace: None,
    }
}

fn origin_in_files(text: &str, blob: BlobDigest) -> Origin {
    let (registry, repository) = (FILES.to_owned(), text.to_owned());
    Origin { registry, repository, blob, public: false, packed: None, namespace: None }
}

pub(super) fn source_error(text: impl fmt::Display, why: impl fmt::Display) -> WorkspaceError {
    WorkspaceError::Source { text: text.to_string(), why: why.to_string() }
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod real_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_reference_or_has_a_known_prefix() {
        let parsed = |text: &str| text.parse::<Source>();
        assert_eq!(parsed("tar:/a/b.tar"), Ok(Source::Tar("/a/b.tar".into())));
        assert_eq!(parsed("rootfs:/srv"), Ok(Source::RootFs("/srv".into())));
        for text in ["oci:/img:1", "oci-archive:img.tar", "docker-archive:/img.tar:a:1"] {
            assert_eq!(parsed(text), Ok(Source::Files(text.into())));
        }
        let image = parsed("debian:13").unwrap();
        assert!(matches!(&image, Source::Reference(_)), "{image:?}");
        assert_eq!(parsed("tar:").unwrap_err(), "\"tar:\" has no path");
        assert!(parsed("Not An Image").unwrap_err().contains("or write oci:PATH"));
    }
}
