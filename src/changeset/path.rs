//! Names of tar entries, checked once: an [`EntryPath`] has only parts that a directory can hold.
//!
//! Deliberately absent: `std::path`. A layer's names are bytes, whatever the host's path syntax is.

/// The most bytes of one part (Linux `NAME_MAX`).
const PART_MOST: usize = 255;
/// The most bytes of a path (Linux `PATH_MAX`, without its NUL).
pub(super) const PATH_MOST: usize = 4095;

/// The most symbolic links on the way to one name (Linux's `MAXSYMLINKS`).
pub(super) const LINKS_MOST: usize = 40;
/// The prefix of a whiteout, and the name that makes a directory opaque (OCI image-spec, layer.md, "Whiteouts").
pub(super) const WHITEOUT: &[u8] = b".wh.";
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";

/// Whether a path has at most `depth` parts and at most the bytes that Linux accepts. For a whiteout the length and
/// depth of the hidden name count, so every valid name can also be hidden.
pub(super) fn fits(path: &[u8], depth: u32) -> bool {
    let last = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let (parts_of_mark, mark) = match last {
        OPAQUE => (1, OPAQUE.len() + 1),
        last if last.starts_with(WHITEOUT) => (0, WHITEOUT.len()),
        _ => (0, 0),
    };
    path.len() <= PATH_MOST + mark && parts(path).count() <= depth as usize + parts_of_mark
}

/// A path from the layer's root, without `.`, `..`, empty parts or NUL. The root has no parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct EntryPath(Vec<u8>);

/// Why bytes are not a valid path in a layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The name has no bytes. (`.` and `/` stand for the root.)
    #[error("its name is empty")]
    Empty,
    /// There are more `..` than directories before them.
    #[error("its name leads out of the layer with \"..\"")]
    Parent,
    /// The path leads through too many symbolic links, which may be a loop.
    #[error("its path leads through more than 40 symbolic links")]
    Links,
    /// The name has a byte 0.
    #[error("its name has a NUL")]
    Nul,
    /// A part is longer than any file system accepts.
    #[error("a part of its name has more than 255 bytes")]
    Part,
    /// The name is longer than the kernel accepts.
    #[error("its name has more than 4,095 bytes")]
    Long,
}

/// Appends a part to a path. Returns the length that the path had, to which a walk truncates it again.
pub(super) fn push(path: &mut Vec<u8>, part: &[u8]) -> usize {
    let parent = path.len();
    path.extend_from_slice(if parent == 0 { b"" } else { b"/" });
    path.extend_from_slice(part);
    parent
}

/// The parts of a path, from the root down.
pub(super) fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty())
}

impl EntryPath {
    /// The path that `raw` means. `..` removes the part before it (Go's `path.Clean`, as containerd reads names).
    pub(super) fn new(raw: &[u8]) -> Result<Self, PathError> {
        if raw.is_empty() {
            return Err(PathError::Empty);
        }
        if raw.contains(&0) {
            return Err(PathError::Nul);
        }
        let mut path = Vec::with_capacity(raw.len());
        if !walk(&mut path, raw)? {
            return Err(PathError::Parent);
        }
        if !fits(&path, u32::MAX) {
            return Err(PathError::Long);
        }
        Ok(Self(path))
    }

    /// The path that this path resolves to if its part number `depth` is a symbolic link to `target` and the parts
    /// before it are directories. As in a chroot, nothing is above the root.
    pub(super) fn through(&self, depth: usize, target: &[u8]) -> Result<Self, PathError> {
        let mut path = Vec::new();
        if !target.starts_with(b"/") {
            let above: Vec<_> = self.parts().take(depth).collect();
            path = above.join(&b'/');
        }
        walk(&mut path, target)?;
        for part in self.parts().skip(depth + 1) {
            walk(&mut path, part)?;
        }
        if !fits(&path, u32::MAX) {
            return Err(PathError::Long);
        }
        Ok(Self(path))
    }

    /// Checks the lengths of a path in a native layer, where no name is a whiteout.
    pub(super) fn unmarked(&self) -> Result<(), PathError> {
        if self.parts().any(|part| part.len() > PART_MOST) {
            return Err(PathError::Part);
        }
        if self.0.len() > PATH_MOST { Err(PathError::Long) } else { Ok(()) }
    }

    /// Whether it is within the length and depth that a layer may have; see [`fits`].
    pub(super) fn fits(&self, depth: u32) -> bool {
        fits(&self.0, depth)
    }

    /// The parts, from the root down.
    pub(super) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        parts(&self.0)
    }

    /// The parts before the last one, and the last one. `None` for the root.
    pub(super) fn split(&self) -> Option<(impl Iterator<Item = &[u8]> + Clone, &[u8])> {
        let at = self.0.iter().rposition(|b| *b == b'/');
        let (above, last) = match at {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (&[][..], &self.0[..]),
        };
        let above = above.split(|b| *b == b'/').filter(|part| !part.is_empty());
        (!last.is_empty()).then_some((above, last))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Appends the parts of `more` to `path`. Returns whether all of it stays below the root.
fn walk(path: &mut Vec<u8>, more: &[u8]) -> Result<bool, PathError> {
    let mut inside = true;
    for part in more.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                inside &= !path.is_empty();
                path.truncate(path.iter().rposition(|b| *b == b'/').unwrap_or(0));
            }
            part if part.len() > PART_MOST + mark(part) => return Err(PathError::Part),
            part => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    Ok(inside)
}

/// The bytes of a part that are a whiteout's prefix.
fn mark(part: &[u8]) -> usize {
    if part.starts_with(WHITEOUT) { WHITEOUT.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_spellings_of_a_name_are_one_path() {
        for (raw, path) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/a/./b", "a/b"),
            (".", ""),
            ("/", ""),
            ("./", ""),
            ("...", "..."),
            ("a/..b", "a/..b"),
            ("a/../b", "b"),
            ("./a/b/../../c/", "c"),
            ("a/..", ""),
        ] {
            assert_eq!(EntryPath::new(raw.as_bytes()).unwrap().as_bytes(), path.as_bytes());
        }
        let path = EntryPath::new(b"a/b/c").unwrap();
        assert_eq!(path.parts().collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        let (above, last) = path.split().unwrap();
        assert_eq!((above.collect::<Vec<_>>(), last), (vec![&b"a"[..], b"b"], &b"c"[..]));
        assert!(EntryPath::new(b"/").unwrap().split().is_none());
    }

    #[test]
    fn names_that_no_directory_can_hold_are_refused() {
        let long = vec![b'x'; 256];
        let deep = b"dir/".repeat(1024);
        for (raw, why) in [
            (b"".as_slice(), PathError::Empty),
            (b"..", PathError::Parent),
            (b"a/../../b", PathError::Parent),
            (b"/../a", PathError::Parent),
            (b"a\0b", PathError::Nul),
            (&long, PathError::Part),
            (&[&deep, b"x".as_slice()].concat(), PathError::Long),
        ] {
            assert_eq!(EntryPath::new(raw), Err(why));
        }
        assert!(EntryPath::new(&deep).is_ok(), "4,095 bytes are allowed");
    }

    #[test]
    fn a_symbolic_link_on_the_way_stays_within_the_root() {
        for (path, depth, target, leads) in [
            ("lib/x", 0, "usr/lib", "usr/lib/x"),
            ("a/lib/x", 1, "usr", "a/usr/x"),
            ("a/lib/x/y", 1, "/usr", "usr/x/y"),
            ("a/b/lib/x", 2, "../c/./", "a/c/x"),
            ("a/lib/x", 1, "../../../../etc", "etc/x"),
            ("a/lib/x", 1, "/..//", "x"),
        ] {
            let through =
                EntryPath::new(path.as_bytes()).unwrap().through(depth, target.as_bytes());
            assert_eq!(through.unwrap().as_bytes(), leads.as_bytes(), "{path} by {target}");
        }
        let long = EntryPath::new(b"a/b").unwrap().through(0, &b"d/".repeat(2048));
        assert_eq!(long, Err(PathError::Long));
    }

    #[test]
    fn every_valid_name_can_be_hidden() {
        let (name, deep) = ("n".repeat(255), format!("{}n", "d/".repeat(255)));
        for path in [format!(".wh.{name}"), format!("a/.wh.{name}"), deep.clone()] {
            assert!(EntryPath::new(path.as_bytes()).unwrap().fits(256), "{path}");
        }
        assert!(fits(format!("{deep}/.wh..wh..opq").as_bytes(), 256));
        assert!(!fits(format!("{deep}/.wh.n").as_bytes(), 256));
        let longest = format!("{}x", "dir/".repeat(1023));
        assert!(fits(format!("{}/.wh..wh..opq", &longest).as_bytes(), 2000));
        assert_eq!(EntryPath::new(format!(".wh.{name}n").as_bytes()), Err(PathError::Part));
        let mark = EntryPath::new(format!(".wh.{name}").as_bytes()).unwrap();
        assert_eq!(mark.unmarked(), Err(PathError::Part));
    }
}
