//! Whether something of a request's body is left unread: then the connection ends with the answer, which has to say so,
//! or the peer sends its next request on it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, SizeHint};
use poem::http::header::CONNECTION;
use poem::http::{HeaderValue, Version};
use poem::{Request, Response};

/// A body that may be left unread. The HTTP library closes the connection then, unless the little that is left is there
/// already; to say it then as well costs the peer a new connection.
pub(super) struct Unread(Arc<AtomicBool>);

impl Unread {
    /// Follows the body of `request`; none when nothing can be left of it.
    pub(super) fn follow(request: &mut Request) -> Option<Self> {
        let body: BoxBody<Bytes, io::Error> = request.take_body().into();
        // HTTP/2 ends a stream, not the connection, and has no header for it.
        if body.is_end_stream() || request.version() > Version::HTTP_11 {
            request.set_body(body);
            return None;
        }
        let left = Arc::new(AtomicBool::new(true));
        request.set_body(BoxBody::new(Followed { body, left: Arc::clone(&left) }));
        Some(Self(left))
    }

    /// Says in the answer that the connection ends, if the body was not read to its end.
    pub(super) fn announce(&self, response: &mut Response) {
        if self.0.load(Ordering::SeqCst) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// A body that tells when it was read.
struct Followed {
    body: BoxBody<Bytes, io::Error>,
    left: Arc<AtomicBool>,
}

impl Body for Followed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        // Whoever counts the bytes does not ask for what comes after the last one.
        if frame.is_none() || self.body.is_end_stream() {
            self.left.store(false, Ordering::SeqCst);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn request(version: Version, body: &'static str) -> Request {
        Request::builder().version(version).body(body)
    }

    fn said(unread: &Unread) -> bool {
        let mut response = Response::default();
        unread.announce(&mut response);
        response.headers().contains_key(CONNECTION)
    }

    #[tokio::test]
    async fn a_body_is_read_with_its_last_byte() {
        let mut request = request(Version::HTTP_11, "text");
        let unread = Unread::follow(&mut request).unwrap();
        let mut body: BoxBody<Bytes, io::Error> = request.take_body().into();
        assert_eq!(body.size_hint().exact(), Some(4));
        assert!(said(&unread));
        body.frame().await.unwrap().unwrap();
        assert!(!said(&unread));
    }

    #[tokio::test]
    async fn a_body_whose_length_is_not_known_is_read_when_nothing_more_comes() {
        let mut request = request(Version::HTTP_10, "");
        request.set_body(poem::Body::from_bytes_stream(futures_util::stream::iter([Ok::<_, io::Error>("text")])));
        let unread = Unread::follow(&mut request).unwrap();
        let mut body: BoxBody<Bytes, io::Error> = request.take_body().into();
        body.frame().await.unwrap().unwrap();
        assert!(said(&unread));
        assert!(body.frame().await.is_none());
        assert!(!said(&unread));
    }

    #[test]
    fn what_is_empty_or_does_not_hold_the_connection_is_not_followed() {
        assert!(Unread::follow(&mut request(Version::HTTP_11, "")).is_none());
        assert!(Unread::follow(&mut request(Version::HTTP_2, "text")).is_none());
    }
}
