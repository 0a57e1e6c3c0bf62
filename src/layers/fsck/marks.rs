//! Checks the marks of overlay in a layer: its extended attributes. Whiteouts of other kinds are allowed in every layer.
//!
//! Which ones a layer may have is in its metadata ([`LayerFeatures`]). A mark that it may not have can lead to files of
//! other layers, or makes a path fail with EPERM.
//!
//! Deliberately absent: whether the target of a redirect exists, which only the layers below can show.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::PathBuf,
};

use crate::{
    changeset::{LayerFeatures, is_redirect},
    erofs::{Image, InodeInfo, InodeKind},
    overlay_xattr::{
        ESCAPED, IMPURE, METACOPY, NLINK, OPAQUE, ORIGIN, PREFIX, PROTATTR, REDIRECT, UUID,
        WHITEOUT, WHITEOUTS,
    },
    sys::{
        mounts::Detached,
        tree_reader::{Entry, EntryType},
    },
};

/// The most marks of one layer that are reported.
const MOST: usize = 20;
/// The most changed files of one layer that are named.
const MOST_CHANGED: usize = 5;

/// What a walk through a layer has found.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The marks that the layer may not have: the path in the layer, and what is wrong.
    pub(super) faults: Vec<(PathBuf, String)>,
    /// Some of the paths that were changed after the layer was made.
    pub(super) changed: Vec<PathBuf>,
    /// The number of all such paths.
    pub(super) changed_count: u64,
}

/// The type of an entry, as far as marks depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    Dir,
    File { is_empty: bool },
    Other,
}

impl Marks {
    /// Walks a directory tree. `made` is the time of the file system, in seconds and nanoseconds, at which it was complete.
    pub(super) fn of_tree(
        tree: &Detached,
        features: LayerFeatures,
        made: (i64, i64),
    ) -> io::Result<Self> {
        let mut walk = TreeWalk { features, made, path: Vec::new(), found: Self::default() };
        walk.entry(&Entry::root(tree)?)?;
        Ok(walk.found)
    }

    /// Walks an EROFS image.
    pub(super) fn of_image(image: &File, features: LayerFeatures) -> io::Result<Self> {
        let image = Image::open(image)?;
        let root = image.inode(image.root())?;
        let mut found = Self::default();
        found.inode(&image, &mut Vec::new(), &root, features)?;
        Ok(found)
    }

    fn inode(
        &mut self,
        image: &Image<'_>,
        path: &mut Vec<u8>,
        inode: &InodeInfo,
        features: LayerFeatures,
    ) -> io::Result<()> {
        let on = match inode.kind {
            InodeKind::Dir => On::Dir,
            InodeKind::File(size) => On::File { is_empty: size == 0 },
            InodeKind::Symlink | InodeKind::Special(_) => On::Other,
        };
        let all: Vec<_> = inode.meta.xattrs.named().collect();
        let own: Vec<_> =
            all.into_iter().filter(|(name, _)| name.starts_with(PREFIX.as_bytes())).collect();
        self.check(path, &own, on, features);
        if on != On::Dir {
            return Ok(());
        }
        image.dir(inode, |name, nid| {
            let len = path.len();
            push(path, name);
            self.inode(image, path, &image.inode(nid)?, features)?;
            path.truncate(len);
            Ok(())
        })
    }

    fn check(
        &mut self,
        path: &[u8],
        marks: &[(Vec<u8>, Vec<u8>)],
        on: On,
        features: LayerFeatures,
    ) {
        let has_metacopy = marks.iter().any(|(name, _)| name == METACOPY.as_bytes());
        for (name, value) in marks {
            if self.faults.len() < MOST
                && let Some(why) = refusal(name, value, on, has_metacopy, features)
            {
                let what = format!("its attribute {} {why}", String::from_utf8_lossy(name));
                self.faults.push((shown(path), what));
            }
        }
    }
}

struct TreeWalk {
    features: LayerFeatures,
    made: (i64, i64),
    path: Vec<u8>,
    found: Marks,
}

impl TreeWalk {
    fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        let metadata = entry.metadata()?;
        if (metadata.ctime(), metadata.ctime_nsec()) > self.made {
            self.found.changed_count += 1;
            if self.found.changed.len() < MOST_CHANGED {
                self.found.changed.push(shown(&self.path));
            }
        }
        let on = match entry.entry_type() {
            EntryType::Dir => On::Dir,
            EntryType::File => On::File { is_empty: metadata.len() == 0 },
            _ => On::Other,
        };
        self.found.check(&self.path, &entry.overlay_xattrs()?, on, self.features);
        if on != On::Dir {
            return Ok(());
        }
        entry.names(|name| {
            // It is gone if the layer is being removed.
            let Some(below) = entry.entry(name)? else { return Ok(()) };
            let len = self.path.len();
            push(&mut self.path, name);
            self.entry(&below)?;
            self.path.truncate(len);
            Ok(())
        })
    }
}

/// Why a layer may not have a mark. `None` if it may.
fn refusal(
    name: &[u8],
    value: &[u8],
    on: On,
    has_metacopy: bool,
    features: LayerFeatures,
) -> Option<&'static str> {
    let is = |known: &str| name == known.as_bytes();
    let unless = |allowed: bool, why| (!allowed).then_some(why);
    if is(OPAQUE) {
        let valid = on == On::Dir && matches!(value, b"y" | b"x");
        return unless(valid, "is not that of an opaque directory");
    }
    if is(REDIRECT) {
        let counts = on == On::Dir || has_metacopy;
        return unless(
            features.redirect || !counts,
            "renames it in the layers below, and the layer has no renames by its record",
        )
        .or(unless(is_redirect(value), "does not lead to a path of the layers below"));
    }
    if is(METACOPY) {
        return unless(
            features.metacopy,
            "takes its content from the layers below, and the layer has no such files by its record",
        )
        .or(unless(matches!(on, On::File { .. }), "is only for files"));
    }
    if is(WHITEOUT) {
        return unless(on == On::File { is_empty: true }, "is only for empty files");
    }
    let is_known = [ORIGIN, IMPURE, NLINK, UUID, PROTATTR, WHITEOUTS].iter().any(|known| is(known));
    unless(is_known || name.starts_with(ESCAPED.as_bytes()), "is none that overlay writes")
}

fn push(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

/// A path in a layer. The root is `.`.
fn shown(path: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(if path.is_empty() { b"." } else { path }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_allowed_where_overlay_or_the_record_puts_it() {
        let (none, all) =
            (LayerFeatures::default(), LayerFeatures { metacopy: true, redirect: true });
        let (dir, file, empty) =
            (On::Dir, On::File { is_empty: false }, On::File { is_empty: true });
        let refused = |name: &str, value: &[u8], on, has_metacopy, features| {
            refusal(name.as_bytes(), value, on, has_metacopy, features).is_some()
        };
        for (name, value, on, has_metacopy, features, expected) in [
            (OPAQUE, &b"y"[..], dir, false, none, false),
            (OPAQUE, b"x", dir, false, none, false),
            (OPAQUE, b"n", dir, false, none, true),
            (OPAQUE, b"y", file, false, all, true),
            (REDIRECT, b"/a", dir, false, none, true),
            (REDIRECT, b"/a", dir, false, all, false),
            (REDIRECT, b"/../a", dir, false, all, true),
            (REDIRECT, b"/a", file, false, none, false),
            (REDIRECT, b"/a", file, true, none, true),
            (METACOPY, b"", file, true, none, true),
            (METACOPY, b"", file, true, all, false),
            (METACOPY, b"", dir, true, all, true),
            (WHITEOUT, b"", empty, false, none, false),
            (WHITEOUT, b"", file, false, none, true),
            (ORIGIN, b"\x00\xfb", file, false, none, false),
            ("trusted.overlay.overlay.redirect", b"/../x", dir, false, none, false),
            ("trusted.overlay.other", b"", dir, false, all, true),
        ] {
            assert_eq!(
                refused(name, value, on, has_metacopy, features),
                expected,
                "{name} {value:?} {on:?} {has_metacopy} {features:?}"
            );
        }
    }
}
