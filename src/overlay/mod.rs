//! Overlay mounts: checks the request as a [`Plan`], then makes the mount with `sys`.
//!
//! The kernel refuses most requests with a bare EINVAL. So [`Plan`] checks every rule first and names the broken one.
//! Then [`mount()`] gives layers, upper and work to the kernel by descriptor. The features of the kernel are probed
//! once ([`KernelFeatures`]). Where the kernel takes no layers by descriptor, or only attached ones, [`KernelFeatures::mounts`]
//! returns an older mount API that carries out the same plan.
//!
//! A descriptor has three advantages over a path. The path may be longer than the 255 bytes of a text parameter. No
//! other process can replace it in between. And the mount table still shows the whole `upperdir`. (Observed on Linux
//! 6.18: the kernel makes that text at mount time, as the mounting process sees the path. It is the same in every mount
//! namespace, and a rename of the upper does not change it. A detached layer shows as `/`.)
//!
//! Deliberately absent: where a layer or an upper comes from, and who may remove it; and a check that no other overlay
//! uses the upper. Without `index=on` the kernel only warns of that. The lock of `volumes` prevents it.
//!
//! May use: sys

mod error;
mod feature;
mod features;
mod index;
mod options;
mod plan;
mod preflight;
mod probe;
mod stack;
mod upper;

use std::path::Path;
use std::sync::Arc;

use crate::{
    owner::Owner,
    sys::mounts::{self, Attrs, Detached, Mounts, Request},
};

pub use error::{LAYER_LIMIT, OverlayError, PlanError};
pub use feature::Feature;
pub use features::KernelFeatures;
pub use index::partly_named_files;
pub use options::{Options, Xino};
pub use plan::{Plan, Spec};
pub use preflight::{PreflightError, refused_file_system, root_usable};
pub use stack::{Lower, RequiredFeatures, Stack};
pub use upper::{UpperAndWork, clear_volatile_marker};

/// Makes the overlay of `plan`, detached, and checks that a writable one takes writes.
///
/// # Errors
/// Upper or work break a rule, or the kernel refuses. Nothing is mounted then; the work directory may have entries of
/// the kernel.
pub fn mount(mounts: &dyn Mounts, plan: &Plan) -> Result<Detached, OverlayError> {
    let open = |path: &Path| Ok::<_, OverlayError>(Arc::new(mounts.open_dir(path)?));
    let writable = match plan.upper() {
        Some(upper) => {
            upper.check()?;
            Some((open(upper.upper())?, open(upper.work())?))
        }
        None => None,
    };
    let layers = plan.top_first().map(|lower| match plan.owner_of(lower) {
        // The mapped mount belongs to this overlay alone: it ends with it, and no mount table shows it.
        Some(Owner { uid, gid }) => Ok(Arc::new(mounts.idmapped(&lower.dir, uid, gid)?)),
        None => Ok(lower.dir.clone()),
    });
    let missing = (0..plan.missing_layers()).map(|_| Ok(Arc::new(mounts.create(&empty())?)));
    let layers = layers.chain(missing).collect::<Result<Vec<_>, OverlayError>>()?;
    let overlay = mounts.create(&plan.request(writable, layers))?;
    match plan.upper() {
        Some(upper) if !mounts.writable(&overlay)? => Err(OverlayError::FellBackToReadOnly {
            upper: upper.upper().to_owned(),
            work: upper.work().to_owned(),
        }),
        _ => Ok(overlay),
    }
}

/// Whether an entry of the mount table is the overlay that writes to `upper`. `upper` is an absolute path without
/// symlinks.
pub fn is_ours(entry: &mounts::Mount, upper: &Path) -> bool {
    entry.fs_type == "overlay"
        && entry.super_option("upperdir").is_some_and(|shown| shown == upper.as_os_str())
}

/// Whether an entry of the mount table shows an upper.
pub fn has_upper(entry: &mounts::Mount) -> bool {
    entry.super_option("upperdir").is_some()
}

/// Whether an entry of the mount table is the overlay with this [`Spec::name`]. A read-only overlay shows no upper, so
/// only its name identifies it.
pub fn is_named(entry: &mounts::Mount, name: &str) -> bool {
    entry.fs_type == "overlay" && entry.source == name
}

/// The request for an empty read-only tmpfs. It fills a stack that has fewer layers than the kernel requires.
fn empty() -> Request {
    Request {
        fs_type: "tmpfs",
        source: "ovl-csi-empty".to_owned(),
        params: vec![
            mounts::Param::Text("mode", "0755".to_owned()),
            mounts::Param::Text("size", "4096".to_owned()),
        ],
        attrs: Attrs {
            read_only: true,
            nosuid: true,
            nodev: true,
            noexec: true,
            ..Attrs::default()
        },
    }
}

#[cfg(test)]
mod tests;
