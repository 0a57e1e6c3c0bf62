//! The names of overlay's own extended attributes (kernel doc, overlayfs.rst; Linux, `fs/overlayfs/overlayfs.h`).
//!
//! Deliberately absent: which of them count in a layer. `changeset` and `sys::clone` decide that.

/// The prefix of all of them, outside of a user namespace.
pub const PREFIX: &str = "trusted.overlay.";

/// The prefix of the attributes that a process inside an overlay has set: overlay escapes them.
pub const ESCAPED: &str = "trusted.overlay.overlay.";

/// `y` on a directory that hides what is below it; `x` on one that contains files as whiteouts.
pub const OPAQUE: &str = "trusted.overlay.opaque";

/// The path of the content in the layers below: absolute, or a name in the same directory.
pub const REDIRECT: &str = "trusted.overlay.redirect";

/// On a file whose content is in the layers below.
pub const METACOPY: &str = "trusted.overlay.metacopy";

/// The inode from which an entry was copied up.
pub const ORIGIN: &str = "trusted.overlay.origin";

/// On an empty file that is a whiteout.
pub const WHITEOUT: &str = "trusted.overlay.whiteout";

/// On a directory that contains files as whiteouts (Linux 6.7 only).
pub const WHITEOUTS: &str = "trusted.overlay.whiteouts";

/// The number of names that a file has in the overlay, as a difference from the links of its inode. One of these links
/// is the entry in the index.
pub const NLINK: &str = "trusted.overlay.nlink";

/// On a directory in which the inode number of an entry comes from another layer.
pub const IMPURE: &str = "trusted.overlay.impure";

/// On the root of an upper: the UUID of the overlay.
pub const UUID: &str = "trusted.overlay.uuid";

/// Attributes by which overlay protects a file, such as `i` for immutable.
pub const PROTATTR: &str = "trusted.overlay.protattr";

/// Whether overlay uses the attribute itself, also in a user namespace.
pub fn is_overlays(name: &[u8]) -> bool {
    name.starts_with(PREFIX.as_bytes()) || name.starts_with(b"user.overlay.")
}
