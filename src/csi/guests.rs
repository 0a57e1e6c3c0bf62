//! A listener for whoever can reach it: no more than a few connections at a time.
//!
//! Where there are as many, the oldest ends for the newest: whoever opens connections and leaves them so keeps nobody from being
//! heard, least of all the kubelet, which would start the driver anew.

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

/// Each may have some hundreds of KiB of a request in our memory.
const MOST: usize = 32;

/// A listener with at most [`MOST`] connections.
#[derive(Debug)]
pub(super) struct Guests {
    listener: TcpListener,
    /// What ends each when dropped, the eldest first.
    open: VecDeque<oneshot::Sender<()>>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Guest {
    stream: TcpStream,
    ended: oneshot::Receiver<()>,
}

impl Guests {
    pub(super) fn of(listener: TcpListener) -> Self {
        Self { listener, open: VecDeque::new() }
    }

    fn admit(&mut self, stream: TcpStream) -> Guest {
        self.open.retain(|end| !end.is_closed());
        if self.open.len() >= MOST {
            self.open.pop_front();
        }
        let (end, ended) = oneshot::channel();
        self.open.push_back(end);
        Guest { stream, ended }
    }
}

impl Listener for Guests {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (self.admit(stream), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Guest {
    fn go_on(&mut self, cx: &mut Context<'_>) -> io::Result<&mut TcpStream> {
        match Pin::new(&mut self.ended).poll(cx) {
            Poll::Ready(_) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "others wait")),
            Poll::Pending => Ok(&mut self.stream),
        }
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.go_on(cx)?).poll_read(cx, into)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.go_on(cx)?).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.go_on(cx)?).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
