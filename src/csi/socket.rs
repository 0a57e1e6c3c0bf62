//! A Unix socket in the file system: claims the path, restores the file when it disappears, and removes it at the end.
//!
//! An existing file at the path is replaced if it is the socket of a process that is gone: a connection to it is
//! refused. If another process uses it, the claim fails. Later, the file is checked every few seconds: if a user
//! empties the kubelet's directory, the socket disappears, and neither the driver nor the kubelet is notified. Only the
//! driver's own file is removed.

use std::{
    convert::Infallible,
    fs::{self, DirBuilder, Metadata, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{Stream, stream};
use tokio::{
    net::{UnixListener, UnixStream},
    time::{Interval, MissedTickBehavior, interval, sleep},
};

/// How often the file is checked: fast enough for the kubelet, which retries for minutes, and each check is one
/// `lstat`.
const CHECK: Duration = Duration::from_secs(2);

/// The pause after a failed accept (no free descriptors), so that the loop does not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// `sun_path` of `sockaddr_un` has 108 bytes, the last of them zero (unix(7)).
const LONGEST: usize = 107;

/// A socket cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path is longer than the kernel accepts.
    #[error(
        "the path of socket {path} has {length} bytes and the kernel accepts {LONGEST}: use a shorter path",
        path = path.display()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// The length in bytes.
        length: usize,
    },
    /// Another process serves on the socket.
    #[error("socket {path} is in use by another driver: stop it, or use another path", path = .0.display())]
    InUse(PathBuf),
    /// The path is a file that is no socket.
    #[error("{path} exists and is not a socket: remove it, or use another path", path = .0.display())]
    NotASocket(PathBuf),
    /// A system call failed.
    #[error("cannot {what} socket {path}: {source}", path = path.display())]
    Io {
        /// What failed, as a verb.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// A listening socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    listener: UnixListener,
    file: FileId,
    check: Interval,
    /// Whether the file is missing or replaced, and could not be restored. The error is logged once, not at each check.
    lost: bool,
}

/// The identity of a file. Inode numbers are reused, so the modification time is part of it. For a socket, that time is
/// constant: connections and chmod do not change it.
#[derive(Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    modified: (i64, i64),
}

impl Socket {
    /// Listens at `path`, for root only.
    pub(super) async fn claim(path: &Path) -> Result<Self, SocketError> {
        let (listener, file) = bind(path).await?;
        let mut check = interval(CHECK);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { path: path.to_owned(), listener, file, check, lost: false })
    }

    /// The endless stream of connections.
    pub(super) fn incoming(self) -> impl Stream<Item = Result<UnixStream, Infallible>> {
        stream::unfold(self, |mut socket| async {
            let connection = socket.accept().await;
            Some((Ok(connection), socket))
        })
    }

    async fn accept(&mut self) -> UnixStream {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((connection, _)) => return connection,
                    Err(error) => {
                        tracing::warn!(socket = %self.path.display(), %error, "cannot accept a connection");
                        sleep(PAUSE).await;
                    }
                },
                _ = self.check.tick() => self.restore().await,
            }
        }
    }

    /// Creates the socket again if its file is gone. Open connections stay open.
    async fn restore(&mut self) {
        if self.is_in_place() {
            return;
        }
        match bind(&self.path).await {
            Ok((listener, file)) => {
                tracing::warn!(socket = %self.path.display(), "the file of the socket was gone: created again");
                (self.listener, self.file, self.lost) = (listener, file, false);
            }
            Err(error) if !self.lost => {
                tracing::error!(%error, "the file of the socket is gone and cannot be created again: retrying");
                self.lost = true;
            }
            Err(_) => {}
        }
    }

    fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| FileId::of(&found) == self.file)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_in_place()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(socket = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { device: metadata.dev(), inode: metadata.ino(), modified }
    }
}

async fn bind(path: &Path) -> Result<(UnixListener, FileId), SocketError> {
    let failed = |what| move |source| SocketError::Io { what, path: path.to_owned(), source };
    let length = path.as_os_str().len();
    if length > LONGEST {
        return Err(SocketError::TooLong { path: path.to_owned(), length });
    }
    if let Some(dir) = path.parent() {
        // The kubelet creates its own directories with this mode.
        let made = DirBuilder::new().recursive(true).mode(0o750).create(dir);
        made.map_err(failed("create the directory of"))?;
    }
    remove_stale(path).await?;
    let listener = UnixListener::bind(path).map_err(failed("create"))?;
    fs::set_permissions(path, Permissions::from_mode(0o600))
        .map_err(failed("set the permissions of"))?;
    let file = fs::symlink_metadata(path).map_err(failed("stat"))?;
    Ok((listener, FileId::of(&file)))
}

/// Removes the socket of a process that is gone.
async fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |what| move |source| SocketError::Io { what, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("stat")(e)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await.map_err(|e| e.kind()) {
        Err(io::ErrorKind::ConnectionRefused) => {
            fs::remove_file(path).map_err(failed("replace the old"))
        }
        // The file was removed in the meantime.
        Err(io::ErrorKind::NotFound) => Ok(()),
        // Another process accepts connections, or is too busy at the moment.
        Ok(_) | Err(_) => Err(SocketError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests;
