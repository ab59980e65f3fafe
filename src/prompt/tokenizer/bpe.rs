//! Byte-pair merging: the one algorithm behind tekken and SentencePiece.
//!
//! Main function: [`merge`]. A text starts as a row of symbols; again and again the neighbours with
//! the best priority (leftmost, if several are equal) become one symbol, until no two neighbours
//! form a known token. A linked list holds the row and a heap the candidates, so that n symbols take
//! `O(n log n)` steps whatever the text is: one megabyte without a space is no way to stall a server.
//!
//! What a priority is, the vocabularies say: tekken's is the lower rank, SentencePiece's the higher
//! score. Invariant: a priority depends on the joined bytes alone, so a candidate found earlier is
//! still right as long as its two ends are still those of two neighbours.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// No neighbour on this side.
const NONE: usize = usize::MAX;

/// A symbol: bytes `start..end` of the text, and its neighbours in the row.
struct Symbol {
    start: usize,
    end: usize,
    previous: usize,
    next: usize,
}

/// Two neighbours that form a token: from the start of `left` to `end`.
struct Candidate<P> {
    priority: P,
    left: usize,
    end: usize,
}

/// Merges `text`, whose symbols end at `symbol_ends`, and hands out the final symbols in order.
///
/// `priority` tells how early a pair that would become these bytes is to be merged (greater is
/// earlier), or `None` if the bytes are no token.
pub(super) fn merge<P: Ord>(
    text: &[u8],
    symbol_ends: impl Iterator<Item = usize>,
    priority: impl Fn(&[u8]) -> Option<P>,
    mut emit: impl FnMut(&[u8]),
) {
    let mut symbols = row_of(symbol_ends);
    let mut candidates = BinaryHeap::new();
    for left in 0..symbols.len() {
        candidates.extend(candidate(text, &symbols, left, &priority));
    }
    while let Some(Candidate { left, end, .. }) = candidates.pop() {
        let right = symbols[left].next;
        let is_stale = symbols[left].start == symbols[left].end || right == NONE || symbols[right].end != end;
        if is_stale {
            continue;
        }
        join(&mut symbols, left, right);
        if symbols[left].previous != NONE {
            candidates.extend(candidate(text, &symbols, symbols[left].previous, &priority));
        }
        candidates.extend(candidate(text, &symbols, left, &priority));
    }
    for symbol in symbols.iter().filter(|symbol| symbol.start < symbol.end) {
        emit(&text[symbol.start..symbol.end]);
    }
}

fn row_of(symbol_ends: impl Iterator<Item = usize>) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = Vec::new();
    let mut start = 0;
    for end in symbol_ends {
        let place = symbols.len();
        symbols.push(Symbol { start, end, previous: place.wrapping_sub(1), next: place + 1 });
        start = end;
    }
    // `0.wrapping_sub(1)` is NONE already; the last symbol has no next one.
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
    symbols
}

fn candidate<P>(
    text: &[u8],
    symbols: &[Symbol],
    left: usize,
    priority: impl Fn(&[u8]) -> Option<P>,
) -> Option<Candidate<P>> {
    let right = symbols.get(symbols[left].next)?;
    let priority = priority(&text[symbols[left].start..right.end])?;
    Some(Candidate { priority, left, end: right.end })
}

/// Makes `left` the union of both; `right` becomes empty and leaves the row.
fn join(symbols: &mut [Symbol], left: usize, right: usize) {
    let after = symbols[right].next;
    symbols[left].end = symbols[right].end;
    symbols[left].next = after;
    symbols[right].start = symbols[right].end;
    if after != NONE {
        symbols[after].previous = left;
    }
}

impl<P: Ord> Ord for Candidate<P> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.priority.cmp(&other.priority).then(other.left.cmp(&self.left))
    }
}

impl<P: Ord> PartialOrd for Candidate<P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<P: Ord> PartialEq for Candidate<P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<P: Ord> Eq for Candidate<P> {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Reverse;

    fn check(text: &str, ranks: &[&str], expected: &[&str]) {
        let rank_of = |bytes: &[u8]| ranks.iter().position(|token| token.as_bytes() == bytes).map(Reverse);
        let mut symbols = Vec::new();
        merge(text.as_bytes(), 1..=text.len(), rank_of, |bytes| {
            symbols.push(String::from_utf8_lossy(bytes).into_owned());
        });
        assert_eq!(symbols, expected, "merging {text:?}");
    }

    #[test]
    fn best_pair_first_and_leftmost_among_equals() {
        check("", &["ab"], &[]);
        check("a", &["ab"], &["a"]);
        check("abc", &["bc", "ab"], &["a", "bc"]);
        check("aaa", &["aa"], &["aa", "a"]);
        check("aaaa", &["aa", "aaaa"], &["aaaa"]);
        check("abab", &["ab", "abab"], &["abab"]);
    }

    #[test]
    fn a_long_run_takes_no_quadratic_time() {
        let text = "a".repeat(1 << 18);
        let mut n_symbols = 0;
        let is_run = |bytes: &[u8]| (bytes.len() <= 8).then_some(Reverse(bytes.len()));
        merge(text.as_bytes(), 1..=text.len(), is_run, |_| n_symbols += 1);
        assert_eq!(n_symbols, (1 << 18) / 8);
    }
}
