//! Tests with real sockets in a temporary directory.

use std::os::unix::net::UnixListener as StdListener;

use futures::StreamExt as _;
use tempfile::tempdir;

use super::*;

async fn accepts(path: &Path) -> bool {
    UnixStream::connect(path).await.is_ok()
}

#[tokio::test]
async fn a_socket_is_for_root_only_and_creates_its_directory() {
    let root = tempdir().unwrap();
    let path = root.path().join("plugins/driver/csi.sock");
    let _socket = Socket::claim(&path).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert!(accepts(&path).await);
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let root = tempdir().unwrap();
    let path = root.path().join("csi.sock");
    drop(StdListener::bind(&path).unwrap());
    assert!(path.exists(), "a closed listener leaves its file");
    let _socket = Socket::claim(&path).await.unwrap();
    assert!(accepts(&path).await);
}

#[tokio::test]
async fn a_socket_that_is_in_use_is_refused_and_kept() {
    let root = tempdir().unwrap();
    let path = root.path().join("csi.sock");
    let _theirs = StdListener::bind(&path).unwrap();
    let error = Socket::claim(&path).await.unwrap_err();
    assert!(matches!(error, SocketError::InUse(_)), "{error}");
    assert!(accepts(&path).await);
}

#[tokio::test]
async fn a_file_that_is_not_a_socket_is_refused_and_kept() {
    let root = tempdir().unwrap();
    let path = root.path().join("csi.sock");
    fs::write(&path, "precious").unwrap();
    let error = Socket::claim(&path).await.unwrap_err();
    assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn a_path_may_be_as_long_as_the_kernel_accepts() {
    let root = tempdir().unwrap();
    let rest = LONGEST - root.path().as_os_str().len() - 1;
    let longest = root.path().join("x".repeat(rest));
    assert!(Socket::claim(&longest).await.is_ok());
    let error = Socket::claim(&root.path().join("x".repeat(rest + 1))).await.unwrap_err();
    assert!(matches!(error, SocketError::TooLong { length: 108, .. }), "{error}");
}

#[tokio::test]
async fn dropping_a_socket_removes_its_file() {
    let root = tempdir().unwrap();
    let path = root.path().join("csi.sock");
    drop(Socket::claim(&path).await.unwrap());
    assert!(!path.exists());
}

#[tokio::test]
async fn dropping_a_socket_keeps_the_file_of_another_process() {
    let root = tempdir().unwrap();
    let path = root.path().join("csi.sock");
    let ours = Socket::claim(&path).await.unwrap();
    fs::remove_file(&path).unwrap();
    let _theirs = StdListener::bind(&path).unwrap();
    drop(ours);
    assert!(accepts(&path).await);
}

#[tokio::test]
async fn a_socket_is_restored_when_its_directory_is_removed() {
    let root = tempdir().unwrap();
    let path = root.path().join("plugins_registry/reg.sock");
    let mut socket = Socket::claim(&path).await.unwrap();
    socket.restore().await;
    assert!(socket.is_in_place(), "nothing to do");

    fs::remove_dir_all(root.path().join("plugins_registry")).unwrap();
    assert!(!accepts(&path).await);
    socket.restore().await;
    assert!(accepts(&path).await);

    drop(socket);
    assert!(!path.exists(), "the new file is removed too");
}

#[tokio::test]
async fn a_socket_is_restored_once_another_process_leaves_its_path() {
    let root = tempdir().unwrap();
    let path = root.path().join("reg.sock");
    let mut socket = Socket::claim(&path).await.unwrap();
    fs::remove_file(&path).unwrap();
    let theirs = StdListener::bind(&path).unwrap();
    socket.restore().await;
    assert!(socket.lost && !socket.is_in_place());

    drop(theirs);
    socket.restore().await;
    assert!(!socket.lost && socket.is_in_place());
}

#[tokio::test]
async fn the_file_is_checked_while_the_socket_waits_for_connections() {
    let root = tempdir().unwrap();
    let path = root.path().join("csi.sock");
    let mut socket = Socket::claim(&path).await.unwrap();
    socket.check = interval(Duration::from_millis(1));
    fs::remove_file(&path).unwrap();
    let mut incoming = Box::pin(socket.incoming());
    let dial = async {
        while !accepts(&path).await {
            tokio::task::yield_now().await;
        }
    };
    let ((), connection) = tokio::join!(dial, incoming.next());
    assert!(connection.is_some());
}
