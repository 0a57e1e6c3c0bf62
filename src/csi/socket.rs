//! A Unix socket with a name in the file system: claimed, kept there, taken away.
//!
//! What lies at the path when we come is either left over from a process that is gone (nobody answers: replaced) or
//! somebody's (refused). Afterwards the file is looked at every few seconds, because whoever empties the kubelet's folder
//! takes our socket with it, and neither we nor the kubelet would hear of that. Only our own file is ever removed.

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

/// How often the file is looked at: soon enough for the kubelet, which retries for minutes, and one `lstat` each time.
const LOOK: Duration = Duration::from_secs(2);

/// The pause after a connection could not be accepted (no descriptors left), lest the loop spin.
const PAUSE: Duration = Duration::from_millis(100);

/// `sun_path` of `sockaddr_un` has 108 bytes, the last of them zero (unix(7)).
const LONGEST: usize = 107;

/// Why a socket is not ours.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Longer than the kernel takes.
    #[error("socket {path} is {length} bytes long and the kernel takes {LONGEST}: use a shorter folder", path = path.display())]
    TooLong {
        /// Where.
        path: PathBuf,
        /// In bytes.
        length: usize,
    },
    /// Somebody answers there.
    #[error("socket {path} is in use: another driver serves there; stop it, or use another path", path = .0.display())]
    InUse(PathBuf),
    /// A file that we did not make.
    #[error("{path} is there and is not a socket: remove it, or use another path", path = .0.display())]
    NotASocket(PathBuf),
    /// The system said no.
    #[error("cannot {what} socket {path}: {source}", path = path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

/// A listening socket; its file goes when this is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    listener: UnixListener,
    file: FileId,
    look: Interval,
    /// So that trouble is told once, not at every look.
    lost: bool,
}

/// Which file it is. An inode's number is given out again; when its bytes last changed tells two apart, and stays for a
/// socket (connections and chmod leave it).
#[derive(Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    made: (i64, i64),
}

impl Socket {
    /// Listens at `path`, for root only.
    pub(super) async fn claim(path: &Path) -> Result<Self, SocketError> {
        let (listener, file) = bind(path).await?;
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { path: path.to_owned(), listener, file, look, lost: false })
    }

    /// The connections, without end.
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
                _ = self.look.tick() => self.restore().await,
            }
        }
    }

    /// Makes the socket anew if its file is gone. Connections that are open stay open.
    async fn restore(&mut self) {
        if self.is_in_place() {
            return;
        }
        match bind(&self.path).await {
            Ok((listener, file)) => {
                tracing::warn!(socket = %self.path.display(), "the socket's file was gone: made anew");
                (self.listener, self.file, self.lost) = (listener, file, false);
            }
            Err(error) if !self.lost => {
                tracing::error!(%error, "the socket's file is gone and cannot be made anew: trying on");
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
        let made = (metadata.mtime(), metadata.mtime_nsec());
        Self { device: metadata.dev(), inode: metadata.ino(), made }
    }
}

async fn bind(path: &Path) -> Result<(UnixListener, FileId), SocketError> {
    let failed = |what| move |source| SocketError::Io { what, path: path.to_owned(), source };
    let length = path.as_os_str().len();
    if length > LONGEST {
        return Err(SocketError::TooLong { path: path.to_owned(), length });
    }
    if let Some(folder) = path.parent() {
        // The kubelet makes its own with this mode.
        let made = DirBuilder::new().recursive(true).mode(0o750).create(folder);
        made.map_err(failed("make the folder of"))?;
    }
    remove_left_over(path).await?;
    let listener = UnixListener::bind(path).map_err(failed("make"))?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed("close to others"))?;
    let file = fs::symlink_metadata(path).map_err(failed("look at"))?;
    Ok((listener, FileId::of(&file)))
}

/// Removes the socket of a process that is gone.
async fn remove_left_over(path: &Path) -> Result<(), SocketError> {
    let failed = |what| move |source| SocketError::Io { what, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("look at")(e)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await.map_err(|e| e.kind()) {
        Err(io::ErrorKind::ConnectionRefused) => {
            fs::remove_file(path).map_err(failed("replace the old"))
        }
        // Gone in between.
        Err(io::ErrorKind::NotFound) => Ok(()),
        // It answers, or would if it were not busy.
        Ok(_) | Err(_) => Err(SocketError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests;
