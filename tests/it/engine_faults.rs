//! What goes wrong in one request stays there: panics, failing passes, invalid logits, readers that stop or
//! leave, deadlines; and what the engine says of itself when it cannot go on.

use std::{
    sync::{Arc, mpsc::channel},
    thread,
    time::{Duration, Instant},
};

use tramontane::{
    engine::{EngineConfig, EngineHandle, FinishReason, Health, Request, RequestStream, SubmitError, Update},
    model::{ForwardPass, Logits, ModelError, Pipeline},
    telemetry::EngineMetrics,
    types::{Batch, RowResult, SamplingParams, TokenChoice},
};

use crate::engine_mock::{
    Ahead, ERROR_TOKEN, Gated, NAN_TOKEN, PANIC_TOKEN, PagedModel, SHORT_TOKEN, VOCAB_SIZE, generate, inspect,
    inspect_after_step, read, request, spawn, spawn_gated, tokens,
};

fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "the condition never holds");
        thread::yield_now();
    }
}

/// Reads a guilty request between two others, whose prompts are 1, 2 and 3 or 4.
fn check_only_the_guilty(engine: &EngineHandle, streams: [RequestStream; 3], (fault, message): (u32, &str)) {
    let [first, guilty, last] = streams;
    assert_eq!(tokens(&read(first)), (generate(&[1, 2, 3], 10), FinishReason::Length));
    assert_eq!(tokens(&read(last)), (generate(&[1, 2, 4], 10), FinishReason::Length));
    let (ids, reason) = tokens(&read(guilty));
    let FinishReason::Failed(text) = reason else { panic!("fault {fault}: {reason:?}") };
    assert!(ids.is_empty() && text.contains(message), "fault {fault}: {text}");
    assert_eq!((inspect(engine).held_blocks, engine.health()), (0, Health::Ready), "fault {fault}");
}

#[test]
fn a_fault_ends_only_its_own_request() {
    for (fault, message) in [
        (PANIC_TOKEN, "the token that panics"),
        (ERROR_TOKEN, "the token that fails"),
        (NAN_TOKEN, "not finite"),
        (SHORT_TOKEN, "returned 63 logits for 1 rows of 64"),
    ] {
        let (engine, gate) = spawn_gated(&EngineConfig::default());
        let first = engine.submit(request(&[1, 2, 3], 10)).unwrap();
        let guilty = engine.submit(request(&[1, 2, fault, 4], 10)).unwrap();
        let last = engine.submit(request(&[1, 2, 4], 10)).unwrap();
        drop(gate);
        check_only_the_guilty(&engine, [first, guilty, last], (fault, message));
    }
}

/// The same where the next step is started before the last one's results are read.
#[test]
fn a_fault_ends_only_its_own_request_one_step_ahead() {
    for (fault, message) in [
        (PANIC_TOKEN, "the token that panics"),
        (ERROR_TOKEN, "the token that fails"),
        (NAN_TOKEN, "not finite"),
        (SHORT_TOKEN, "panicked"),
    ] {
        let (release, gate) = channel();
        let config = EngineConfig::default();
        let model = Ahead::new(Box::new(PagedModel::new(config.block_size, config.num_blocks)));
        let model = Box::new(Gated { model: Box::new(model), gate });
        let engine = EngineHandle::spawn(model, config, Arc::default());
        let first = engine.submit(request(&[1, 2, 3], 10)).unwrap();
        // Comes in while the others are under way, one step of them unread.
        for _ in 0..3 {
            release.send(()).unwrap();
        }
        let guilty = engine.submit(request(&[1, 2, fault, 4], 10)).unwrap();
        let last = engine.submit(request(&[1, 2, 4], 10)).unwrap();
        drop(release);
        check_only_the_guilty(&engine, [first, guilty, last], (fault, message));
    }
}

/// Results that cannot be had end the requests of their step, and those that come later are served.
#[test]
fn lost_results_end_the_requests_of_their_step() {
    struct Lossy {
        model: Ahead,
        finished: usize,
    }
    impl ForwardPass for Lossy {
        fn vocab_size(&self) -> usize {
            VOCAB_SIZE
        }
        fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
            self.model.forward(batch)
        }
        fn pipeline(&mut self) -> Option<&mut dyn Pipeline> {
            Some(self)
        }
    }
    impl Pipeline for Lossy {
        fn can_choose(&mut self, choice: &TokenChoice<'_>) -> bool {
            self.model.can_choose(choice)
        }
        fn start(&mut self, batch: &Batch, choices: &[Option<TokenChoice<'_>>]) -> Result<(), ModelError> {
            self.model.start(batch, choices)
        }
        fn finish(&mut self) -> Result<Vec<RowResult>, ModelError> {
            self.finished += 1;
            let results = self.model.finish()?;
            match self.finished {
                3 => Err(ModelError::Tensor(candle_core::Error::Msg("the copy is lost".into()))),
                8 => Ok(Vec::new()),
                _ => Ok(results),
            }
        }
        fn forget(&mut self, sequence: u64) {
            self.model.forget(sequence);
        }
    }
    let config = EngineConfig::default();
    let model = Ahead::new(Box::new(PagedModel::new(config.block_size, config.num_blocks)));
    let engine = EngineHandle::spawn(Box::new(Lossy { model, finished: 0 }), config, Arc::default());
    let (ids, reason) = tokens(&read(engine.submit(request(&[5, 6], 10)).unwrap()));
    assert_eq!(reason, FinishReason::Failed("tensor operation failed: the copy is lost".to_owned()));
    assert_eq!(ids, generate(&[5, 6], 2));
    // The step that had been started by then is the fourth.
    let (ids, reason) = tokens(&read(engine.submit(request(&[7], 10)).unwrap()));
    assert_eq!(reason, FinishReason::Failed("the forward pass returned 0 results for 1 rows".to_owned()));
    assert_eq!(ids, generate(&[7], 3));
    assert_eq!(tokens(&read(engine.submit(request(&[8], 4)).unwrap())).0, generate(&[8], 4));
    assert_eq!((inspect(&engine).held_blocks, engine.health()), (0, Health::Ready));
}

#[test]
fn a_faulty_request_alone_leaves_the_engine_ready() {
    let engine = spawn(&EngineConfig::default());
    for _ in 0..3 {
        let (_, reason) = tokens(&read(engine.submit(request(&[PANIC_TOKEN], 4)).unwrap()));
        assert!(matches!(reason, FinishReason::Failed(_)), "{reason:?}");
    }
    inspect(&engine);
    assert_eq!(engine.health(), Health::Ready);
    assert_eq!(tokens(&read(engine.submit(request(&[5], 4)).unwrap())).0, generate(&[5], 4));
}

#[test]
fn a_device_that_computes_nothing_any_more_is_wedged() {
    struct Broken;
    impl ForwardPass for Broken {
        fn vocab_size(&self) -> usize {
            VOCAB_SIZE
        }
        fn forward(&mut self, _: &Batch) -> Result<Logits, ModelError> {
            Err(ModelError::Tensor(candle_core::Error::Msg("no device".into())))
        }
    }
    let engine = EngineHandle::spawn(Box::new(Broken), EngineConfig::default(), Arc::default());
    let (_, reason) = tokens(&read(engine.submit(request(&[5], 4)).unwrap()));
    assert_eq!(reason, FinishReason::Failed("tensor operation failed: no device".to_owned()));
    wait_until(|| engine.health() == Health::Wedged);
    assert_eq!(engine.submit(request(&[5], 4)).unwrap_err(), SubmitError::ShuttingDown);
}

#[test]
fn a_step_that_takes_too_long_is_wedged_until_it_ends() {
    let (engine, gate) = spawn_gated(&EngineConfig { max_step_ms: 5, ..EngineConfig::default() });
    assert_eq!(engine.health(), Health::Ready);
    let stream = engine.submit(request(&[5], 1)).unwrap();
    wait_until(|| engine.health() == Health::Wedged);
    gate.send(()).unwrap();
    assert_eq!(tokens(&read(stream)).1, FinishReason::Length);
    wait_until(|| engine.health() == Health::Ready);
}

#[test]
fn a_reader_that_stops_reading_delays_nobody() {
    let engine = spawn(&EngineConfig::default());
    let idle = engine.submit(request(&[1], 500)).unwrap();
    let busy = engine.submit(request(&[2], 500)).unwrap();
    assert_eq!(tokens(&read(busy)).0, generate(&[2], 500));
    wait_until(|| engine.snapshot().running == 0);
    assert_eq!(tokens(&read(idle)).0, generate(&[1], 500), "nothing was lost meanwhile");
}

#[test]
fn dropping_a_stream_frees_its_blocks_at_the_next_step() {
    let (engine, gate) = spawn_gated(&EngineConfig { max_running: 2, ..EngineConfig::default() });
    let mut running = engine.submit(request(&(0..40).collect::<Vec<_>>(), 100)).unwrap();
    gate.send(()).unwrap();
    assert_eq!(running.blocking_next(), Some(Update::Started { cached_tokens: 0 }));
    assert!(matches!(running.blocking_next(), Some(Update::Token { .. })));
    let mut stays = engine.submit(request(&[7], 100)).unwrap();
    let waits = engine.submit(request(&[8], 100)).unwrap();
    gate.send(()).unwrap();
    assert_eq!(stays.blocking_next(), Some(Update::Started { cached_tokens: 0 }));
    drop((running, waits));
    let snapshot = inspect_after_step(&engine, &gate);
    assert_eq!((snapshot.running, snapshot.waiting, snapshot.held_blocks), (1, 0, 1));
    drop(gate);
    assert_eq!(tokens(&read(stays)).0, generate(&[7], 100));
}

#[test]
fn every_end_is_counted_under_its_reason() {
    let metrics = Arc::new(EngineMetrics::default());
    let config = EngineConfig::default();
    let model = PagedModel::new(config.block_size, config.num_blocks);
    let engine = EngineHandle::spawn(Box::new(model), config, Arc::clone(&metrics));
    let submit = |request| engine.submit(request).unwrap();
    read(submit(request(&[1], 3)));
    read(submit(request(&[PANIC_TOKEN], 3)));
    let mut ended = request(&[1], 3);
    ended.stop.stop_token_ids = (0..60).collect();
    read(submit(ended));
    let mut stopped = submit(request(&[1], 30_000));
    assert!(matches!(stopped.blocking_next(), Some(Update::Started { .. })));
    stopped.stop();
    drop(submit(request(&[2], 30_000)));
    inspect(&engine);
    assert_eq!((engine.snapshot().running, engine.snapshot().waiting), (0, 0));
    let text = metrics.render();
    for (reason, count) in [("length", 1), ("error", 1), ("stop", 2), ("abort", 1)] {
        let line =
            format!(r#"vllm:request_success_total{{engine="0",finished_reason="{reason}",model_name=""}} {count}"#);
        assert!(text.contains(&line), "{line}\n{text}");
    }
}

#[test]
fn deadlines_end_waiting_and_running_requests() {
    let config = EngineConfig { max_running: 1, ..EngineConfig::default() };
    let (engine, gate) = spawn_gated(&config);
    let expires = |after_ms| Request {
        deadline: Some(Instant::now() + Duration::from_millis(after_ms)),
        ..request(&[3], 30_000)
    };
    let running = engine.submit(expires(20)).unwrap();
    let waiting = engine.submit(expires(0)).unwrap();
    drop(gate);
    assert_eq!(read(waiting), [Update::Finished(FinishReason::DeadlineExceeded)]);
    let (ids, reason) = tokens(&read(running));
    assert_eq!(reason, FinishReason::DeadlineExceeded);
    assert_eq!(ids, generate(&[3], ids.len()));
}

#[test]
fn a_full_queue_refuses_and_recovers() {
    let config = EngineConfig { max_running: 1, max_waiting: 2, ..EngineConfig::default() };
    let (engine, gate) = spawn_gated(&config);
    let streams: Vec<_> = (0..3).map(|id| engine.submit(request(&[id], 5)).unwrap()).collect();
    wait_until(|| engine.snapshot().waiting >= 2);
    assert!(matches!(engine.submit(request(&[9], 5)), Err(SubmitError::QueueFull { .. })));
    drop(gate);
    for (id, stream) in streams.into_iter().enumerate() {
        assert_eq!(tokens(&read(stream)).0, generate(&[id as u32], 5));
    }
    assert_eq!(tokens(&read(engine.submit(request(&[9], 5)).unwrap())).0, generate(&[9], 5));
}

#[test]
fn draining_finishes_what_was_accepted() {
    let (engine, gate) = spawn_gated(&EngineConfig { max_running: 1, ..EngineConfig::default() });
    let streams: Vec<_> = (0..3).map(|id| engine.submit(request(&[id], 5)).unwrap()).collect();
    let drained = thread::spawn({
        let engine = engine.clone();
        move || tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(engine.drain())
    });
    wait_until(|| engine.health() == Health::Draining);
    assert_eq!(engine.submit(request(&[5], 4)).unwrap_err(), SubmitError::ShuttingDown);
    assert!(!drained.is_finished());
    drop(gate);
    drained.join().unwrap();
    assert_eq!(engine.snapshot().waiting + engine.snapshot().running, 0);
    for (id, stream) in streams.into_iter().enumerate() {
        assert_eq!(tokens(&read(stream)), (generate(&[id as u32], 5), FinishReason::Length));
    }
}

#[test]
fn the_last_handle_ends_what_still_runs() {
    let (engine, gate) = spawn_gated(&EngineConfig::default());
    let stream = engine.submit(request(&[1], 30_000)).unwrap();
    gate.send(()).unwrap();
    drop(engine);
    drop(gate);
    assert_eq!(tokens(&read(stream)).1, FinishReason::Cancelled);
}

#[test]
fn what_cannot_be_computed_is_refused_at_once() {
    let pool_of_32 = EngineConfig { num_blocks: 2, ..EngineConfig::default() };
    let engine = spawn(&pool_of_32);
    let base = || request(&[1], 4);
    let refusal = |request: Request| engine.submit(request).unwrap_err().to_string();
    assert_eq!(refusal(request(&[1; 32], 4)), "the prompt has 32 tokens; the longest sequence is 32");
    assert_eq!(refusal(request(&[], 4)), "prompt_ids: must hold at least one token");
    assert_eq!(refusal(request(&[64], 4)), "prompt_ids: token 64 is not in the vocabulary of 64");
    let mut short = base();
    short.stop.min_tokens = 5;
    assert_eq!(refusal(short), "min_tokens: must be at most max_tokens (4), got 5");
    let sampling = |sampling| Request { sampling, ..base() };
    let default = SamplingParams::default;
    assert_eq!(
        refusal(sampling(SamplingParams { temperature: f32::NAN, ..default() })),
        "temperature: must be between 0 and 2, got NaN"
    );
    assert_eq!(
        refusal(sampling(SamplingParams { logit_bias: vec![(70, 1.0)], ..default() })),
        "logit_bias: token 70 is not in the vocabulary of 64"
    );
    assert_eq!(
        refusal(sampling(SamplingParams { allowed_token_ids: Some(Vec::new()), ..default() })),
        "allowed_token_ids: must hold at least one token"
    );
    assert_eq!(
        refusal(sampling(SamplingParams { repetition_penalty: 0.001, ..default() })),
        "repetition_penalty: must be between 0.01 and 10, got 0.001"
    );
    let mut ending = sampling(SamplingParams { allowed_token_ids: Some(vec![2, 3]), ..default() });
    (ending.stop.eos_token_ids, ending.stop.stop_token_ids) = (vec![2], vec![3]);
    assert!(engine.submit(ending.clone()).is_ok());
    ending.stop.min_tokens = 1;
    assert_eq!(
        refusal(ending),
        "allowed_token_ids: holds only ids that end the sequence, which min_tokens (1) forbids"
    );
    let longest = tokens(&read(engine.submit(request(&[1; 31], 4)).unwrap()));
    assert_eq!(longest, (generate(&[1; 31], 1), FinishReason::Length));
}
