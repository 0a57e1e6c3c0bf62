//! Paths of directories that a command makes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use crate::cli::failure::Failure;

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
