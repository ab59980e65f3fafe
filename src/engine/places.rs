//! Places for requests, or for pieces of memory: so many in all, of which every share (a tenant) has its part.
//!
//! [`Places`] gives whoever comes a place while there are any. Once all are taken, a share that has fewer than its part
//! still gets one: whoever fills the queue does not keep others out. Invariants: at most twice the limit is taken, and
//! one share alone never takes more than the limit. Knows nothing of what is done in a place.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How often the limit may be taken by all shares together.
pub(super) const LIMIT_WITH_PARTS: usize = 2;

/// A limited number of places.
#[derive(Debug)]
pub struct Places {
    limit: usize,
    taken: Mutex<BTreeMap<Arc<str>, usize>>,
}

/// A place, or several; free again when this is dropped.
#[derive(Debug)]
pub struct TakenPlace {
    places: Arc<Places>,
    share: Arc<str>,
    count: usize,
}

impl Places {
    /// So many places, none of which is taken.
    pub fn new(limit: usize) -> Self {
        Self { limit, taken: Mutex::default() }
    }

    /// A place for a share, if there is one.
    pub fn take(self: &Arc<Self>, share: &Arc<str>) -> Option<TakenPlace> {
        self.take_many(share, 1)
    }

    /// So many places for a share, if all of them are there.
    pub fn take_many(self: &Arc<Self>, share: &Arc<str>, count: usize) -> Option<TakenPlace> {
        self.count_in(share, count).then(|| TakenPlace { places: Arc::clone(self), share: Arc::clone(share), count })
    }

    /// Counts so many more for a share. False if they are not there.
    fn count_in(&self, share: &Arc<str>, count: usize) -> bool {
        let mut taken = self.taken();
        let total = taken.values().sum::<usize>().saturating_add(count);
        let before = taken.get(share).copied().unwrap_or(0);
        let shares = taken.len() + usize::from(before == 0);
        let mine = before.saturating_add(count);
        let is_within_its_part =
            mine <= (self.limit / shares).max(1) && total <= self.limit.saturating_mul(LIMIT_WITH_PARTS);
        let is_there = total <= self.limit || (shares > 1 && is_within_its_part);
        if is_there && mine > 0 {
            taken.insert(Arc::clone(share), mine);
        }
        is_there
    }

    /// How many are taken.
    pub fn num_taken(&self) -> usize {
        self.taken().values().sum()
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TakenPlace {
    /// How many these are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes so many more. False, and as before, if they are not there.
    pub fn grow(&mut self, more: usize) -> bool {
        let is_there = self.places.count_in(&self.share, more);
        self.count += if is_there { more } else { 0 };
        is_there
    }
}

impl Drop for TakenPlace {
    fn drop(&mut self) {
        if self.count == 0 {
            return;
        }
        let mut taken = self.places.taken();
        let count = taken.get_mut(&self.share).expect("its place is counted");
        *count -= self.count;
        if *count == 0 {
            taken.remove(&self.share);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many as it gets.
    fn fill(places: &Arc<Places>, share: &str) -> Vec<TakenPlace> {
        let share = Arc::from(share);
        std::iter::from_fn(|| places.take(&share)).take(1000).collect()
    }

    #[test]
    fn whoever_is_alone_has_all_and_no_more() {
        let places = Arc::new(Places::new(8));
        let taken = fill(&places, "a");
        assert_eq!((taken.len(), places.num_taken()), (8, 8));
        drop(taken);
        assert_eq!(places.num_taken(), 0);
        assert_eq!(fill(&places, "b").len(), 8);
        assert!(Arc::new(Places::new(0)).take(&"a".into()).is_none());
    }

    #[test]
    fn whoever_fills_all_keeps_nobody_out_of_its_part() {
        let places = Arc::new(Places::new(8));
        let mut heavy = fill(&places, "heavy");
        let light = fill(&places, "light");
        assert_eq!(light.len(), 4, "half of them");
        assert!(fill(&places, "heavy").is_empty());
        let third = fill(&places, "third");
        assert_eq!(third.len(), 2, "a third of them");
        let others: Vec<_> = (0..9).map(|name| fill(&places, &name.to_string())).collect();
        assert_eq!(places.num_taken(), 16, "never more than twice the limit");
        drop((light, third, others));
        heavy.truncate(7);
        assert_eq!(fill(&places, "light").len(), 4, "one that is free, and the rest of its part");
    }

    #[test]
    fn many_at_once_are_there_or_none_is() {
        let places = Arc::new(Places::new(8));
        let [heavy, light] = ["heavy", "light"].map(Arc::from);
        let mut held = places.take_many(&heavy, 5).unwrap();
        assert!(!held.grow(4) && held.grow(3) && !held.grow(1), "all there are");
        assert!(places.take_many(&light, 5).is_none(), "more than its part");
        let mut part = places.take_many(&light, 3).unwrap();
        assert!(part.grow(1) && !part.grow(1) && places.take_many(&light, usize::MAX).is_none());
        assert_eq!((held.count(), part.count(), places.num_taken()), (8, 4, 12));
        drop(held);
        assert!(part.grow(4), "what nobody has is there for anybody");
        drop(places.take_many(&heavy, 0));
        drop(part);
        assert_eq!(places.num_taken(), 0);
    }

    #[test]
    fn more_shares_than_places() {
        let places = Arc::new(Places::new(2));
        let taken: Vec<_> = (0..6).map(|name| fill(&places, &name.to_string())).collect();
        assert_eq!(taken.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 0, 0, 0]);
    }
}
