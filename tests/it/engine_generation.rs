//! What a request asks for and gets: stop rules, log-probabilities, seeds, priorities, the prefix cache.

use tramontane::{
    engine::{EngineConfig, FinishReason, Request, TokenLogprobs, Update, sampler::token_logprobs},
    types::SamplingParams,
};

use crate::engine_mock::{generate, logits_after, read, request, spawn, spawn_gated, tokens};

fn run(request: Request) -> Vec<Update> {
    read(spawn(&EngineConfig::default()).submit(request).unwrap())
}

/// Greedy, but `id` as soon as it is allowed.
fn forced(id: u32, max_tokens: usize) -> Request {
    let mut request = request(&[1, 2], max_tokens);
    request.sampling.logit_bias = vec![(id, 100.0)];
    request
}

#[test]
fn stop_rules() {
    let mut eos = forced(9, 6);
    eos.stop.eos_token_ids = vec![9];
    assert_eq!(tokens(&run(eos.clone())), (vec![9], FinishReason::EndOfSequence));
    eos.stop.ignore_eos = true;
    assert_eq!(tokens(&run(eos.clone())), (vec![9; 6], FinishReason::Length));
    eos.stop.stop_token_ids = vec![8, 9];
    assert_eq!(tokens(&run(eos.clone())), (vec![9], FinishReason::StopToken(9)));

    eos.stop.min_tokens = 4;
    let (ids, reason) = tokens(&run(eos));
    assert_eq!((ids.len(), reason), (5, FinishReason::StopToken(9)));
    assert!(ids[..4].iter().all(|id| ![8, 9].contains(id)) && ids[4] == 9, "{ids:?}");
}

#[test]
fn the_longest_sequence_ends_a_request() {
    let engine = spawn(&EngineConfig { max_model_len: 10, ..EngineConfig::default() });
    let stream = engine.submit(request(&[1, 2, 3, 4], 100)).unwrap();
    assert_eq!(tokens(&read(stream)), (generate(&[1, 2, 3, 4], 6), FinishReason::Length));
}

#[test]
fn log_probabilities_come_from_untouched_logits() {
    let mut request = forced(9, 3);
    request.logprobs = Some(2);
    let updates = run(request);
    let mut history = vec![1, 2];
    for update in &updates[1..4] {
        let Update::Token { id: 9, logprobs } = update else { panic!("{update:?}") };
        assert_eq!(*logprobs, Some(token_logprobs(&logits_after(&history), 9, 2)));
        history.push(9);
    }
}

fn prompt_entries(prompt: &[u32], n_top: usize) -> Vec<Option<TokenLogprobs>> {
    let entry = |index: usize| token_logprobs(&logits_after(&prompt[..index]), prompt[index], n_top);
    std::iter::once(None).chain((1..prompt.len()).map(|index| Some(entry(index)))).collect()
}

#[test]
fn prompt_log_probabilities_cover_the_prompt_once() {
    // Longer than the rows kept per step, in small chunks, and with the prefix already cached.
    let prompt: Vec<u32> = (0..700).map(|i| i * 13 % 60).collect();
    for max_batched_tokens in [2048, 33] {
        let engine = spawn(&EngineConfig { max_batched_tokens, ..EngineConfig::default() });
        read(engine.submit(request(&prompt, 1)).unwrap());
        for max_tokens in [2, 0] {
            let wanted = Request { prompt_logprobs: Some(1), ..request(&prompt, max_tokens) };
            let updates = read(engine.submit(wanted).unwrap());
            assert_eq!(updates[0], Update::Started { cached_tokens: 0 });
            assert_eq!(updates[1], Update::PromptLogprobs(prompt_entries(&prompt, 1)));
            assert_eq!(tokens(&updates), (generate(&prompt, max_tokens), FinishReason::Length));
        }
    }
}

#[test]
fn a_prompt_of_one_token_has_no_log_probabilities() {
    let updates = run(Request { prompt_logprobs: Some(1), ..request(&[4], 1) });
    assert_eq!(updates[1], Update::PromptLogprobs(vec![None]));
}

#[test]
fn seeds_repeat_and_their_absence_does_not() {
    let sampled = |seed| {
        let sampling = SamplingParams { seed, temperature: 2.0, ..SamplingParams::default() };
        tokens(&run(Request { sampling, ..request(&[1], 40) })).0
    };
    assert_eq!(sampled(Some(3)), sampled(Some(3)));
    assert_ne!(sampled(Some(3)), sampled(Some(4)));
    assert_ne!(sampled(None), sampled(None));
}

#[test]
fn lower_priorities_start_earlier() {
    let (engine, gate) = spawn_gated(&EngineConfig { max_running: 1, ..EngineConfig::default() });
    let submit = |priority| engine.submit(Request { priority, ..request(&[1], 1) }).unwrap();
    let mut first = submit(0);
    assert!(matches!(first.blocking_next(), Some(Update::Started { .. })));
    let (mut late, mut early) = (submit(5), submit(-5));
    gate.send(()).unwrap();
    assert!(matches!(early.blocking_next(), Some(Update::Started { .. })));
    gate.send(()).unwrap();
    assert!(matches!(late.blocking_next(), Some(Update::Started { .. })));
    assert_eq!(tokens(&read(early)).1, FinishReason::Length);
}

#[test]
fn cached_prefixes_are_reported_and_kept_apart_by_salt() {
    let engine = spawn(&EngineConfig::default());
    let prompt: Vec<u32> = (0..50).collect();
    let cached = |salt: Option<&str>| {
        let request = Request { cache_salt: salt.map(str::to_owned), ..request(&prompt, 3) };
        let updates = read(engine.submit(request).unwrap());
        assert_eq!(tokens(&updates).0, generate(&prompt, 3));
        let Update::Started { cached_tokens } = updates[0] else { panic!("{updates:?}") };
        cached_tokens
    };
    assert_eq!([cached(None), cached(None)], [0, 48]);
    assert_eq!([cached(Some("a")), cached(Some("b")), cached(Some("a"))], [0, 0, 48]);
}
