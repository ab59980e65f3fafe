//! Whether a scheduler's books balance: queues against block tables against the pool. Changes nothing.

use super::{Scheduler, SequenceKey};
use crate::engine::{
    blocks::{IntegrityError, ensure},
    sequence::Sequence,
};

impl Scheduler {
    /// Checks queues against block tables against the pool. O(blocks held + pool size).
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        ensure(self.running.len() <= self.max_running, || format!("{} sequences run", self.running.len()))?;
        let background = self.num_background();
        ensure(background <= self.max_background, || format!("{background} sequences run in the background"))?;
        let (known, queued) = (self.members.num_sequences(), self.running.len() + self.waiting.len());
        ensure(known == queued, || format!("{known} sequences have a share, {queued} are queued"))?;
        self.check_turns()?;
        for (key, sequence) in &self.waiting {
            ensure(!self.running.contains_key(key), || format!("{key:?} runs and waits"))?;
            ensure(sequence.block_table.is_empty() && sequence.num_computed == 0, || {
                format!("{key:?} waits with {} blocks", sequence.block_table.len())
            })?;
        }
        for (key, sequence) in &self.running {
            self.check_running(key, sequence)?;
        }
        self.blocks.check_integrity(self.running.values().flat_map(|sequence| sequence.block_table.iter().copied()))
    }

    fn check_running(&self, key: &SequenceKey, sequence: &Sequence) -> Result<(), IntegrityError> {
        let (computed, len) = (sequence.num_computed, sequence.num_tokens());
        let pending = computed < len || (computed == len && sequence.ends());
        ensure(pending, || format!("{key:?} has {computed} of {len} tokens computed"))?;
        ensure(sequence.draft().is_empty(), || format!("{key:?} has a draft between two steps"))?;
        let held = sequence.block_table.len();
        let covered = self.blocks_for(computed)..=self.blocks_for(len);
        ensure(covered.contains(&held), || format!("{key:?} holds {held} blocks, needs {covered:?}"))?;
        for (index, &block) in sequence.block_table.iter().enumerate() {
            let published = self.blocks.published(block);
            ensure(published.is_none() || published == sequence.known_hash(index), || {
                format!("{key:?} holds block {block}, published for another content")
            })?;
            let full = (index + 1) * self.block_size <= computed;
            ensure(published.is_none() || full, || format!("{key:?} would write to the shared block {block}"))?;
        }
        Ok(())
    }
}
