//! Decides what each step computes: policy over integers. The main type is [`Scheduler`].
//!
//! Order is by [`SequenceKey`]: precedence, priority, then arrival. A step takes decodes first, then chunks of running
//! prefills, then admits waiting sequences, all under one token budget; and all this for those that somebody waits for
//! before it looks at those in the background. A sequence is admitted when blocks for all its tokens are there, so only
//! a decode can run out; it then preempts from the end of the order, itself if it is last. One that somebody waits for
//! preempts those in the background already to be admitted. A preempted sequence keeps its tokens and is recomputed.
//!
//! Sequences of several shares (tenants) are served evenly, and the order above is that within one share. Among them the
//! order is by what a share holds already (`shares`), a step's tokens for prompts are shared out (`budget`), whose share
//! holds less may take the place of who holds more (`room`), and who wants more than an even part has its turn (`turns`).
//!
//! A planned share is *started* once the model computes it and *committed* once its results have been read. One further
//! step may be started before the results of the last are read: its plan counts on tokens that nobody has seen yet.
//!
//! What is left of a step's budget may go to drafts, tokens that are computed on the guess that they come next. They
//! never take anything from a sequence: blocks for them are taken if there are any, and given back at the commit.
//!
//! Invariants: a waiting sequence holds no blocks; while anything is queued and every started share is committed,
//! [`Scheduler::schedule`] plans at least one token (the first in order always fits, as `max_sequence_len` bounds it to
//! the pool). Knows nothing of tensors, sampling, streams or time.

mod budget;
mod integrity;
mod room;
mod shares;
mod turns;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::{
    budget::Budget,
    shares::{Members, Order, Ranked, Standing},
    turns::Turns,
};
use super::{
    EngineConfig,
    blocks::{BlockCounts, BlockId, BlockPool},
    sequence::{Outlook, Precedence, Sequence, SequenceKey},
};

/// Prompt tokens per step whose logits are kept for prompt log-probabilities; bounds their memory.
const MAX_PROMPT_ROWS: usize = 256;

/// What one step computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The sequences, each with its share of the token budget.
    pub items: Vec<Scheduled>,
    /// Sequences that left the waiting queue for this step.
    pub admitted: Vec<Admitted>,
    /// Sequences that lost their blocks and went back to the waiting queue.
    pub preempted: Vec<SequenceKey>,
}

/// One sequence's share of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// The sequence.
    pub key: SequenceKey,
    /// Position of its first token to compute.
    pub first: usize,
    /// Its next tokens to compute, at least 1.
    pub query_len: usize,
}

impl Scheduled {
    /// Tokens of the sequence that are computed with this share.
    pub fn end(&self) -> usize {
        self.first + self.query_len
    }
}

/// A sequence that starts or resumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The sequence.
    pub key: SequenceKey,
    /// Tokens whose keys and values came from the prefix cache.
    pub cached_tokens: usize,
}

/// Running and waiting sequences and the blocks they hold.
#[derive(Debug)]
pub struct Scheduler {
    block_size: usize,
    max_running: usize,
    max_background: usize,
    max_batched_tokens: usize,
    prefix_caching: bool,
    blocks: BlockPool,
    running: BTreeMap<SequenceKey, Sequence>,
    waiting: BTreeMap<SequenceKey, Sequence>,
    members: Members,
    turns: [Turns; Precedence::ALL.len()],
}

impl Scheduler {
    /// An empty scheduler with a fresh pool. Limits of zero count as one.
    pub fn new(config: &EngineConfig) -> Self {
        Self {
            block_size: config.block_size.max(1),
            max_running: config.max_running.max(1),
            max_background: config.max_background(),
            max_batched_tokens: config.max_batched_tokens.max(1),
            prefix_caching: config.prefix_caching,
            blocks: BlockPool::new(config.num_blocks.max(1)),
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            members: Members::default(),
            turns: Default::default(),
        }
    }

    /// Puts a sequence into the waiting queue. It must be shorter than
    /// [`EngineConfig::max_sequence_len`].
    pub fn add(&mut self, key: SequenceKey, sequence: Sequence) {
        self.members.join(sequence.share(), key.precedence);
        let previous = self.waiting.insert(key, sequence);
        debug_assert!(previous.is_none() && !self.running.contains_key(&key), "keys are unique");
    }

    /// Takes a sequence out, wherever it is; its blocks are free at once.
    pub fn remove(&mut self, key: SequenceKey) -> Option<Sequence> {
        self.turns[key.precedence as usize].forget(key);
        if let Some(sequence) = self.waiting.remove(&key) {
            self.members.leave(sequence.share(), key.precedence);
            return Some(sequence);
        }
        let mut sequence = self.running.remove(&key)?;
        self.members.leave(sequence.share(), key.precedence);
        self.release_blocks(&mut sequence);
        Some(sequence)
    }

    /// Plans one step. Empty only if nothing is queued, or if all that is queued waits for a commit.
    pub fn schedule(&mut self) -> Plan {
        let mut plan = Plan::default();
        let mut budget = Budget::new(self.max_batched_tokens, MAX_PROMPT_ROWS);
        self.advance_turns();
        let mut order = self.order();
        for precedence in Precedence::ALL {
            let was_room = plan.preempted.is_empty();
            if was_room {
                self.make_way(precedence, &mut order, &mut plan);
            }
            let made_way = plan.preempted.len();
            self.plan_decodes(precedence, &mut order, &mut plan, &mut budget);
            let is_room = was_room && plan.preempted[made_way..].iter().all(|key| key.precedence > precedence);
            self.share_out(precedence, &mut budget);
            loop {
                self.plan_prefills(order.of(precedence), &mut plan, &mut budget);
                if is_room {
                    self.admit(precedence, &mut order, &mut plan, &mut budget);
                }
                // Once more for what nobody has used of its part.
                if !budget.lift_parts() {
                    break;
                }
            }
        }
        plan
    }

    /// Records that a planned share is being computed, and what that leads to.
    pub fn start(&mut self, item: Scheduled, outlook: Outlook) {
        let sequence = self.running.get_mut(&item.key).expect("planned sequences run until they are started");
        sequence.advance(item.query_len, outlook);
    }

    /// Query tokens that a plan leaves of a step's budget.
    pub fn spare_tokens(&self, items: &[Scheduled]) -> usize {
        self.max_batched_tokens.saturating_sub(items.iter().map(|item| item.query_len).sum())
    }

    /// Makes room for `wanted` drafted tokens behind a planned share, as far as there are blocks. Returns for how many
    /// there is room.
    pub fn reserve_draft(&mut self, item: Scheduled, wanted: usize) -> usize {
        let blocks = self.blocks_for(item.end() + wanted);
        let sequence = self.running.get_mut(&item.key).expect("planned sequences run until they are started");
        while sequence.block_table.len() < blocks {
            let Some(block) = self.blocks.allocate() else { break };
            sequence.block_table.push(block);
        }
        wanted.min(sequence.block_table.len() * self.block_size - item.end())
    }

    /// The sequence's step shall compute these behind its planned share, on the guess that they come next. There must
    /// be room for them.
    pub fn set_draft(&mut self, key: SequenceKey, tokens: &[u32]) {
        let sequence = self.running.get_mut(&key).expect("planned sequences run until they are started");
        sequence.set_draft(tokens);
        self.release_surplus(key);
    }

    /// Records that a started share has been computed, and the tokens that were chosen after it: none, or one and as
    /// many more as tokens of the draft have come. Shares are committed in the order in which they were started; the
    /// sequence may have been preempted since.
    pub fn commit(&mut self, item: Scheduled, tokens: &[u32]) {
        let n_accepted = tokens.len().saturating_sub(1);
        if let Some((&token, further)) = tokens.split_first() {
            let queue = if self.running.contains_key(&item.key) { &mut self.running } else { &mut self.waiting };
            let sequence = queue.get_mut(&item.key).expect("started sequences are queued");
            sequence.clear_draft();
            sequence.read(token);
            further.iter().for_each(|&token| sequence.read_further(token));
        }
        let Some(sequence) = self.running.get_mut(&item.key) else { return };
        let end = item.end() + n_accepted;
        if self.prefix_caching && sequence.num_computed >= end {
            for index in item.first / self.block_size..end / self.block_size {
                let hash = sequence.block_hash(index, self.block_size);
                self.blocks.publish(sequence.block_table[index], hash);
            }
        }
        self.release_surplus(item.key);
    }

    /// A sequence, running or waiting.
    pub fn sequence(&self, key: SequenceKey) -> Option<&Sequence> {
        self.running.get(&key).or_else(|| self.waiting.get(&key))
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Sequences that hold blocks.
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait for blocks.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// True if there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// State of the pool.
    pub fn block_counts(&self) -> BlockCounts {
        self.blocks.counts()
    }

    /// Lends a block nobody holds until [`Self::return_scratch`], for a computation outside any sequence.
    pub fn take_scratch(&mut self) -> Option<BlockId> {
        self.blocks.allocate()
    }

    /// Gives back what [`Self::take_scratch`] lent.
    pub fn return_scratch(&mut self, block: BlockId) {
        self.blocks.release(block);
    }

    fn plan_decodes(&mut self, precedence: Precedence, order: &mut Order, plan: &mut Plan, budget: &mut Budget) {
        let mut place = 0;
        // Preempting takes from the end of the order, so nothing that is planned already.
        while let Some(&Ranked { key, .. }) = order.of(precedence).get(place) {
            place += 1;
            let sequence = &self.running[&key];
            if sequence.num_pending() != 1 || sequence.ends() {
                continue;
            }
            if budget.tokens() == 0 {
                return;
            }
            if self.reserve_next(key, order, plan) {
                let first = self.running[&key].num_computed;
                plan.items.push(Scheduled { key, first, query_len: 1 });
                budget.take_decode();
            }
        }
    }

    fn plan_prefills(&self, order: &[Ranked], plan: &mut Plan, budget: &mut Budget) {
        for Ranked { key, .. } in order {
            let sequence = &self.running[key];
            if sequence.num_pending() > 1 {
                plan_chunk(*key, sequence, plan, budget);
            }
        }
    }

    /// Shares out the tokens for prompts among those that have any.
    fn share_out(&self, precedence: Precedence, budget: &mut Budget) {
        if !self.members.are_several() {
            return;
        }
        let prefills = self.running.iter().filter(|(_, sequence)| sequence.num_pending() > 1);
        let prompts = prefills.chain(&self.waiting).filter(|(key, _)| key.precedence == precedence);
        budget.share_out(prompts.map(|(_, sequence)| sequence.share()).collect());
    }

    fn admit(&mut self, precedence: Precedence, order: &mut Order, plan: &mut Plan, budget: &mut Budget) {
        let mut passed_over = BTreeSet::new();
        'admitted: loop {
            let may = |share: &Arc<str>| budget.is_open_to(share) && !passed_over.contains(share);
            for Ranked { standing, key, .. } in self.firsts_waiting(precedence, may) {
                if budget.tokens() == 0 {
                    return;
                }
                // Of one that was preempted just now the tokens must be read before they can be computed again; and what
                // has made way does not come back at once.
                let is_back = self.waiting[&key].num_unread() > 0 || plan.preempted.contains(&key);
                let hits = if is_back { None } else { self.make_room(key, order, plan) };
                match (hits, standing) {
                    (Some(hits), _) => {
                        self.admit_with(key, hits, plan, budget);
                        order.append(key);
                        continue 'admitted;
                    }
                    (None, Standing::Within) => {
                        passed_over.insert(Arc::clone(self.waiting[&key].share()));
                    }
                    (None, Standing::InTurn | Standing::Beyond) => return,
                }
            }
            return;
        }
    }

    /// A waiting sequence, for which there is room, runs behind these cached blocks.
    fn admit_with(&mut self, key: SequenceKey, hits: Vec<BlockId>, plan: &mut Plan, budget: &mut Budget) {
        let mut sequence = self.waiting.remove(&key).expect("the sequence waits");
        sequence.num_computed = hits.len() * self.block_size;
        plan.admitted.push(Admitted { key, cached_tokens: sequence.num_computed });
        for &block in &hits {
            self.blocks.share(block);
        }
        sequence.block_table = hits;
        let held = self.blocks_for(sequence.tokens().len());
        while sequence.block_table.len() < held {
            sequence.block_table.push(self.blocks.allocate().expect("available blocks were counted"));
        }
        plan_chunk(key, &sequence, plan, budget);
        let turns = &mut self.turns[key.precedence as usize];
        if turns.key() == Some(key) {
            turns.begin(sequence.share(), sequence.num_tokens());
        }
        self.running.insert(key, sequence);
    }

    /// The last block goes first, so that the ends of prefixes are evicted before their beginnings.
    fn release_blocks(&mut self, sequence: &mut Sequence) {
        for block in sequence.block_table.drain(..).rev() {
            self.blocks.release(block);
        }
        sequence.num_computed = 0;
    }

    /// Blocks beyond the tokens of a sequence and its draft: those that a draft did not need.
    fn release_surplus(&mut self, key: SequenceKey) {
        let sequence = self.running.get_mut(&key).expect("the sequence runs");
        let needed = (sequence.num_tokens() + sequence.draft().len()).div_ceil(self.block_size);
        while sequence.block_table.len() > needed {
            let block = sequence.block_table.pop().expect("there are more than are needed");
            self.blocks.release(block);
        }
    }

    fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size)
    }
}

/// Plans the next tokens of a prompt, behind those that the step has of it.
fn plan_chunk(key: SequenceKey, sequence: &Sequence, plan: &mut Plan, budget: &mut Budget) {
    let planned = plan.items.iter_mut().find(|item| item.key == key);
    let wanted = sequence.num_pending() - planned.as_ref().map_or(0, |item| item.query_len);
    let query_len = budget.take(sequence, wanted);
    match planned {
        Some(item) => item.query_len += query_len,
        None if query_len > 0 => plan.items.push(Scheduled { key, first: sequence.num_computed, query_len }),
        None => {}
    }
}
