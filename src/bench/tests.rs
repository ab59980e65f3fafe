//! The parts that need no server: what is drawn, planned, parsed and computed. Runs against servers are in
//! `tests/it/cli/bench.rs`.

use std::time::Duration;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{
    sample::{Failure, FailureKind, Tokens},
    sse::EventLines,
    summary::Percentiles,
    *,
};

#[test]
fn lengths_are_what_they_say() {
    let drawn = |text: &str| -> Vec<f64> {
        let lengths: Lengths = text.parse().unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        (0..20_000).map(|_| f64::from(lengths.draw(&mut rng))).collect()
    };
    let near = |value: f64, wanted: f64| assert!((value / wanted - 1.0).abs() < 0.03, "{value} for {wanted}");
    for (text, mean, sd) in [
        ("128", 128.0, 0.0),
        ("100..300", 200.0, 58.0),
        ("normal:500:50", 500.0, 50.0),
        ("lognormal:200:150", 200.0, 150.0),
        ("exponential:400", 400.0, 400.0),
    ] {
        let percentiles = Percentiles::of(drawn(text));
        near(percentiles.mean, mean);
        if sd > 0.0 {
            near(percentiles.sd, sd);
        }
    }
    let uniform = Percentiles::of(drawn("3..5"));
    assert_eq!((uniform.min, uniform.max), (3.0, 5.0));
    assert_eq!(Percentiles::of(drawn("normal:1:50")).min, 1.0, "no request is of no token");
}

#[test]
fn lengths_that_are_none_are_refused() {
    for text in
        ["", "0", "-1", "5..3", "0..3", "normal:5", "normal:5:x", "poisson:3", "1e3", "99999999999", "exponential:0"]
    {
        let error = text.parse::<Lengths>().expect_err(text).to_string();
        assert!(error.contains("write 128, 64..256"), "{error}");
    }
}

#[test]
fn prompts_share_what_they_are_asked_to_share() {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let prompts = Prompts::new(7, 0.75, Calibration::ASSUMED);
    let (first, second) = (words(&prompts.text(0, 400)), words(&prompts.text(1, 400)));
    assert_eq!((first.len(), second.len()), (400, 400));
    assert_eq!(first[..300], second[..300]);
    let like = first[300..].iter().zip(&second[300..]).filter(|(a, b)| a == b).count();
    assert!(like < 10, "{like} of 100 words are the same");
    assert_eq!(first, words(&prompts.text(0, 400)), "the same number, the same text");
    assert_ne!(first, words(&Prompts::new(8, 0.75, Calibration::ASSUMED).text(0, 400)));
    assert_eq!(words(&prompts.text(3, 1)).len(), 1);
}

#[test]
fn a_trace_shares_its_blocks() {
    let prompts = Prompts::new(7, 0.0, Calibration::ASSUMED);
    let words = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let first = words(prompts.hashed_text((0, 0), 1100, &[10, 20, 30]));
    let second = words(prompts.hashed_text((0, 1), 1030, &[10, 99, 30]));
    assert_eq!((first.len(), second.len()), (1100, 1030));
    assert_eq!(first[..512], second[..512]);
    assert_ne!(first[512..1024], second[512..1024]);
    assert_eq!(first[1024..1030], second[1024..1030]);
    let next_run = words(prompts.hashed_text((2, 2), 1100, &[10, 20, 30]));
    assert_ne!(first[..512], next_run[..512], "a prefix cache of the run before is of no use");
}

#[test]
fn a_server_that_counts_differently_is_allowed_for() {
    let calibration = Calibration::from_counts((16, 30), (272, 414)).unwrap();
    assert_eq!((calibration.tokens_per_word, calibration.overhead_tokens), (1.5, 6.0));
    assert_eq!(calibration.words(306), 200);
    assert_eq!(calibration.words(3), 1);
    assert_eq!(Calibration::from_counts((16, 30), (272, 30)), None, "a server that does not count");
    assert_eq!(Calibration::from_counts((16, 30), (272, 10)), None);
}

fn trace_problem(lines: &str, expected: Expect) {
    expected.assert_eq(&Trace::parse(lines.as_bytes()).expect_err("a bad trace").to_string());
}

#[test]
fn traces() {
    let lines = "{\"timestamp\": 1000, \"input_length\": 6755, \"output_length\": 500, \"hash_ids\": [0, 1]}\n\n\
                 {\"timestamp\": 3000, \"prompt\": \"hello\", \"output_length\": 5}\n";
    let trace = Trace::parse(lines.as_bytes()).unwrap();
    assert_eq!(trace.times(2.0).unwrap(), [Duration::ZERO, Duration::from_secs(1)]);
    let plan = Plan::new(0, Source::Recorded(trace), Prompts::new(0, 0.0, Calibration::ASSUMED));
    assert_eq!(plan.request(0, 1).prompt, "hello");
    assert_eq!(plan.request(0, 3).prompt, "hello", "from the beginning again");
    assert_eq!(plan.request(3, 4).prompt, "hello", "each run begins at the beginning");
    assert_eq!((plan.request(0, 0).input_tokens, plan.request(0, 0).output_tokens), (Some(6755), 500));
    let warm_up = plan.warm_up().request(0, 1);
    assert!(warm_up.prompt != "hello" && warm_up.prompt.split(' ').count() == 1);

    trace_problem("", expect!["the trace has no requests"]);
    trace_problem(
        r#"{"input_length": 5, "output_length": 0}"#,
        expect!["line 1 of the trace: output_length 0 is not from 1 to 10000000"],
    );
    trace_problem(
        r#"{"input_length": 0, "output_length": 1}"#,
        expect!["line 1 of the trace: input_length 0 is not from 1 to 10000000"],
    );
    trace_problem(r#"{"output_length": 1}"#, expect!["line 1 of the trace: it needs input_length or prompt"]);
    trace_problem(
        r#"{"prompt": "a", "input_length": 1, "output_length": 1}"#,
        expect!["line 1 of the trace: input_length and prompt exclude each other"],
    );
    trace_problem(
        r#"{"input_length": 1, "output_length": 1, "tokens": 3}"#,
        expect![
            "line 1 of the trace: unknown field `tokens`, expected one of `timestamp`, `input_length`, `output_length`, `hash_ids`, `prompt` at line 1 column 48"
        ],
    );
    trace_problem(
        "{\"timestamp\": 2, \"input_length\": 1, \"output_length\": 1}\n{\"timestamp\": 1, \"input_length\": 1, \"output_length\": 1}",
        expect!["line 2 of the trace: its timestamp is before that of the line above"],
    );
}

#[test]
fn no_rate_and_no_trace_is_too_odd() {
    let due = |profile: Profile| profile.due_times(0).take(5).count();
    assert_eq!([due(Profile::Constant(*RATES.start())), due(Profile::Poisson(*RATES.start()))], [5, 5]);
    let lines = "{\"timestamp\": -1e300, \"input_length\": 1, \"output_length\": 1}\n\
                 {\"timestamp\": 1e300, \"input_length\": 1, \"output_length\": 1}";
    assert_eq!(Trace::parse(lines.as_bytes()).unwrap().times(1e-6).unwrap().len(), 2);
    let some =
        "{\"timestamp\": 1, \"input_length\": 1, \"output_length\": 1}\n{\"input_length\": 1, \"output_length\": 1}";
    trace_problem(some, expect![[r#"line 2 of the trace: either all lines have a timestamp or none has"#]]);
}

#[test]
fn due_times() {
    let first = |profile: Profile, count: usize| -> Vec<f64> {
        profile.due_times(3).take(count).map(|due| due.as_secs_f64()).collect()
    };
    assert_eq!(first(Profile::Constant(4.0), 3), [0.0, 0.25, 0.5]);
    assert_eq!(first(Profile::Replay(vec![Duration::from_secs(2)]), 5), [2.0]);
    let poisson = first(Profile::Poisson(50.0), 10_000);
    let gaps: Vec<f64> = poisson.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let gaps = Percentiles::of(gaps);
    assert!(gaps.min >= 0.0);
    // An exponential distribution's mean is its standard deviation.
    assert!((gaps.mean * 50.0 - 1.0).abs() < 0.05 && (gaps.sd * 50.0 - 1.0).abs() < 0.05, "{gaps:?}");
}

#[test]
fn percentiles_are_values_that_occurred() {
    let percentiles = Percentiles::of((1..=1000).rev().map(f64::from).collect());
    let Percentiles { count, mean, min, p50, p90, p95, p99, p999, max, .. } = percentiles;
    assert_eq!((count, mean, min, max), (1000, 500.5, 1.0, 1000.0));
    assert_eq!((p50, p90, p95, p99, p999), (500.0, 900.0, 950.0, 990.0, 999.0));
    assert_eq!(Percentiles::of(vec![7.0]).p50, 7.0);
    assert_eq!(Percentiles::of(Vec::new()), Percentiles::default());
}

/// An answered request: due, first text and end in seconds, and its pieces.
fn sample(index: u64, due_s: f64, ttft_s: f64, gaps_s: &[f32]) -> Sample {
    let output = gaps_s.len() as u32 + 1;
    Sample {
        index,
        due_s,
        send_lag_s: 0.001,
        ttft_s: Some(ttft_s),
        end_s: ttft_s + f64::from(gaps_s.iter().sum::<f32>()),
        gaps_s: gaps_s.to_vec(),
        asked: Tokens { input: 10, output, cached: 0 },
        counted: Tokens { input: 11, output, cached: 4 },
        has_usage: true,
        failure: None,
    }
}

fn some_run() -> Run {
    let mut failed = sample(2, 1.0, 0.5, &[0.25]);
    failed.failure = Some(Failure { kind: FailureKind::Stream, message: "it broke, \"so\"".to_owned() });
    Run {
        profile: Profile::Constant(2.0),
        samples: vec![sample(0, 0.0, 0.5, &[0.25, 0.25]), sample(1, 0.5, 1.0, &[0.5]), failed],
        duration_s: 2.0,
        peak_in_flight: 2,
    }
}

#[test]
fn figures_of_a_run() {
    let slo = Slo { ttft_ms: Some(600.0), tpot_ms: Some(300.0), e2e_ms: None };
    let summary = Summary::new(&some_run(), Some(slo));
    assert_eq!((summary.completed, summary.failed_requests(), summary.failures["stream"].count), (2, 1, 1));
    let Rates { requests_per_s, input_tokens_per_s, output_tokens_per_s } = summary.rates;
    assert_eq!((requests_per_s, input_tokens_per_s, output_tokens_per_s), (1.0, 11.0, 2.5));
    let Latencies { ttft_ms, itl_ms, tpot_ms, .. } = summary.latencies;
    assert_eq!((ttft_ms.p50, ttft_ms.max), (500.0, 1000.0), "a failed request has no latency");
    assert_eq!((itl_ms.count, itl_ms.mean), (3, 1000.0 / 3.0));
    assert_eq!((tpot_ms.min, tpot_ms.max), (250.0, 500.0));
    assert_eq!((summary.tokens.input, summary.tokens.cached, summary.tokens.asked_input), (22, 8, 20));
    let goodput = summary.goodput.unwrap();
    assert_eq!((goodput.requests_per_s, goodput.share), (0.5, 1.0 / 3.0), "one is slow, one failed");
}

#[test]
fn a_row_per_request() {
    let rows = report::csv(&[some_run()]);
    assert_eq!(rows.matches("\r\n").count(), rows.lines().count(), "RFC 4180 ends lines so");
    expect![[r#"
        run,profile,request,due_s,send_lag_ms,ttft_ms,tpot_ms,e2e_ms,asked_input_tokens,asked_output_tokens,input_tokens,cached_tokens,output_tokens,failure,message
        1,constant 2.000/s,0,0.000000,1.000,500.000,250.000,1000.000,10,3,11,4,3,,
        1,constant 2.000/s,1,0.500000,1.000,1000.000,500.000,1500.000,10,2,11,4,2,,
        1,constant 2.000/s,2,1.000000,1.000,500.000,250.000,750.000,10,2,11,4,2,stream,"it broke, ""so"""
    "#]].assert_eq(&rows.replace("\r\n", "\n"));
}

fn some_report() -> (report::Report, Vec<Run>) {
    let runs = vec![some_run(), some_run(), some_run()];
    let target = report::TargetDescription {
        url: "http://127.0.0.1:1".to_owned(),
        endpoint: "/v1/completions",
        model: "<b>model</b>".to_owned(),
    };
    let load = report::LoadDescription {
        profile: "sweep".to_owned(),
        input: "128".to_owned(),
        output: "64".to_owned(),
        shared_prefix: 0.25,
        requests: Some(3),
        duration_s: None,
        warmup: 1,
        max_in_flight: 512,
        timeout_s: 600.0,
        seed: 0,
        extra_body: serde_json::Map::new(),
    };
    let started = std::time::SystemTime::UNIX_EPOCH;
    let summaries = runs.iter().map(|run| Summary::new(run, None)).collect();
    (report::Report::new(started, target, load, Calibration::ASSUMED, summaries), runs)
}

#[test]
fn a_table_for_people() {
    expect![[r#"
        http://127.0.0.1:1 /v1/completions model <b>model</b>, seed 0
        the server does not count tokens: lengths of prompts are a guess, answers are counted by pieces

        profile           done  failed  seconds  req/s  in tok/s  cached  out tok/s  in flight  goodput/s
        constant 2.000/s     2       1      2.0   1.00      11.0    36 %        2.5    1.6 / 2          -
        constant 2.000/s     2       1      2.0   1.00      11.0    36 %        2.5    1.6 / 2          -
        constant 2.000/s     2       1      2.0   1.00      11.0    36 %        2.5    1.6 / 2          -

        ms: p50 / p90 / p99               TTFT              ITL             TPOT          end to end  send lag p99
        constant 2.000/s     500 / 1000 / 1000  250 / 500 / 500  250 / 500 / 500  1000 / 1500 / 1500          1.00
        constant 2.000/s     500 / 1000 / 1000  250 / 500 / 500  250 / 500 / 500  1000 / 1500 / 1500          1.00
        constant 2.000/s     500 / 1000 / 1000  250 / 500 / 500  250 / 500 / 500  1000 / 1500 / 1500          1.00

        1 of constant 2.000/s: stream, such as: it broke, "so"

        1 of constant 2.000/s: stream, such as: it broke, "so"

        1 of constant 2.000/s: stream, such as: it broke, "so"
    "#]]
    .assert_eq(&report::table(&some_report().0));
}

#[test]
fn a_page_that_needs_nothing_else() {
    let (report, runs) = some_report();
    let page = report::html(&report, &runs);
    assert_eq!(page.matches("<svg").count(), 7, "three plots over rates, three distributions, one over time");
    assert!(page.contains("&lt;b&gt;model") && !page.contains("<b>model"), "what a server says is text");
    assert!(!page.contains("<script") && !page.contains("<link") && !page.contains("src=") && !page.contains("url("));
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(json["runs"][2]["failures"]["stream"]["count"], 1);
    assert_eq!(json["started_at"], "1970-01-01T00:00:00Z");
}

proptest! {
    #[test]
    fn events_do_not_depend_on_how_a_body_is_cut(cuts in proptest::collection::vec(1usize..9, 1..80)) {
        let body = b": comment\r\nevent: x\ndata: {\"a\":1}\r\n\r\ndata:two\n\ndata:   three\n\ndata: [DONE]\n\n";
        let (mut lines, mut events, mut at) = (EventLines::default(), Vec::new(), 0);
        for cut in cuts.into_iter().chain(std::iter::repeat(9)) {
            let end = body.len().min(at + cut);
            lines.push(&body[at..end]).unwrap();
            while let Some(data) = lines.next_data() {
                events.push(String::from_utf8(data.to_vec()).unwrap());
            }
            at = end;
            if at == body.len() {
                break;
            }
        }
        prop_assert_eq!(events, ["{\"a\":1}", "two", "three", "[DONE]"]);
    }
}

#[test]
fn a_line_without_end_is_refused() {
    let mut lines = EventLines::default();
    let piece = vec![b'x'; 1 << 18];
    let refused = (0..8).find(|_| lines.push(&piece).is_err());
    assert_eq!(refused, Some(4));
}

/// A model with round numbers: hidden 64, 2 layers, 4 heads of 16 over 2, feed-forward 128, 100 tokens.
fn size(window: Option<usize>) -> engine::ModelSize {
    use crate::model::config::{AttentionConfig, Config, FeedForwardConfig, RopeConfig, RopeScaling};
    let attention = AttentionConfig {
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        windows: vec![None, window],
        temperature: None,
    };
    let config = Config {
        vocab_size: 100,
        hidden_size: 64,
        num_hidden_layers: 2,
        attention,
        feed_forward: FeedForwardConfig { intermediate_size: 128, experts: None },
        rms_norm_eps: 1e-5,
        rope: RopeConfig { theta: 1e4, scaling: RopeScaling::None },
        tie_word_embeddings: true,
        max_position_embeddings: 4096,
    };
    engine::ModelSize { config, weight_bytes: 2.0, head_bytes: 2.0, kv_bytes: 2.0 }
}

#[test]
fn costs_of_steps() {
    use engine::{Case, Cost, Limits};
    let limits = Limits { block_size: 16, num_blocks: 1000, max_batched_tokens: 512 };
    // A layer: q 64x64, k and v 64x32 each, o 64x64, three of 64x128.
    let layer = 64.0 * 64.0 * 2.0 + 64.0 * 32.0 * 2.0 + 3.0 * 64.0 * 128.0;
    let output = 64.0 * 100.0;
    let decode = size(None).cost(Case::Decode { batch: 3, context: 10 }, limits);
    // Per layer and sequence: 10 positions of 2 x 32 elements are read, and 4 heads x 16 x 10 multiplied with twice.
    let expected = Cost {
        read_bytes: 2.0 * (2.0 * layer + output) + 3.0 * 2.0 * 2.0 * (10.0 * 64.0),
        operations: 2.0 * 3.0 * (2.0 * layer + output) + 3.0 * 2.0 * (2.0 * 2.0 * 640.0),
    };
    assert_eq!(decode, expected);
    // A window of 4 hides 6 of the 10 positions from the second layer.
    let windowed = size(Some(4)).cost(Case::Decode { batch: 3, context: 10 }, limits);
    assert_eq!(decode.read_bytes - windowed.read_bytes, 3.0 * 2.0 * 6.0 * 64.0);
    // Of two steps the first leaves keys and values alone in the last layer.
    let qkv = 64.0 * 64.0 + 2.0 * 64.0 * 32.0;
    let whole = size(None).cost(Case::Prefill { tokens: 20 }, limits);
    let seen = |positions: std::ops::Range<u32>| positions.map(|position| f64::from(position + 1)).sum::<f64>();
    let prompt = 2.0 * (20.0 * (layer + qkv) + (layer - qkv) + output);
    assert_eq!(whole.operations, prompt + 2.0 * 4.0 * 64.0 * seen(0..20));
    assert_eq!(whole.read_bytes, 2.0 * (2.0 * layer + output) + 2.0 * 2.0 * 64.0 * 20.0);
    let halves = size(None).cost(Case::Prefill { tokens: 20 }, Limits { max_batched_tokens: 10, ..limits });
    assert_eq!(halves.operations, whole.operations - 4.0 * 64.0 * seen(0..10));
    assert_eq!(halves.read_bytes - whole.read_bytes, 2.0 * (layer + qkv) + 2.0 * 64.0 * 10.0);
}

#[test]
fn experts_are_read_as_tokens_choose_them() {
    use crate::model::config::ExpertsConfig;
    use engine::{Case, Limits};
    let limits = Limits { block_size: 16, num_blocks: 1000, max_batched_tokens: 512 };
    let mut mixture = size(None);
    mixture.config.feed_forward.experts = Some(ExpertsConfig { num_experts: 8, experts_per_token: 2 });
    let more = |batch: usize| {
        let case = Case::Decode { batch, context: 10 };
        (mixture.cost(case, limits).read_bytes - size(None).cost(case, limits).read_bytes)
            / (2.0 * 2.0 * 3.0 * 64.0 * 128.0)
    };
    assert_eq!(more(1), 1.0, "two experts in place of one");
    assert!((more(4) - (8.0 * (1.0 - 0.75f64.powi(4)) - 1.0)).abs() < 1e-9);
    assert!((more(500) - 7.0).abs() < 1e-9);
}

#[test]
fn a_full_server_is_measured_while_it_is_full() {
    // Four clients of a server that takes 2 s for each request: five waves, 2 answers per second.
    let samples = (0..20u32).map(|index| {
        let due_s = f64::from(index / 4) * 2.0;
        Sample { due_s, end_s: 2.0, ..sample(u64::from(index), due_s, 1.0, &[1.0]) }
    });
    let run = Run { profile: Profile::Concurrent(4), samples: samples.collect(), duration_s: 10.0, peak_in_flight: 4 };
    assert_eq!(super::sweep::steady_rate(&run), 2.0);
    let failed = Run { samples: Vec::new(), ..run.clone() };
    assert_eq!(super::sweep::steady_rate(&failed), 0.0);
    let short = Run { samples: run.samples[..3].to_vec(), duration_s: 2.0, ..run };
    assert_eq!(super::sweep::steady_rate(&short), 1.5, "all there is to go by");
}
