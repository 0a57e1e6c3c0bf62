//! Paths in a tree: bytes without a leading slash, empty for the root.
//!
//! Deliberately absent: `std::path`. Names in a tree are bytes.

/// The directory and the name of a path. `None` for the root.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    match path.iter().rposition(|byte| *byte == b'/') {
        _ if path.is_empty() => None,
        Some(at) => Some((&path[..at], &path[at + 1..])),
        None => Some((b"", path)),
    }
}

/// The directories above a path, the nearest first, without the root.
pub(super) fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(path), |path| split(path).map(|(parent, _)| parent))
        .skip(1)
        .filter(|parent| !parent.is_empty())
}

/// The path of a name in a directory.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if dir.is_empty() { b"" } else { b"/" };
    [dir, slash, name].concat()
}

/// Whether a path is, or is below, something with this name.
pub(super) fn has_part(path: &[u8], name: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|part| part == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_into_directories_and_names() {
        assert_eq!(split(b""), None);
        assert_eq!(split(b"a"), Some((&b""[..], &b"a"[..])));
        assert_eq!(split(b"a/b/c"), Some((&b"a/b"[..], &b"c"[..])));
        assert_eq!(parents(b"").count(), 0);
        assert_eq!(parents(b"a").count(), 0);
        assert_eq!(parents(b"a/b/c").collect::<Vec<_>>(), [&b"a/b"[..], b"a"]);
        assert_eq!(join(b"", b"a"), b"a");
        assert_eq!(join(b"a", b"b"), b"a/b");
        assert!(has_part(b"a/.git/b", b".git") && has_part(b".git", b".git"));
        assert!(!has_part(b"a/.github", b".git"));
    }
}
