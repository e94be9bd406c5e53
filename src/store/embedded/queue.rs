//! A bounded queue from many tasks to one thread.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the thread may work on one batch before new items are refused: the disk does not answer.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Why an item was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// So many wait already.
    Full(usize),
    /// The thread has been at one batch for so long.
    Stuck(Duration),
    /// The thread has ended, or is about to.
    Closed,
}

/// Holds what waits for the thread. Never blocks the side that pushes.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    not_empty: Condvar,
    max_items: usize,
    max_bytes: usize,
}

struct State<T> {
    waiting: VecDeque<(T, usize)>,
    bytes: usize,
    closed: bool,
    busy_since: Option<Instant>,
}

impl<T> Queue<T> {
    /// A queue for at most `max_items` items of together at most `max_bytes` bytes, except that one item alone may be
    /// larger.
    pub(super) fn new(max_items: usize, max_bytes: usize) -> Self {
        let state = State { waiting: VecDeque::new(), bytes: 0, closed: false, busy_since: None };
        Self { state: Mutex::new(state), not_empty: Condvar::new(), max_items, max_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an item of so many bytes to the thread, or refuses it at once.
    pub(super) fn push(&self, item: T, bytes: usize) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if let Some(stuck) = state.busy_since.map(|since| since.elapsed()).filter(|took| *took > STUCK_AFTER) {
            return Err(Refused::Stuck(stuck));
        }
        let count = state.waiting.len();
        if count >= self.max_items || (count > 0 && state.bytes.saturating_add(bytes) > self.max_bytes) {
            return Err(Refused::Full(count));
        }
        state.bytes = state.bytes.saturating_add(bytes);
        state.waiting.push_back((item, bytes));
        drop(state);
        if count == 0 {
            self.not_empty.notify_one();
        }
        Ok(())
    }

    /// Waits for items and takes the oldest, at most `max`. None: closed, and everything was taken.
    pub(super) fn take(&self, max: usize) -> Option<Vec<T>> {
        let mut state = self.lock();
        state.busy_since = None;
        while state.waiting.is_empty() {
            if state.closed {
                return None;
            }
            state = self.not_empty.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.busy_since = Some(Instant::now());
        Some(state.oldest(max))
    }

    /// Takes what came meanwhile, at most `max`, without waiting.
    pub(super) fn take_more(&self, max: usize) -> Vec<T> {
        self.lock().oldest(max)
    }

    /// Takes no more items; those that wait are still worked off.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.not_empty.notify_all();
    }

    /// Takes no more items and drops those that wait.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.bytes = 0;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        drop(waiting);
    }
}

impl<T> State<T> {
    fn oldest(&mut self, max: usize) -> Vec<T> {
        let count = self.waiting.len().min(max);
        let mut items = Vec::with_capacity(count);
        for (item, bytes) in self.waiting.drain(..count) {
            self.bytes = self.bytes.saturating_sub(bytes);
            items.push(item);
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_out_in_order_and_close_lets_them() {
        let queue = Queue::new(10, 100);
        for item in 0..5 {
            queue.push(item, 1).unwrap();
        }
        assert_eq!(queue.take(2), Some(vec![0, 1]));
        assert_eq!(queue.take_more(2), vec![2, 3]);
        queue.close();
        assert_eq!(queue.push(9, 1), Err(Refused::Closed));
        assert_eq!(queue.take(2), Some(vec![4]));
        assert_eq!(queue.take(2), None);
    }

    #[test]
    fn more_than_may_wait_is_refused_in_number_and_bytes() {
        let queue = Queue::new(3, 100);
        queue.push(0, 500).unwrap();
        assert_eq!(queue.push(1, 1), Err(Refused::Full(1)), "bytes");
        assert_eq!(queue.take(9), Some(vec![0]));
        for item in 0..3 {
            queue.push(item, 1).unwrap();
        }
        assert_eq!(queue.push(3, 1), Err(Refused::Full(3)), "number");
        queue.take(1);
        queue.push(3, 1).unwrap();
    }

    #[test]
    fn a_waiting_thread_is_woken() {
        let queue = Queue::new(3, 100);
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| queue.take(1));
            queue.push(7, 1).unwrap();
            assert_eq!(taken.join().unwrap(), Some(vec![7]));
            let ended = scope.spawn(|| queue.take(1));
            queue.close();
            assert_eq!(ended.join().unwrap(), None);
        });
    }
}
