//! The CUDA kernels, emulated, against the definition.

use super::cuda::{Bias, CountJob, Counting, Edits, MAX_TOP, Outcome, Row, Sampling};
use super::reference::{self, Context, Failure};
use crate::testing::{OnDevice, assert_close, each_device, random};

/// What no kernel writes by itself.
const UNTOUCHED: u32 = 0xdead_beef;

#[derive(Clone, Default)]
struct Case {
    logits: Vec<f32>,
    row: Row,
    context: Context,
}

/// What was found for one row.
#[derive(Clone, Debug, PartialEq)]
struct Found {
    outcome: Outcome,
    top: Vec<(u32, f32)>,
    next: u32,
    counts: Vec<u32>,
}

/// Runs the kernels on rows of one vocabulary; `None` is a row of padding. Every row has counts and a next token.
fn run(device: &OnDevice, cases: &[Option<Case>]) -> Vec<Option<Found>> {
    let vocab = cases.iter().flatten().next().expect("a row").logits.len();
    let (rows, words) = (cases.len(), vocab.div_ceil(32));
    let (mut logits, mut parameters, mut biases) = (Vec::new(), Vec::new(), Vec::new());
    let (mut masks, mut jobs, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for (i, case) in cases.iter().enumerate() {
        let Some(Case { logits: of_row, row, context }) = case else {
            logits.extend(vec![f32::NAN; vocab]);
            parameters.extend(Row::padding());
            masks.extend(vec![u32::MAX; words]);
            jobs.extend(CountJob { counts: None, begin: 0, n_prompt: 0, n_output: 0 }.to_bytes());
            continue;
        };
        let mut row = row.clone();
        let begin = biases.len() / Bias::BYTES;
        let mut sorted = context.biases.clone();
        sorted.sort_by_key(|bias| bias.id);
        biases.extend(sorted.iter().flat_map(|bias| bias.to_bytes()));
        row.edits.biases = (begin as u32, (begin + sorted.len()) as u32);
        row.edits.mask = context.allowed.is_some().then_some(i as u32);
        row.edits.counts = row.edits.counts.map(|_| i as u32);
        row.next = Some((rows - i) as u32);
        let allowed = context.allowed.clone().unwrap_or_default();
        let mut of_mask = vec![0u32; words];
        for id in allowed.iter().enumerate().filter(|(_, allowed)| **allowed).map(|(id, _)| id) {
            of_mask[id / 32] |= 1 << (id % 32);
        }
        masks.extend(of_mask);
        let (n_prompt, n_output) = (context.prompt.len() as u32, context.output.len() as u32);
        jobs.extend(CountJob { counts: Some(i as u32), begin: ids.len() as u32, n_prompt, n_output }.to_bytes());
        ids.extend(context.prompt.iter().chain(&context.output));
        logits.extend(of_row);
        parameters.extend(row.to_bytes());
    }
    let scratch = Sampling::scratch_bytes(rows, vocab);
    let sampling = Sampling {
        logits: device.f32(&logits),
        parameters: device.bytes(&parameters),
        biases: device.bytes(&biases),
        masks: device.u32(&masks),
        counts: device.u32(&vec![UNTOUCHED; rows * vocab]),
        scratch: device.bytes(&vec![0xff; scratch + 64]),
        chosen: device.u32(&vec![UNTOUCHED; rows * 4 + 8]),
        top: device.u32(&vec![UNTOUCHED; rows * MAX_TOP * 2 + 8]),
        next: device.u32(&vec![UNTOUCHED; rows + 2]),
        rows,
        vocab,
    };
    let (jobs, ids) = (device.bytes(&jobs), device.u32(&ids));
    device.run(&Counting { jobs, ids, counts: sampling.counts, n_jobs: rows, vocab }.launch());
    for launch in sampling.launches() {
        device.run(&launch);
    }
    device.run(&sampling.logprobs_launch());

    assert!(
        device.read_u32(sampling.scratch.plus(scratch), 16).iter().all(|&word| word == u32::MAX),
        "past the scratch"
    );
    let chosen = device.read_u32(sampling.chosen, rows * 4 + 8);
    let top = device.read_u32(sampling.top, rows * MAX_TOP * 2 + 8);
    let next = device.read_u32(sampling.next, rows + 2);
    let counts = device.read_u32(sampling.counts, rows * vocab);
    for guard in [&chosen[rows * 4..], &top[rows * MAX_TOP * 2..], &next[..1], &next[rows + 1..]] {
        assert!(guard.iter().all(|&word| word == UNTOUCHED), "written beside the result: {guard:?}");
    }
    let found = |i: usize| {
        let of_row = &chosen[4 * i..4 * i + 4];
        let next = next[rows - i];
        if cases[i].is_none() {
            let rest = &top[2 * MAX_TOP * i..2 * MAX_TOP * (i + 1)];
            assert!(of_row.iter().chain(rest).chain([&next]).all(|&word| word == UNTOUCHED), "padding was written");
            return None;
        }
        let mut bytes = [0; Outcome::BYTES];
        for (to, word) in bytes.chunks_exact_mut(4).zip(of_row) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        let top = top[2 * MAX_TOP * i..2 * MAX_TOP * (i + 1)].chunks_exact(2);
        let top = top.take_while(|pair| pair[0] != UNTOUCHED).map(|pair| (pair[0], f32::from_bits(pair[1]))).collect();
        Some(Found {
            outcome: Outcome::from_bytes(bytes),
            top,
            next,
            counts: counts[i * vocab..(i + 1) * vocab].to_vec(),
        })
    };
    (0..rows).map(found).collect()
}

/// Runs the cases in one batch and compares every token with the definition.
fn check(device: &OnDevice, cases: &[Case]) {
    let batch: Vec<Option<Case>> = cases.iter().cloned().map(Some).collect();
    for (case, found) in cases.iter().zip(run(device, &batch).into_iter().flatten()) {
        check_token(case, &found);
        check_logprobs(case, &found);
    }
}

/// A draw may fall on either side of a boundary between two ids that is nearer than the rounding of f32 weights.
fn check_token(case: &Case, found: &Found) {
    const ROUNDING: f64 = 1e-6;
    let Case { logits, row, context } = case;
    let distribution = reference::distribution(logits, row, context);
    let id = match (&distribution, found.outcome) {
        (Ok(_), Outcome::Token { id, .. }) => id,
        (Err(Failure::NotFinite), Outcome::NotFinite) | (Err(Failure::NothingAllowed), Outcome::NothingAllowed) => {
            assert_eq!(found.next, 0, "{row:?}");
            return;
        }
        (expected, outcome) => panic!("{row:?}: {outcome:?} instead of {expected:?}"),
    };
    let kept = distribution.unwrap_or_default();
    let mut begin = 0.0;
    let drawn = kept.iter().find(|(kept, probability)| {
        begin += if *kept == id { 0.0 } else { *probability };
        *kept == id
    });
    let Some(&(_, probability)) = drawn else { panic!("{row:?}: {id} is none of {kept:?}") };
    let uniform = if row.temperature == 0.0 { 0.0 } else { row.uniform };
    let inside = probability > 0.0 && begin - ROUNDING <= uniform && uniform <= begin + probability + ROUNDING;
    assert!(inside, "{row:?}: {id} lies from {begin}, {probability} wide");
    assert_eq!(found.next, id);
}

fn check_logprobs(case: &Case, found: &Found) {
    let (Some(n_top), Outcome::Token { id, logprob }) = (case.row.logprobs, found.outcome) else {
        assert!(found.top.is_empty());
        return;
    };
    let vocab = case.logits.len();
    let ((expected, expected_rank), top) = reference::logprobs(&case.logits, id, n_top as usize);
    let (found_logprob, rank) = logprob.expect("asked for");
    assert_eq!(rank, expected_rank);
    let found_ids: Vec<u32> = found.top.iter().map(|(id, _)| *id).collect();
    let expected_ids: Vec<u32> = top.iter().map(|(id, _)| *id).collect();
    assert_eq!(found_ids, expected_ids, "vocabulary of {vocab}, {n_top} asked for");
    let pairs = found.top.iter().zip(&top).map(|(found, expected)| (found.1, expected.1));
    let finite = pairs.chain([(found_logprob, expected)]).filter(|&(found, expected)| f64::from(found) != expected);
    let (found, expected): (Vec<f32>, Vec<f64>) = finite.unzip();
    assert_close("logprobs", &[vocab], &found, &expected, 1e-6);
}

/// Parameters of every kind, most of them together with others.
fn rows() -> Vec<Row> {
    let row = Row::default();
    vec![
        row.clone(),
        Row { temperature: 0.0, ..row.clone() },
        Row { temperature: 1e-38, ..row.clone() },
        Row { temperature: 1e-38, top_p: 0.5, ..row.clone() },
        Row { temperature: 2.0, top_p: 0.97, ..row.clone() },
        Row { temperature: 1e30, top_p: 0.7, ..row.clone() },
        Row { top_k: 1, ..row.clone() },
        Row { top_k: 1, top_p: 0.1, min_p: 0.3, ..row.clone() },
        Row { top_k: 5, ..row.clone() },
        Row { top_k: 40, top_p: 0.9, temperature: 0.7, ..row.clone() },
        Row { top_k: 999, ..row.clone() },
        Row { top_k: u32::MAX, ..row.clone() },
        Row { top_p: 1e-7, ..row.clone() },
        Row { top_p: 0.3, ..row.clone() },
        Row { top_p: 0.999_999, ..row.clone() },
        Row { min_p: 1.0, ..row.clone() },
        Row { min_p: 0.05, temperature: 1.5, ..row.clone() },
        Row { min_p: 1e-30, top_p: 0.9, ..row },
    ]
}

/// A case for each row of parameters, with numbers all over [0, 1).
fn cases(seed: u64, vocab: usize, magnitude: f32) -> Vec<Case> {
    let uniforms = random(seed, rows().len(), 0.5);
    let number = |uniform: f32| f64::from(uniform + 0.5).min(0.999_999_999);
    let case = |(i, (row, uniform))| {
        let mut logits = random(seed * 100 + i as u64, vocab, magnitude);
        if i % 3 == 0 {
            logits.iter_mut().for_each(|logit| *logit = (*logit * 2.0).round() / 2.0); // many ties, of -0 and 0 too
        }
        let logprobs = [None, Some(0), Some(3), Some(20)][i % 4];
        Case { logits, row: Row { uniform: number(uniform), logprobs, ..row }, context: Context::default() }
    };
    rows().into_iter().zip(uniforms).enumerate().map(case).collect()
}

#[test]
fn agrees_with_the_reference() {
    each_device(|device| {
        for (seed, vocab, magnitude) in [(1, 1, 1.0), (2, 7, 3.0), (3, 1000, 8.0), (4, 1000, 1e-3), (5, 1000, 1e30)] {
            check(device, &cases(seed, vocab, magnitude));
        }
    });
}

/// Several chunks for a row, and at low magnitudes more candidates than can be listed.
#[test]
fn agrees_with_the_reference_on_large_vocabularies() {
    let device = OnDevice::forward();
    for (seed, vocab, magnitude) in [(6, 32_768, 12.0), (7, 32_768, 1.0), (8, 5000, 0.1)] {
        check(&device, &cases(seed, vocab, magnitude));
    }
}

#[test]
fn ties_are_kept_by_top_k_and_cut_by_id_by_top_p() {
    let device = OnDevice::forward();
    let equal = |vocab: usize, logit: f32| vec![logit; vocab];
    let mut zeros = equal(40, -1.0);
    zeros[3] = -0.0;
    zeros[9] = 0.0;
    zeros[20] = -0.0;
    for logits in [equal(5000, 2.5), equal(40, 0.0), equal(64, -3e38), zeros] {
        for row in [
            Row { top_k: 3, ..Row::default() },
            Row { top_p: 0.25, ..Row::default() },
            Row { top_p: 0.33, min_p: 0.5, ..Row::default() },
            Row { temperature: 0.0, ..Row::default() },
        ] {
            let case = |uniform| Case {
                logits: logits.clone(),
                row: Row { uniform, logprobs: Some(4), ..row.clone() },
                ..Case::default()
            };
            check(&device, &[0.0, 0.3, 0.6, 1.0 - f64::EPSILON].map(case));
        }
    }
}

/// Counts of draws at equidistant numbers against probabilities, by Pearson's chi-square statistic.
#[test]
fn draws_follow_the_distribution() {
    const DRAWS: usize = 300;
    let device = OnDevice::forward();
    for row in [Row::default(), Row { top_p: 0.8, temperature: 1.3, ..Row::default() }] {
        let logits = random(11, 12, 2.0);
        let uniform = |i: usize| (i as f64 + 0.5) / DRAWS as f64;
        let case =
            |i| Case { logits: logits.clone(), row: Row { uniform: uniform(i), ..row.clone() }, ..Case::default() };
        let mut counts = [0.0; 12];
        for found in run(&device, &(0..DRAWS).map(|i| Some(case(i))).collect::<Vec<_>>()).into_iter().flatten() {
            let Outcome::Token { id, .. } = found.outcome else { panic!("{found:?}") };
            counts[id as usize] += 1.0;
        }
        let kept = reference::distribution(&logits, &row, &Context::default()).unwrap_or_default();
        assert_eq!(counts.iter().filter(|&&count| count > 0.0).count(), kept.len());
        let statistic: f64 = kept
            .iter()
            .map(|&(id, probability)| {
                let expected = probability * DRAWS as f64;
                (counts[id as usize] - expected).powi(2) / expected
            })
            .sum();
        assert!(statistic < 1.0, "{statistic}"); // numbers at random would give about 10
    }
}

/// Masks, biases and penalties, alone and together, on ids at the ends of chunks and beyond the vocabulary.
fn edited_cases(vocab: usize) -> Vec<Case> {
    let last = vocab as u32 - 1;
    let bias = |id, bias| Bias { id, bias };
    let allowed: Vec<bool> = (0..vocab).map(|id| id % 5 == 3 || id + 1 == vocab).collect();
    let biases = vec![
        bias(last, 3.0),
        bias(0, f32::NEG_INFINITY),
        bias(last / 2, 1e8),
        bias(vocab as u32 + 7, 100.0),
        bias(last / 2, -1e8), // in this order the first score is lost to rounding
        bias(last / 2, 0.5),
        bias(last, -1.25),
    ];
    let prompt: Vec<u32> = vec![1, 5, 5, last];
    let output: Vec<u32> = vec![2, last, 2, 2, 3];
    let penalties = Edits {
        counts: Some(0),
        repetition_penalty: 1.3,
        frequency_penalty: 0.4,
        presence_penalty: -0.7,
        ..Edits::default()
    };
    let mut cases = Vec::new();
    for (i, row) in rows().into_iter().enumerate().filter(|(i, _)| [0, 1, 4, 9, 16].contains(i)) {
        let mut context = Context { biases: biases.clone(), ..Context::default() };
        let mut row = Row { logprobs: Some(2), uniform: 0.1 + 0.05 * i as f64, ..row };
        let logits = random(70 + i as u64, vocab, 4.0);
        cases.push(Case { logits: logits.clone(), row: row.clone(), context: context.clone() });
        context = Context { prompt: prompt.clone(), output: output.clone(), ..context };
        row.edits = penalties.clone();
        cases.push(Case { logits: logits.clone(), row: row.clone(), context: context.clone() });
        context.allowed = Some(allowed.clone());
        cases.push(Case { logits, row, context });
    }
    cases
}

#[test]
fn edits_come_before_the_choice() {
    each_device(|device| check(device, &edited_cases(45)));
    check(&OnDevice::forward(), &edited_cases(8200));
}

#[test]
fn the_chosen_token_is_counted() {
    let context = Context { prompt: vec![4, 4, 0], output: vec![0, 2], ..Context::default() };
    let edits = Edits { counts: Some(0), ..Edits::default() };
    let row = Row { temperature: 0.0, edits, ..Row::default() };
    let case = Case { logits: vec![0.0, 1.0, 5.0, 2.0, 3.0], row, context };
    each_device(|device| {
        let found = run(device, &[Some(case.clone())]);
        let counts = found.into_iter().flatten().next().expect("a row").counts;
        assert_eq!(counts, [1 | 1 << 31, 0, 2, 0, 1 << 31]);
    });
}

#[test]
fn a_row_without_a_choice_says_why() {
    let plain = vec![1.0; 50];
    let with = |id: usize, logit: f32| {
        let mut logits = plain.clone();
        logits[id] = logit;
        logits
    };
    let context = |biases: Vec<Bias>| Context { biases, ..Context::default() };
    let overflow = context(vec![Bias { id: 9, bias: 3e38 }, Bias { id: 9, bias: 3e38 }]);
    let nothing = Context { allowed: Some(vec![false; 50]), ..Context::default() };
    let forbidden = context((0..50).map(|id| Bias { id, bias: f32::NEG_INFINITY }).collect());
    let mut cases = Vec::new();
    for row in
        [Row { temperature: 0.0, ..Row::default() }, Row { top_p: 0.9, top_k: 7, ..Row::default() }, Row::default()]
    {
        let row = Row { logprobs: Some(20), ..row };
        let mut add = |logits: &[f32], context: &Context| {
            cases.push(Case { logits: logits.to_vec(), row: row.clone(), context: context.clone() });
        };
        add(&with(49, f32::NAN), &Context::default());
        add(&with(3, f32::INFINITY), &Context::default());
        add(&with(3, f32::NAN), &nothing);
        add(&[f32::NEG_INFINITY; 50], &Context::default());
        add(&plain, &overflow);
        add(&plain, &nothing);
        add(&plain, &forbidden);
        let mut few = vec![f32::NEG_INFINITY; 50];
        few[31] = -2.0;
        add(&few, &Context::default());
    }
    each_device(|device| check(device, &cases));
}

#[test]
fn what_else_is_in_the_batch_does_not_matter() {
    let device = OnDevice::forward();
    let several: Vec<Case> = cases(21, 5000, 3.0).into_iter().step_by(3).collect();
    let alone: Vec<_> = several.iter().flat_map(|case| run(&device, &[Some(case.clone())])).collect();
    let mut batch: Vec<Option<Case>> = Vec::new();
    for case in several.iter().rev() {
        batch.extend([None, Some(case.clone())]);
    }
    let together: Vec<_> = run(&device, &batch).into_iter().flatten().rev().map(Some).collect();
    assert_eq!(together, alone);
}

/// Little work: `scripts/check-kernels-sanitizers` runs it with a real thread per thread of a block.
#[test]
fn sanitized() {
    let device = &OnDevice::forward();
    check(device, &cases(1, 40, 4.0));
    check(device, &edited_cases(45));
}
