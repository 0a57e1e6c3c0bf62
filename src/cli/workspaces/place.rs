//! Paths of directories that a command makes, and paths in a workspace.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, anyhow};

use crate::{cli::failure::Failure, error::Explained};

/// The absolute path of a directory, without symlinks. The directory itself need not exist, but its parent must.
pub(super) fn new_path(path: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path).context("cannot use the path")?;
    if let Ok(existing) = absolute.canonicalize() {
        return Ok(existing);
    }
    let (parent, name) = (absolute.parent(), absolute.file_name());
    let (Some(parent), Some(name)) = (parent, name) else {
        return Err(Failure::Unusable(anyhow!("{} is no path of a directory", path.display())));
    };
    let parent = parent.canonicalize();
    let parent = parent.with_context(|| format!("cannot use {}", path.display()))?;
    Ok(parent.join(name))
}

/// A path from the root of a workspace, as `ovl changes` prints it. In a copy, whose directory is given, it can be written as
/// in the original.
pub(super) fn path_inside(path: &Path, directory: Option<&Path>) -> Result<Vec<u8>, Failure> {
    let inside = directory.and_then(|directory| path.strip_prefix(directory).ok()).unwrap_or(path);
    let mut plain = PathBuf::new();
    for part in inside.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                let why = Explained::because(format!("{} has a part `..`", path.display()));
                let fix = "write it from the top of the workspace, as `ovl changes` lists it";
                return Err(Failure::Unusable(why.fix(fix).into()));
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(plain.as_os_str().as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_workspace_is_written_from_its_top_or_as_in_the_original() {
        let inside = |path: &str| path_inside(path.as_ref(), Some("/home/me/site".as_ref()));
        for (path, expected) in [
            ("index", "index"),
            ("./a//b/", "a/b"),
            ("/index", "index"),
            ("/home/me/site/a/b", "a/b"),
            ("/home/me/site", ""),
            (".", ""),
            ("/home/me/other", "home/me/other"),
        ] {
            assert_eq!(inside(path).unwrap(), expected.as_bytes(), "{path}");
        }
        assert!(matches!(inside("a/../b"), Err(Failure::Unusable(_))));
        assert_eq!(path_inside("/etc".as_ref(), None).unwrap(), b"etc");
    }
}
