//! Writes an image into files.

use std::{fs::File, path::Path};

use super::{
    Sent,
    destination::Destination,
    docker,
    error::OutgoingError,
    layout::{self, INDEX, MARKER, MARKER_CONTENT},
    layout_dir::LayoutDir,
    new_file::NewFile,
    source::OutgoingImage,
};
use crate::{
    changeset::ArchiveWriter,
    digest::{Digest, ManifestDigest},
    media_type::{Compression, Format},
    reference::Reference,
    snapshots::Blob,
    workspaces::WorkspaceError,
};

impl OutgoingImage<'_> {
    /// Writes the image. The layers of a docker archive are not compressed. Without a name in `to`, the image has the name
    /// that it has in the store, if that is one of a registry. `report` gets what is being done.
    ///
    /// # Errors
    /// The destination exists or is something else, the disk is full, or a layer cannot be read. Nothing is left there then.
    pub fn export(
        &self,
        to: &Destination,
        compression: Compression,
        report: &mut dyn FnMut(&str),
    ) -> Result<Sent, WorkspaceError> {
        let name =
            |name: &Option<String>| name.clone().or_else(|| self.name().map(ToString::to_string));
        let (digest, layers) = match to {
            Destination::Layout { dir, name: wanted } => {
                self.export_layout(dir, name(wanted).as_deref(), compression, report)?
            }
            Destination::OciArchive { file, name: wanted } => {
                self.export_oci_archive(file, name(wanted).as_deref(), compression, report)?
            }
            Destination::DockerArchive { file, name } => {
                self.export_docker_archive(file, name.as_ref().or(self.name()), report)?
            }
        };
        Ok(Sent {
            digest: ManifestDigest::new(digest),
            layers: layers.len(),
            new_diff_ids: self.new_diff_ids(&layers)?,
            bytes: layers.iter().map(|layer| layer.packed.size).sum(),
        })
    }

    fn export_layout(
        &self,
        dir: &Path,
        name: Option<&str>,
        compression: Compression,
        report: &mut dyn FnMut(&str),
    ) -> Result<(Digest, Vec<Blob>), WorkspaceError> {
        let mut layout = LayoutDir::open(dir)?;
        let layers = self.pack_all(report, |number| {
            let file = layout.begin()?;
            let layer = self.packed_into(number, compression, &file, layout.path())?;
            layout.end(&file, layer.digest.digest())?;
            Ok(layer)
        })?;
        let config = self.config(&layers);
        let manifest = self.manifest(&config, &layers);
        layout.add(&config)?;
        layout.add(&manifest)?;
        layout.finish(&manifest, name)?;
        Ok((Digest::of(&manifest), layers))
    }

    fn export_oci_archive(
        &self,
        path: &Path,
        name: Option<&str>,
        compression: Compression,
        report: &mut dyn FnMut(&str),
    ) -> Result<(Digest, Vec<Blob>), WorkspaceError> {
        let failed = || OutgoingError::writing(path);
        let file = NewFile::create(path)?;
        let mut archive = ArchiveWriter::new(file.open().map_err(failed())?);
        archive.add(MARKER, MARKER_CONTENT).map_err(failed())?;
        let layers = self.pack_all(report, |number| {
            archive.add_with(|to| {
                let layer = self.packed_into(number, compression, to, path)?;
                Ok((layout::blob(layer.digest.digest()), layer))
            })
        })?;
        let config = self.config(&layers);
        let manifest = self.manifest(&config, &layers);
        for document in [&config, &manifest] {
            archive.add(&layout::blob(&Digest::of(document)), document).map_err(failed())?;
        }
        let index = layout::index(None, &manifest, name).map_err(std::io::Error::other);
        archive.add(INDEX, &index.map_err(failed())?).map_err(failed())?;
        archive.finish().map_err(failed())?;
        file.finish()?;
        Ok((Digest::of(&manifest), layers))
    }

    fn export_docker_archive(
        &self,
        path: &Path,
        name: Option<&Reference>,
        report: &mut dyn FnMut(&str),
    ) -> Result<(Digest, Vec<Blob>), WorkspaceError> {
        let failed = || OutgoingError::writing(path);
        let file = NewFile::create(path)?;
        let mut archive = ArchiveWriter::new(file.open().map_err(failed())?);
        let layers = self.pack_all(report, |number| {
            archive.add_with(|to| {
                let layer = self.packed_into(number, Compression::None, to, path)?;
                Ok((docker::layer(&layer), layer))
            })
        })?;
        let config = self.config(&layers);
        archive.add(&docker::config(&config), &config).map_err(failed())?;
        let manifest = docker::manifest(&config, &layers, name);
        archive.add(docker::MANIFEST, &manifest).map_err(failed())?;
        archive.finish().map_err(failed())?;
        file.finish()?;
        Ok((Digest::of(&config), layers))
    }

    /// Packs every layer, bottom first.
    pub(super) fn pack_all(
        &self,
        report: &mut dyn FnMut(&str),
        mut pack: impl FnMut(usize) -> Result<Blob, WorkspaceError>,
    ) -> Result<Vec<Blob>, WorkspaceError> {
        let count = self.layers();
        let mut one = |number| {
            report(&format!("layer {} of {count}", number + 1));
            pack(number)
        };
        (0..count).map(&mut one).collect()
    }

    fn packed_into(
        &self,
        number: usize,
        compression: Compression,
        mut to: &File,
        path: &Path,
    ) -> Result<Blob, WorkspaceError> {
        let packed = self.pack(number, compression, &mut to, OutgoingError::packing(path))?;
        Ok(Blob::packed(&packed, Format::Portable))
    }
}
