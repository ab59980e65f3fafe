//! Findings that overlap, as places alone.

use std::ops::Range;

use super::super::{
    config::Mode,
    finding::{Action, BlockCause},
    resolve::{Hit, Raw, Resolver, Step},
};

fn hit(range: Range<usize>, action: Action) -> Raw {
    let (detector, guardrail) = ("d".into(), "g".into());
    let (mode, cause) = (Mode::Irreversible, BlockCause::Finding);
    Raw::Hit(Hit { range, score: 1.0, detector, kind: "K", guardrail, action, mode, cause, is_reported_always: false })
}

fn ranges(steps: &[Step]) -> Vec<Range<usize>> {
    let range = |step: &Step| match step {
        Step::Replace(hit) | Step::Flag(hit) | Step::Block { hit, .. } => hit.range.clone(),
        Step::Restore(range, _) => range.clone(),
    };
    steps.iter().map(range).collect()
}

/// 300 findings of ten bytes, each of which overlaps with the next.
fn chain() -> impl Iterator<Item = Raw> {
    (0..300).map(|index| hit(index * 8..index * 8 + 10, Action::Redact))
}

#[test]
fn a_chain_without_end_is_cut_and_covered_all_the_same() {
    let mut resolver = Resolver::default();
    chain().for_each(|raw| resolver.add(raw));
    let steps = ranges(&resolver.take_steps(10_000));
    assert!(steps.len() > 1 && steps.iter().all(|range| range.len() < 1100), "{steps:?}");
    assert_eq!((steps[0].start, steps[steps.len() - 1].end), (0, 299 * 8 + 10));
    assert!(steps.windows(2).all(|pair| pair[0].end == pair[1].start), "{steps:?}");
}

#[test]
fn steps_do_not_depend_on_when_they_are_asked_for() {
    let mut whole = Resolver::default();
    chain().for_each(|raw| whole.add(raw));
    let mut bit_by_bit = Resolver::default();
    let mut steps = Vec::new();
    for (index, raw) in chain().enumerate() {
        steps.extend(bit_by_bit.take_steps(index * 8));
        bit_by_bit.add(raw);
        assert!(bit_by_bit.undecided_from().is_none_or(|from| index * 8 - from < 1200));
    }
    steps.extend(bit_by_bit.take_steps(10_000));
    assert_eq!(ranges(&steps), ranges(&whole.take_steps(10_000)));
}

/// A block that is covered by what a cut would leave behind must not be lost.
#[test]
fn a_block_within_a_long_finding_counts() {
    let mut resolver = Resolver::default();
    resolver.add(hit(5..4000, Action::Redact));
    resolver.add(hit(3000..3010, Action::Block));
    let steps = resolver.take_steps(10_000);
    assert!(matches!(&steps[..], [Step::Block { from: 5, hit }] if hit.range == (3000..3010)), "{steps:?}");
}

#[test]
fn a_placeholder_goes_with_what_is_redacted_around_it() {
    let mut resolver = Resolver::default();
    resolver.add(Raw::Placeholder(0..5, 0));
    resolver.add(Raw::Placeholder(10..15, 1));
    resolver.add(hit(12..20, Action::Redact));
    resolver.add(hit(0..3, Action::Flag));
    let steps = resolver.take_steps(100);
    assert!(
        matches!(steps[..], [Step::Restore(Range { start: 0, end: 5 }, 0), Step::Flag(_), Step::Replace(_)]),
        "{steps:?}"
    );
}
