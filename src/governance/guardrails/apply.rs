//! Carries out steps on a text: what is left of it, and what is reported.

use std::{borrow::Cow, ops::Range, sync::Arc};

use super::{
    finding::{Blocked, Finding},
    resolve::{Hit, Step},
    scan::Sight,
};

/// What became of a part of a text.
pub(super) struct Applied<'t> {
    pub text: Cow<'t, str>,
    pub findings: Vec<Finding>,
    /// The text ends here, for this reason.
    pub blocked: Option<Blocked>,
}

/// Takes bytes `part` of the whole text, or as much as is before a block. `write` says what stands for something that is
/// replaced, or for a placeholder.
pub(super) fn apply<'t>(
    steps: Vec<Step>,
    sight: Sight<'t>,
    part: Range<usize>,
    text_index: usize,
    mut write: impl FnMut(&Replaced<'_>, &str) -> String,
) -> Applied<'t> {
    let slice = |range: Range<usize>| &sight.text[range.start - sight.base..range.end - sight.base];
    let (mut text, mut findings, mut blocked) = (Cow::Borrowed(""), Vec::new(), None);
    let Range { start: mut copied, mut end } = part;
    for step in steps {
        let replaced = match &step {
            Step::Replace(hit) => Some((hit.range.clone(), Replaced::Hit(hit))),
            Step::Restore(range, index) => Some((range.clone(), Replaced::Placeholder(*index))),
            Step::Flag(_) | Step::Block { .. } => None,
        };
        if let Some((range, replaced)) = replaced {
            text.to_mut().push_str(slice(copied..range.start));
            text.to_mut().push_str(&write(&replaced, slice(range.clone())));
            copied = range.end;
        }
        match step {
            Step::Replace(hit) | Step::Flag(hit) => findings.push(finding(hit, text_index)),
            Step::Restore(..) => {}
            Step::Block { from, hit } => {
                end = from;
                let (guardrail, detector) = (Arc::clone(&hit.guardrail), Arc::clone(&hit.detector));
                blocked = Some(Blocked { guardrail, detector, cause: hit.cause });
                findings.push(finding(hit, text_index));
            }
        }
    }
    let rest = slice(copied..end);
    if text.is_empty() {
        text = Cow::Borrowed(rest);
    } else {
        text.to_mut().push_str(rest);
    }
    Applied { text, findings, blocked }
}

/// Something that another text stands for.
pub(super) enum Replaced<'h> {
    Hit(&'h Hit),
    /// By its number in the vault.
    Placeholder(usize),
}

fn finding(hit: Hit, text: usize) -> Finding {
    let Hit { range, score, detector, guardrail, action, .. } = hit;
    Finding { guardrail, detector, action, text, range, score }
}
