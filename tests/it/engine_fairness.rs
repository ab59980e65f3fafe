//! One tenant's flood and another's first token, in steps: what docs/quotas.md states is held here.

use tramontane::engine::{
    EngineConfig, Precedence, batch,
    scheduler::Scheduler,
    sequence::{Outlook, Sequence, SequenceKey, SequenceOptions},
};

const BLOCK_SIZE: usize = 16;
const BUDGET: usize = 256;
const ARRIVAL: u64 = 1_000_000;

fn config() -> EngineConfig {
    EngineConfig {
        block_size: BLOCK_SIZE,
        num_blocks: 1024,
        max_running: 16,
        max_batched_tokens: BUDGET,
        ..EngineConfig::default()
    }
}

fn add(scheduler: &mut Scheduler, share: &str, arrival: u64, prompt_len: u32) -> SequenceKey {
    let key = SequenceKey { precedence: Precedence::Interactive, priority: 0, arrival };
    let prompt = (0..prompt_len).map(|i| i ^ (arrival as u32) << 12).collect();
    let options = SequenceOptions { share: share.into(), ..SequenceOptions::default() };
    scheduler.add(key, Sequence::new(prompt, &options));
    key
}

/// One step, nothing ever ends. Who got a token?
fn step(scheduler: &mut Scheduler) -> Vec<SequenceKey> {
    let plan = scheduler.schedule();
    let tokens: usize = plan.items.iter().map(|item| item.query_len).sum();
    assert!(tokens <= BUDGET, "{tokens} tokens in a step");
    let (_, rows) = batch::build(&plan.items, scheduler);
    let mut chosen = Vec::new();
    for (item, rows) in plan.items.into_iter().zip(rows) {
        scheduler.start(item, rows.next.map_or(Outlook::Prefill, |row| Outlook::Token(row as u32)));
        scheduler.commit(item, rows.next.map(|_| 7).as_slice());
        chosen.extend(rows.next.map(|_| item.key));
    }
    scheduler.check_integrity().expect("it balances");
    chosen
}

/// Steps until the light tenant's request has its first token, after `flood` requests of the heavy one.
fn steps_to_first_token(flood: u64, flood_len: u32, light_len: u32, heavy: &str) -> usize {
    let mut scheduler = Scheduler::new(&config());
    for arrival in 0..flood {
        add(&mut scheduler, heavy, arrival, flood_len);
    }
    for _ in 0..40 {
        step(&mut scheduler);
    }
    let key = add(&mut scheduler, "light", ARRIVAL, light_len);
    (1..=2000).find(|_| step(&mut scheduler).contains(&key)).unwrap_or(usize::MAX)
}

#[test]
fn a_flood_delays_anothers_first_token_by_a_bounded_factor() {
    for light_len in [10, 200, 1000, 3000] {
        let alone = steps_to_first_token(0, 0, light_len, "heavy");
        // Short prompts fill every place with decodes, long ones every step with prefills and the pool with blocks.
        for flood_len in [20, 900, 6000] {
            let beside = steps_to_first_token(200, flood_len, light_len, "heavy");
            assert!(beside <= 3 * alone + 1, "prompts of {flood_len}: {beside} steps for {light_len}, alone {alone}");
        }
    }
}

#[test]
fn without_shares_the_same_flood_holds_it() {
    let alone = steps_to_first_token(0, 0, 200, "light");
    let beside = steps_to_first_token(200, 20, 200, "light");
    assert!(beside > 10 * alone, "{beside} steps, alone {alone}: the test above would show nothing");
}

#[test]
fn two_floods_are_served_evenly() {
    let mut scheduler = Scheduler::new(&config());
    for arrival in 0..40 {
        add(&mut scheduler, "first", arrival, 2000);
    }
    for arrival in 40..80 {
        add(&mut scheduler, "second", arrival, 2000);
    }
    let (mut first, mut second) = (0, 0);
    for _ in 0..200 {
        for key in step(&mut scheduler) {
            scheduler.remove(key); // its prompt is all that is wanted
            if key.arrival < 40 { first += 1 } else { second += 1 }
        }
    }
    assert!(first + second >= 22 && i32::abs(first - second) <= 2, "{first} and {second}");
}
