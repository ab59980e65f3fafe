//! Tokens guessed ahead: a decode step computes its sequence's last token and a few drafted ones in one go, and keeps
//! those that its sampler would have chosen anyway. The seam is [`Drafter`].
//!
//! Invariant: drafts decide when tokens come, never which. The logits of a position do not depend on how many positions
//! are computed with it, and each token is chosen by its own history, its own random number and its own row.

mod decoder;
mod estimates;
mod lookup;
mod payoff;
mod prediction;
mod speculation;

pub use decoder::DecoderDrafter;
pub use estimates::StepTimes;
pub use lookup::LookupDrafter;
pub use payoff::{DraftCosts, Prospect, draft_lengths};
pub(super) use speculation::Speculation;

/// How good the reason for a draft is, 0 being the weakest: acceptance is learnt for each by itself.
pub type Evidence = usize;

/// Kinds of evidence.
pub const N_EVIDENCE: usize = 3;

/// A draft that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The sequence, by a number that is never used again.
    pub sequence: u64,
    /// All of it, prompt and output: since the last call some of what was drafted then, and perhaps other tokens.
    pub tokens: &'a [u32],
    /// The blocks of the engine's pool that hold the sequence, and room for the draft.
    pub block_table: &'a [u32],
    /// Most tokens to draft, at least 1.
    pub most: usize,
}

/// Guesses how sequences go on. What was accepted of a guess is seen in the tokens of the next call.
///
/// Contract: tokens of a sequence are only ever added at the end, until it is forgotten; drafted ids are in the
/// vocabulary.
pub trait Drafter: Send {
    /// Whether a draft can be had, and how good it will be. Called before each decode step of the sequence.
    fn prospect(&mut self, sequence: u64, tokens: &[u32]) -> Option<Evidence>;
    /// True if drafts cost next to nothing, so that they may be made only to see whether they would have come true.
    fn is_free(&self) -> bool;
    /// A draft for each, which may be shorter than wanted, or empty.
    fn propose(&mut self, wanted: &[Wanted<'_>]) -> Vec<Vec<u32>>;
    /// The sequence has ended, or has lost its blocks.
    fn forget(&mut self, sequence: u64);
}
