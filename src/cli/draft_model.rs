//! `--draft-model`: a second, smaller model on the CPU that guesses the tokens of the first ahead.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use candle_core::Device;

use super::{loading, memory_plan::Needs, progress::TaskProgress};
use crate::{
    config::Config,
    engine::draft::{DecoderDrafter, Drafter},
    model::{
        Decoder, KvCacheConfig,
        checkpoint::{Checkpoint, WeightTypes},
    },
};

/// A checkpoint that can draft, not yet in memory.
pub(super) struct DraftModel {
    directory: PathBuf,
    checkpoint: Checkpoint,
    types: WeightTypes,
}

impl DraftModel {
    /// Checks the draft model that was asked for, if any, against the model. Types of weights are chosen as the
    /// model's.
    pub(super) fn prepare(config: &Config, model: &Checkpoint, on_gpu: bool) -> Result<Option<Self>> {
        let Some(directory) = config.engine.draft_model.clone() else { return Ok(None) };
        if on_gpu {
            bail!(
                "draft_model = {directory:?}: a GPU's tokens are not guessed ahead; --device cpu can have a draft model"
            );
        }
        let checkpoint =
            Checkpoint::open(&directory).with_context(|| format!("cannot draft with draft_model = {directory:?}"))?;
        if !checkpoint.generates() {
            bail!("draft_model = {directory:?} predicts no tokens: it is made to embed or classify texts");
        }
        let (draft, expected) = (checkpoint.config().vocab_size, model.config().vocab_size);
        if draft != expected {
            let name = config.model.model.as_str();
            bail!(
                "draft_model = {directory:?} has a vocabulary of {draft} tokens and the model {name:?} one of {expected}: \
                 they must have the same"
            );
        }
        let types = loading::cpu_types(&config.model, &checkpoint)
            .with_context(|| format!("cannot draft with draft_model = {directory:?}"))?;
        Ok(Some(Self { directory, checkpoint, types }))
    }

    /// What the model needs, and the draft model beside it.
    pub(super) fn add_to(&self, needs: Needs) -> Needs {
        let own = loading::cpu_needs(&self.checkpoint, self.types);
        Needs {
            weight_bytes: needs.weight_bytes.saturating_add(own.weight_bytes),
            kv_bytes_per_token: needs.kv_bytes_per_token + own.kv_bytes_per_token,
            ..needs
        }
    }

    /// Reads the weights. The cache has as many blocks as the engine's pool.
    pub(super) fn load(
        &self,
        block_size: usize,
        num_blocks: usize,
        progress: &TaskProgress,
    ) -> Result<Box<dyn Drafter>> {
        let config = self.checkpoint.config().clone();
        let max_positions = config.max_position_embeddings;
        let weights = self.checkpoint.load(self.types, &Device::Cpu, progress)?;
        let cache = KvCacheConfig { num_blocks, block_size, dtype: self.types.dtype.dtype() };
        let decoder = Decoder::new(config, weights, cache)?;
        tracing::info!(draft_model = %self.directory.display(), dtype = %self.types, "draft model loaded");
        Ok(Box::new(DecoderDrafter::new(Box::new(decoder), block_size, num_blocks, max_positions)))
    }
}
