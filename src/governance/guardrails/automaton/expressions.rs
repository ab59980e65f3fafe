//! Regular expressions as a lazy deterministic automaton: a step a byte, no backtracking, bounded memory.
//!
//! [`Expressions`] walks all of them at once. Invariant: every length at which one matches is found, so that the caller
//! can choose.

use regex_automata::{
    Anchored, Input, MatchKind,
    hybrid::{
        LazyStateID,
        dfa::{Cache, Config, DFA},
    },
    nfa::thompson::{self, NFA, WhichCaptures},
    util::pool::{Pool, PoolGuard},
};
use regex_syntax::{ParserBuilder, hir::Hir};

use super::{ExpressionError, Span, Walk};

/// Memory of the states that an automaton has met, in bytes, for each thread that is using it; what does not fit is
/// computed again.
const CACHE_BYTES: usize = 4 << 20;
const NEVER_GIVES_UP: &str =
    "there is no byte to stop at without assertions, and the cache is cleared as often as needed";

type MakeCache = Box<dyn Fn() -> Cache + Send + Sync + std::panic::UnwindSafe + std::panic::RefUnwindSafe>;
pub(super) type PooledCache<'a> = PoolGuard<'a, Cache, MakeCache>;

pub(super) struct Expressions {
    dfa: DFA,
    caches: Pool<Cache, MakeCache>,
}

/// Reads an expression, which must match something and have no assertions, as what is around a match is not seen.
pub(in super::super) fn parse_expression(pattern: &str, max_bytes: usize) -> Result<Hir, ExpressionError> {
    let refused = |reason: String| Err(ExpressionError::Syntax(reason));
    let hir = match ParserBuilder::new().nest_limit(64).build().parse(pattern) {
        Ok(hir) => hir,
        Err(error) => return refused(error.to_string()),
    };
    if !hir.properties().look_set().is_empty() {
        return refused(
            "`^`, `$` and `\\b` are not supported; `whole_words` says where matches begin and end".to_owned(),
        );
    }
    if hir.properties().minimum_len() == Some(0) {
        return refused("it matches where there is nothing".to_owned());
    }
    nfa(&[&hir], max_bytes)?;
    Ok(hir)
}

impl Expressions {
    pub(super) fn new(expressions: &[&Hir]) -> Result<Self, ExpressionError> {
        let config = Config::new()
            .match_kind(MatchKind::All)
            .cache_capacity(CACHE_BYTES)
            .skip_cache_capacity_check(true)
            .prefilter(None);
        let nfa = nfa(expressions, usize::MAX)?;
        let dfa = DFA::builder().configure(config).build_from_nfa(nfa).map_err(|_| ExpressionError::TooLarge)?;
        let make: MakeCache = {
            let dfa = dfa.clone();
            Box::new(move || dfa.create_cache())
        };
        Ok(Self { dfa, caches: Pool::new(make) })
    }

    /// What a walk needs. Returned to where it came from when dropped.
    pub(super) fn cache(&self) -> PooledCache<'_> {
        self.caches.get()
    }

    /// For each byte, can a match begin with it?
    pub(super) fn starts(&self) -> [bool; 256] {
        let cache = &mut self.cache();
        let mut starts = [false; 256];
        for (byte, starts) in (0..=u8::MAX).zip(&mut starts) {
            let start = self.start(cache);
            *starts = !self.step(cache, start, byte).is_dead();
        }
        starts
    }

    /// Tells `found` which expressions match from the span's start, and up to where.
    pub(super) fn walk(&self, cache: &mut Cache, span: Span<'_>, found: &mut impl FnMut(usize, usize)) -> Walk {
        let mut state = self.start(cache);
        let (mut end, mut chars) = (span.start, 0);
        for &byte in &span.text.as_bytes()[span.start..] {
            let begins_char = byte & 0xC0 != 0x80;
            if begins_char && chars == span.max_chars {
                break;
            }
            chars += usize::from(begins_char);
            state = self.step(cache, state, byte);
            if state.is_dead() {
                return Walk::Decided(end - span.start);
            }
            if state.is_match() {
                self.report(cache, state, end, found); // the automaton says it a byte later
            }
            end += 1;
        }
        if end == span.text.len() && !span.is_whole {
            let read = end - span.start;
            return if self.is_final(cache, state) { Walk::Decided(read) } else { Walk::Unfinished(read) };
        }
        let state = self.dfa.next_eoi_state(cache, state).expect(NEVER_GIVES_UP);
        if state.is_match() {
            self.report(cache, state, end, found);
        }
        Walk::Decided(end - span.start)
    }

    /// Does nothing match that is longer? As a match is reported a byte late, a state may know while it is not dead.
    fn is_final(&self, cache: &mut Cache, state: LazyStateID) -> bool {
        let representatives = self.dfa.byte_classes().representatives(0..=u8::MAX);
        let mut bytes = representatives.filter_map(|unit| unit.as_u8());
        state.is_match() && bytes.all(|byte| self.step(cache, state, byte).is_dead())
    }

    fn report(&self, cache: &Cache, state: LazyStateID, end: usize, found: &mut impl FnMut(usize, usize)) {
        for index in 0..self.dfa.match_len(cache, state) {
            found(self.dfa.match_pattern(cache, state, index).as_usize(), end);
        }
    }

    fn start(&self, cache: &mut Cache) -> LazyStateID {
        let input = Input::new("").anchored(Anchored::Yes);
        self.dfa.start_state_forward(cache, &input).expect(NEVER_GIVES_UP)
    }

    fn step(&self, cache: &mut Cache, state: LazyStateID, byte: u8) -> LazyStateID {
        self.dfa.next_state(cache, state, byte).expect(NEVER_GIVES_UP)
    }
}

fn nfa(expressions: &[&Hir], max_bytes: usize) -> Result<NFA, ExpressionError> {
    let limit = (max_bytes < usize::MAX).then_some(max_bytes);
    let config = thompson::Config::new().which_captures(WhichCaptures::None).nfa_size_limit(limit);
    let mut compiler = thompson::Compiler::new();
    compiler.configure(config).build_many_from_hir(expressions).map_err(|_| ExpressionError::TooLarge)
}
