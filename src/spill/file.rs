//! A file without a name, which reserves disk space before it grows.

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

/// The directory for files without a name, and the function that reserves disk space for them.
#[derive(Clone)]
pub struct Scratch {
    directory: PathBuf,
    grow: Arc<Grow>,
}

type Grow = dyn Fn(u64) -> io::Result<()> + Send + Sync;

impl Scratch {
    /// Files go into `directory`. No reservation is made for them.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), grow: Arc::new(|_| Ok(())) }
    }

    /// Calls `grow` with the number of bytes before files grow by them. If `grow` fails, the write fails with its error
    /// and writes nothing.
    #[must_use]
    pub fn with_limit(self, grow: impl Fn(u64) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { grow: Arc::new(grow), ..self }
    }

    /// An empty file, which the kernel deletes when it is closed.
    pub(super) fn file(&self) -> io::Result<File> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("spill-{}-{number}", process::id()));
        let file = unnamed_file(&path).map_err(|e| {
            let why = format!("cannot make a temporary file in {}: {e}", self.directory.display());
            io::Error::new(e.kind(), why)
        })?;
        Ok(File { file, end: AtomicU64::new(0), grow: self.grow.clone() })
    }
}

/// An empty file with mode 0600. It has the name `path` only until this function returns, so the kernel deletes it when
/// it is closed, however the process ends.
pub fn unnamed_file(path: &Path) -> io::Result<fs::File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(path)?;
    fs::remove_file(path)?;
    Ok(file)
}

impl Default for Scratch {
    /// Uses the system's directory for temporary files.
    fn default() -> Self {
        Self::new(std::env::temp_dir())
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scratch").field(&self.directory).finish()
    }
}

/// A file without a name.
pub(super) struct File {
    file: fs::File,
    /// Bytes from the file's start for which space was requested.
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
