//! Overlay mounts: planned as a checked value, then made by `sys`.
//!
//! Most of the kernel's refusals are a bare EINVAL without a word, so [`Plan`] checks every rule
//! first and says which one is broken; `mount` then gives layers, upper and work to the kernel by
//! descriptor. What this kernel can do is tried once ([`Features`]); where it does not take layers by
//! descriptor, or not while they are attached nowhere, [`Features::mounts`] hands them over in an
//! older way behind the same plan. By descriptor a path may be longer than the 255 bytes that fit a text, cannot be
//! swapped on the way, and the mount table still shows the whole `upperdir`. (Seen on Linux 6.18:
//! the text is made at mount time, as the mounting process sees the path; it is the same in every
//! mount namespace, and a rename of the upper does not change it. A detached layer shows as `/`.)
//! Deliberately absent: where a layer or an upper comes from, and who may remove it. Nothing in the
//! kernel stops two overlays from sharing one upper; the lock of `volumes` does.
//!
//! May use: sys

mod error;
mod features;
mod index;
mod options;
mod plan;
mod root;
mod stack;
mod trial;
mod upper;

use std::path::Path;
use std::sync::Arc;

use crate::sys::mounts::{self, Attrs, Detached, Mounts, Request};

pub use error::OverlayError;
pub use features::{Feature, Features};
pub use index::half_named;
pub use options::{Options, Owner, Xino};
pub use plan::{Plan, PlanError, Spec};
pub use root::{Unusable, root_usable};
pub use stack::{LAYER_LIMIT, Lower, Needs, Stack};
pub use upper::{Upper, forget_volatile};

/// Makes the overlay of `plan`, attached nowhere, and checks that it takes writes if it is to.
///
/// On an error nothing is mounted. The work folder may then hold what the kernel made in it.
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
        // A mount of its own for this overlay alone: gone with it, and in no mount table.
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

/// Whether a line of the mount table is the overlay that writes to `upper`, an absolute path
/// without symlinks.
pub fn is_ours(entry: &mounts::Mount, upper: &Path) -> bool {
    entry.fs_type == "overlay"
        && entry.super_option("upperdir").is_some_and(|shown| shown == upper.as_os_str())
}

/// Whether a line of the mount table shows an upper.
pub fn has_upper(entry: &mounts::Mount) -> bool {
    entry.super_option("upperdir").is_some()
}

/// Whether a line of the mount table is the overlay made with [`Spec::name`] `name`: the only mark
/// of a read-only one, which shows no upper.
pub fn is_named(entry: &mounts::Mount, name: &str) -> bool {
    entry.fs_type == "overlay" && entry.source == name
}

/// An empty read-only tree: the bottom of a stack that has too few layers for the kernel.
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
