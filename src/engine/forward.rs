//! The model as the engine thread calls it: every kind of failure, panics included, becomes a message, and every model
//! is one whose steps are started and finished. The main type is [`GuardedModel`]. Knows nothing of requests.

use std::{
    any::Any,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    model::{ForwardPass, Logits, ModelError, Pipeline},
    types::{Batch, Outputs, RowResult, TokenChoice},
};

pub(super) struct GuardedModel {
    forward_pass: Box<dyn ForwardPass>,
    vocab_size: usize,
    outputs: Outputs,
    /// Output rows and pooled rows of the steps that a [`Pipeline`] has started.
    started: VecDeque<[usize; 2]>,
    /// Of steps that were finished as they were started.
    computed: VecDeque<Logits>,
}

/// What a step gave.
pub(super) enum Results {
    /// Logits, for the engine's own sampler, and pooled rows of this width.
    Logits(Logits, usize),
    /// What the model made of each row, and how many of them are output rows.
    Rows(Vec<RowResult>, usize),
}

/// One row of it.
pub(super) enum Row<'a> {
    /// Logits, `(vocab_size)`.
    Logits(&'a [f32]),
    /// The model's choice.
    Chosen(&'a RowResult),
}

impl Results {
    /// The result of output row `index`.
    pub(super) fn row(&self, index: usize) -> Row<'_> {
        match self {
            Self::Logits(logits, _) => Row::Logits(logits.row(index)),
            Self::Rows(rows, _) => match &rows[index] {
                RowResult::Logits(row) => Row::Logits(row),
                chosen => Row::Chosen(chosen),
            },
        }
    }

    /// What pooled row `index` became.
    pub(super) fn pooled(&self, index: usize) -> Option<&[f32]> {
        match self {
            Self::Logits(logits, width) => logits.pooled.get(index * width..(index + 1) * width),
            Self::Rows(rows, n_outputs) => match rows.get(n_outputs + index)? {
                RowResult::Pooled(values) => Some(values),
                RowResult::Token { .. } | RowResult::NotFinite | RowResult::NothingAllowed | RowResult::Logits(_) => {
                    None
                }
            },
        }
    }

    /// True if there is anything left to choose.
    pub(super) fn has_logits(&self) -> bool {
        match self {
            Self::Logits(..) => true,
            Self::Rows(rows, _) => rows.iter().any(|row| matches!(row, RowResult::Logits(_))),
        }
    }
}

impl GuardedModel {
    pub(super) fn new(forward_pass: Box<dyn ForwardPass>) -> Self {
        let vocab_size = forward_pass.vocab_size();
        let outputs = forward_pass.outputs();
        Self { forward_pass, vocab_size, outputs, started: VecDeque::new(), computed: VecDeque::new() }
    }

    pub(super) fn tells_generated_tokens_apart(&self) -> bool {
        self.forward_pass.tells_generated_tokens_apart()
    }

    /// True if a step may be started before the one before is finished.
    pub(super) fn runs_ahead(&mut self) -> bool {
        self.forward_pass.pipeline().is_some()
    }

    /// True if the model chooses such a token by itself.
    pub(super) fn can_choose(&mut self, choice: &TokenChoice<'_>) -> bool {
        self.forward_pass.pipeline().is_some_and(|pipeline| pipeline.can_choose(choice))
    }

    /// See [`Pipeline::forget`].
    pub(super) fn forget(&mut self, sequence: u64) {
        if let Some(pipeline) = self.forward_pass.pipeline() {
            pipeline.forget(sequence);
        }
    }

    /// Starts a step with a choice, or none, per output row. Keys and values of the batch's own slots are undefined
    /// after a failure; all others are as before.
    pub(super) fn start(&mut self, batch: &Batch, choices: &[Option<TokenChoice<'_>>]) -> Result<(), String> {
        if self.runs_ahead() {
            self.guarded(|pipeline| pipeline.start(batch, choices))?;
            self.started.push_back([batch.output_rows.len(), batch.pooled_rows.len()]);
        } else {
            let logits = self.forward(batch)?;
            self.computed.push_back(logits);
        }
        Ok(())
    }

    /// The results of the oldest step that has been started and not finished.
    pub(super) fn finish(&mut self) -> Result<Results, String> {
        if let Some(logits) = self.computed.pop_front() {
            return Ok(Results::Logits(logits, self.outputs.pooled_width.unwrap_or(0)));
        }
        let [n_outputs, n_pooled] = self.started.pop_front().expect("a step was started");
        let rows = self.guarded(|pipeline| pipeline.finish())?;
        match rows.len() == n_outputs + n_pooled {
            true => Ok(Results::Rows(rows, n_outputs)),
            false => Err(format!("the forward pass returned {} results for {} rows", rows.len(), n_outputs + n_pooled)),
        }
    }

    fn guarded<T>(&mut self, call: impl FnOnce(&mut dyn Pipeline) -> Result<T, ModelError>) -> Result<T, String> {
        let pipeline = self.forward_pass.pipeline().expect("the model runs ahead");
        catch_unwind(AssertUnwindSafe(|| call(pipeline)))
            .map_err(|panic| format!("the forward pass panicked: {}", panic_message(&*panic)))?
            .map_err(|error| error.to_string())
    }

    /// Logits and pooled rows of the shape the batch asks for, or why there are none.
    pub(super) fn forward(&mut self, batch: &Batch) -> Result<Logits, String> {
        let logits = catch_unwind(AssertUnwindSafe(|| self.forward_pass.forward(batch)))
            .map_err(|panic| format!("the forward pass panicked: {}", panic_message(&*panic)))?
            .map_err(|error| error.to_string())?;
        let (rows, values, vocab_size) = (batch.output_rows.len(), logits.values.len(), self.vocab_size);
        if logits.vocab_size != vocab_size || values != rows * vocab_size {
            return Err(format!("the forward pass returned {values} logits for {rows} rows of {vocab_size}"));
        }
        let (rows, values) = (batch.pooled_rows.len(), logits.pooled.len());
        match self.outputs.pooled_width.unwrap_or(0) {
            width if values == rows * width => Ok(logits),
            width => Err(format!("the forward pass returned {values} values for {rows} pooled rows of {width}")),
        }
    }

    /// Can a plain token still be computed? Uses the first slot of a block that nobody holds.
    pub(super) fn probe(&mut self, block: u32, block_size: usize) -> Result<(), String> {
        self.forward(&Batch::of_one_token(block, block_size, self.outputs)).map(drop)
    }
}

impl std::fmt::Debug for GuardedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuardedModel").field("vocab_size", &self.vocab_size).finish_non_exhaustive()
    }
}

/// What a caught panic said.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
