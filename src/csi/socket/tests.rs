//! Against real sockets in a temporary folder.

use std::os::unix::net::UnixListener as StdListener;

use futures::StreamExt as _;
use tempfile::tempdir;

use super::*;

async fn answers(path: &Path) -> bool {
    UnixStream::connect(path).await.is_ok()
}

#[tokio::test]
async fn is_for_root_only_and_makes_its_folder() {
    let root = tempdir().unwrap();
    let path = root.path().join("plugins/driver/csi.sock");
    let _socket = Socket::claim(&path).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert!(answers(&path).await);
}

#[tokio::test]
async fn one_that_nobody_answers_is_replaced() {
    let root = tempdir().unwrap();
    let path = root.path().join("csi.sock");
    drop(StdListener::bind(&path).unwrap());
    assert!(path.exists(), "a closed listener leaves its file");
    let _socket = Socket::claim(&path).await.unwrap();
    assert!(answers(&path).await);
}

#[tokio::test]
async fn one_that_somebody_answers_is_refused_and_left() {
    let root = tempdir().unwrap();
    let path = root.path().join("csi.sock");
    let _theirs = StdListener::bind(&path).unwrap();
    let error = Socket::claim(&path).await.unwrap_err();
    assert!(matches!(error, SocketError::InUse(_)), "{error}");
    assert!(answers(&path).await);
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_refused_and_left() {
    let root = tempdir().unwrap();
    let path = root.path().join("csi.sock");
    fs::write(&path, "precious").unwrap();
    let error = Socket::claim(&path).await.unwrap_err();
    assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn a_path_is_as_long_as_the_kernel_takes() {
    let root = tempdir().unwrap();
    let room = LONGEST - root.path().as_os_str().len() - 1;
    let longest = root.path().join("x".repeat(room));
    assert!(Socket::claim(&longest).await.is_ok());
    let error = Socket::claim(&root.path().join("x".repeat(room + 1))).await.unwrap_err();
    assert!(matches!(error, SocketError::TooLong { length: 108, .. }), "{error}");
}

#[tokio::test]
async fn goes_with_its_owner() {
    let root = tempdir().unwrap();
    let path = root.path().join("csi.sock");
    drop(Socket::claim(&path).await.unwrap());
    assert!(!path.exists());
}

#[tokio::test]
async fn leaves_the_file_of_whoever_came_after() {
    let root = tempdir().unwrap();
    let path = root.path().join("csi.sock");
    let ours = Socket::claim(&path).await.unwrap();
    fs::remove_file(&path).unwrap();
    let _theirs = StdListener::bind(&path).unwrap();
    drop(ours);
    assert!(answers(&path).await);
}

#[tokio::test]
async fn comes_back_when_its_folder_is_wiped() {
    let root = tempdir().unwrap();
    let path = root.path().join("plugins_registry/reg.sock");
    let mut socket = Socket::claim(&path).await.unwrap();
    socket.restore().await;
    assert!(socket.is_in_place(), "nothing to do");

    fs::remove_dir_all(root.path().join("plugins_registry")).unwrap();
    assert!(!answers(&path).await);
    socket.restore().await;
    assert!(answers(&path).await);

    drop(socket);
    assert!(!path.exists(), "the new file is ours too");
}

#[tokio::test]
async fn waits_while_somebody_sits_in_its_place() {
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
async fn looks_by_itself_while_it_waits_for_connections() {
    let root = tempdir().unwrap();
    let path = root.path().join("csi.sock");
    let mut socket = Socket::claim(&path).await.unwrap();
    socket.look = interval(Duration::from_millis(1));
    fs::remove_file(&path).unwrap();
    let mut incoming = Box::pin(socket.incoming());
    let dial = async {
        while !answers(&path).await {
            tokio::task::yield_now().await;
        }
    };
    let ((), connection) = tokio::join!(dial, incoming.next());
    assert!(connection.is_some());
}
