//! Properties of the block pool and the scheduler under random operations. No engine, no thread: the test
//! computes each plan with the mock model and compares the tokens with a run that has no cache at all.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::Index};
use tramontane::{
    engine::{
        EngineConfig, batch,
        blocks::{BlockHash, BlockId, BlockPool},
        scheduler::{Plan, Scheduled, Scheduler},
        sequence::{Outlook, Precedence, Sequence, SequenceKey, SequenceOptions},
    },
    model::ForwardPass,
    types::Batch,
};

use crate::engine_mock::{FIRST_FAULT, PagedModel, argmax, check_batch, generate};

#[derive(Clone, Debug)]
enum BlockOp {
    Allocate,
    Release(Index),
    /// Publishes a held block under one of a few contents.
    Publish(Index, u32),
    /// Takes the block of a content, if it is cached.
    Share(u32),
}

fn block_op() -> impl Strategy<Value = BlockOp> {
    prop_oneof![
        4 => Just(BlockOp::Allocate),
        4 => any::<Index>().prop_map(BlockOp::Release),
        3 => (any::<Index>(), 0..6u32).prop_map(|(held, content)| BlockOp::Publish(held, content)),
        2 => (0..6u32).prop_map(BlockOp::Share),
    ]
}

#[derive(Clone, Debug)]
pub struct Submission {
    pub prompt: Vec<u32>,
    pub max_tokens: usize,
    pub precedence: Precedence,
    pub priority: i32,
    pub options: SequenceOptions,
}

#[derive(Clone, Debug)]
enum Op {
    Submit(Submission),
    Cancel(Index),
    Steps(usize),
    /// Steps that are started before the results of the one before are read.
    StepsAhead(usize),
    /// Steps with drafts, some of which come.
    StepsDrafted(usize),
}

/// Whose sequences they are.
const SHARES: [&str; 3] = ["a", "b", "c"];

/// Prompts share beginnings: a few tokens of one of three long texts, then something of their own. One text
/// repeats a single token, so that its blocks differ in nothing but what is before them.
fn submission() -> impl Strategy<Value = Submission> {
    let prompt = (0..3u32, 0..24usize, vec(0..FIRST_FAULT, 1..6)).prop_map(|(text, shared, own)| {
        let mut prompt: Vec<u32> = (0..shared as u32).map(|i| (i * 7 * text.min(1) + text) % FIRST_FAULT).collect();
        prompt.extend(own);
        prompt
    });
    let salt = prop_oneof![4 => Just(None), 1 => Just(Some("salt".to_owned()))];
    let options = (salt, prop::bool::weighted(0.15), any::<bool>(), 0..SHARES.len()).prop_map(
        |(cache_salt, prompt_rows, generated_apart, share)| {
            let share = SHARES[share].into();
            SequenceOptions { cache_salt, share, prompt_rows, pooled: false, generated_apart }
        },
    );
    let precedence = prop::bool::weighted(0.4).prop_map(|waits| Precedence::ALL[usize::from(waits)]);
    (prompt, 1..20usize, precedence, -1..2i32, options).prop_map(
        |(prompt, max_tokens, precedence, priority, options)| Submission {
            prompt,
            max_tokens,
            precedence,
            priority,
            options,
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => submission().prop_map(Op::Submit),
        1 => any::<Index>().prop_map(Op::Cancel),
        4 => (1..8usize).prop_map(Op::Steps),
        4 => (1..8usize).prop_map(Op::StepsAhead),
        4 => (1..8usize).prop_map(Op::StepsDrafted),
    ]
}

fn limits() -> impl Strategy<Value = EngineConfig> {
    (1..6usize, 2..16usize, 1..6usize, 1..14usize, any::<bool>()).prop_map(
        |(block_size, num_blocks, max_running, max_batched_tokens, prefix_caching)| EngineConfig {
            block_size,
            num_blocks,
            max_running,
            max_batched_tokens,
            prefix_caching,
            ..EngineConfig::default()
        },
    )
}

/// A scheduler, the model its plans are computed with, and what must come out.
pub struct World {
    config: EngineConfig,
    pub scheduler: Scheduler,
    model: PagedModel,
    pub live: BTreeMap<SequenceKey, Submission>,
    prompt_rows_seen: BTreeMap<SequenceKey, usize>,
    arrivals: u64,
    /// Shares of the step that was started last and not committed, each with the tokens chosen after it.
    started: Vec<(Scheduled, Vec<u32>)>,
    /// Tokens of that step by output row.
    tokens: Vec<u32>,
    drafts: usize,
    accepted: usize,
}

impl World {
    pub fn new(config: EngineConfig) -> Self {
        Self {
            scheduler: Scheduler::new(&config),
            model: PagedModel::new(config.block_size, config.num_blocks),
            live: BTreeMap::new(),
            prompt_rows_seen: BTreeMap::new(),
            arrivals: 0,
            started: Vec::new(),
            tokens: Vec::new(),
            drafts: 0,
            accepted: 0,
            config,
        }
    }

    pub fn submit(&mut self, submission: Submission) {
        if submission.prompt.len() >= self.config.max_sequence_len() {
            return; // The engine refuses it.
        }
        let key =
            SequenceKey { precedence: submission.precedence, priority: submission.priority, arrival: self.arrivals };
        self.arrivals += 1;
        self.scheduler.add(key, Sequence::new(submission.prompt.clone(), &submission.options));
        self.live.insert(key, submission);
    }

    fn cancel(&mut self, index: Index) {
        if !self.live.is_empty() {
            let key = *self.live.keys().nth(index.index(self.live.len())).unwrap();
            self.live.remove(&key);
            assert!(self.scheduler.remove(key).is_some());
        }
    }

    pub fn step(&mut self) {
        self.step_with(&[]);
    }

    /// The same, and each decode guesses up to five tokens ahead, right ones until one is wrong.
    fn step_drafted(&mut self) {
        self.step_with(&[0, 1, 2, 3, 4, 5]);
    }

    fn step_with(&mut self, lengths: &[usize]) {
        self.commit();
        let before = self.live.len();
        self.start(lengths);
        assert_eq!(before == 0, self.started.is_empty(), "a step plans something while anything is queued");
        self.commit();
    }

    /// Leaves the step's results unread.
    fn step_ahead(&mut self) {
        let previous = std::mem::take(&mut self.started);
        self.start(&[]);
        let started = std::mem::replace(&mut self.started, previous);
        self.commit();
        self.started = started;
    }

    /// `lengths` of drafts take turns.
    fn start(&mut self, lengths: &[usize]) {
        let plan = self.scheduler.schedule();
        self.check_plan(&plan);
        if !lengths.is_empty() {
            let mut spare = self.scheduler.spare_tokens(&plan.items);
            plan.items.iter().for_each(|item| spare -= self.draft(*item, lengths, spare));
        }
        let (mut batch, rows) = batch::build(&plan.items, &self.scheduler);
        check_batch(&batch);
        assert!(batch.n_tokens() <= self.config.max_batched_tokens, "drafts count against the budget");
        for token in &mut batch.token_ids {
            if *token & Batch::UNREAD != 0 {
                *token = self.tokens[(*token & !Batch::UNREAD) as usize];
            }
        }
        let logits = self.model.forward(&batch).unwrap();
        self.tokens = (0..batch.output_rows.len()).map(|row| argmax(logits.row(row))).collect();
        for (&item, rows) in plan.items.iter().zip(rows) {
            let seen = self.prompt_rows_seen.entry(item.key).or_default();
            if !rows.prompt.is_empty() {
                assert_eq!(rows.first_position, *seen, "prompt rows come once and in order");
                *seen += rows.prompt.len();
            }
            self.scheduler.start(item, self.outlook(item.key, rows.next));
            let rows = rows.next.map_or(0..0, |next| next..next + 1 + rows.drafted);
            let draft = self.scheduler.sequence(item.key).unwrap().draft();
            let n_accepted = draft.iter().zip(&self.tokens[rows.clone()]).take_while(|(a, b)| a == b).count();
            let chosen = self.tokens[rows].iter().take(n_accepted + 1).copied().collect();
            self.accepted += n_accepted;
            self.started.push((item, chosen));
        }
        if lengths.is_empty() {
            self.scheduler.check_integrity().unwrap();
        }
    }

    /// Returns the length of the item's draft, at most `spare`.
    fn draft(&mut self, item: Scheduled, lengths: &[usize], spare: usize) -> usize {
        let sequence = self.scheduler.sequence(item.key).unwrap();
        let submission = &self.live[&item.key];
        if item.end() != sequence.num_tokens() {
            return 0;
        }
        self.drafts += 1;
        let tokens = sequence.tokens().to_vec();
        let room =
            self.config.max_sequence_len().min(submission.prompt.len() + submission.max_tokens) - tokens.len() - 1;
        let (running, waiting) = (self.scheduler.num_running(), self.scheduler.num_waiting());
        let length = self.scheduler.reserve_draft(item, lengths[self.drafts % lengths.len()].min(room).min(spare));
        assert_eq!((self.scheduler.num_running(), self.scheduler.num_waiting()), (running, waiting));
        let mut draft = generate(&tokens, length);
        if let Some(token) = draft.get_mut(self.drafts % 7) {
            *token = (*token + 1) % FIRST_FAULT;
        }
        self.scheduler.set_draft(item.key, &draft);
        length
    }

    /// Of every other sequence it is not known beforehand when it ends.
    fn outlook(&self, key: SequenceKey, row: Option<usize>) -> Outlook {
        let Some(row) = row else { return Outlook::Prefill };
        let n_tokens = self.scheduler.sequence(key).unwrap().num_tokens() + 1;
        let is_longest = n_tokens == self.config.max_sequence_len();
        let is_last = n_tokens - self.live[&key].prompt.len() == self.live[&key].max_tokens;
        match is_longest || (is_last && key.arrival.is_multiple_of(2)) {
            true => Outlook::LastToken(row as u32),
            false => Outlook::Token(row as u32),
        }
    }

    fn commit(&mut self) {
        for (item, tokens) in std::mem::take(&mut self.started) {
            if self.live.contains_key(&item.key) {
                self.scheduler.commit(item, &tokens);
                self.finish_if_complete(item.key);
            }
        }
        self.scheduler.check_integrity().unwrap();
    }

    fn check_plan(&self, plan: &Plan) {
        let tokens: usize = plan.items.iter().map(|item| item.query_len).sum();
        assert!(tokens <= self.config.max_batched_tokens, "{tokens} tokens in a step");
        assert!(self.scheduler.num_running() <= self.config.max_running);
        assert_eq!(self.scheduler.num_running() + self.scheduler.num_waiting(), self.live.len());
        for admitted in &plan.admitted {
            let sequence = self.scheduler.sequence(admitted.key).unwrap();
            assert_eq!(sequence.num_computed(), admitted.cached_tokens);
            assert!(admitted.cached_tokens < sequence.tokens().len(), "the last token is always computed");
            assert!(admitted.cached_tokens == 0 || !sequence.wants_prompt_rows());
        }
    }

    fn finish_if_complete(&mut self, key: SequenceKey) {
        let submission = &self.live[&key];
        let sequence = self.scheduler.sequence(key).unwrap();
        let room = self.config.max_sequence_len() - submission.prompt.len();
        let max_tokens = submission.max_tokens.min(room);
        if sequence.output().len() < max_tokens {
            return;
        }
        assert_eq!(sequence.output(), generate(&submission.prompt, max_tokens), "{key:?} {submission:?}");
        if submission.options.prompt_rows {
            assert_eq!(self.prompt_rows_seen[&key], submission.prompt.len() - 1);
        }
        self.scheduler.remove(key);
        self.live.remove(&key);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_pool_balances(num_blocks in 1..8usize, ops in vec(block_op(), 1..120)) {
        let mut pool = BlockPool::new(num_blocks);
        let content = |id: u32| BlockHash::root(None).child(&[id]);
        let mut held: Vec<BlockId> = Vec::new();
        for op in ops {
            match op {
                BlockOp::Allocate => {
                    let distinct = held.iter().collect::<std::collections::BTreeSet<_>>().len();
                    let block = pool.allocate();
                    prop_assert_eq!(block.is_some(), distinct < num_blocks);
                    if let Some(block) = block {
                        prop_assert!(!held.contains(&block) && pool.published(block).is_none());
                        held.push(block);
                    }
                }
                BlockOp::Release(index) if !held.is_empty() => {
                    pool.release(held.swap_remove(index.index(held.len())));
                }
                BlockOp::Publish(index, id) if !held.is_empty() => {
                    let block = held[index.index(held.len())];
                    pool.publish(block, content(id));
                    prop_assert!(pool.lookup(&content(id)).is_some() || pool.published(block).is_some());
                }
                BlockOp::Share(id) => {
                    if let Some(block) = pool.lookup(&content(id)) {
                        prop_assert_eq!(pool.published(block), Some(content(id)));
                        pool.share(block);
                        held.push(block);
                    }
                }
                BlockOp::Release(_) | BlockOp::Publish(..) => {}
            }
            prop_assert_eq!(pool.check_integrity(held.iter().copied()), Ok(()));
        }
    }

    #[test]
    fn any_schedule_computes_what_a_run_alone_computes(config in limits(), ops in vec(op(), 1..40)) {
        let mut world = World::new(config);
        for op in ops {
            match op {
                Op::Submit(submission) => world.submit(submission),
                Op::Cancel(index) => world.cancel(index),
                Op::Steps(count) => (0..count).for_each(|_| world.step()),
                Op::StepsAhead(count) => (0..count).for_each(|_| world.step_ahead()),
                Op::StepsDrafted(count) => (0..count).for_each(|_| world.step_drafted()),
            }
            prop_assert_eq!(world.scheduler.check_integrity(), Ok(()));
        }
        // Nothing livelocks: alone, each needs at most a step per token; recomputing costs a few times that.
        let mut steps = 0;
        while !world.live.is_empty() {
            match steps % 3 {
                0 => world.step(),
                1 => world.step_ahead(),
                _ => world.step_drafted(),
            }
            steps += 1;
            prop_assert!(steps < 20_000, "{:?} never finish", world.live);
        }
        prop_assert_eq!(world.scheduler.block_counts().held, 0);
    }
}

pub fn run_to_end(world: &mut World) -> usize {
    let mut preemptions = 0;
    while !world.live.is_empty() {
        let waiting = world.scheduler.num_waiting();
        world.step();
        preemptions += world.scheduler.num_waiting().saturating_sub(waiting);
    }
    preemptions
}

pub fn plain(prompt: Vec<u32>, max_tokens: usize, priority: i32) -> Submission {
    let (precedence, options) = (Precedence::Interactive, SequenceOptions::default());
    Submission { prompt, max_tokens, precedence, priority, options }
}

#[test]
fn blocks_running_out_preempts_the_last_in_order() {
    let config = EngineConfig { block_size: 2, num_blocks: 8, max_running: 4, ..EngineConfig::default() };
    let mut world = World::new(config);
    for start in 0..3 {
        world.submit(plain(vec![start, start + 1], 12, 0));
    }
    world.step();
    assert_eq!(world.scheduler.num_running(), 3);
    while world.scheduler.num_waiting() == 0 {
        world.step();
    }
    let preempted = SequenceKey { precedence: Precedence::Interactive, priority: 0, arrival: 2 };
    assert_eq!(world.scheduler.sequence(preempted).unwrap().num_computed(), 0);
    assert!(run_to_end(&mut world) > 0, "the second has to go as well");
}

#[test]
fn decodes_go_first_and_a_long_prompt_gets_the_rest_of_the_budget() {
    let config = EngineConfig { block_size: 4, num_blocks: 64, max_batched_tokens: 8, ..EngineConfig::default() };
    let mut world = World::new(config);
    world.submit(plain(vec![1, 2], 40, 0));
    world.step();
    world.submit(plain((0..30).collect(), 4, -1));
    let plan = world.scheduler.schedule();
    let shares: Vec<_> = plan.items.iter().map(|item| (item.key.arrival, item.query_len)).collect();
    assert_eq!(shares, [(0, 1), (1, 7)]);
}

#[test]
fn a_known_prefix_is_reused_up_to_the_last_token() {
    let config = EngineConfig { block_size: 4, num_blocks: 64, ..EngineConfig::default() };
    let mut world = World::new(config);
    let prompt: Vec<u32> = (0..16).collect();
    world.submit(plain(prompt.clone(), 5, 0));
    run_to_end(&mut world);
    let salted = SequenceOptions { cache_salt: Some("other".to_owned()), ..SequenceOptions::default() };
    let mut longer = prompt.clone();
    longer.extend(generate(&prompt, 5));
    longer.push(3);
    // Generated blocks are reusable too: 16 prompt tokens and 4 of the output fill five blocks.
    for (prompt, options, cached) in [
        (prompt.clone(), SequenceOptions::default(), 12),
        (longer, SequenceOptions::default(), 20),
        (prompt, salted, 0),
    ] {
        world.submit(Submission { options, ..plain(prompt, 1, 0) });
        let plan = world.scheduler.schedule();
        assert_eq!(plan.admitted[0].cached_tokens, cached);
        let key = plan.admitted[0].key;
        world.scheduler.remove(key);
        world.live.clear();
    }
}

/// Where a generated token has other keys and values than the same token in a prompt, its block serves only sequences
/// that generated it there, such as the one itself after preemption.
#[test]
fn generated_blocks_are_no_prompts_where_they_differ() {
    let config = EngineConfig { block_size: 4, num_blocks: 64, ..EngineConfig::default() };
    let mut world = World::new(config);
    let apart = SequenceOptions { generated_apart: true, ..SequenceOptions::default() };
    let prompt: Vec<u32> = (0..10).collect();
    world.submit(Submission { options: apart.clone(), ..plain(prompt.clone(), 8, 0) });
    run_to_end(&mut world);
    let mut longer = prompt.clone();
    longer.extend(generate(&prompt, 8));
    // The third block has two tokens of the prompt, the fourth none: only the first two are the same in a prompt.
    world.submit(Submission { options: apart, ..plain(longer, 1, 0) });
    assert_eq!(world.scheduler.schedule().admitted[0].cached_tokens, 8);
}

#[test]
fn drafts_take_free_blocks_and_give_them_back() {
    let config = EngineConfig { block_size: 2, num_blocks: 5, max_batched_tokens: 20, ..EngineConfig::default() };
    let mut world = World::new(config);
    world.submit(plain(vec![1, 2, 3], 7, 0));
    world.submit(plain(vec![4], 4, 0));
    world.step();
    let plan = world.scheduler.schedule();
    assert_eq!(world.scheduler.spare_tokens(&plan.items), 18);
    // The first holds two blocks and the second one, with room for no token and for none of a draft.
    assert_eq!(plan.items.iter().map(Scheduled::end).collect::<Vec<_>>(), [4, 2]);
    let [first, second] = plan.items[..] else { panic!("{plan:?}") };
    assert_eq!(world.scheduler.reserve_draft(first, 3), 3);
    assert_eq!(world.scheduler.block_counts().held, 5);
    assert_eq!(world.scheduler.reserve_draft(second, 1), 0);
    let before = world.scheduler.sequence(second.key).unwrap().block_table().to_vec();
    world.scheduler.set_draft(first.key, &[9]);
    assert_eq!(world.scheduler.block_counts().held, 4);
    assert_eq!(world.scheduler.reserve_draft(second, 3), 2);
    world.scheduler.set_draft(second.key, &[9, 9]);
    for (item, tokens) in [(first, &[9, 8][..]), (second, &[7])] {
        world.scheduler.start(item, Outlook::Token(0));
        world.scheduler.commit(item, tokens);
    }
    world.scheduler.check_integrity().unwrap();
    let sequence = |key| world.scheduler.sequence(key).unwrap();
    assert_eq!((sequence(first.key).output()[1..].to_vec(), sequence(first.key).num_computed()), (vec![9, 8], 5));
    assert_eq!((sequence(second.key).output()[1..].to_vec(), sequence(second.key).num_computed()), (vec![7], 2));
    assert_eq!(sequence(second.key).block_table()[..1], before[..1]);
}

#[test]
fn drafts_come_true_in_random_schedules() {
    let mut world = World::new(EngineConfig { block_size: 3, num_blocks: 20, ..EngineConfig::default() });
    (0..4).for_each(|start| world.submit(plain(vec![start], 20, 0)));
    let mut steps = 0;
    while !world.live.is_empty() {
        world.step_drafted();
        steps += 1;
    }
    assert!(world.accepted > 40 && steps < 60, "{} accepted in {steps} steps", world.accepted);
}
