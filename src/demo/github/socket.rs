//! Connections whose end is noticed while an answer is still owed, and which can be cut.
//!
//! The HTTP server goes on with a request after its client has left. Runners are told apart by just that, so the
//! sockets themselves say when they end.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use poem::http::uri::Scheme;
use poem::listener::Acceptor;
use poem::web::{LocalAddr, RemoteAddr};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// What is known of one connection.
#[derive(Default)]
pub(super) struct Line {
    closed: CancellationToken,
    cut: AtomicBool,
}

impl Line {
    /// Ends when the client has closed the connection.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Ends the connection before another byte is written.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
    }

    fn check(&self) -> io::Result<()> {
        if self.cut.load(Ordering::Acquire) { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

/// The open connections, by the client's address.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<HashMap<SocketAddr, Arc<Line>>>>);

impl Lines {
    /// The connection of a request from `peer`; a closed one when there is none.
    pub(super) fn find(&self, peer: Option<&SocketAddr>) -> Arc<Line> {
        let found = peer.and_then(|peer| self.lock().get(peer).cloned());
        found.unwrap_or_else(|| {
            let line = Line::default();
            line.closed.cancel();
            Arc::new(line)
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, Arc<Line>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts connections and remembers them in [`Lines`].
pub(super) struct Doorman {
    pub(super) listener: TcpListener,
    pub(super) lines: Lines,
}

impl Acceptor for Doorman {
    type Io = Socket;

    fn local_addr(&self) -> Vec<LocalAddr> {
        self.listener.local_addr().map(|address| LocalAddr(address.into())).into_iter().collect()
    }

    async fn accept(&mut self) -> io::Result<(Self::Io, LocalAddr, RemoteAddr, Scheme)> {
        let (stream, peer) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        let local = LocalAddr(stream.local_addr()?.into());
        let line = Arc::new(Line::default());
        self.lines.lock().insert(peer, Arc::clone(&line));
        let socket = Socket { stream, peer, line, lines: self.lines.clone() };
        Ok((socket, local, RemoteAddr(peer.into()), Scheme::HTTP))
    }
}

/// A connection that tells its [`Line`] of its end.
pub(super) struct Socket {
    stream: TcpStream,
    peer: SocketAddr,
    line: Arc<Line>,
    lines: Lines,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.line.closed.cancel();
        let mut lines = self.lines.lock();
        // The address may have been used anew by now.
        if lines.get(&self.peer).is_some_and(|line| Arc::ptr_eq(line, &self.line)) {
            lines.remove(&self.peer);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.line.check()?;
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let ended = match &read {
            Poll::Ready(Ok(())) => buf.filled().len() == before && buf.remaining() > 0,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if ended {
            self.line.closed.cancel();
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.line.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
