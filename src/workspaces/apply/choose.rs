//! The changes that a user chooses by paths.
//!
//! Deliberately absent: what conflicts. Only what is chosen is checked later.

use std::collections::BTreeSet;

use crate::{
    changeset::{Change, Difference, EntryType, Property},
    workspaces::paths::parents,
};

/// A chosen path lies in this one, which the workspace has removed or replaced by something that is no directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::workspaces) struct Within(pub(in crate::workspaces) Vec<u8>);

/// The changes at one path and below it. Directories above it that the workspace has made are added to `above`.
///
/// # Errors
/// [`Within`].
pub(in crate::workspaces) fn at<'c>(
    changes: &'c [Difference],
    path: &[u8],
    above: &mut BTreeSet<&'c [u8]>,
) -> Result<Vec<&'c Difference>, Within> {
    let is_below = |one: &Difference| {
        let rest = one.path.strip_prefix(path);
        rest.is_some_and(|rest| path.is_empty() || rest.is_empty() || rest[0] == b'/')
    };
    for one in changes.iter().filter(|one| parents(path).any(|parent| parent == one.path)) {
        let is_made = one.change == Change::Added || one.properties.contains(&Property::Type);
        match (one.change, one.kind) {
            (Change::Removed, _) => return Err(Within(one.path.clone())),
            (_, EntryType::Dir) if is_made => drop(above.insert(&one.path)),
            (_, EntryType::Dir) => {}
            _ => return Err(Within(one.path.clone())),
        }
    }
    Ok(changes.iter().filter(|one| is_below(one)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(line: &str) -> Difference {
        let (letter, path) = line.split_once(' ').unwrap();
        let (path, kind) = match path.strip_suffix('/') {
            Some(path) => (path, EntryType::Dir),
            None => (path, EntryType::File),
        };
        let (change, properties) = match letter {
            "A" => (Change::Added, vec![]),
            "T" => (Change::Changed, vec![Property::Type]),
            "C" => (Change::Changed, vec![Property::Mode]),
            _ => (Change::Removed, vec![]),
        };
        Difference { path: path.as_bytes().to_vec(), change, kind, size: None, properties }
    }

    fn chosen(changes: &[Difference], path: &str) -> Result<Vec<String>, String> {
        let shown = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
        let mut above = BTreeSet::new();
        let found = at(changes, path.as_bytes(), &mut above).map_err(|Within(it)| shown(&it))?;
        let above = above.into_iter().map(|path| format!("{}/", shown(path)));
        Ok(above.chain(found.iter().map(|one| shown(&one.path))).collect())
    }

    #[test]
    fn a_path_chooses_what_is_at_it_and_below_it_and_the_new_directories_above() {
        let changes =
            ["C a/", "C a/b", "A a-b", "A n/", "A n/m/", "A n/m/f", "A n/x", "T t/", "A t/f"];
        let changes = [&changes[..], &["D d/", "T e", "D g/h"]].concat();
        let changes: Vec<_> = changes.into_iter().map(change).collect();
        for (path, expected) in [
            ("a", &["a", "a/b"][..]),
            ("a/b", &["a/b"]),
            ("a-b", &["a-b"]),
            ("n/m/f", &["n/", "n/m/", "n/m/f"]),
            ("n/m", &["n/", "n/m", "n/m/f"]),
            ("t/f", &["t/", "t/f"]),
            ("d", &["d"]),
            ("g", &["g/h"]),
            ("g/other", &[]),
            ("none", &[]),
        ] {
            assert_eq!(chosen(&changes, path).unwrap(), expected, "{path}");
        }
        assert_eq!(chosen(&changes, "").unwrap().len(), changes.len());
        for (path, above) in [("d/x/y", "d"), ("e/x", "e"), ("g/h/i", "g/h")] {
            assert_eq!(chosen(&changes, path).unwrap_err(), above);
        }
    }
}
