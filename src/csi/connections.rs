//! A TCP listener with a limited number of connections, for ports that untrusted clients can reach.
//!
//! At the limit, a new connection closes the oldest one. So a client that opens connections and leaves them open cannot
//! keep out others, such as the kubelet, which would restart the driver.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

/// The most connections. Each one may take some hundreds of KiB of memory for its request.
const MAX_CONNECTIONS: usize = 32;

/// A listener with at most [`MAX_CONNECTIONS`] connections.
#[derive(Debug)]
pub(super) struct LimitedListener {
    listener: TcpListener,
    /// One sender for each connection, the oldest first. Dropping a sender closes its connection.
    open: VecDeque<oneshot::Sender<()>>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    ended: oneshot::Receiver<()>,
}

impl LimitedListener {
    pub(super) fn of(listener: TcpListener) -> Self {
        Self { listener, open: VecDeque::new() }
    }

    fn admit(&mut self, stream: TcpStream) -> Connection {
        self.open.retain(|end| !end.is_closed());
        if self.open.len() >= MAX_CONNECTIONS {
            self.open.pop_front();
        }
        let (end, ended) = oneshot::channel();
        self.open.push_back(end);
        Connection { stream, ended }
    }
}

impl Listener for LimitedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (self.admit(stream), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connection {
    fn open_stream(&mut self, cx: &mut Context<'_>) -> io::Result<&mut TcpStream> {
        match Pin::new(&mut self.ended).poll(cx) {
            Poll::Ready(_) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "closed for a newer connection",
            )),
            Poll::Pending => Ok(&mut self.stream),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.open_stream(cx)?).poll_read(cx, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.open_stream(cx)?).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.open_stream(cx)?).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
