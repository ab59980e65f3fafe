//! Checks an answer while it is written. [`OutputGuard`] takes it in pieces and gives back what may leave.
//!
//! Invariants: nothing leaves before it is judged; what leaves in the end does not depend on the pieces; only what could
//! still become part of a finding is held back, and never more than a few thousand characters, but for what a detector
//! of long tokens or a classifier has to see as a whole.

use std::{fmt, sync::Arc};

use super::{
    apply::{Applied, Replaced, apply},
    finding::{Blocked, Finding},
    input::irreversible,
    plan::Plan,
    resolve::Resolver,
    scan::{Scanner, Sight},
    vault::Vault,
};

/// What stays in sight before the first byte that is not decided: 64 characters, which judges may look back at, have no
/// more bytes.
const CONTEXT_BYTES: usize = 4 * super::detectors::CONTEXT_CHARS;
/// Text that has left is dropped when there is so much of it, in bytes, as dropping moves what remains.
const DROPPED_AT_ONCE: usize = 64;

/// An answer that is being checked.
#[derive(Clone)]
pub struct OutputGuard {
    plan: Arc<Plan>,
    vault: Arc<Vault>,
    scanner: Scanner,
    found: Resolver,
    /// The answer from byte `base` on.
    text: String,
    base: usize,
    /// Up to this byte it is decided what leaves.
    decided: usize,
    /// Up to this byte the answer has left; behind `decided` only after a pause.
    released: usize,
    blocked: Option<Blocked>,
}

/// What may leave.
#[derive(Clone, Default, PartialEq)]
pub struct Released {
    /// The next part of the answer, redacted, and with what placeholders stand for.
    pub text: String,
    /// What was found in it. Ranges are bytes of the answer as the model wrote it.
    pub findings: Vec<Finding>,
    /// The answer ends with this part: nothing that follows leaves.
    pub blocked: Option<Blocked>,
}

impl OutputGuard {
    pub(super) fn new(plan: Arc<Plan>, vault: Arc<Vault>) -> Self {
        let scanner = Scanner::new(&plan, true);
        let found = Resolver::default();
        Self { plan, vault, scanner, found, text: String::new(), base: 0, decided: 0, released: 0, blocked: None }
    }

    /// The same for an answer that goes on from a text which is there already and is not given again. What was found in that
    /// alone is no finding of the answer; of what begins in it and ends in the answer, the rest is redacted or not given.
    pub fn behind(mut self, beginning: &str) -> Self {
        self.text.push_str(beginning);
        self.released = beginning.len();
        self.found.ignore_up_to(beginning.len());
        self.scanner.count_from(beginning.chars().count());
        // All of it has left, so nothing comes back.
        drop(self.advance(false));
        self
    }

    /// Takes the next piece of the answer. After a block it gives nothing.
    pub fn push(&mut self, piece: &str) -> Released {
        self.text.push_str(piece);
        self.advance(false)
    }

    /// Something else comes between: gives what is held back, judged as if nothing followed. Where more does follow and what
    /// left turns out to be the beginning of a finding, the rest of that is what is redacted, or not given any more.
    pub fn pause(&mut self) -> Released {
        let released = self.clone().advance(true);
        self.released = self.base + self.text.len();
        self.blocked = released.blocked.clone();
        released
    }

    /// The answer is complete: gives what was held back.
    pub fn finish(mut self) -> Released {
        self.advance(true)
    }

    /// Bytes that are held back.
    pub fn held_bytes(&self) -> usize {
        if self.blocked.is_some() { 0 } else { self.base + self.text.len() - self.released }
    }

    /// Bytes that were read so far to check the answer, many of them more than once: what checking costs.
    pub fn work_bytes(&self) -> usize {
        self.scanner.work_bytes()
    }

    fn advance(&mut self, is_whole: bool) -> Released {
        if self.blocked.is_some() {
            self.text.clear();
            return Released { blocked: self.blocked.clone(), ..Released::default() };
        }
        let sight = Sight { text: &self.text, base: self.base, is_whole };
        let vault = (!self.vault.is_empty()).then_some(&*self.vault);
        self.scanner.scan(&self.plan, vault, sight, &mut self.found);
        let horizon = self.scanner.horizon();
        let decided = |found: &Resolver| found.undecided_from().map_or(horizon, |from| from.min(horizon));
        let steps = self.found.take_steps(horizon);
        let steps = steps.into_iter().filter_map(|step| step.behind(self.released)).collect();
        self.decided = decided(&self.found);
        let end = self.decided.max(self.released);
        let write = |replaced: &Replaced<'_>, _: &str| match replaced {
            Replaced::Hit(hit) => irreversible(hit),
            Replaced::Placeholder(index) => self.vault.value(*index).to_owned(),
        };
        let Applied { text, findings, blocked } = apply(steps, sight, self.released..end, 0, write);
        let released = Released { text: text.into_owned(), findings, blocked: blocked.clone() };
        self.released = end;
        self.blocked = blocked;
        self.drop_released();
        released
    }

    fn drop_released(&mut self) {
        let surplus = (self.decided - self.base).saturating_sub(CONTEXT_BYTES);
        if surplus >= DROPPED_AT_ONCE {
            let cut = self.text.floor_char_boundary(surplus);
            self.text.drain(..cut);
            self.base += cut;
        }
    }
}

/// The answer is not shown.
impl fmt::Debug for OutputGuard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OutputGuard")
            .field("vault", &self.vault)
            .field("released_bytes", &self.released)
            .field("held_bytes", &self.held_bytes())
            .field("blocked", &self.blocked)
            .finish_non_exhaustive()
    }
}

/// The answer is not shown.
impl fmt::Debug for Released {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Released")
            .field("bytes", &self.text.len())
            .field("findings", &self.findings)
            .field("blocked", &self.blocked)
            .finish()
    }
}
