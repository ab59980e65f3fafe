//! Sequences that nobody waits for give way, before they run and while they do.

use tramontane::engine::{EngineConfig, Precedence, sequence::SequenceKey};

use crate::engine_scheduler::{Submission, World, plain, run_to_end};

fn background(prompt: Vec<u32>, max_tokens: usize) -> Submission {
    Submission { precedence: Precedence::Background, ..plain(prompt, max_tokens, 0) }
}

#[test]
fn the_background_gives_up_its_place_to_whoever_waits() {
    let config = EngineConfig { block_size: 2, num_blocks: 64, max_running: 1, ..EngineConfig::default() };
    let mut world = World::new(config);
    world.submit(background(vec![1, 2], 30));
    world.step();
    world.submit(plain(vec![3, 4], 3, 5));
    let plan = world.scheduler.schedule();
    let keys = |keys: Vec<SequenceKey>| keys.iter().map(|key| key.arrival).collect::<Vec<_>>();
    assert_eq!(keys(plan.preempted.clone()), [0]);
    assert_eq!(keys(plan.items.iter().map(|item| item.key).collect()), [1], "whatever its priority");
    world.scheduler.check_integrity().expect("balanced books");
}

#[test]
fn the_background_gives_up_its_blocks_to_whoever_waits() {
    let config = EngineConfig { block_size: 2, num_blocks: 8, max_running: 8, ..EngineConfig::default() };
    let mut world = World::new(config);
    world.submit(background((0..8).collect(), 6));
    world.submit(background(vec![1, 2], 6));
    world.step();
    world.submit(plain((10..22).collect(), 2, 0));
    let mut steps = 0;
    while world.live.keys().any(|key| key.precedence == Precedence::Interactive) {
        world.step();
        steps += 1;
    }
    assert_eq!(steps, 2, "a prompt that fits into one step, and a second token");
    run_to_end(&mut world);
}

#[test]
fn whoever_waits_has_the_budget_before_the_background() {
    let config = EngineConfig {
        block_size: 4,
        num_blocks: 64,
        max_running: 8,
        max_batched_tokens: 8,
        ..EngineConfig::default()
    };
    let mut world = World::new(config);
    world.submit(background((0..40).collect(), 4));
    world.submit(background(vec![5, 6], 4));
    world.submit(background(vec![7, 8], 4));
    world.step();
    world.submit(plain((1..7).collect(), 4, 0));
    let plan = world.scheduler.schedule();
    let shares: Vec<_> = plan.items.iter().map(|item| (item.key.arrival, item.query_len)).collect();
    assert_eq!(shares, [(3, 6), (0, 2)]);
    assert_eq!(world.scheduler.num_running(), 2, "the second waits for the budget");
}

#[test]
fn a_few_run_in_the_background() {
    let config = EngineConfig { block_size: 2, num_blocks: 64, max_running: 8, ..EngineConfig::default() };
    let mut world = World::new(config);
    (0..6).for_each(|start| world.submit(background(vec![start, start + 1], 4)));
    world.step();
    assert_eq!(world.scheduler.num_running(), 2);
    run_to_end(&mut world);
}
