//! A model that says what a test wants, step by step as the test allows.

use std::sync::{Arc, Condvar, Mutex};

use tramontane::{
    model::{ForwardPass, Logits, ModelError},
    types::{Batch, Outputs, Pooling},
};

use super::Preferences;

/// Lets the model compute steps. Open unless a test closes it.
#[derive(Clone, Default)]
pub struct Gate {
    allowed: Arc<(Mutex<usize>, Condvar)>,
}

impl Gate {
    /// Lets `steps` more steps pass.
    pub fn allow(&self, steps: usize) {
        let (allowed, changed) = &*self.allowed;
        let mut allowed = allowed.lock().expect("no panic");
        *allowed = allowed.saturating_add(steps);
        changed.notify_all();
    }

    pub fn open(&self) {
        self.allow(usize::MAX);
    }

    /// Lets no more steps pass.
    pub fn close(&self) {
        *self.allowed.0.lock().expect("no panic") = 0;
    }

    fn pass(&self) {
        let (allowed, changed) = &*self.allowed;
        let mut allowed =
            changed.wait_while(allowed.lock().expect("no panic"), |allowed| *allowed == 0).expect("no panic");
        if *allowed != usize::MAX {
            *allowed -= 1;
        }
    }
}

/// Remembers tokens where a model would keep keys and values, so that everything the engine does with
/// blocks shows.
pub(super) struct ScriptedModel {
    pub(super) vocab_size: usize,
    pub(super) block_size: usize,
    pub(super) cache: Vec<u32>,
    pub(super) preferences: Preferences,
    pub(super) pooling: Pooling,
    pub(super) gate: Gate,
}

impl ForwardPass for ScriptedModel {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn outputs(&self) -> Outputs {
        let logits = matches!(self.pooling, Pooling::Embedding { .. });
        Outputs { logits, pooled_width: Some(self.pooling.width()) }
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        self.gate.pass();
        for (&slot, &id) in batch.slots.iter().zip(&batch.token_ids) {
            self.cache[slot as usize] = id;
        }
        let history = |row: u32| -> Vec<u32> {
            let row = row as usize;
            let sequence = batch.sequences.iter().find(|s| (s.query_start..s.query_start + s.query_len).contains(&row));
            let blocks = &sequence.expect("rows belong to sequences").block_table;
            let slot =
                |position| blocks[position / self.block_size] as usize * self.block_size + position % self.block_size;
            (0..=batch.positions[row] as usize).map(|position| self.cache[slot(position)]).collect()
        };
        let mut values = Vec::new();
        for &row in &batch.output_rows {
            let mut logits = vec![0.0; self.vocab_size];
            for (id, logit) in (self.preferences)(&history(row)) {
                logits[id as usize] = logit;
            }
            values.extend(logits);
        }
        let pooled = batch.pooled_rows.iter().flat_map(|&row| pooled(&history(row), self.pooling.width()));
        Ok(Logits { values, vocab_size: self.vocab_size, pooled: pooled.collect() })
    }
}

/// What the model pools a text to: how often ids of each remainder are in it, so that similar texts have similar vectors.
pub fn pooled(text: &[u32], width: usize) -> Vec<f32> {
    let mut counts = vec![0.0; width];
    text.iter().for_each(|&id| counts[id as usize % width] += 1.0);
    counts
}
