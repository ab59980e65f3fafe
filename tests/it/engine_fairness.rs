//! One tenant's flood and another's first token, in steps: what docs/quotas.md states is held here.

use std::collections::BTreeMap;

use tramontane::engine::{
    EngineConfig, Precedence, Request, SubmitError, Update, batch,
    scheduler::Scheduler,
    sequence::{Outlook, Sequence, SequenceKey, SequenceOptions},
};

use crate::engine_mock::{read, request, spawn_gated};

const BLOCK_SIZE: usize = 16;
const BUDGET: usize = 256;

fn config() -> EngineConfig {
    EngineConfig {
        block_size: BLOCK_SIZE,
        num_blocks: 1024,
        max_running: 16,
        max_batched_tokens: BUDGET,
        ..EngineConfig::default()
    }
}

/// A scheduler whose sequences end after so many tokens each.
pub struct Steps {
    pub scheduler: Scheduler,
    /// Of what is added.
    pub precedence: Precedence,
    /// Tokens that each has still to get.
    pub left: BTreeMap<SequenceKey, usize>,
    arrivals: u64,
    pub preemptions: usize,
    /// Of all plans, one after the other (FNV-1a).
    pub digest: u64,
}

impl Steps {
    pub fn new(config: &EngineConfig, precedence: Precedence) -> Self {
        let (scheduler, left) = (Scheduler::new(config), BTreeMap::new());
        Self { scheduler, precedence, left, arrivals: 0, preemptions: 0, digest: 0xcbf2_9ce4_8422_2325 }
    }

    pub fn add(&mut self, share: &str, prompt_len: u32, max_tokens: usize) -> SequenceKey {
        let prompt = (0..prompt_len).map(|i| i ^ (self.arrivals as u32) << 14).collect();
        self.add_prompt(share, prompt, max_tokens)
    }

    /// One whose prompt is such a prefix, that others may have too, and so many tokens of its own.
    fn add_behind(&mut self, share: &str, prefix: std::ops::Range<u32>, own: u32, max_tokens: usize) -> SequenceKey {
        let own = (0..own).map(|i| i ^ (self.arrivals as u32 + 1) << 14);
        let prompt = prefix.chain(own).collect();
        self.add_prompt(share, prompt, max_tokens)
    }

    fn add_prompt(&mut self, share: &str, prompt: Vec<u32>, max_tokens: usize) -> SequenceKey {
        let key = SequenceKey { precedence: self.precedence, priority: 0, arrival: self.arrivals };
        self.arrivals += 1;
        let options = SequenceOptions { share: share.into(), ..SequenceOptions::default() };
        self.scheduler.add(key, Sequence::new(prompt, &options));
        self.left.insert(key, max_tokens);
        key
    }

    pub fn cancel(&mut self, key: SequenceKey) {
        self.left.remove(&key);
        assert!(self.scheduler.remove(key).is_some());
    }

    /// Who got a token?
    pub fn step(&mut self) -> Vec<SequenceKey> {
        let plan = self.scheduler.schedule();
        let tokens: usize = plan.items.iter().map(|item| item.query_len).sum();
        assert!(tokens <= BUDGET && (tokens > 0 || self.left.is_empty()), "{tokens} tokens in a step");
        self.preemptions += plan.preempted.len();
        for byte in format!("{plan:?}").bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        let (_, rows) = batch::build(&plan.items, &self.scheduler);
        let mut chosen = Vec::new();
        for (item, rows) in plan.items.into_iter().zip(rows) {
            self.scheduler.start(item, rows.next.map_or(Outlook::Prefill, |row| Outlook::Token(row as u32)));
            self.scheduler.commit(item, rows.next.map(|_| 7).as_slice());
            if rows.next.is_none() {
                continue;
            }
            chosen.push(item.key);
            let left = self.left.get_mut(&item.key).unwrap();
            *left -= 1;
            if *left == 0 {
                self.scheduler.remove(item.key);
                self.left.remove(&item.key);
            }
        }
        self.scheduler.check_integrity().unwrap();
        chosen
    }
}

/// Steps until the light tenant's request has its first token, when so many requests of each of the heavy ones are there.
fn steps_to_first_token(precedence: Precedence, heavy: &[&str], flood_len: u32, light_len: u32) -> usize {
    let mut steps = Steps::new(&config(), precedence);
    for share in heavy {
        for _ in 0..100 {
            steps.add(share, flood_len, 1000);
        }
    }
    for _ in 0..40 {
        steps.step();
    }
    let key = steps.add("light", light_len, 8);
    (1..=2000).find(|_| steps.step().contains(&key)).unwrap_or(usize::MAX)
}

#[test]
fn a_flood_delays_anothers_first_token_by_a_bounded_factor() {
    for precedence in Precedence::ALL {
        for light_len in [10, 200, 1000, 3000] {
            let alone = steps_to_first_token(precedence, &[], 0, light_len);
            // Short prompts fill every place with decodes, long ones every step with prompts and the pool with blocks.
            // The longest are a little shorter than a tenant's part of the pool, of four.
            for flood_len in [20, 900, 3800] {
                for heavy in [&["one"][..], &["one", "two", "three"]] {
                    let beside = steps_to_first_token(precedence, heavy, flood_len, light_len);
                    let bound = (heavy.len() + 1) * alone + 3;
                    assert!(
                        beside <= bound,
                        "{precedence:?}, {} floods of {flood_len}: {beside} steps for {light_len}, {alone} alone",
                        heavy.len()
                    );
                }
            }
        }
    }
}

#[test]
fn without_shares_the_same_flood_holds_it() {
    let alone = steps_to_first_token(Precedence::Interactive, &[], 0, 200);
    let beside = steps_to_first_token(Precedence::Interactive, &["light"], 20, 200);
    assert!(beside > 100 * alone, "{beside} steps, {alone} alone: the test above would show nothing");
}

#[test]
fn two_floods_are_served_evenly() {
    let mut steps = Steps::new(&config(), Precedence::Interactive);
    for share in [["first"; 40], ["second"; 40]].concat() {
        steps.add(share, 2000, 1);
    }
    let (mut first, mut second) = (0, 0);
    for _ in 0..200 {
        for key in steps.step() {
            if key.arrival < 40 { first += 1 } else { second += 1 }
        }
    }
    assert!(first + second >= 22 && i32::abs(first - second) <= 2, "{first} and {second}");
}

/// Others take turns with a flood, but what they take from it does not stop it: it ends while they come without a pause.
#[test]
fn nobody_starves_behind_others_that_never_pause() {
    let config = EngineConfig { num_blocks: 40, max_running: 4, ..config() };
    let mut steps = Steps::new(&config, Precedence::Interactive);
    let heavy: Vec<SequenceKey> = (0..12).map(|_| steps.add("heavy", 100, 60)).collect();
    let mut light = [steps.add("light", 90, 3), steps.add("other", 20, 9)];
    let (mut n_steps, mut n_light) = (0, 0);
    while heavy.iter().any(|key| steps.left.contains_key(key)) {
        steps.step();
        n_steps += 1;
        assert!(n_steps < 4000, "{:?}", steps.left);
        for (place, (share, prompt_len, max_tokens)) in [("light", 90, 3), ("other", 20, 9)].into_iter().enumerate() {
            if !steps.left.contains_key(&light[place]) {
                light[place] = steps.add(share, prompt_len, max_tokens);
                n_light += 1;
            }
        }
    }
    // Two of four places at least are the others', and what gives way is computed again: but not for every token.
    assert!(n_light > n_steps / 20, "{n_light} in {n_steps} steps");
    assert!(
        n_steps < 2 * 12 * 60 && steps.preemptions < n_steps,
        "{} preemptions in {n_steps} steps",
        steps.preemptions
    );
}

/// Steps of a pool of 48 blocks, in which so many of one tenant hold one prefix of 20 blocks, and two blocks each.
fn steps_with_a_shared_prefix(n_holders: usize) -> Steps {
    let config = EngineConfig { num_blocks: 48, prefix_caching: true, ..config() };
    let mut steps = Steps::new(&config, Precedence::Interactive);
    for n in 0..n_holders {
        steps.add_behind("heavy", 0..320, 20, 25);
        // The first one computes the prefix for all.
        (0..if n == 0 { 2 } else { 1 }).for_each(|_| drop(steps.step()));
    }
    assert_eq!(steps.scheduler.block_counts().held, 20 + 2 * n_holders);
    steps
}

/// Nobody gives way for the light one, as it would not fit then either; it comes once the others have ended.
fn waits_and_preempts_nobody(mut steps: Steps, light: SequenceKey) {
    (0..3).for_each(|_| drop(steps.step()));
    assert_eq!((steps.preemptions, steps.scheduler.num_waiting()), (0, 1));
    assert!((0..100).any(|_| steps.step().contains(&light)), "{:?}", steps.left);
}

#[test]
fn nobody_gives_way_for_blocks_that_others_hold_too() {
    // 20 blocks are there, and the three behind the first would free two each: 26.
    let mut steps = steps_with_a_shared_prefix(4);
    let light = steps.add("light", 420, 1); // 27 blocks
    waits_and_preempts_nobody(steps, light);

    let mut steps = steps_with_a_shared_prefix(4);
    let light = steps.add("light", 380, 1); // 24 blocks
    assert!((0..2).any(|_| steps.step().contains(&light)), "its prompt takes two steps");
    assert_eq!((steps.preemptions, steps.scheduler.num_running()), (2, 2), "both that it takes");
}

#[test]
fn nobody_gives_way_for_blocks_that_the_waiting_one_shares() {
    let mut steps = steps_with_a_shared_prefix(2);
    steps.add_behind("heavy", 1000..1128, 10, 25);
    steps.step();
    assert_eq!(steps.scheduler.block_counts().held, 33);
    // It wants 19 blocks beside the 8 that it shares. There are 15; the last would free one, the one before it two.
    let light = steps.add_behind("light", 1000..1128, 295, 1);
    waits_and_preempts_nobody(steps, light);
}

#[test]
fn whoever_fills_the_queue_keeps_nobody_out() {
    let config = EngineConfig { max_running: 2, max_waiting: 6, ..config() };
    let (engine, gate) = spawn_gated(&config);
    let of = |share: &str, max_tokens| Request { share: share.into(), ..request(&[1, 2, 3], max_tokens) };
    let heavy: Vec<_> = (0..8).map(|_| engine.submit(of("heavy", 40)).unwrap()).collect();
    let refused = |share| match engine.submit(of(share, 2)) {
        Err(SubmitError::QueueFull { .. }) => true,
        Err(error) => panic!("{error}"),
        Ok(_) => false,
    };
    assert!(refused("heavy"));
    let mut light: Vec<_> = (0..4).map(|_| engine.submit(of("light", 2)).unwrap()).collect();
    assert!(refused("light") && refused("heavy"), "half of the places are its part");
    // The first light one has two tokens within a few steps; the first heavy one needs forty.
    for _ in 0..8 {
        gate.send(()).unwrap();
    }
    let updates = read(light.remove(0));
    assert_eq!(updates.iter().filter(|update| matches!(update, Update::Token { .. })).count(), 2);
    drop(gate);
    assert!(heavy.into_iter().chain(light).all(|stream| read(stream).len() > 2));
    assert!(!refused("heavy"));
}
