//! Places where long bodies are worked on: so many at once, whose waiting line is shared among tenants.
//!
//! [`LongBodies`] gives a place that comes free to the tenant that has fewest, and of these to whoever has waited longest:
//! one that sends many long bodies holds another's for one piece of work, not for all of its own. Invariants: no place is
//! free while somebody waits, and who does not wait any more gets none. Knows nothing of what is done in a place.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// A limited number of places, and who waits for one.
#[derive(Debug)]
pub(super) struct LongBodies {
    limit: usize,
    line: Mutex<Line>,
}

/// A place; it goes to the next one when this is dropped.
#[derive(Debug)]
pub(super) struct LongBodyPlace {
    places: Arc<LongBodies>,
    tenant: Arc<str>,
}

#[derive(Debug, Default)]
struct Line {
    taken: BTreeMap<Arc<str>, usize>,
    /// In the order in which they came.
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    tenant: Arc<str>,
    sender: oneshot::Sender<LongBodyPlace>,
}

impl LongBodies {
    /// So many places, none of which is taken.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, line: Mutex::default() }
    }

    /// Waits for a place.
    pub(super) async fn enter(self: &Arc<Self>, tenant: &Arc<str>) -> Option<LongBodyPlace> {
        let comes = {
            let mut line = self.line();
            line.forget_those_who_left();
            if line.num_taken() < self.limit {
                return Some(self.take(&mut line, tenant));
            }
            let (sender, comes) = oneshot::channel();
            line.waiting.push(Waiting { tenant: Arc::clone(tenant), sender });
            comes
        };
        comes.await.ok() // who waits holds the places, and these its sender
    }

    fn take(self: &Arc<Self>, line: &mut Line, tenant: &Arc<str>) -> LongBodyPlace {
        *line.taken.entry(Arc::clone(tenant)).or_default() += 1;
        LongBodyPlace { places: Arc::clone(self), tenant: Arc::clone(tenant) }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn num_taken(&self) -> usize {
        self.taken.values().sum()
    }

    fn forget_those_who_left(&mut self) {
        self.waiting.retain(|waiting| !waiting.sender.is_closed());
    }

    fn leave(&mut self, tenant: &str) {
        let count = self.taken.get_mut(tenant).expect("its place is counted");
        *count -= 1;
        if *count == 0 {
            self.taken.remove(tenant);
        }
    }

    fn next(&mut self) -> Option<Waiting> {
        let has = |waiting: &Waiting| self.taken.get(&waiting.tenant).copied().unwrap_or(0);
        let (index, _) = self.waiting.iter().enumerate().min_by_key(|(_, waiting)| has(waiting))?;
        Some(self.waiting.remove(index))
    }
}

impl Drop for LongBodyPlace {
    fn drop(&mut self) {
        let given = {
            let mut line = self.places.line();
            line.leave(&self.tenant);
            line.forget_those_who_left();
            line.next().map(|next| (self.places.take(&mut line, &next.tenant), next.sender))
        };
        // Whoever has left at this moment gives its place back, which takes the line again: so that is not held here.
        if let Some((place, sender)) = given {
            drop(sender.send(place));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_place_goes_to_whoever_has_fewest_and_has_waited_longest() {
        let places = Arc::new(LongBodies::new(2));
        let [heavy, light] = ["heavy", "light"].map(Arc::<str>::from);
        let mut taken = vec![places.enter(&heavy).await, places.enter(&heavy).await];
        let mut waiting = [&heavy, &heavy, &light, &light].map(|tenant| Box::pin(places.enter(tenant)));
        assert!(waiting.iter_mut().all(|waits| waits.now_or_never().is_none()));
        let mut came = Vec::new();
        while !taken.is_empty() {
            assert!(taken.remove(0).is_some());
            for (index, waits) in waiting.iter_mut().enumerate() {
                let place = if came.contains(&index) { None } else { waits.now_or_never() };
                if let Some(place) = place {
                    came.push(index);
                    taken.push(place);
                }
            }
        }
        assert_eq!(came, [2, 0, 3, 1], "each in turn");
        assert_eq!(places.line().num_taken(), 0);
    }

    #[tokio::test]
    async fn who_leaves_gets_no_place() {
        let places = Arc::new(LongBodies::new(1));
        let tenant = Arc::from("one");
        let taken = places.enter(&tenant).await;
        let mut leaves = Box::pin(places.enter(&tenant));
        let mut late = Box::pin(places.enter(&tenant));
        let mut stays = Box::pin(places.enter(&tenant));
        assert!([&mut leaves, &mut late, &mut stays].into_iter().all(|waits| waits.now_or_never().is_none()));
        drop(leaves);
        drop(taken);
        drop(late); // it has been given the place, and has not seen it
        assert!(stays.await.is_some());
        let line = places.line();
        assert_eq!((line.num_taken(), line.waiting.len()), (0, 0));
    }
}
