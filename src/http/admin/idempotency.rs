//! Idempotency keys: the same request twice is carried out once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use poem::http::StatusCode;
use sha2::{Digest, Sha256};

use super::view::OutcomeView;
use crate::http::problem::Problem;

/// Answers that are remembered at most; the oldest go first.
const ENTRIES_MAX: usize = 1000;
/// How long an answer is remembered.
const KEPT: SignedDuration = SignedDuration::from_hours(24);
/// Longest key.
const KEY_MAX: usize = 255;

/// What a message was answered.
pub(super) type Answer = Result<OutcomeView, Problem>;

/// The answers of the last day, in memory.
#[derive(Default)]
pub(in crate::http) struct Idempotency(Mutex<HashMap<Slot, Entry>>);

/// One caller's use of one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    caller: String,
    key: String,
}

struct Entry {
    request: [u8; 32],
    at: Timestamp,
    answer: Option<Answer>,
}

/// What to do with a request.
#[derive(Debug, PartialEq)]
pub(super) enum Begin {
    /// Carry it out, then call [`Idempotency::finish`].
    New(Slot),
    /// Answer as before.
    Again(Answer),
}

impl Idempotency {
    /// Looks up `key`; `request` is what must be the same: target and body.
    ///
    /// # Errors
    /// 422 for a malformed key or one that was used for another request, 409 while the first one is in progress.
    pub(super) fn begin(&self, caller: &str, key: &str, request: &str, now: Timestamp) -> Result<Begin, Problem> {
        const HEADER: &str = "Idempotency-Key";
        if !(1..=KEY_MAX).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Problem::invalid(HEADER, format!("expected 1 to {KEY_MAX} printable characters")));
        }
        let request: [u8; 32] = Sha256::digest(request.as_bytes()).into();
        let slot = Slot { caller: caller.to_owned(), key: key.to_owned() };
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match entries.get(&slot) {
            Some(entry) if entry.answer.is_some() && now.duration_since(entry.at) >= KEPT => {}
            Some(entry) if entry.request != request => {
                return Err(Problem::invalid(HEADER, "the key was used for another request"));
            }
            Some(Entry { answer: Some(answer), .. }) => return Ok(Begin::Again(answer.clone())),
            Some(_) => {
                return Err(Problem::new(StatusCode::CONFLICT, "the first request with this key is in progress"));
            }
            None => make_room(&mut entries, now),
        }
        entries.insert(slot.clone(), Entry { request, at: now, answer: None });
        Ok(Begin::New(slot))
    }

    /// Remembers the answer. One that may be another next time (503) is forgotten.
    pub(super) fn finish(&self, slot: Slot, answer: &Answer) {
        let passing = matches!(answer, Err(problem) if problem.status().is_server_error());
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if passing {
            entries.remove(&slot);
        } else if let Some(entry) = entries.get_mut(&slot) {
            entry.answer = Some(answer.clone());
        }
    }
}

/// Requests in progress are bounded by the door, and never go.
fn make_room(entries: &mut HashMap<Slot, Entry>, now: Timestamp) {
    if entries.len() < ENTRIES_MAX {
        return;
    }
    entries.retain(|_, entry| entry.answer.is_none() || now.duration_since(entry.at) < KEPT);
    while entries.len() >= ENTRIES_MAX {
        let finished = entries.iter().filter(|(_, entry)| entry.answer.is_some());
        let Some(oldest) = finished.min_by_key(|(_, entry)| entry.at).map(|(slot, _)| slot.clone()) else { return };
        entries.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn done(text: &str) -> Answer {
        Ok(OutcomeView { message: text.into(), runner: None })
    }

    fn run(memory: &Idempotency, key: &str, request: &str, now: Timestamp) -> Option<Answer> {
        match memory.begin("boss", key, request, now).unwrap() {
            Begin::New(slot) => {
                memory.finish(slot, &done(request));
                None
            }
            Begin::Again(answer) => Some(answer),
        }
    }

    #[test]
    fn the_same_request_is_answered_again_for_a_day() {
        let memory = Idempotency::default();
        assert_eq!(run(&memory, "k", "drain", at(0)), None);
        assert_eq!(run(&memory, "k", "drain", at(86_399)), Some(done("drain")));
        assert_eq!(run(&memory, "k", "drain", at(86_400)), None);
    }

    #[test]
    fn a_key_belongs_to_one_request_and_one_caller() {
        let memory = Idempotency::default();
        run(&memory, "k", "drain", at(0));
        let other = memory.begin("boss", "k", "resume", at(1)).unwrap_err();
        assert_eq!(other.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert!(matches!(memory.begin("deputy", "k", "resume", at(1)), Ok(Begin::New(_))));
    }

    #[test]
    fn a_second_request_does_not_overtake_the_first() {
        let memory = Idempotency::default();
        let Begin::New(slot) = memory.begin("boss", "k", "drain", at(0)).unwrap() else { panic!() };
        assert_eq!(memory.begin("boss", "k", "drain", at(1)).unwrap_err().status(), StatusCode::CONFLICT);
        memory.finish(slot, &Err(Problem::unavailable("later")));
        assert!(matches!(memory.begin("boss", "k", "drain", at(2)), Ok(Begin::New(_))), "a 503 may be tried again");
    }

    #[test]
    fn keys_have_a_form_and_the_memory_a_bound() {
        let memory = Idempotency::default();
        for key in ["", "a b", "ü", &"k".repeat(256)] {
            assert!(memory.begin("boss", key, "drain", at(0)).is_err(), "{key}");
        }
        for i in 0..3 * i64::try_from(ENTRIES_MAX).unwrap() {
            assert_eq!(run(&memory, &format!("k{i}"), "drain", at(i)), None);
        }
        assert_eq!(memory.0.lock().unwrap().len(), ENTRIES_MAX);
    }
}
