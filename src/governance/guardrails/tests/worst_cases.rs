//! Texts that are made to be expensive cost in proportion to their length.

use super::{
    super::{ActiveGuardrails, Vault},
    active,
};

fn everything() -> ActiveGuardrails {
    active(
        r#"
        [[guardrail]]
        name = "all"
        stage = "both"
        detect = ["all"]
        words = ["a a a a b", "aaaaaaaaab", "((((b"]
        patterns = ["(a|aa)+b", "[0-9]*x", "(?s).{1,40}!!"]
        whole_words = false
        action = "redact"
        "#,
    )
}

/// The most bytes that are read for each byte of a text, by all automata and judges together: each of them reads up to
/// 256 characters from each place.
const MOST_WORK: f64 = 2000.0;

/// The same without an operator's expressions.
const MOST_WORK_OF_DETECTORS: f64 = 150.0;

const UNITS: &[&str] = &[
    "1",
    "1 ",
    "12-",
    "@",
    "a@",
    "a.",
    "a@a.",
    "a",
    "A",
    "A1 ",
    "[",
    "[A",
    "[EMAIL_1",
    "(",
    "((",
    ":",
    "::",
    "a:",
    "f:",
    "1.",
    "-",
    concat!("-----BEGIN PRIV", "ATE KEY-----"),
    concat!("-----BEGIN PRIV", "ATE KEY-----\nAAAA"),
    "eyJ",
    "eyJ-",
    "eyJa.",
    "eyJa.eyJa.",
    "+33 ",
    "ignore ",
    "ignore all ",
    "password=",
    "password=\"",
    "a://",
    "a://b:",
    " ",
    "\n",
    "é",
    "é ",
    "🙂",
    "4111 1111 1111 1111 ",
    "ada@example.org,",
    "DE89 3704 0044 0532 0130 00",
    "sk-a1",
    "a1-",
];

#[test]
fn ten_times_the_text_is_ten_times_the_work() {
    let active = everything();
    for unit in UNITS {
        let work = |bytes: usize| active.check_input(&[&unit.repeat(bytes / unit.len())]).work_bytes as f64;
        let (one, ten) = (work(10_000), work(100_000));
        assert!(ten <= 10.5 * one + 1e5, "{unit:?}: {one}, and {ten} for ten times as much");
        assert!(ten <= 100_000.0 * MOST_WORK, "{unit:?}: {ten} for 100 kB");
    }
}

#[test]
fn the_detectors_alone_have_a_bound() {
    let active = active("[[guardrail]]\nname = \"g\"\nstage = \"input\"\ndetect = [\"all\"]\naction = \"flag\"");
    for unit in UNITS {
        let text = unit.repeat(100_000 / unit.len());
        let work = active.check_input(&[&text]).work_bytes as f64 / text.len() as f64;
        println!("{unit:?}: {work:.1} bytes a byte");
        assert!(work < MOST_WORK_OF_DETECTORS, "{unit:?}: {work} bytes for each byte of the text");
    }
}

#[test]
fn what_comes_in_small_pieces_is_not_read_again_and_again() {
    let active = everything();
    for unit in UNITS {
        let stream = |bytes: usize| {
            let mut guard = active.output(Vault::default());
            let mut most_held = 0;
            for _ in 0..bytes / unit.len() {
                guard.push(unit);
                most_held = most_held.max(guard.held_bytes());
            }
            assert!(most_held < 20_000, "{unit:?}: {most_held} bytes are held");
            guard.work_bytes() as f64
        };
        let (one, ten) = (stream(20_000), stream(100_000));
        println!("{unit:?} in pieces: {:.1} bytes a byte, {:.2}", ten / 1e5, ten / one);
        assert!(ten <= 5.5 * one + 1e5, "{unit:?}: {one}, and {ten} for five times as much");
    }
}
