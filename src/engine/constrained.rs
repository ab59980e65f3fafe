//! Answers of a given form: which tokens may come next, worked out by other threads while the model computes. Main
//! types: [`Constrained`], the form of one request, and [`MaskWorkers`], the threads.
//!
//! Invariant: a constraint is either with its request or with one worker, never with both, so no worker waits for another. Knows nothing of text and grammars: those are behind [`Constraint`].

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use super::forward::panic_message;
use crate::types::{Constraint, ConstraintError, TokenSet};

/// More would not be busy: a set takes tens of microseconds.
const MOST_WORKERS: usize = 4;
/// Of a worker: expressions are nested. Only what is used takes memory.
const STACK_BYTES: usize = 64 << 20;

/// The form of one request's answer.
#[derive(Debug)]
pub(super) struct Constrained {
    /// Behind a mutex, which is never locked: samplers on several threads look at requests, and a receiver has one owner.
    holder: Mutex<Holder>,
    /// The ids that may come next, once they are known.
    allowed: Option<Result<TokenSet, ConstraintError>>,
}

#[derive(Debug)]
enum Holder {
    Request(Box<dyn Constraint>),
    Worker(mpsc::Receiver<Answer>),
    /// It has failed.
    Nobody,
}

type Answer = Result<(Box<dyn Constraint>, TokenSet), ConstraintError>;

struct Job {
    constraint: Box<dyn Constraint>,
    /// Tokens that have come.
    ids: Vec<u32>,
    answer: mpsc::Sender<Answer>,
}

/// Threads that work out sets of tokens; none until the first request with a form.
#[derive(Debug, Default)]
pub(super) struct MaskWorkers {
    jobs: Option<mpsc::Sender<Job>>,
}

impl Constrained {
    /// Begins to work out the first set.
    pub(super) fn new(constraint: Box<dyn Constraint>, workers: &mut MaskWorkers) -> Self {
        Self { holder: Mutex::new(Holder::Worker(workers.begin(constraint, Vec::new()))), allowed: None }
    }

    /// Tells that tokens have come, and begins to work out what may come after them.
    pub(super) fn advance(&mut self, ids: Vec<u32>, workers: &mut MaskWorkers) {
        let holder = self.holder.get_mut().unwrap_or_else(PoisonError::into_inner);
        *holder = match mem::replace(holder, Holder::Nobody) {
            Holder::Request(constraint) => {
                self.allowed = None;
                Holder::Worker(workers.begin(constraint, ids))
            }
            // No token can be chosen before the worker has answered, or any more.
            other @ (Holder::Worker(_) | Holder::Nobody) => other,
        };
    }

    /// Waits until the set is known.
    pub(super) fn wait(&mut self) {
        let holder = self.holder.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Holder::Worker(answer) = holder else { return };
        let answer = answer.recv().unwrap_or_else(|_| Err(ConstraintError("its thread has ended".to_owned())));
        let (next, allowed) = match answer {
            Ok((constraint, allowed)) => (Holder::Request(constraint), Ok(allowed)),
            Err(error) => (Holder::Nobody, Err(error)),
        };
        *holder = next;
        self.allowed = Some(allowed);
    }

    /// The ids that may come next; [`Self::wait`] must have been called.
    pub(super) fn allowed(&self) -> Result<&TokenSet, ConstraintError> {
        match &self.allowed {
            Some(Ok(allowed)) => Ok(allowed),
            Some(Err(error)) => Err(error.clone()),
            None => Err(ConstraintError("nobody waited for it".to_owned())),
        }
    }
}

impl MaskWorkers {
    fn begin(&mut self, constraint: Box<dyn Constraint>, ids: Vec<u32>) -> mpsc::Receiver<Answer> {
        let (answer, receiver) = mpsc::channel();
        let job = Job { constraint, ids, answer };
        // It fails if no thread could be started, or all have ended: then the receiver says so, and the next begins anew.
        if self.jobs.get_or_insert_with(start).send(job).is_err() {
            self.jobs = None;
        }
        receiver
    }
}

fn start() -> mpsc::Sender<Job> {
    let (jobs, receiver) = mpsc::channel::<Job>();
    let receiver = Arc::new(Mutex::new(receiver));
    let count = thread::available_parallelism().map_or(1, |count| count.get().min(MOST_WORKERS));
    for _ in 0..count {
        let receiver = Arc::clone(&receiver);
        let builder = thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
        let started = builder.spawn(move || work(&receiver));
        if let Err(error) = started {
            tracing::error!(%error, "a thread for grammars did not start");
        }
    }
    jobs
}

fn work(jobs: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { constraint, ids, answer }) = job else { return };
        let done = catch_unwind(AssertUnwindSafe(|| next_set(constraint, &ids)))
            .unwrap_or_else(|panic| Err(ConstraintError(format!("it panicked: {}", panic_message(&*panic)))));
        // The request may have ended.
        let _ = answer.send(done);
    }
}

fn next_set(mut constraint: Box<dyn Constraint>, ids: &[u32]) -> Answer {
    for &id in ids {
        constraint.advance(id)?;
    }
    let allowed = constraint.allowed()?;
    Ok((constraint, allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers in ascending order up to a last one.
    #[derive(Clone, Debug)]
    struct Ascending {
        next: u32,
        last: u32,
    }

    impl Constraint for Ascending {
        fn allowed(&mut self) -> Result<TokenSet, ConstraintError> {
            assert_ne!(self.next, 13, "on purpose");
            let mut set = TokenSet::default();
            (self.next..=self.last).for_each(|id| set.insert(id));
            Ok(set)
        }

        fn advance(&mut self, id: u32) -> Result<(), ConstraintError> {
            if id < self.next {
                return Err(ConstraintError(format!("{id} is below {}", self.next)));
            }
            self.next = id + 1;
            Ok(())
        }

        fn fork(&self) -> Box<dyn Constraint> {
            Box::new(self.clone())
        }
    }

    #[test]
    fn a_set_follows_the_tokens_that_came() {
        let mut workers = MaskWorkers::default();
        let mut many: Vec<Constrained> =
            (0..50).map(|_| Constrained::new(Box::new(Ascending { next: 0, last: 99 }), &mut workers)).collect();
        for (first, constrained) in many.iter_mut().enumerate() {
            constrained.wait();
            assert_eq!(constrained.allowed().unwrap().len(), 100);
            constrained.advance(vec![20, 40 + first as u32], &mut workers);
        }
        for (first, constrained) in many.iter_mut().enumerate() {
            assert!(constrained.allowed().is_err(), "nobody has waited");
            constrained.wait();
            assert_eq!(constrained.allowed().unwrap().len(), 59 - first);
        }
    }

    #[test]
    fn a_failure_or_a_panic_ends_one_constraint_and_no_other() {
        let mut workers = MaskWorkers::default();
        let mut new = || Constrained::new(Box::new(Ascending { next: 0, last: 99 }), &mut workers);
        let (mut failing, mut panicking, mut fine) = (new(), new(), new());
        for (constrained, ids) in [(&mut failing, vec![9, 3]), (&mut panicking, vec![12]), (&mut fine, vec![50])] {
            constrained.wait();
            constrained.advance(ids, &mut workers);
            constrained.wait();
        }
        let message = |constrained: &Constrained| constrained.allowed().unwrap_err().to_string();
        assert!(message(&failing).contains("3 is below 10"), "{}", message(&failing));
        assert!(message(&panicking).contains("on purpose"), "{}", message(&panicking));
        failing.advance(vec![60], &mut workers);
        assert!(failing.allowed().is_err(), "it has ended");
        assert_eq!(fine.allowed().unwrap().len(), 49);
    }
}
