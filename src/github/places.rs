//! How many calls run at once, and who is next: a number that adapts, and three classes of callers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Calls that may run at once in the beginning; each success allows one more, each refusal halves it.
const START: usize = 8;

/// How urgent a call is; the first is the most urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// A runner waits for it: its config, its removal, a look-up of its name, and the credential for all that.
    Runner,
    /// Health checks and runner groups.
    Listing,
    /// What GitHub remembers of jobs and deliveries.
    Records,
}

impl Class {
    /// How many there are.
    const COUNT: usize = 3;
    const ALL: [Self; Self::COUNT] = [Self::Runner, Self::Listing, Self::Records];
}

/// The places for calls. Whoever is more urgent is served first, and the less urgent leave some places free for them.
pub(super) struct Places {
    max: usize,
    state: Mutex<State>,
}

struct State {
    /// Calls that may run at once now.
    allowed: usize,
    /// Calls that run, by class. May be above `allowed` after it shrank.
    taken: [usize; Class::COUNT],
    waiting: [VecDeque<oneshot::Sender<Place>>; Class::COUNT],
}

impl State {
    /// Whether one more call of `class` may run. A quarter of the places is for [`Class::Runner`] alone, and
    /// [`Class::Records`] get half at most.
    fn fits(&self, class: Class) -> bool {
        let [runner, listing, records] = self.taken;
        let shared = (self.allowed - self.allowed / 4).max(1);
        let fits = runner + listing + records < self.allowed;
        match class {
            Class::Runner => fits,
            Class::Listing => fits && listing + records < shared,
            Class::Records => fits && listing + records < shared && records < (self.allowed / 2).max(1),
        }
    }
}

/// The right to run one call; given back when it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    class: Class,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.state().taken[self.class as usize] -= 1;
        self.places.hand_out();
    }
}

/// The numbers of one moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) allowed: usize,
    pub(super) running: usize,
    pub(super) waiting: usize,
}

impl Places {
    /// At most `max` at once, at least one.
    pub(super) fn new(max: usize) -> Arc<Self> {
        let max = max.max(1);
        let state = State { allowed: START.min(max), taken: [0; Class::COUNT], waiting: Default::default() };
        Arc::new(Self { max, state: Mutex::new(state) })
    }

    /// Waits for a place.
    pub(super) async fn take(self: &Arc<Self>, class: Class) -> Place {
        loop {
            let (sender, place) = oneshot::channel();
            self.state().waiting[class as usize].push_back(sender);
            self.hand_out();
            // The sender is in the queue until it is used, so this is the first turn but for a lost queue.
            if let Ok(place) = place.await {
                return place;
            }
        }
    }

    /// GitHub answered: one more call may run at once.
    pub(super) fn grow(&self) {
        let mut state = self.state();
        state.allowed = (state.allowed + 1).min(self.max);
    }

    /// GitHub refused: half as many may run at once.
    pub(super) fn shrink(&self) {
        let mut state = self.state();
        state.allowed = (state.allowed / 2).max(1);
    }

    pub(super) fn counts(&self) -> Counts {
        let state = self.state();
        let waiting = state.waiting.iter().flatten().filter(|waiting| !waiting.is_closed()).count();
        Counts { allowed: state.allowed, running: state.taken.iter().sum(), waiting }
    }

    /// Gives free places to those who wait.
    fn hand_out(self: &Arc<Self>) {
        while let Some((class, waiting)) = self.next() {
            // Whoever left meanwhile gives it back.
            let _ = waiting.send(Place { places: Arc::clone(self), class });
        }
    }

    /// The next who gets a place; it counts as taken.
    fn next(&self) -> Option<(Class, oneshot::Sender<Place>)> {
        let mut state = self.state();
        for class in Class::ALL {
            while state.fits(class)
                && let Some(waiting) = state.waiting[class as usize].pop_front()
            {
                if !waiting.is_closed() {
                    state.taken[class as usize] += 1;
                    return Some((class, waiting));
                }
            }
        }
        None
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    /// Takes a place that is free now.
    fn now(places: &Arc<Places>, class: Class) -> Option<Place> {
        places.take(class).now_or_never()
    }

    fn all(places: &Arc<Places>, class: Class) -> Vec<Place> {
        std::iter::from_fn(|| now(places, class)).collect()
    }

    #[tokio::test]
    async fn places_grow_with_answers_and_halve_with_a_refusal() {
        let places = Places::new(32);
        assert_eq!(all(&places, Class::Runner).len(), START);
        (0..100).for_each(|_| places.grow());
        let held = all(&places, Class::Runner);
        assert_eq!(held.len(), 32);
        places.shrink();
        assert!(now(&places, Class::Runner).is_none(), "those who hold a place keep it");
        drop(held);
        assert_eq!(all(&places, Class::Runner).len(), 16, "but it does not come back");
        (0..9).for_each(|_| places.shrink());
        assert_eq!(all(&places, Class::Runner).len(), 1);
    }

    #[tokio::test]
    async fn the_less_urgent_leave_places_for_the_more_urgent() {
        let places = Places::new(8);
        let records = all(&places, Class::Records);
        let listings = all(&places, Class::Listing);
        let runners = all(&places, Class::Runner);
        assert_eq!((records.len(), listings.len(), runners.len()), (4, 2, 2));
        assert_eq!(places.counts(), Counts { allowed: 8, running: 8, waiting: 0 });
    }

    #[tokio::test]
    async fn with_one_place_everyone_is_served_the_most_urgent_first() {
        let places = Places::new(1);
        let held = now(&places, Class::Records).unwrap();
        let order = Mutex::new(Vec::new());
        let wait = async |class| {
            let place = places.take(class).await;
            order.lock().unwrap().push(class);
            drop(place);
        };
        let release = async {
            assert_eq!(places.counts(), Counts { allowed: 1, running: 1, waiting: 4 });
            drop(held);
        };
        let waiting = (wait(Class::Records), wait(Class::Listing), wait(Class::Runner), wait(Class::Runner));
        tokio::join!(waiting.0, waiting.1, waiting.2, waiting.3, release);
        let order = order.lock().unwrap().clone();
        assert_eq!(order, [Class::Runner, Class::Runner, Class::Listing, Class::Records]);
    }

    #[tokio::test]
    async fn who_stops_waiting_takes_no_place() {
        let places = Places::new(1);
        let held = now(&places, Class::Runner).unwrap();
        for _ in 0..1000 {
            assert!(now(&places, Class::Runner).is_none());
        }
        assert_eq!(places.counts().waiting, 0);
        drop(held);
        assert!(now(&places, Class::Records).is_some());
    }
}
