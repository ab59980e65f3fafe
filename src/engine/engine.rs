//! The owner thread: all mutable state of the engine lives in [`Engine`], and only events reach it.
//!
//! [`Engine::step`] is the whole engine: schedule, start, finish, sample, commit. A model that chooses tokens itself is
//! one step ahead of what has been read: the next step is started before the tokens of the last are known, and what it
//! computes for a sequence that those end is thrown away. Any other model may have drafts: see [`draft`](super::draft).
//!
//! Invariants: `requests` and the scheduler know the same keys between steps; a failure, panic or invalid logit ends
//! only the request it belongs to. Knows nothing of text, HTTP or who waits for a stream.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use rayon::prelude::*;
use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot,
};

use super::{
    EngineConfig, FinishReason, Inspection, SpeculationMode, Task,
    batch::{self, OutputRows},
    blocks::IntegrityError,
    constrained::MaskWorkers,
    draft::{Drafter, LookupDrafter, Speculation},
    event::{Event, Submission},
    forward::{GuardedModel, Results, panic_message},
    in_flight::{ChooseError, InFlight},
    outcome::{Outcome, outlook, read_rows},
    scheduler::{Plan, Scheduled, Scheduler},
    sequence::{Sequence, SequenceKey, SequenceOptions},
    status::{DownWhenGone, Status},
};
use crate::{model::ForwardPass, telemetry::EngineMetrics, types::TokenChoice};

#[derive(Debug)]
pub(super) struct Engine {
    model: GuardedModel,
    scheduler: Scheduler,
    requests: HashMap<SequenceKey, InFlight>,
    /// Steps whose results have not been read: at most one between two steps.
    started: VecDeque<Started>,
    /// How long the step that runs has taken to get results: next to all of it waiting.
    waited: Duration,
    max_sequence_len: usize,
    pub(super) speculation: Option<Speculation>,
    mask_workers: MaskWorkers,
    metrics: Arc<EngineMetrics>,
    status: Arc<Status>,
    arrivals: u64,
    drains: Vec<oneshot::Sender<()>>,
}

/// Planned shares that the model computes.
#[derive(Debug)]
struct Started {
    items: Vec<Scheduled>,
    rows: Vec<OutputRows>,
}

impl Engine {
    /// Without a drafter of its own an engine looks drafts up.
    pub(super) fn new(
        model: Box<dyn ForwardPass>,
        drafter: Option<Box<dyn Drafter>>,
        config: EngineConfig,
        metrics: Arc<EngineMetrics>,
        status: Arc<Status>,
    ) -> Self {
        let mut model = GuardedModel::new(model);
        let speculates = config.speculation != SpeculationMode::Off && !model.runs_ahead();
        let speculation = speculates.then(|| {
            let drafter = drafter.unwrap_or_else(|| Box::new(LookupDrafter::default()));
            Speculation::new(config.speculation, drafter, Arc::clone(&metrics))
        });
        Self {
            model,
            scheduler: Scheduler::new(&config),
            requests: HashMap::new(),
            started: VecDeque::new(),
            waited: Duration::ZERO,
            max_sequence_len: config.max_sequence_len(),
            speculation,
            mask_workers: MaskWorkers::default(),
            metrics,
            status,
            arrivals: 0,
            drains: Vec::new(),
        }
    }

    /// Runs until every handle is gone, or until its own state is found inconsistent.
    pub(super) fn run(mut self, mut events: mpsc::Receiver<Event>) {
        let _guard = DownWhenGone(Arc::clone(&self.status));
        if let Err(error) = self.serve(&mut events) {
            self.abandon(&error);
        }
    }

    fn serve(&mut self, events: &mut mpsc::Receiver<Event>) -> Result<(), IntegrityError> {
        loop {
            let event = if self.scheduler.is_idle() && self.started.is_empty() {
                self.rest()?;
                events.blocking_recv().ok_or(TryRecvError::Disconnected)
            } else {
                events.try_recv()
            };
            match event {
                Ok(event) => self.handle(event)?,
                Err(TryRecvError::Disconnected) => {
                    self.end_all(&FinishReason::Cancelled);
                    return Ok(());
                }
                Err(TryRecvError::Empty) => {
                    self.status.begin_step(0);
                    let stepped = self.step();
                    self.status.end_step();
                    stepped?;
                }
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), IntegrityError> {
        match event {
            Event::Submit(submission) => self.accept(*submission),
            Event::Drain(done) => self.drains.push(done),
            Event::Inspect(reply) => {
                self.end_interrupted();
                self.report_load();
                let integrity = self.check_integrity();
                let inspection = Inspection { snapshot: self.status.snapshot(), integrity: integrity.clone() };
                // Whoever asked may have stopped waiting.
                let _ = reply.send(inspection);
                integrity?;
            }
        }
        Ok(())
    }

    fn accept(&mut self, mut submission: Submission) {
        let request = &mut submission.request;
        let key = SequenceKey { precedence: request.precedence, priority: request.priority, arrival: self.arrivals };
        self.arrivals += 1;
        let options = SequenceOptions {
            cache_salt: request.cache_salt.take(),
            share: Arc::clone(&request.share),
            prompt_rows: request.prompt_logprobs.is_some(),
            pooled: request.task == Task::Pool,
            generated_apart: self.model.tells_generated_tokens_apart(),
        };
        if let Some(speculation) = &mut self.speculation {
            speculation.expect(key.arrival, mem::take(&mut request.prediction));
        }
        self.scheduler.add(key, Sequence::new(mem::take(&mut request.prompt_ids), &options));
        self.requests.insert(key, InFlight::new(submission, &mut self.mask_workers));
    }

    fn step(&mut self) -> Result<(), IntegrityError> {
        let began = Instant::now();
        self.waited = Duration::ZERO;
        self.end_interrupted();
        let plan = self.scheduler.schedule();
        if plan.items.is_empty() && self.started.is_empty() && !self.scheduler.is_idle() {
            self.give_up();
            return Ok(());
        }
        self.announce(&plan);
        let rows = plan.items.iter().map(|item| item.query_len).sum::<usize>() + self.draft(&plan.items);
        let drafted = Instant::now();
        let leads_on = self.start(plan.items, rows);
        self.finish_down_to(usize::from(leads_on));
        if let Some(speculation) = self.speculation.as_mut().filter(|_| rows > 0) {
            speculation.observe_step(rows, drafted.elapsed());
        }
        self.report_load();
        if leads_on {
            self.metrics.step_host((began.elapsed() - self.waited).as_secs_f64());
        }
        if cfg!(debug_assertions) { self.check_integrity() } else { Ok(()) }
    }

    /// Ends requests whose reader left or whose deadline passed; their blocks are free for this very step.
    fn end_interrupted(&mut self) {
        let now = Instant::now();
        let interrupted: Vec<_> =
            self.requests.iter().filter_map(|(&key, request)| Some((key, request.interrupted(now)?))).collect();
        for (key, reason) in interrupted {
            self.finish(key, reason);
        }
    }

    fn announce(&mut self, plan: &Plan) {
        for key in &plan.preempted {
            self.forget(*key);
            self.metrics.preempted();
            self.status.count_preemption();
        }
        for admitted in &plan.admitted {
            self.status.count_cached(admitted.cached_tokens);
            let request = self.requests.get_mut(&admitted.key).expect("every sequence has a request");
            if request.start(admitted.cached_tokens) {
                let sequence = self.scheduler.sequence(admitted.key).expect("admitted sequences run");
                self.metrics.admitted(sequence.prompt().len(), admitted.cached_tokens);
            }
        }
    }

    /// Adds drafts to a planned step. Returns how many tokens they have.
    fn draft(&mut self, items: &[Scheduled]) -> usize {
        let Some(speculation) = &mut self.speculation else { return 0 };
        let (requests, max_sequence_len) = (&self.requests, self.max_sequence_len);
        speculation
            .draft(items, &mut self.scheduler, &|key, sequence| requests[&key].useful_draft(sequence, max_sequence_len))
    }

    /// Starts the batch of so many rows. If that fails, computes each sequence alone and without a draft, so that only
    /// the culprits end: writing the same keys and values again is harmless. True if the next batch may be started
    /// before the results of this one are read.
    fn start(&mut self, items: Vec<Scheduled>, rows: usize) -> bool {
        if items.is_empty() {
            return false;
        }
        self.metrics.step(rows);
        match self.start_batch(items.clone()) {
            Ok(leads_on) => return leads_on,
            Err(failure) => tracing::error!(sequences = items.len(), failure, "a batch failed"),
        }
        if let Some(speculation) = &mut self.speculation {
            speculation.clear(&items, &mut self.scheduler);
        }
        self.finish_down_to(0);
        let mut survivors = 0;
        for item in items {
            if !self.requests.contains_key(&item.key) {
                // What was started before has ended it.
                continue;
            }
            match self.start_batch(vec![item]) {
                Ok(_) => survivors += 1,
                Err(failure) => self.finish(item.key, FinishReason::Failed(failure)),
            }
            self.finish_down_to(0);
        }
        if survivors == 0 {
            self.probe();
        }
        false
    }

    fn start_batch(&mut self, items: Vec<Scheduled>) -> Result<bool, String> {
        let (batch, rows) = batch::build(&items, &self.scheduler);
        self.status.begin_step(batch.n_tokens());
        let mut choices: Vec<Option<TokenChoice<'_>>> = vec![None; batch.output_rows.len()];
        let mut leads_on = self.model.runs_ahead();
        let mut outlooks = Vec::with_capacity(items.len());
        for (item, rows) in items.iter().zip(&rows) {
            let request = &self.requests[&item.key];
            let sequence = self.scheduler.sequence(item.key).expect("planned sequences run");
            outlooks.push(outlook(request, sequence, rows, self.max_sequence_len));
            let Some(row) = rows.next.filter(|_| request.wants_tokens()) else { continue };
            choices[row] = request.choice(item.key, sequence).filter(|choice| self.model.can_choose(choice));
            leads_on &= choices[row].is_some() && !request.needs_every_token();
        }
        self.model.start(&batch, &choices)?;
        for (&item, outlook) in items.iter().zip(outlooks) {
            self.scheduler.start(item, outlook);
        }
        self.started.push_back(Started { items, rows });
        Ok(leads_on)
    }

    /// Reads the results of the oldest steps until so many are left.
    fn finish_down_to(&mut self, left: usize) {
        while self.started.len() > left {
            let started = self.started.pop_front().expect("a step was started");
            let asked = Instant::now();
            let results = self.model.finish();
            self.waited += asked.elapsed();
            match results {
                Ok(results) => {
                    for (item, rows) in started.items.iter().zip(&started.rows) {
                        if let Some(request) = self.requests.get_mut(&item.key).filter(|_| rows.next.is_some()) {
                            request.wait_for_form();
                        }
                    }
                    let outcomes = self.sample(&started, &results);
                    self.commit(&started.items, outcomes);
                }
                Err(failure) => self.lose(&started, &failure),
            }
        }
    }

    /// The results of a step cannot be had: its sequences end.
    fn lose(&mut self, started: &Started, failure: &str) {
        tracing::error!(sequences = started.items.len(), failure, "the results of a batch are lost");
        for item in &started.items {
            self.finish(item.key, FinishReason::Failed(failure.to_owned()));
        }
        self.probe();
    }

    /// Nothing of a step could be computed. If a plain token cannot be either, the device is gone, and
    /// failing one request after the other would only hide it.
    fn probe(&mut self) {
        let Some(block) = self.scheduler.take_scratch() else { return };
        if let Err(failure) = self.model.probe(block, self.scheduler.block_size()) {
            tracing::error!(failure, "the model computes nothing any more");
            self.status.set_down();
        }
        self.scheduler.return_scratch(block);
    }

    /// `None` for a request that has ended since the step was started.
    fn sample(&self, started: &Started, results: &Results) -> Vec<Option<Result<Outcome, String>>> {
        let (requests, scheduler) = (&self.requests, &self.scheduler);
        let sample_one = |(item, rows): (&Scheduled, &OutputRows)| {
            let request = requests.get(&item.key)?;
            let sequence = scheduler.sequence(item.key).expect("every request has a sequence");
            Some(
                catch_unwind(AssertUnwindSafe(|| read_rows(request, sequence, rows, results)))
                    .unwrap_or_else(|panic| Err(format!("sampling panicked: {}", panic_message(&*panic)))),
            )
        };
        match &started.items[..] {
            items if items.len() > 1 && results.has_logits() => {
                items.par_iter().zip(&started.rows).map(sample_one).collect()
            }
            items => items.iter().zip(&started.rows).map(sample_one).collect(),
        }
    }

    fn commit(&mut self, items: &[Scheduled], outcomes: Vec<Option<Result<Outcome, String>>>) {
        for (&item, outcome) in items.iter().zip(outcomes) {
            let end = match outcome {
                Some(Ok(outcome)) => self.advance(item, outcome),
                Some(Err(failure)) => Some(FinishReason::Failed(failure)),
                None => None,
            };
            if let Some(reason) = end {
                self.finish(item.key, reason);
            }
        }
    }

    /// Books one sequence's progress and tells its reader. Returns why it ends, if it does.
    fn advance(&mut self, item: Scheduled, outcome: Outcome) -> Option<FinishReason> {
        let tokens: Vec<u32> = outcome.chosen.iter().map(|chosen| chosen.id).collect();
        self.scheduler.commit(item, &tokens);
        if let Some(speculation) = &mut self.speculation {
            speculation.learn(item.key.arrival, &tokens);
        }
        let sequence = self.scheduler.sequence(item.key).expect("every request has a sequence");
        let request = self.requests.get_mut(&item.key).expect("every sequence has a request");
        request.add_prompt_entries(outcome.prompt_entries);
        if item.end() >= sequence.prompt().len() {
            request.end_prompt();
            if let Some(values) = outcome.values {
                return Some(request.answer(values));
            }
            if !request.wants_tokens() {
                return Some(FinishReason::Length);
            }
        }
        outcome.chosen.into_iter().for_each(|chosen| request.emit(chosen, &self.metrics));
        let is_longest = sequence.tokens().len() >= self.max_sequence_len;
        let end = tokens.last().and_then(|&last| request.ends_with(last, sequence.output().len(), is_longest));
        let end = end.or(outcome.failure.map(ChooseError::finish));
        if end.is_none() {
            request.advance_form(&tokens, &mut self.mask_workers);
        }
        end
    }

    /// Whoever keeps anything of the sequence beside the scheduler drops it.
    fn forget(&mut self, key: SequenceKey) {
        self.model.forget(key.arrival);
        if let Some(speculation) = &mut self.speculation {
            speculation.forget(key.arrival);
        }
    }

    fn finish(&mut self, key: SequenceKey, reason: FinishReason) {
        let sequence = self.scheduler.remove(key);
        self.forget(key);
        if let Some(speculation) = &mut self.speculation {
            speculation.end(key.arrival);
        }
        if let (Some(request), Some(sequence)) = (self.requests.remove(&key), sequence) {
            if let FinishReason::Failed(failure) = &reason {
                tracing::error!(failure, "a request failed");
            }
            request.finish(reason, sequence.output().len(), &self.metrics);
        }
    }

    /// The scheduler promises a token per step while anything is queued; without one nothing would ever end.
    fn give_up(&mut self) {
        tracing::error!("nothing can be scheduled although requests are queued");
        self.status.set_down();
        self.end_all(&FinishReason::Failed("the engine cannot schedule its requests".to_owned()));
    }

    fn end_all(&mut self, reason: &FinishReason) {
        let keys: Vec<_> = self.requests.keys().copied().collect();
        for key in keys {
            self.finish(key, reason.clone());
        }
        self.report_load();
    }

    /// Nothing is in flight: answers drains and uses the pause to check the books.
    fn rest(&mut self) -> Result<(), IntegrityError> {
        self.report_load();
        self.check_integrity()?;
        for done in self.drains.drain(..) {
            // Whoever drained may have stopped waiting.
            let _ = done.send(());
        }
        Ok(())
    }

    /// The books do not balance, so keys and values may be anybody's: every request fails rather than being
    /// computed on. Leaves the scheduler alone, which cannot be relied on to give blocks back.
    fn abandon(&mut self, error: &IntegrityError) {
        tracing::error!(%error, "integrity check failed");
        self.status.set_down();
        self.status.set_load(0, 0);
        self.metrics.set_load(0, 0, 0.0);
        for (key, request) in self.requests.drain() {
            let n_output = self.scheduler.sequence(key).map_or(0, |sequence| sequence.output().len());
            request.finish(FinishReason::Failed(error.to_string()), n_output, &self.metrics);
        }
    }

    fn check_integrity(&self) -> Result<(), IntegrityError> {
        self.scheduler.check_integrity()?;
        let sequences = self.scheduler.num_running() + self.scheduler.num_waiting();
        let known = self.requests.keys().all(|&key| self.scheduler.sequence(key).is_some());
        if known && sequences == self.requests.len() {
            Ok(())
        } else {
            Err(IntegrityError(format!("{} requests have {sequences} sequences", self.requests.len())))
        }
    }

    fn report_load(&self) {
        let (running, waiting) = (self.scheduler.num_running(), self.scheduler.num_waiting());
        let blocks = self.scheduler.block_counts();
        self.status.set_load(running, blocks.held);
        self.metrics.set_load(running, waiting, blocks.held as f64 / blocks.total as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{Precedence, Request, StopRules, Update},
        model::{Logits, ModelError},
        types::Batch,
    };

    struct Unused;

    impl ForwardPass for Unused {
        fn vocab_size(&self) -> usize {
            8
        }
        fn forward(&mut self, _: &Batch) -> Result<Logits, ModelError> {
            unreachable!("nothing is computed")
        }
    }

    #[test]
    fn requests_fail_when_the_books_do_not_balance() {
        let config = EngineConfig { max_running: 1, max_waiting: 1, ..EngineConfig::default() };
        let status = Arc::new(Status::new(&config));
        let mut engine = Engine::new(Box::new(Unused), None, config, Arc::default(), Arc::clone(&status));
        let (updates, mut stream) = mpsc::channel(4);
        let stop = StopRules { max_tokens: 4, ..StopRules::default() };
        let request = Request { prompt_ids: vec![1], stop, ..Request::default() };
        let enter = || status.enter(Precedence::Interactive, &"".into());
        let [place, _other] = [(); 2].map(|()| enter().expect("there are two"));
        assert!(enter().is_none());
        engine.accept(Submission { request, updates, stopped: Arc::default(), arrived: Instant::now(), place });
        let key = *engine.requests.keys().next().unwrap();
        engine.scheduler.remove(key);
        let (_events, receiver) = mpsc::channel(1);
        engine.run(receiver);
        let expected = "the engine's state is inconsistent: 1 requests have 0 sequences";
        assert_eq!(stream.try_recv(), Ok(Update::Finished(FinishReason::Failed(expected.to_owned()))));
        assert!(status.is_down() && enter().is_some());
    }
}
