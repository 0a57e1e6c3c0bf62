//! Directories and files of the host in a container.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use crate::sys::container::Kind;

/// A directory or a file of the host that is visible in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// An absolute path on the host. Symlinks are followed.
    pub source: PathBuf,
    /// An absolute path in the container, without `..`.
    pub target: PathBuf,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// A text that is no bind.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// It does not have the form.
    #[error("{text:?} is not SRC:DST or SRC:DST:ro")]
    Form {
        /// The text.
        text: String,
    },
    /// The place in the container cannot be used.
    #[error("{} is not a path in the workspace: write an absolute path other than /, without `..`", target.display())]
    Target {
        /// The place.
        target: PathBuf,
    },
    /// The source cannot be used.
    #[error("cannot bind {}: {error}", source_path.display())]
    Source {
        /// The path on the host.
        source_path: PathBuf,
        /// The reason.
        error: io::Error,
    },
}

impl Bind {
    /// Parses `SRC:DST` or `SRC:DST:ro` (`:rw` is the default). A relative source is below the working directory of this
    /// process, and must exist.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn parse(text: &str) -> Result<Self, BindError> {
        let parts: Vec<_> = text.split(':').collect();
        let (source, target, read_only) = match parts[..] {
            [source, target] | [source, target, "rw"] => (source, target, false),
            [source, target, "ro"] => (source, target, true),
            _ => return Err(BindError::Form { text: text.to_owned() }),
        };
        if source.is_empty() || target.is_empty() {
            return Err(BindError::Form { text: text.to_owned() });
        }
        let source_path = Path::new(source).to_owned();
        let source = match fs::canonicalize(&source_path) {
            Ok(source) => source,
            Err(error) => return Err(BindError::Source { source_path, error }),
        };
        let target = PathBuf::from(target);
        if !is_target(&target) {
            return Err(BindError::Target { target });
        }
        Ok(Self { source, target, read_only })
    }

    /// What the mount point must be. Everything that is no directory is mounted on a file.
    pub(super) fn kind(&self) -> io::Result<Kind> {
        let is_dir = fs::metadata(&self.source)?.is_dir();
        Ok(if is_dir { Kind::Directory } else { Kind::File })
    }
}

/// Whether a path can be the place of a mount in a container.
fn is_target(path: &Path) -> bool {
    path.is_absolute()
        && path.parent().is_some()
        && path.components().all(|part| part != Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::test_dir::TestDir;

    #[test]
    fn a_bind_is_a_source_a_target_and_a_mode() {
        let dir = TestDir::new();
        let source = dir.file("file", "");
        let text = source.display();
        for (text, read_only) in [
            (format!("{text}:/a"), false),
            (format!("{text}:/a:rw"), false),
            (format!("{text}:/a:ro"), true),
        ] {
            let bind = Bind { source: source.clone(), target: "/a".into(), read_only };
            assert_eq!(Bind::parse(&text).unwrap(), bind);
            assert_eq!(bind.kind().unwrap(), Kind::File);
        }
        assert_eq!(Bind::parse("/:/host").unwrap().kind().unwrap(), Kind::Directory);
    }

    #[test]
    fn a_text_that_is_no_bind_is_refused_with_the_reason() {
        for (text, why) in [
            ("/etc", "not SRC:DST"),
            ("/etc:", "not SRC:DST"),
            (":/etc", "not SRC:DST"),
            ("/etc:/a:rx", "not SRC:DST"),
            ("/etc:/a:ro:b", "not SRC:DST"),
            ("/etc:a", "absolute path"),
            ("/etc:/", "absolute path"),
            ("/etc:/a/../b", "absolute path"),
            ("/missing/x:/a", "cannot bind /missing/x"),
        ] {
            let error = Bind::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
