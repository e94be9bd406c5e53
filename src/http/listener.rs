//! Connections: how many, how long they may be silent, and how they are closed.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use poem::Addr;
use poem::http::uri::Scheme;
use poem::listener::Acceptor;
use poem::web::{LocalAddr, RemoteAddr};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::Limits;

/// Pause after the system refused a connection (out of file descriptors, …).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long what a peer still sends is thrown away after the last answer, so that it reads the answer, not a reset.
const LINGER: Duration = Duration::from_secs(1);
/// How much of it.
const LINGER_BYTES: usize = 1 << 20;

/// The requests of one connection, as counted by the application.
#[derive(Default)]
struct Activity {
    in_flight: AtomicU32,
    /// Grows whenever a request begins or ends.
    changes: AtomicU64,
    /// Milliseconds from the listener's start until the connection was last opened or done with a request.
    idle_since: AtomicU64,
    /// Told to make room for another connection.
    evicted: AtomicBool,
    /// Shares in the memory for answers, until their peer has taken them.
    answers: Mutex<Vec<OwnedSemaphorePermit>>,
    waker: AtomicWaker,
}

/// Both ends of a connection, which together name it.
type Ends = (SocketAddr, SocketAddr);

/// The open connections, through which the application tells a connection that its headers were read.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Table>);

struct Table {
    open: Mutex<HashMap<Ends, Arc<Activity>>>,
    began: Instant,
}

impl Default for Table {
    fn default() -> Self {
        Self { open: Mutex::default(), began: Instant::now() }
    }
}

impl Connections {
    /// Notes that a request's headers are complete, until the value is dropped.
    pub(super) fn begin(&self, local: &LocalAddr, peer: &RemoteAddr) -> Option<InFlight> {
        let ends = (*local.as_socket_addr()?, *peer.as_socket_addr()?);
        let activity = self.open_ones().get(&ends).cloned()?;
        activity.in_flight.fetch_add(1, Ordering::SeqCst);
        activity.changes.fetch_add(1, Ordering::SeqCst);
        Some(InFlight(activity, self.clone()))
    }

    fn open(&self, ends: Ends) -> Arc<Activity> {
        let activity = Arc::new(Activity::default());
        activity.idle_since.store(self.age(), Ordering::SeqCst);
        self.open_ones().insert(ends, Arc::clone(&activity));
        activity
    }

    /// Forgets a connection; another one may have the same ends by now.
    fn close(&self, ends: &Ends, activity: &Arc<Activity>) {
        let mut open = self.open_ones();
        if open.get(ends).is_some_and(|known| Arc::ptr_eq(known, activity)) {
            open.remove(ends);
        }
    }

    fn open_ones(&self) -> MutexGuard<'_, HashMap<Ends, Arc<Activity>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn age(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Closes the connection that has been without a request for longest, if there is one.
    fn make_room(&self) {
        let open = self.open_ones();
        let idle =
            open.values().filter(|a| a.in_flight.load(Ordering::SeqCst) == 0 && !a.evicted.load(Ordering::SeqCst));
        if let Some(longest) = idle.min_by_key(|a| a.idle_since.load(Ordering::SeqCst)) {
            longest.evicted.store(true, Ordering::SeqCst);
            longest.waker.wake();
        }
    }
}

/// A request between the end of its headers and its answer.
pub(super) struct InFlight(Arc<Activity>, Connections);

impl InFlight {
    /// Keeps a share in the memory for answers until everything that is to be sent on this connection is sent.
    pub(super) fn until_sent(&self, share: OwnedSemaphorePermit) {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner).push(share);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.idle_since.store(self.1.age(), Ordering::SeqCst);
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.0.changes.fetch_add(1, Ordering::SeqCst);
    }
}

/// Accepts connections within the limits.
pub(super) struct BoundedAcceptor {
    listener: TcpListener,
    local: SocketAddr,
    connections: Connections,
    places: Arc<Semaphore>,
    limits: Limits,
}

impl BoundedAcceptor {
    /// Accepts from `listener`, which is bound already.
    pub(super) fn new(
        listener: std::net::TcpListener,
        connections: Connections,
        places: Arc<Semaphore>,
        limits: Limits,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let local = listener.local_addr()?;
        Ok(Self { listener, local, connections, places, limits })
    }
}

impl Acceptor for BoundedAcceptor {
    type Io = BoundedStream;

    fn local_addr(&self) -> Vec<LocalAddr> {
        vec![LocalAddr(Addr::SocketAddr(self.local))]
    }

    async fn accept(&mut self) -> io::Result<(Self::Io, LocalAddr, RemoteAddr, Scheme)> {
        loop {
            match self.listener.accept().await {
                Ok((io, peer)) => {
                    let places = Arc::clone(&self.places);
                    let place = match Arc::clone(&places).try_acquire_owned() {
                        Ok(place) => place,
                        // Silent peers must not keep others out.
                        Err(_) => {
                            self.connections.make_room();
                            places.acquire_owned().await.map_err(io::Error::other)?
                        }
                    };
                    // Without it, small answers wait for the peer's delayed acknowledgement.
                    let _ = io.set_nodelay(true);
                    let local = io.local_addr().unwrap_or(self.local);
                    let stream =
                        BoundedStream::new(io, (local, peer), self.connections.clone(), place, self.limits.clone());
                    let (local, remote) = (LocalAddr(Addr::SocketAddr(local)), RemoteAddr(Addr::SocketAddr(peer)));
                    return Ok((stream, local, remote, Scheme::HTTP));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    self.connections.make_room();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// One connection that fails when its peer is silent for too long or sends endless headers.
pub(super) struct BoundedStream {
    io: TcpStream,
    ends: Ends,
    connections: Connections,
    activity: Arc<Activity>,
    limits: Limits,
    seen: u64,
    /// Bytes read since no request is in flight.
    unclaimed: usize,
    /// HTTP/2 bounds its headers itself, and sends bodies before the application knows of their requests.
    http2: bool,
    read_deadline: Pin<Box<Sleep>>,
    write_deadline: Option<Pin<Box<Sleep>>>,
    linger: Option<Pin<Box<Sleep>>>,
    /// Bytes that were thrown away.
    wasted: usize,
    _place: OwnedSemaphorePermit,
}

impl BoundedStream {
    fn new(io: TcpStream, ends: Ends, connections: Connections, place: OwnedSemaphorePermit, limits: Limits) -> Self {
        let activity = connections.open(ends);
        let read_deadline = Box::pin(sleep(limits.header_deadline));
        Self {
            io,
            ends,
            connections,
            activity,
            limits,
            seen: 0,
            unclaimed: 0,
            http2: false,
            read_deadline,
            write_deadline: None,
            linger: None,
            wasted: 0,
            _place: place,
        }
    }

    /// Follows the application: between requests the idle time counts, from a request's first byte the header time.
    fn follow(&mut self) -> bool {
        let changes = self.activity.changes.load(Ordering::SeqCst);
        let idle = self.activity.in_flight.load(Ordering::SeqCst) == 0;
        if changes != self.seen {
            self.seen = changes;
            self.unclaimed = 0;
            if idle {
                self.read_deadline.as_mut().reset(Instant::now() + self.limits.idle);
            }
        }
        idle
    }

    /// An error once it has to make room, whether it waits for its peer to speak or to listen.
    fn keep_place(&self, cx: &mut Context<'_>) -> io::Result<()> {
        self.activity.waker.register(cx.waker());
        match self.activity.evicted.load(Ordering::SeqCst) {
            true => Err(io::Error::new(io::ErrorKind::TimedOut, "it made room for another one")),
            false => Ok(()),
        }
    }

    fn poll_write_deadline<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.write_deadline = None;
            return result;
        }
        self.keep_place(cx)?;
        let until = Instant::now() + self.limits.write_stall;
        let deadline = self.write_deadline.get_or_insert_with(|| Box::pin(sleep_until(until)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read its answer")))
    }
}

impl Drop for BoundedStream {
    fn drop(&mut self) {
        self.connections.close(&self.ends, &self.activity);
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if !this.follow() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        if this.unclaimed > this.limits.header_bytes && !this.http2 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the headers are too long")));
        }
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(result) => {
                let read = &buf.filled()[before..];
                if this.unclaimed == 0 && !read.is_empty() {
                    this.http2 |= read.starts_with(b"PRI");
                    this.read_deadline.as_mut().reset(Instant::now() + this.limits.header_deadline);
                }
                this.unclaimed += read.len();
                Poll::Ready(result)
            }
            Poll::Pending => {
                this.keep_place(cx)?;
                ready!(this.read_deadline.as_mut().poll(cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no request came in time")))
            }
        }
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.poll_write_deadline(cx, result)
    }

    /// Called when nothing is left to be written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.in_flight.load(Ordering::SeqCst) == 0 {
            self.activity.answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        }
        if this.activity.evicted.load(Ordering::SeqCst) {
            // Nobody waits for an answer, and somebody else for the place.
            return Poll::Ready(Ok(()));
        }
        let linger = this.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut waste = [0_u8; 4096];
        loop {
            if linger.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(&mut waste);
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() && this.wasted < LINGER_BYTES => this.wasted += buf.filled().len(),
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
