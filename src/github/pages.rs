//! Pages of listings, kept so that GitHub is asked only for those that changed: a page that did not costs nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ETAG, LINK};
use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use super::answer::Answer;

/// Largest size of all that is kept, in bytes: 40,000 runners, at 500 bytes each, and their like.
const BYTES_MAX: usize = 20 << 20;
/// What single runs have is not kept for longer than this without being asked for: runs end.
const RUN_UNUSED_MAX: Duration = Duration::from_secs(600);
/// Time between two looks for such pages.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Pages by account and address. The one that was not used for longest goes first.
#[derive(Default)]
pub(super) struct Pages {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pages: HashMap<(String, String), Page>,
    bytes: usize,
    /// Counts uses.
    uses: u64,
    swept_at: Option<Instant>,
}

struct Page {
    kept: Kept,
    /// The last use, by its number and its time.
    used: (u64, Instant),
}

impl State {
    fn use_now(&mut self) -> (u64, Instant) {
        self.uses += 1;
        (self.uses, Instant::now())
    }

    /// Drops what runs had that are over, as far as one can tell.
    fn sweep(&mut self) {
        let now = Instant::now();
        if self.swept_at.is_some_and(|at| now < at + SWEEP_EVERY) {
            return;
        }
        self.swept_at = Some(now);
        self.pages.retain(|(_, path), page| !path.contains("/actions/runs/") || now < page.used.1 + RUN_UNUSED_MAX);
        self.bytes = self.pages.values().map(|page| page.kept.body.len()).sum();
    }
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
        let used = state.use_now();
        let page = state.pages.get_mut(&(account.to_owned(), path.to_owned()))?;
        page.used = used;
        Some(page.kept.clone())
    }

    /// Keeps a page that was read, if GitHub says how to know it again and it is not too large. No page behind a cursor:
    /// cursors are new each time, and such pages would only push out others. It is copied: what was read is a part of the
    /// connection's buffer, all of which would be kept with it.
    pub(super) fn keep(&self, account: &str, path: &str, answer: &Answer) {
        if path.contains("cursor=") {
            return;
        }
        let Some(etag) = answer.headers.get(ETAG).filter(|_| answer.status == StatusCode::OK) else { return };
        let Some(etag) = copy(etag) else { return };
        let links = answer.headers.get_all(LINK).iter().filter_map(copy).collect();
        let kept = Kept { etag, links, body: Bytes::copy_from_slice(&answer.body) };
        let mut state = self.state();
        state.sweep();
        let used = state.use_now();
        state.bytes += kept.body.len();
        if let Some(old) = state.pages.insert((account.to_owned(), path.to_owned()), Page { kept, used }) {
            state.bytes -= old.kept.body.len();
        }
        while state.bytes > BYTES_MAX {
            let oldest = state.pages.iter().min_by_key(|(_, page)| page.used.0).map(|(key, _)| key.clone());
            let Some(old) = oldest.and_then(|key| state.pages.remove(&key)) else { return };
            state.bytes -= old.kept.body.len();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same value in memory of its own.
fn copy(value: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::from_bytes(value.as_bytes()).ok()
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
    fn a_kept_page_keeps_nothing_of_the_buffer_it_was_read_into() {
        let read = Bytes::from(vec![b'7'; 64 << 10]);
        let value = |range| HeaderValue::from_maybe_shared(read.slice(range)).unwrap();
        let mut answer = page(None, 0);
        answer.headers.insert(ETAG, value(0..9));
        answer.headers.insert(LINK, value(9..99));
        answer.body = read.slice(99..199);
        let pages = Pages::default();
        pages.keep("a", "/x", &answer);
        drop(answer);
        assert!(read.is_unique());
        let kept = pages.get("a", "/x").unwrap();
        assert_eq!((kept.etag.len(), kept.links[0].len(), kept.body.len()), (9, 90, 100));
    }

    #[test]
    fn a_page_behind_a_cursor_is_not_kept() {
        let pages = Pages::default();
        pages.keep("a", "/deliveries?per_page=100&cursor=v1_17", &page(Some("one"), 3));
        assert!(pages.get("a", "/deliveries?per_page=100&cursor=v1_17").is_none());
        assert_eq!(pages.state().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_single_runs_have_goes_when_nobody_asks_for_it_any_more() {
        let pages = Pages::default();
        let (over, open, runners) =
            ("/actions/runs/1/jobs?filter=latest", "/actions/runs/2/jobs?filter=latest", "/actions/runners?page=2");
        for path in [over, open, runners] {
            pages.keep("a", path, &page(Some("one"), 3));
        }
        for _ in 0..11 {
            tokio::time::sleep(SWEEP_EVERY).await;
            assert!(pages.get("a", open).is_some());
            pages.keep("a", "/actions/runs?status=queued", &page(Some("two"), 2));
        }
        assert!(pages.get("a", over).is_none() && pages.get("a", open).is_some() && pages.get("a", runners).is_some());
        assert_eq!(pages.state().bytes, 3 + 3 + 2);
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
