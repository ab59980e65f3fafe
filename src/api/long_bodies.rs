//! Places where long bodies are worked on: so many at once, whose waiting line is shared among tenants.
//!
//! [`LongBodies`] gives a place that comes free to the tenant that has fewest, of these to the one that was served least
//! recently, and of its bodies to the one that has waited longest: tenants that send many long bodies hold another's for a
//! piece of work each at most, not for all of their own. Invariants: no place is free while somebody waits, and who does not
//! wait any more gets none. Knows nothing of what is done in a place.

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
    /// When each tenant got its last place, counted in places; since all were free.
    served: BTreeMap<Arc<str>, u64>,
    n_served: u64,
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
        line.n_served += 1;
        line.served.insert(Arc::clone(tenant), line.n_served);
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
        let has = |tenant: &Arc<str>| self.taken.get(tenant).copied().unwrap_or(0);
        // Whoever leaves has one fewer at once: without this it would be level with whoever has none, and often come first.
        let served = |tenant: &Arc<str>| self.served.get(tenant).copied().unwrap_or(0);
        let rank = |waiting: &Waiting| (has(&waiting.tenant), served(&waiting.tenant));
        let (index, _) = self.waiting.iter().enumerate().min_by_key(|(_, waiting)| rank(waiting))?;
        Some(self.waiting.remove(index))
    }
}

impl Drop for LongBodyPlace {
    fn drop(&mut self) {
        let given = {
            let mut line = self.places.line();
            line.leave(&self.tenant);
            line.forget_those_who_left();
            if line.waiting.is_empty() && line.taken.is_empty() {
                line.served.clear();
            }
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

    /// As many heavy tenants as places, each of which leaves one and has waited for the next for longer than the light one.
    #[tokio::test]
    async fn tenants_that_fill_all_places_hold_another_for_one_piece_of_work() {
        let places = Arc::new(LongBodies::new(2));
        let [first, second, light] = ["first", "second", "light"].map(Arc::<str>::from);
        let taken = [places.enter(&first).await, places.enter(&second).await];
        let line = [&first, &second, &first, &second, &light, &light];
        let mut waiting = line.map(|tenant| Box::pin(places.enter(tenant)));
        assert!(waiting.iter_mut().all(|waits| waits.now_or_never().is_none()));
        let [of_first, of_second] = taken;
        drop(of_first);
        let of_light = waiting[4].as_mut().now_or_never();
        assert!(of_light.is_some(), "it has none, and had none before");
        drop(of_second);
        let of_first = waiting[0].as_mut().now_or_never();
        assert!(of_first.is_some(), "it was served before the second");
        drop(of_light);
        assert!(waiting[1].as_mut().now_or_never().is_some(), "each in turn, which drops its place");
        assert!(waiting[5].as_mut().now_or_never().is_some());
        drop((of_first, waiting));
        let line = places.line();
        assert_eq!((line.num_taken(), line.served.len()), (0, 0), "nobody is remembered once all places are free");
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
