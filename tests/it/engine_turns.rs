//! Requests that are longer than their tenant's even part of the cache, in steps: whom they hold, and that they come.

use std::collections::BTreeMap;

use tramontane::engine::{EngineConfig, Precedence, sequence::SequenceKey};

use crate::engine_fairness::Steps;

/// Tokens of the pool: 64 blocks.
const POOL: usize = 1024;

/// Steps in which a prompt as long as the pool is computed beside decodes.
const FILL: usize = POOL.div_ceil(256 - 16);

/// Steps that a request longer than a part waits, and tokens that a turn brings, as docs/quotas.md states them.
const STEPS_WAITED: usize = 64;
const TOKENS_PER_TURN: usize = 16;

fn config() -> EngineConfig {
    EngineConfig {
        block_size: 16,
        num_blocks: POOL / 16,
        max_running: 16,
        max_batched_tokens: 256,
        prefix_caching: true,
        ..EngineConfig::default()
    }
}

/// Steps to a first token beside so many others, some of whose requests are longer than a part.
fn bound(others: usize, alone: usize) -> usize {
    (others + 1) * alone + 3 + turns_hold(others)
}

/// Steps for which turns hold a request that is within its tenant's part.
fn turns_hold(others: usize) -> usize {
    (others + 2) * FILL + TOKENS_PER_TURN + 2
}

/// A tenant that asks for the same again and again.
struct Flow {
    share: &'static str,
    prompt_len: u32,
    max_tokens: usize,
    at_once: usize,
    /// Steps before it asks again, once all have ended; without any it asks as soon as one has.
    gap: usize,
    absent: usize,
    /// Steps that each request has waited for its first token.
    waits: BTreeMap<SequenceKey, usize>,
    /// Those that have it.
    live: Vec<SequenceKey>,
    /// Steps to the first token of each.
    delays: Vec<usize>,
    ended: usize,
}

impl Flow {
    fn new(share: &'static str, prompt_len: u32, max_tokens: usize, at_once: usize) -> Self {
        let (waits, live, delays) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { share, prompt_len, max_tokens, at_once, gap: 0, absent: 0, waits, live, delays, ended: 0 }
    }

    fn ask(&mut self, steps: &mut Steps) {
        let queued = self.waits.len() + self.live.len();
        if self.gap > 0 && (queued > 0 || self.absent < self.gap) {
            self.absent = if queued > 0 { 0 } else { self.absent + 1 };
            return;
        }
        while self.waits.len() + self.live.len() < self.at_once {
            self.waits.insert(steps.add(self.share, self.prompt_len, self.max_tokens), 0);
        }
    }

    fn see(&mut self, chosen: &[SequenceKey], steps: &Steps) {
        self.waits.values_mut().for_each(|waited| *waited += 1);
        for key in chosen {
            if let Some(waited) = self.waits.remove(key) {
                self.delays.push(waited);
                self.live.push(*key);
            }
        }
        let queued = self.live.len();
        self.live.retain(|key| steps.left.contains_key(key));
        self.ended += queued - self.live.len();
    }

    /// The longest wait for a first token, of those that still wait as well.
    fn longest(&self) -> usize {
        self.delays.iter().chain(self.waits.values()).copied().max().unwrap_or(0)
    }
}

fn run(steps: &mut Steps, flows: &mut [&mut Flow], n_steps: usize) {
    for _ in 0..n_steps {
        flows.iter_mut().for_each(|flow| flow.ask(steps));
        let chosen = steps.step();
        flows.iter_mut().for_each(|flow| flow.see(&chosen, steps));
    }
}

fn interactive() -> Steps {
    Steps::new(&config(), Precedence::Interactive)
}

#[test]
fn requests_longer_than_a_part_hold_others_for_a_bounded_time_and_come_to_their_ends() {
    // The longest needs all blocks but one, the shortest is just longer than a part. Answers are long, so whoever waited
    // for them would wait for ever.
    for (prompt_len, max_tokens) in [(560, 200), (800, 100), (1000, 20)] {
        let mut steps = interactive();
        let mut long = Flow::new("long", prompt_len, max_tokens, 3);
        // Just their parts of the 64 blocks, always taken.
        let mut light = Flow::new("light", 100, 10, 4);
        run(&mut steps, &mut [&mut light, &mut long], 1500);
        assert!(light.longest() <= bound(1, 1), "{} steps beside {prompt_len}", light.longest());
        // Its turn, and its prompt beside those of the other.
        let longest = STEPS_WAITED + FILL + 2 + 2 * FILL;
        assert!(long.delays[0] <= longest, "{} steps for {prompt_len}", long.delays[0]);
        assert!(long.ended >= 1 && light.ended > 150, "{} and {} for {prompt_len}", long.ended, light.ended);
        // Turns take no more than an even part of the time.
        let prompt = light.delays.iter().filter(|delay| **delay <= 2 + 3).count();
        assert!(prompt * 2 >= light.delays.len(), "{:?}", light.delays);
    }
}

/// With the cache of prefixes a client that comes back is served at once, and a long request may never have all its room.
#[test]
fn a_long_request_comes_to_its_end_beside_a_client_that_is_absent_now_and_then() {
    for (gap, prompt_len) in [(1, 300), (1, 480), (2, 300), (3, 480)] {
        let mut steps = interactive();
        let alone = (2 * prompt_len as usize).div_ceil(256);
        let mut client = Flow { gap, ..Flow::new("client", prompt_len, 20, 2) };
        let mut long = Flow::new("long", 900, 20, 1);
        run(&mut steps, &mut [&mut client, &mut long], 1000);
        assert!(long.ended > 0, "{} first tokens in gaps of {gap} beside {prompt_len}", long.delays.len());
        assert!(client.ended > 20 && client.longest() <= bound(1, alone), "{} and {}", client.ended, client.longest());
    }
}

/// Beside two others it is longer than a part, and whenever one of them is absent it is not.
#[test]
fn a_request_that_is_longer_than_a_part_now_and_then_comes_to_its_end() {
    for gap in [1, 2] {
        let mut steps = interactive();
        let mut always = Flow::new("always", 100, 20, 6);
        let mut client = Flow { gap, ..Flow::new("client", 300, 20, 1) };
        let mut long = Flow::new("a long one", 480, 60, 1);
        run(&mut steps, &mut [&mut always, &mut client, &mut long], 1000);
        assert!(long.ended > 0, "{} first tokens in gaps of {gap}", long.delays.len());
        assert!(client.ended > 20 && client.longest() <= bound(2, 2), "{} and {}", client.ended, client.longest());
    }
}

/// In the background, in what interactive requests leave: less than the part that would be its own.
#[test]
fn what_is_within_its_part_of_the_background_and_finds_no_room_has_its_turn() {
    for (held, at_once, prompt_len) in [(460, 4, 120), (400, 3, 180)] {
        let mut steps = interactive();
        let mut interactive = Flow::new("interactive", held, 60, 1);
        let mut other = Flow::new("other", prompt_len, 37, at_once);
        let mut waits = None;
        for step in 0..300 {
            steps.precedence = Precedence::Interactive;
            interactive.ask(&mut steps);
            steps.precedence = Precedence::Background;
            other.ask(&mut steps);
            if step == 50 {
                waits = Some(steps.add("waits", 400, 10));
            }
            let chosen = steps.step();
            interactive.see(&chosen, &steps);
            other.see(&chosen, &steps);
        }
        let left = waits.and_then(|key| steps.left.get(&key));
        assert_eq!(left, None, "it ends beside {at_once} requests of {prompt_len}");
        assert!(interactive.longest() <= 3 && other.ended > 0, "{} and {}", interactive.longest(), other.ended);
    }
}

/// The other's requests end in the step in which they get their token, so that there is room for a moment again and again.
#[test]
fn a_long_one_in_the_background_comes_to_its_end_beside_answers_of_one_token() {
    for (at_once, prompt_len) in [(2, 480), (3, 300)] {
        let mut steps = Steps::new(&config(), Precedence::Background);
        let mut flood = Flow::new("flood", prompt_len, 1, at_once);
        let mut long = Flow::new("long", 600, 50, 1);
        run(&mut steps, &mut [&mut flood, &mut long], 2000);
        assert!(long.ended > 1 && flood.ended > 100, "{} and {} of {prompt_len}", long.ended, flood.ended);
    }
}

/// What went for a turn is computed again after it, even where nobody uses that turn.
#[test]
fn turns_that_are_not_used_cost_others_about_an_even_part_of_the_time() {
    let mut steps = Steps::new(&EngineConfig { max_batched_tokens: 64, ..config() }, Precedence::Interactive);
    let mut others = ["a", "b", "c", "d", "e", "f", "g"].map(|share| Flow::new(share, 100, 15, 1));
    let mut flows: Vec<&mut Flow> = others.iter_mut().collect();
    let mut turns = Vec::new();
    let mut long = steps.add("long", 1000, 5);
    for step in 0..600 {
        run(&mut steps, &mut flows, 1);
        if steps.scheduler.sequence(long).unwrap().num_computed() > 0 {
            turns.push(step);
            steps.cancel(long);
            long = steps.add("long", 1000, 5);
        }
    }
    assert!(turns.len() > 1 && turns.windows(2).all(|pair| pair[1] - pair[0] >= 7 * (1 + 700 / 64)), "{turns:?}");
}

#[test]
fn two_who_stay_within_their_parts_beside_two_who_do_not() {
    let mut steps = interactive();
    let [mut first, mut second] = ["first", "second"].map(|share| Flow::new(share, 300, 60, 2));
    let mut little = Flow::new("little", 100, 20, 2);
    let mut more = Flow::new("more", 180, 20, 1);
    run(&mut steps, &mut [&mut first, &mut second, &mut little, &mut more], 3000);
    assert!(little.longest() <= bound(3, 1), "{}", little.longest());
    assert!(more.longest() <= bound(3, 1), "{}", more.longest());
    // Turns go round, so both come to their ends.
    assert!(first.ended > 5 && second.ended > 5, "{} and {}", first.ended, second.ended);
    assert!(little.ended > 60 && more.ended > 30, "{} and {}", little.ended, more.ended);
}

/// The longest wait for a first token of one whose prompt has so many tokens, and how long that takes alone.
fn beside_turns(others: &mut [&mut Flow], prompt_len: u32) -> (usize, usize) {
    let mut alone = Flow::new("light", prompt_len, 3, 1);
    run(&mut interactive(), &mut [&mut alone], 20);
    let mut light = Flow::new("light", prompt_len, 3, 1);
    let mut flows: Vec<&mut Flow> = others.iter_mut().map(|flow| &mut **flow).collect();
    flows.push(&mut light);
    run(&mut interactive(), &mut flows, 2500);
    (light.longest(), alone.longest())
}

#[test]
fn prompts_of_any_length_within_a_part_wait_no_longer_than_stated() {
    for prompt_len in [10, 120, 245] {
        let mut long = Flow::new("long", 900, 100, 2);
        let mut longer = Flow::new("longer", 300, 60, 2);
        let mut little = Flow::new("little", 100, 30, 3);
        let (waited, alone) = beside_turns(&mut [&mut long, &mut longer, &mut little], prompt_len);
        assert!(waited <= bound(3, alone), "{waited} steps for {prompt_len}, {alone} alone");
        assert!(long.ended > 1 && longer.ended > 0, "{} and {}", long.ended, longer.ended);
    }
    for prompt_len in [10, 300, 490] {
        let mut long = Flow::new("long", 700, 300, 2);
        let (waited, alone) = beside_turns(&mut [&mut long], prompt_len);
        assert!(waited <= bound(1, alone), "{waited} steps for {prompt_len}, {alone} alone");
        assert!(long.ended > 0, "{}", long.ended);
    }
}

#[test]
fn what_runs_beyond_a_part_goes_for_whoever_is_within_its_own() {
    // One long request that runs for ever, and two that are each within a part, and more than one together.
    for heavy in [&[900][..], &[400, 400]] {
        let mut steps = interactive();
        for prompt_len in heavy {
            steps.add("heavy", *prompt_len, 100);
        }
        (0..10).for_each(|_| drop(steps.step()));
        let light = steps.add("light", 480, 20);
        let waited = (1..).find(|_| steps.step().contains(&light)).unwrap();
        assert!(waited <= 2 * 2 + 3, "{waited} steps beside {heavy:?}");
        let end = (0..300).find(|_| steps.step().len() < usize::MAX && steps.left.is_empty());
        assert!(end.is_some(), "{:?} never end", steps.left);
    }
}

#[test]
fn who_grows_beyond_a_part_takes_nothing_from_whoever_is_within_its_own() {
    let mut steps = interactive();
    steps.add("grows", 509, 50);
    (0..4).for_each(|_| drop(steps.step()));
    // It has 511 tokens, and 32 of the 64 blocks; the other takes all that is left.
    let light = steps.add("light", 511, 1);
    for computed in [256 - 1, 511 - 1, 511] {
        steps.step();
        let has = steps.scheduler.sequence(light).map_or(511, |sequence| sequence.num_computed());
        assert!(has >= computed, "{has} of {computed} tokens");
    }
    assert!(!steps.left.contains_key(&light), "it has its token");
}

/// A long request that has waited for so many steps behind a flood that leaves it no room.
fn waited(n_steps: usize) -> (Steps, Flow, SequenceKey) {
    let mut steps = interactive();
    let mut light = Flow::new("light", 100, 10, 4);
    run(&mut steps, &mut [&mut light], 5);
    let long = steps.add("long", 800, 5);
    run(&mut steps, &mut [&mut light], n_steps);
    assert_eq!(steps.scheduler.sequence(long).unwrap().num_computed(), 0, "it waits");
    (steps, light, long)
}

#[test]
fn who_leaves_while_it_waits_leaves_its_turn() {
    let (mut steps, mut light, long) = waited(STEPS_WAITED - 1);
    run(&mut steps, &mut [&mut light], FILL);
    assert!(steps.scheduler.sequence(long).unwrap().num_computed() > 0, "its turn has come");

    let (mut steps, mut light, long) = waited(STEPS_WAITED - 1);
    steps.cancel(long);
    run(&mut steps, &mut [&mut light], STEPS_WAITED);
    let next = steps.add("long", 800, 5);
    run(&mut steps, &mut [&mut light], STEPS_WAITED - 1);
    assert_eq!(
        steps.scheduler.sequence(next).unwrap().num_computed(),
        0,
        "what the first one waited is forgotten by then"
    );
    run(&mut steps, &mut [&mut light], FILL);
    assert!(steps.scheduler.sequence(next).unwrap().num_computed() > 0);

    // Its turn goes with whoever has it.
    steps.cancel(next);
    run(&mut steps, &mut [&mut light], 2);
    assert!(light.waits.is_empty(), "others are served at once");
}

#[test]
fn the_background_does_not_go_for_what_would_not_fit_even_then() {
    let mut steps = interactive();
    let runs = steps.add("first", 500, 100);
    steps.step();
    steps.precedence = Precedence::Background;
    let background = steps.add("background", 100, 60);
    (0..3).for_each(|_| drop(steps.step()));
    steps.precedence = Precedence::Interactive;
    // 32 to 34 of 64 blocks are taken, and the background has 7 or 8.
    let waits = steps.add("second", 600, 5);
    let computed: usize = (0..40).filter(|_| steps.step().contains(&background)).count();
    assert!(steps.left.contains_key(&runs) && steps.left.contains_key(&waits));
    assert_eq!((steps.preemptions, computed), (0, 40), "what is computed in the background comes to its end");
    // It goes once that is enough.
    steps.cancel(runs);
    steps.add("first", 350, 5);
    assert!((0..6).any(|_| steps.step().contains(&waits)), "{:?}", steps.left);
    assert_eq!(steps.preemptions, 1);
    assert!((0..60).any(|_| steps.step().len() < usize::MAX && steps.left.is_empty()), "{:?}", steps.left);
}

#[test]
fn long_requests_come_to_their_ends_whoever_comes_and_goes() {
    for seed in 0..6 {
        let mut random = random(seed);
        let mut steps =
            Steps::new(&EngineConfig { prefix_caching: seed % 2 == 0, ..config() }, Precedence::Interactive);
        for _ in 0..600 {
            let longest = if random(5) == 0 { 900 } else { 150 };
            if random(4) == 0 && steps.left.len() < 12 {
                steps.precedence = Precedence::ALL[usize::from(random(4) == 0)];
                let share = ["a", "b", "c"][random(3) as usize];
                steps.add(share, 1 + random(longest) as u32, 1 + random(40) as usize);
            }
            if random(30) == 0 && !steps.left.is_empty() {
                let nth = random(steps.left.len() as u64) as usize;
                let key = *steps.left.keys().nth(nth).unwrap();
                steps.cancel(key);
            }
            steps.step();
        }
        let end = (0..4000).find(|_| steps.step().len() < usize::MAX && steps.left.is_empty());
        assert!(end.is_some(), "seed {seed}: {:?} never end", steps.left);
    }
}

/// Numbers below what it is asked for.
fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

/// A random schedule of one share, of both precedences, with requests that leave: the digest of its plans.
fn digest_of_one_share(seed: u64) -> u64 {
    let config = EngineConfig {
        block_size: 16,
        num_blocks: 40,
        max_running: 6,
        max_batched_tokens: 256,
        prefix_caching: seed.is_multiple_of(2),
        ..EngineConfig::default()
    };
    let mut steps = Steps::new(&config, Precedence::Interactive);
    let mut random = random(seed);
    for _ in 0..400 {
        if random(3) == 0 {
            steps.precedence = Precedence::ALL[random(2) as usize];
            let longest = if random(4) == 0 { 500 } else { 90 };
            steps.add("one", 1 + random(longest) as u32, 1 + random(40) as usize);
        }
        if random(40) == 0 && !steps.left.is_empty() {
            let nth = random(steps.left.len() as u64) as usize;
            let key = *steps.left.keys().nth(nth).unwrap();
            steps.cancel(key);
        }
        steps.step();
    }
    steps.digest
}

/// The digests are of the scheduler before it knew of turns, and of who goes in vain.
#[test]
fn one_share_is_scheduled_as_if_there_were_no_shares() {
    let digests: Vec<u64> = (0..4).map(digest_of_one_share).collect();
    assert_eq!(digests, [17071993834297979120, 14188408222975319691, 2297797852508285686, 6134850774899479240]);
}
