//! Making a load. Main type: [`Load`]; what came of it is a [`Run`]. Invariant: an open loop's requests are due
//! by the clock alone; one that has to wait, for a connection or because so many are under way that the limit
//! is reached, counts from when it was due.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::{
    arrivals::Profile,
    client::{Target, Times},
    plan::{Plan, Planned},
    sample::{FailureKind, Sample},
};

/// Requests that are due but not yet taken over; more than that, and the pacing thread waits.
const HANDED_OVER: usize = 1024;
/// How long a client of a closed loop waits after it got no connection: a server that has ended refuses thousands of
/// them a second.
const GONE: Duration = Duration::from_millis(100);
/// How long it takes at most until the pacing thread sees that it is to stop.
const STOP_IS_SEEN: Duration = Duration::from_millis(100);

/// When a load ends. At least one of the two is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Until {
    /// After so many requests.
    pub requests: Option<u64>,
    /// No request is due later than this; all that were due are waited for.
    pub duration: Option<Duration>,
}

/// A load to be made.
#[derive(Clone, Debug)]
pub struct Load {
    /// Its requests.
    pub plan: Plan,
    /// How they follow each other.
    pub profile: Profile,
    /// When it ends.
    pub until: Until,
    /// Number of its first request within the plan; runs after each other use different ones, lest the prefix
    /// cache answers.
    pub first_index: u64,
    /// Most requests under way at a time in an open loop.
    pub max_in_flight: u32,
    /// For random times.
    pub seed: u64,
    /// Once it is true no further request is made.
    pub stop: Arc<AtomicBool>,
}

/// What came of a load.
#[derive(Clone, Debug)]
pub struct Run {
    /// How its requests followed each other.
    pub profile: Profile,
    /// All of its requests, by their numbers.
    pub samples: Vec<Sample>,
    /// Seconds from its beginning to its last answer.
    pub duration_s: f64,
    /// Most requests that were under way at a time.
    pub peak_in_flight: u32,
}

impl Run {
    /// The requests that got a whole answer.
    pub fn answered(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(|sample| sample.failure.is_none())
    }
}

/// Is told of a run while it goes on, from the threads that measure: it has to be quick.
pub trait Watcher: Send + Sync {
    /// A request is sent.
    fn sent(&self);
    /// Pieces of text have come.
    fn pieces(&self, count: u64);
    /// It is over.
    fn done(&self, sample: &Sample);
}

/// Nobody looks.
pub struct Unwatched;

impl Watcher for Unwatched {
    fn sent(&self) {}
    fn pieces(&self, _count: u64) {}
    fn done(&self, _sample: &Sample) {}
}

impl Load {
    /// Makes all requests and waits for their answers.
    pub async fn run(&self, target: &Target, watcher: Arc<dyn Watcher>) -> Run {
        let sender = Sender {
            target: target.clone(),
            watcher,
            started: Instant::now(),
            in_flight: Arc::default(),
            peak_in_flight: Arc::default(),
        };
        let mut samples = match self.profile.closed_loop() {
            Some(count) => self.run_closed(&sender, count).await,
            None => self.run_open(&sender).await,
        };
        samples.sort_by_key(|sample| sample.index);
        Run {
            profile: self.profile.clone(),
            duration_s: samples.iter().map(|sample| sample.due_s + sample.end_s).fold(0.0, f64::max),
            peak_in_flight: sender.peak_in_flight.load(Ordering::Relaxed),
            samples,
        }
    }

    async fn run_closed(&self, sender: &Sender, count: u32) -> Vec<Sample> {
        let made = Arc::new(AtomicU64::new(0));
        let load = Arc::new(self.clone()); // one for all: a recorded load may have millions of rows
        let mut clients = JoinSet::new();
        for _ in 0..count {
            let (load, sender, made) = (load.clone(), sender.clone(), made.clone());
            clients.spawn(async move {
                let mut samples = Vec::new();
                loop {
                    let number = made.fetch_add(1, Ordering::Relaxed);
                    if load.is_over(number, sender.started.elapsed()) {
                        return samples;
                    }
                    let planned = load.plan.request(load.first_index, load.first_index + number);
                    let sample = sender.send(&planned, None).await;
                    let is_gone =
                        sample.failure.as_ref().is_some_and(|failure| failure.kind == FailureKind::Connection);
                    samples.push(sample);
                    if is_gone {
                        tokio::time::sleep(GONE).await;
                    }
                }
            });
        }
        clients.join_all().await.into_iter().flatten().collect()
    }

    async fn run_open(&self, sender: &Sender) -> Vec<Sample> {
        let (hand_over, mut due_now) = mpsc::channel(HANDED_OVER);
        let (load, started) = (self.clone(), sender.started);
        // A thread of its own: a runtime's timer has a resolution of a millisecond, and other work in front.
        let pacing = std::thread::spawn(move || load.pace(started, &hand_over));
        let slots = Arc::new(Semaphore::new(self.max_in_flight as usize));
        let (mut requests, mut samples) = (JoinSet::new(), Vec::new());
        while let Some((planned, due)) = due_now.recv().await {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let sender = sender.clone();
            requests.spawn(async move {
                let sample = sender.send(&planned, Some(due)).await;
                drop(slot);
                sample
            });
            while let Some(done) = requests.try_join_next() {
                samples.push(done.expect("a request does not panic"));
            }
        }
        drop(due_now); // the pacing thread may be waiting to hand over
        samples.extend(requests.join_all().await);
        pacing.join().expect("the pacing thread does not panic");
        samples
    }

    /// Hands each request over when it is due.
    fn pace(&self, started: Instant, hand_over: &mpsc::Sender<(Planned, Instant)>) {
        for (number, after) in (0..).zip(self.profile.due_times(self.seed)) {
            let planned = self.plan.request(self.first_index, self.first_index + number);
            let due = started + after;
            loop {
                if self.is_over(number, after) {
                    return;
                }
                let wait = due.saturating_duration_since(Instant::now());
                if wait.is_zero() {
                    break;
                }
                std::thread::sleep(wait.min(STOP_IS_SEEN));
            }
            if hand_over.blocking_send((planned, due)).is_err() {
                return;
            }
        }
    }
}

impl Load {
    fn is_over(&self, number: u64, elapsed: Duration) -> bool {
        self.until.is_over(number, elapsed) || self.stop.load(Ordering::Relaxed)
    }
}

impl Until {
    /// So many requests.
    pub fn requests(count: u64) -> Self {
        Self { requests: Some(count), duration: None }
    }

    fn is_over(self, number: u64, elapsed: Duration) -> bool {
        self.requests.is_some_and(|most| number >= most) || self.duration.is_some_and(|longest| elapsed >= longest)
    }
}

/// What all requests of a run share.
#[derive(Clone)]
struct Sender {
    target: Target,
    watcher: Arc<dyn Watcher>,
    started: Instant,
    in_flight: Arc<AtomicU32>,
    peak_in_flight: Arc<AtomicU32>,
}

impl Sender {
    async fn send(&self, planned: &Planned, due: Option<Instant>) -> Sample {
        let in_flight = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak_in_flight.fetch_max(in_flight, Ordering::Relaxed);
        self.watcher.sent();
        let times = Times { started: self.started, due };
        let sample = self.target.send(planned, times, &*self.watcher).await;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.watcher.done(&sample);
        sample
    }
}
