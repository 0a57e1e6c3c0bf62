//! What can be chosen about an overlay, and what the kernel is told about it.
//!
//! Every option is always spelled out: the defaults differ between kernels and distributions.
//! Deliberately absent: `uuid`, which is always `null` because any other value writes a mark into
//! the upper, and `userxattr`, which is for mounts without privilege.

use super::plan::PlanError;
use crate::sys::mounts::{Attrs, Param};

/// Options of one overlay (kernel: Documentation/filesystems/overlayfs.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// No sync ever reaches the upper: fast, and after a crash the upper is not to be trusted.
    pub volatile: bool,
    /// A change of owner or mode copies no data up.
    pub metacopy: bool,
    /// A folder of a layer can be renamed (else EXDEV, and programs copy it).
    pub redirect_dir: bool,
    /// Hard links survive copy-up. Ties the upper to the very file systems of its layers.
    pub index: bool,
    /// The mount can be exported over NFS.
    pub nfs_export: bool,
    /// How inode numbers are made unique across layers.
    pub xino: Xino,
    /// Ignore set-user-id bits, which the layers' own mounts do not pass on.
    pub nosuid: bool,
    /// Refuse to open device nodes.
    pub nodev: bool,
    /// Refuse to execute files.
    pub noexec: bool,
}

/// Inode numbers across layers. On, they pass 2^53 and programs in JavaScript mistake files for one
/// another; off, `st_dev` differs by layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xino {
    /// As the layers have them.
    Off,
    /// The layer's number in the high bits.
    On,
    /// On where the file systems leave room.
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
            xino: Xino::Off,
            nosuid: true,
            nodev: true,
            noexec: false,
        }
    }
}

impl Options {
    /// Refuses what the kernel refuses, and what it would silently leave out.
    pub(super) fn check(&self, has_upper: bool) -> Result<(), PlanError> {
        let rules = [
            (self.metacopy && !self.redirect_dir, PlanError::MetacopyNeedsRedirectDir),
            (self.metacopy && self.nfs_export, PlanError::MetacopyExcludesNfsExport),
            (self.nfs_export && !self.index, PlanError::NfsExportNeedsIndex),
            (self.volatile && !has_upper, PlanError::NeedsUpper { option: "volatile" }),
            (self.index && !has_upper, PlanError::NeedsUpper { option: "index" }),
        ];
        match rules.into_iter().find(|(broken, _)| *broken) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    pub(super) fn params(&self) -> Vec<Param> {
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
            Param::Text("uuid", "null".to_owned()),
        ];
        if self.volatile {
            params.push(Param::Flag("volatile"));
        }
        params
    }

    pub(super) fn attrs(&self, read_only: bool) -> Attrs {
        Attrs { read_only, nosuid: self.nosuid, nodev: self.nodev, noexec: self.noexec }
    }
}
