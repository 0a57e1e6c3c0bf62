//! The options of an overlay mount, and their mount parameters.
//!
//! Every option with an on and an off is always given to the kernel: the defaults differ between kernels and
//! distributions.
//!
//! Deliberately absent: `uuid`, which is always `null`, because Linux 6.6 and later write an xattr to the upper for any
//! other value (earlier kernels have neither the xattr nor the option); and `userxattr`, which is for mounts without
//! privilege.

use serde::{Deserialize, Serialize};

use super::{error::PlanError, stack::RequiredFeatures};
use crate::sys::mounts::{Attrs, Param};

/// Options of one overlay (kernel: Documentation/filesystems/overlayfs.rst).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// No sync reaches the upper. Writes are fast, but after a crash the upper is not to be trusted.
    pub volatile: bool,
    /// A change of owner or mode copies no data up.
    pub metacopy: bool,
    /// A directory of a layer can be renamed. Without it the kernel returns EXDEV, and programs copy the directory.
    pub redirect_dir: bool,
    /// Hard links survive copy-up. It ties the upper to the file systems of its layers.
    pub index: bool,
    /// The mount can be exported over NFS.
    pub nfs_export: bool,
    /// How inode numbers are made unique across layers.
    pub xino: Xino,
    /// The mount ignores set-user-id bits. It must do so itself: `nosuid` of the layers' mounts has no effect on the
    /// overlay.
    pub nosuid: bool,
    /// The mount refuses to open device nodes.
    pub nodev: bool,
    /// The mount refuses to execute files.
    pub noexec: bool,
    /// The mount never writes access times.
    pub noatime: bool,
    /// The SELinux label of all files in the mount, as the kubelet gives it (`context=`).
    pub context: Option<String>,
}

/// The inode numbers of an overlay with several layers.
///
/// `On`: the numbers of a layer's files are above 2^53, which a program in JavaScript cannot represent. `Off`: a
/// regular file has another `st_dev` than its directory, and the number of a directory changes whenever the kernel
/// drops its inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Xino {
    /// The numbers of the layers, unchanged.
    Off,
    /// The index of the layer is in the high bits.
    On,
    /// `On` where the numbers of the file systems have unused high bits.
    Auto,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            volatile: false,
            metacopy: true,
            redirect_dir: true,
            index: false,
            nfs_export: false,
            xino: Xino::Auto,
            nosuid: true,
            nodev: true,
            noexec: false,
            noatime: false,
            context: None,
        }
    }
}

impl Options {
    /// Refuses combinations that the kernel refuses, and options that it would ignore without an error.
    ///
    /// # Errors
    /// The first rule that they break.
    pub fn check(&self, has_upper: bool) -> Result<(), PlanError> {
        let rules = [
            (self.metacopy && !self.redirect_dir, PlanError::MetacopyNeedsRedirectDir),
            (self.metacopy && self.nfs_export, PlanError::MetacopyExcludesNfsExport),
            (self.nfs_export && !self.index, PlanError::NfsExportNeedsIndex),
            (self.volatile && !has_upper, PlanError::NeedsUpper { option: "volatile" }),
            (self.index && !has_upper, PlanError::NeedsUpper { option: "index" }),
        ];
        if let Some(label) = &self.context
            && (label.is_empty() || label.contains(|c: char| c == '"' || c.is_control()))
        {
            return Err(PlanError::Label { label: label.clone() });
        }
        match rules.into_iter().find(|(broken, _)| *broken) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// The first kind of files of a layer that cannot be read with these options, and the attribute that prevents it.
    pub(super) fn forbids(&self, needs: RequiredFeatures) -> Option<(&'static str, &'static str)> {
        let without_metacopy = match self {
            _ if !self.redirect_dir => "redirectDir: off",
            _ if self.nfs_export => "nfsExport: on",
            _ => "metacopy: off",
        };
        let rules = [
            (needs.redirect_dir && !self.redirect_dir, "renamed directories", "redirectDir: off"),
            (
                needs.metacopy && !self.metacopy,
                "files whose content lies in a layer below it",
                without_metacopy,
            ),
        ];
        let (_, files, option) = rules.into_iter().find(|(forbidden, ..)| *forbidden)?;
        Some((files, option))
    }

    /// The mount parameters. `null_uuid` says whether the kernel knows `uuid=null`.
    pub(super) fn params(&self, null_uuid: bool) -> Vec<Param> {
        let switch = |key, on| Param::Text(key, if on { "on" } else { "off" }.to_owned());
        let xino = match self.xino {
            Xino::Off => "off",
            Xino::On => "on",
            Xino::Auto => "auto",
        };
        let mut params = vec![
            switch("redirect_dir", self.redirect_dir),
            switch("metacopy", self.metacopy),
            switch("index", self.index),
            switch("nfs_export", self.nfs_export),
            Param::Text("xino", xino.to_owned()),
        ];
        if null_uuid {
            params.push(Param::Text("uuid", "null".to_owned()));
        }
        if self.volatile {
            params.push(Param::Flag("volatile"));
        }
        if let Some(label) = &self.context {
            params.push(Param::Text("context", label.clone()));
        }
        params
    }

    pub(super) fn attrs(&self, read_only: bool) -> Attrs {
        let Self { nosuid, nodev, noexec, noatime, .. } = *self;
        Attrs { read_only, nosuid, nodev, noexec, noatime }
    }
}
