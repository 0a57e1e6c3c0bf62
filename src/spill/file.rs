//! A file without a name, which asks for room before it grows.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Where files without a name are made, and who has room for them.
#[derive(Clone)]
pub struct Scratch {
    directory: PathBuf,
    grow: Arc<Grow>,
}

type Grow = dyn Fn(u64) -> io::Result<()> + Send + Sync;

impl Scratch {
    /// Files go into the directory `directory`, whose file system has room for them.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), grow: Arc::new(|_| Ok(())) }
    }

    /// Before files grow, `grow` is asked for so many bytes of room. Its error is that of the write, of which nothing is done then.
    #[must_use]
    pub fn asking(self, grow: impl Fn(u64) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { grow: Arc::new(grow), ..self }
    }

    /// An empty file. It is gone when it is closed.
    pub(super) fn file(&self) -> io::Result<File> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("spill-{}-{number}", process::id()));
        let file = nameless(&path).map_err(|e| {
            let why = format!("cannot make a temporary file in {}: {e}", self.directory.display());
            io::Error::new(e.kind(), why)
        })?;
        Ok(File { file, end: AtomicU64::new(0), grow: self.grow.clone() })
    }
}

/// An empty file, for its owner alone, that has the name `path` only until this returns. It is gone when it is closed, however the
/// process ends.
pub fn nameless(path: &Path) -> io::Result<fs::File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(path)?;
    fs::remove_file(path)?;
    Ok(file)
}

impl Default for Scratch {
    /// The system's directory for temporary files.
    fn default() -> Self {
        Self::new(std::env::temp_dir())
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scratch").field(&self.directory).finish()
    }
}

/// Such a file.
pub(super) struct File {
    file: fs::File,
    /// Bytes for which room was asked.
    end: AtomicU64,
    grow: Arc<Grow>,
}

impl File {
    pub(super) fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.up_to(at + bytes.len() as u64)?;
        self.file.write_all_at(bytes, at)
    }

    pub(super) fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.up_to(len)?;
        self.file.set_len(len)
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn up_to(&self, end: u64) -> io::Result<()> {
        let before = self.end.load(Ordering::Relaxed);
        if end > before {
            (self.grow)(end - before)?;
            self.end.fetch_max(end, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}
