//! What can be chosen about an overlay, and what the kernel is told about it.
//!
//! Every option is always spelled out: the defaults differ between kernels and distributions.
//! Deliberately absent: `uuid`, which is `null` because Linux 6.6 and later write a mark into the
//! upper for any other value (earlier kernels have neither the mark nor the word), and `userxattr`, which is for mounts without privilege.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{plan::PlanError, stack::Needs};
use crate::sys::mounts::{Attrs, Param};

/// Options of one overlay (kernel: Documentation/filesystems/overlayfs.rst).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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
    /// Never write access times.
    pub noatime: bool,
    /// The SELinux label of everything in the mount, as the kubelet gives it.
    pub context: Option<String>,
}

/// Whom files of root in the layers appear to belong to. The map swaps 0 with the user (and 0 with the group) and leaves
/// everybody else, so it can be turned back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Text that is no owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected UID:GID, two numbers such as 1000:1000")]
pub struct OwnerError;

impl FromStr for Owner {
    type Err = OwnerError;

    fn from_str(text: &str) -> Result<Self, OwnerError> {
        let id = |text: &str| {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            // The last number means "nobody said" to the kernel.
            text.parse().ok().filter(|id| digits && *id != u32::MAX)
        };
        let (uid, gid) = text.split_once(':').ok_or(OwnerError)?;
        Ok(Self { uid: id(uid).ok_or(OwnerError)?, gid: id(gid).ok_or(OwnerError)? })
    }
}

impl Owner {
    /// Whom a file of `uid` and `gid` appears to belong to.
    pub fn shows(self, uid: u32, gid: u32) -> (u32, u32) {
        let swap = |id, with| match id {
            0 => with,
            id if id == with => 0,
            id => id,
        };
        (swap(uid, self.uid), swap(gid, self.gid))
    }
}

/// Inode numbers across layers. On, those of a layer's files pass 2^53, which a program in JavaScript cannot hold; off, every
/// regular file has another `st_dev` than its directory, and a directory's number changes whenever the kernel forgets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Refuses what the kernel refuses, and what it would silently leave out.
    pub(super) fn check(&self, has_upper: bool) -> Result<(), PlanError> {
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

    /// What of a layer's marks would not be followed, and the attribute's value that is in the way.
    pub(super) fn forbids(&self, needs: Needs) -> Option<(&'static str, &'static str)> {
        let without_metacopy = match self {
            _ if !self.redirect_dir => "redirectDir: off",
            _ if self.nfs_export => "nfsExport: on",
            _ => "metacopy: off",
        };
        let rules = [
            (needs.redirect_dir && !self.redirect_dir, "renamed folders", "redirectDir: off"),
            (
                needs.metacopy && !self.metacopy,
                "files whose content lies in a layer below it",
                without_metacopy,
            ),
        ];
        let (_, marks, option) = rules.into_iter().find(|(forbidden, ..)| *forbidden)?;
        Some((marks, option))
    }

    /// As the kernel is told it; `null_uuid` where the kernel knows that word.
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
