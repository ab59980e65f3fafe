//! What a step costs beside the model: plan, lay out, commit. `cargo bench --bench scheduler`

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tramontane::engine::{
    EngineConfig, Precedence, batch,
    scheduler::Scheduler,
    sequence::{Outlook, Sequence, SequenceKey, SequenceOptions},
};

const BLOCK_SIZE: usize = 16;

fn config(max_running: usize, tokens: usize) -> EngineConfig {
    EngineConfig {
        block_size: BLOCK_SIZE,
        num_blocks: tokens.div_ceil(BLOCK_SIZE),
        max_running,
        max_batched_tokens: 1 << 20,
        ..EngineConfig::default()
    }
}

fn add(scheduler: &mut Scheduler, arrival: u64, prompt: Vec<u32>) {
    let key = SequenceKey { precedence: Precedence::Interactive, priority: 0, arrival };
    scheduler.add(key, Sequence::new(prompt, &SequenceOptions::default()));
}

fn step(scheduler: &mut Scheduler) {
    let plan = scheduler.schedule();
    let (_, rows) = black_box(batch::build(&plan.items, scheduler));
    for (item, rows) in plan.items.into_iter().zip(rows) {
        scheduler.start(item, rows.next.map_or(Outlook::Prefill, |row| Outlook::Token(row as u32)));
        scheduler.commit(item, rows.next.map(|_| 7).as_slice());
    }
}

/// `running` sequences of `context` tokens, each of its own text, past their prefill.
fn decoding(running: usize, context: usize) -> Scheduler {
    const ROOM: usize = 4096;
    let mut scheduler = Scheduler::new(&config(running, running * (context + ROOM)));
    for arrival in 0..running as u64 {
        add(&mut scheduler, arrival, (0..context as u32).map(|i| i ^ (arrival as u32) << 16).collect());
    }
    step(&mut scheduler);
    assert_eq!(scheduler.num_running(), running);
    scheduler
}

fn decode_steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode_step");
    for (running, context) in [(1, 1024), (64, 1024), (256, 1024), (64, 8192)] {
        group.throughput(Throughput::Elements(running as u64));
        group.bench_function(format!("{running}_sequences_of_{context}"), |b| {
            b.iter_batched_ref(|| decoding(running, context), step, BatchSize::LargeInput);
        });
    }
    group.finish();
}

fn admissions(c: &mut Criterion) {
    const PROMPT: usize = 8192;
    let mut group = c.benchmark_group("admit_a_prompt_of_8192");
    let prompt: Vec<u32> = (0..PROMPT as u32).collect();
    for (name, known) in [("unknown", false), ("cached", true)] {
        let fresh = || {
            let mut scheduler = Scheduler::new(&config(4, 4 * PROMPT));
            if known {
                add(&mut scheduler, 0, prompt.clone());
                step(&mut scheduler);
                scheduler.remove(SequenceKey { precedence: Precedence::Interactive, priority: 0, arrival: 0 });
            }
            add(&mut scheduler, 1, prompt.clone());
            scheduler
        };
        group.bench_function(name, |b| b.iter_batched_ref(fresh, step, BatchSize::LargeInput));
    }
    group.finish();
}

fn integrity(c: &mut Criterion) {
    let scheduler = decoding(64, 1024);
    c.bench_function("check_integrity_of_20480_blocks", |b| b.iter(|| scheduler.check_integrity().expect("balances")));
}

criterion_group!(benches, decode_steps, admissions, integrity);
criterion_main!(benches);
