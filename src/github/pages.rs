//! Pages of listings, kept so that GitHub is asked only for those that changed: a page that did not costs nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{ETAG, LINK};
use http::{HeaderValue, StatusCode};

use super::answer::Answer;

/// Largest size of all that is kept, in bytes: 40,000 runners, at 500 bytes each, and their like.
const BYTES_MAX: usize = 20 << 20;

/// Pages by account and address. The one that was not used for longest goes first.
#[derive(Default)]
pub(super) struct Pages {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pages: HashMap<(String, String), (Kept, u64)>,
    bytes: usize,
    /// Counts uses.
    now: u64,
}

/// A page that was read before.
#[derive(Clone)]
pub(super) struct Kept {
    etag: HeaderValue,
    links: Vec<HeaderValue>,
    body: Bytes,
}

impl Kept {
    /// By which GitHub knows it again.
    pub(super) fn etag(&self) -> &HeaderValue {
        &self.etag
    }

    /// The page, as GitHub would send it again; the rest of what `unchanged` says holds.
    pub(super) fn again(self, mut unchanged: Answer) -> Answer {
        unchanged.status = StatusCode::OK;
        unchanged.headers.remove(LINK);
        for link in self.links {
            unchanged.headers.append(LINK, link);
        }
        unchanged.body = self.body;
        unchanged
    }
}

impl Pages {
    pub(super) fn get(&self, account: &str, path: &str) -> Option<Kept> {
        let mut state = self.state();
        state.now += 1;
        let now = state.now;
        let (kept, used) = state.pages.get_mut(&(account.to_owned(), path.to_owned()))?;
        *used = now;
        Some(kept.clone())
    }

    /// Keeps a page that was read, if GitHub says how to know it again and it is not too large. No page behind a cursor:
    /// cursors are new each time, and such pages would only push out others.
    pub(super) fn keep(&self, account: &str, path: &str, answer: &Answer) {
        if path.contains("cursor=") {
            return;
        }
        let Some(etag) = answer.headers.get(ETAG).filter(|_| answer.status == StatusCode::OK) else { return };
        let links = answer.headers.get_all(LINK).iter().cloned().collect();
        let kept = Kept { etag: etag.clone(), links, body: answer.body.clone() };
        let mut state = self.state();
        state.now += 1;
        let now = state.now;
        state.bytes += kept.body.len();
        if let Some((old, _)) = state.pages.insert((account.to_owned(), path.to_owned()), (kept, now)) {
            state.bytes -= old.body.len();
        }
        while state.bytes > BYTES_MAX {
            let oldest = state.pages.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
            let Some((old, _)) = oldest.and_then(|key| state.pages.remove(&key)) else { return };
            state.bytes -= old.body.len();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn page(etag: Option<&'static str>, size: usize) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(LINK, HeaderValue::from_static("</2>; rel=\"next\""));
        if let Some(etag) = etag {
            headers.insert(ETAG, HeaderValue::from_static(etag));
        }
        let body = Bytes::from(vec![b' '; size]);
        Answer { request: "GET /x".to_owned(), status: StatusCode::OK, headers, body }
    }

    #[test]
    fn a_kept_page_comes_back_with_its_links_and_what_the_new_answer_says() {
        let pages = Pages::default();
        pages.keep("a", "/x", &page(Some("one"), 3));
        pages.keep("a", "/y", &page(None, 3));
        assert!(pages.get("a", "/y").is_none() && pages.get("b", "/x").is_none());
        let kept = pages.get("a", "/x").unwrap();
        assert_eq!(kept.etag(), "one");
        let mut unchanged = page(None, 0);
        unchanged.status = StatusCode::NOT_MODIFIED;
        unchanged.headers.clear();
        unchanged.headers.insert("x-ratelimit-remaining", HeaderValue::from_static("7"));
        let again = kept.again(unchanged);
        assert_eq!((again.status, again.body.len(), again.next().as_deref()), (StatusCode::OK, 3, Some("/2")));
        assert_eq!(again.left().map(|left| left.remaining), Some(7));
    }

    #[test]
    fn a_page_behind_a_cursor_is_not_kept() {
        let pages = Pages::default();
        pages.keep("a", "/deliveries?per_page=100&cursor=v1_17", &page(Some("one"), 3));
        assert!(pages.get("a", "/deliveries?per_page=100&cursor=v1_17").is_none());
        assert_eq!(pages.state().bytes, 0);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_least_used_goes() {
        let pages = Pages::default();
        let quarter = || page(Some("x"), BYTES_MAX / 4);
        for path in ["/1", "/2", "/3", "/4", "/4"] {
            pages.keep("a", path, &quarter());
        }
        assert!(pages.get("a", "/1").is_some());
        pages.keep("a", "/5", &quarter());
        let kept: Vec<bool> = ["/1", "/2", "/3", "/4", "/5"].map(|path| pages.get("a", path).is_some()).into();
        assert_eq!(kept, [true, false, true, true, true]);
        pages.keep("a", "/huge", &page(Some("x"), BYTES_MAX + 1));
        assert_eq!(pages.state().bytes, 0);
    }
}
