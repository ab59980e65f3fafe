//! Where the answers of responses in the background meet those who follow them.
//!
//! Main type: [`Streams`]. There is a [`Seat`] for each one who answers or follows a response, and a place for each
//! response that somebody sits at. Whoever answers puts an [`Output`] there, once for all; whoever follows reads event
//! by event from it, at a pace of their own. Invariants: nothing is kept for those who read slowly, nobody who answers
//! waits for them, and when the answer ends its place is empty: all else is in the store. Knows no events and no numbers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::output::{Output, TypedEvent};

/// Responses that are answered or followed just now, by their ids.
#[derive(Debug, Default)]
pub(in crate::api) struct Streams {
    places: Mutex<HashMap<String, Seats>>,
}

/// A place, and how many sit at it.
#[derive(Debug, Default)]
struct Seats {
    place: Arc<Place>,
    taken: usize,
}

#[derive(Debug, Default)]
struct Place {
    answer: Mutex<Option<Answer>>,
    /// Rings whenever there is something new, here or in the store.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Answer {
    attempt: u64,
    output: Arc<Mutex<Output>>,
}

/// A place among those at a response, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    streams: Arc<Streams>,
    id: String,
    place: Arc<Place>,
}

/// An answer that can be followed, until it is dropped.
#[derive(Debug)]
pub(super) struct Telling {
    seat: Seat,
    output: Arc<Mutex<Output>>,
}

/// What there is to be told of an attempt.
#[derive(Debug)]
pub(super) enum Told {
    /// The event that was asked for.
    Event(TypedEvent),
    /// It is still to come.
    NotYet,
    /// The attempt is not there: it has ended, or not begun.
    Elsewhere,
}

impl Streams {
    /// Takes a seat.
    pub(super) fn enter(self: &Arc<Self>, id: &str) -> Seat {
        let mut places = lock(&self.places);
        let seats = places.entry(id.to_owned()).or_default();
        seats.taken += 1;
        Seat { streams: Arc::clone(self), id: id.to_owned(), place: Arc::clone(&seats.place) }
    }

    /// Tells those who follow a response that the store has something new about it.
    pub(super) fn ring(&self, id: &str) {
        if let Some(seats) = lock(&self.places).get(id) {
            seats.place.ring();
        }
    }

    /// Tells everybody that something has changed.
    pub(in crate::api) fn ring_all(&self) {
        lock(&self.places).values().for_each(|seats| seats.place.ring());
    }

    /// From now on nobody is told more of this answer. How many events have been told at most.
    pub(super) fn stop(&self, id: &str) -> usize {
        let places = lock(&self.places);
        let answer = places.get(id).and_then(|seats| lock(&seats.place.answer).take());
        answer.map_or(0, |answer| lock(&answer.output).events_len())
    }

    /// The attempt that is under way, and how many events it has so far.
    pub(super) fn under_way(&self, id: &str) -> Option<(u64, usize)> {
        let places = lock(&self.places);
        let answer = lock(&places.get(id)?.place.answer);
        answer.as_ref().map(|answer| (answer.attempt, lock(&answer.output).events_len()))
    }
}

impl Place {
    fn ring(&self) {
        self.changed.send_replace(());
    }
}

impl Seat {
    /// Begins an answer, which others here can follow.
    pub(super) fn tell(self, attempt: u64) -> Telling {
        let output = Arc::<Mutex<Output>>::default();
        *lock(&self.place.answer) = Some(Answer { attempt, output: Arc::clone(&output) });
        self.place.ring();
        Telling { seat: self, output }
    }

    /// What rings whenever there is something new.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.place.changed.subscribe()
    }

    /// An event of an attempt.
    pub(super) fn event(&self, attempt: u64, number: usize) -> Told {
        let answer = lock(&self.place.answer);
        let Some(answer) = answer.as_ref().filter(|answer| answer.attempt == attempt) else { return Told::Elsewhere };
        let event = lock(&answer.output).event(number);
        event.map_or(Told::NotYet, Told::Event)
    }
}

impl Telling {
    /// Changes the output and tells those who follow.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Output) -> T) -> T {
        let changed = change(&mut lock(&self.output));
        self.seat.place.ring();
        changed
    }

    /// How many events tell of the output so far.
    pub(super) fn events_len(&self) -> usize {
        lock(&self.output).events_len()
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let mut answer = lock(&self.seat.place.answer);
        // A later attempt may have begun at the same place.
        if answer.as_ref().is_some_and(|answer| Arc::ptr_eq(&answer.output, &self.output)) {
            *answer = None;
        }
        drop(answer);
        self.seat.place.ring();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut places = lock(&self.streams.places);
        let Some(seats) = places.get_mut(&self.id) else { return };
        seats.taken -= 1;
        if seats.taken == 0 {
            places.remove(&self.id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of one who answers must not become one of those who follow.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::turn::TurnEvent;

    fn says(text: &str) -> TurnEvent {
        TurnEvent::Content { text: text.to_owned(), logprobs: Vec::new() }
    }

    #[test]
    fn a_place_is_there_as_long_as_somebody_sits_at_it() {
        let streams = Arc::<Streams>::default();
        let (reader, other) = (streams.enter("a"), streams.enter("a"));
        let telling = streams.enter("a").tell(1);
        telling.change(|output| output.push(says("Hi")));
        assert_eq!(streams.under_way("a"), Some((1, 3)));
        assert!(matches!(reader.event(1, 2), Told::Event(("response.output_text.delta", _))));
        assert!(matches!((other.event(1, 3), other.event(2, 0)), (Told::NotYet, Told::Elsewhere)));
        drop((telling, other));
        assert!(matches!(reader.event(1, 0), Told::Elsewhere), "the answer is not kept here");
        drop(reader);
        assert!(lock(&streams.places).is_empty());
    }

    #[test]
    fn changes_are_rung_for_those_who_came_before() {
        let streams = Arc::<Streams>::default();
        let seat = streams.enter("a");
        let mut changes = seat.changes();
        let is_rung = |changes: &mut watch::Receiver<()>| {
            let is_rung = changes.has_changed().expect("the place is there");
            changes.mark_unchanged();
            is_rung
        };
        let telling = streams.enter("a").tell(1);
        assert!(is_rung(&mut changes));
        telling.change(|output| output.push(says("Hi")));
        assert!(is_rung(&mut changes));
        streams.ring("b");
        assert!(!is_rung(&mut changes));
        assert_eq!(streams.stop("a"), 3);
        telling.change(|output| output.push(says(" there")));
        assert!(matches!(seat.event(1, 0), Told::Elsewhere), "it was stopped");
        is_rung(&mut changes);
        drop(telling);
        assert!(is_rung(&mut changes));
    }

    #[test]
    fn an_attempt_that_ends_late_leaves_the_next_one_alone() {
        let streams = Arc::<Streams>::default();
        let earlier = streams.enter("a").tell(1);
        let later = streams.enter("a").tell(2);
        drop(earlier);
        assert_eq!(streams.under_way("a"), Some((2, 0)));
        drop(later);
        assert!(lock(&streams.places).is_empty());
    }
}
