//! An engine that takes no time: what remains is the server's own.

use std::sync::Arc;

use tramontane::{
    api::{AppState, GenerationDefaults, HttpLimits, ServedModel},
    engine::{EngineConfig, EngineHandle, SpeculationMode},
    governance::Governance,
    model::{ForwardPass, Logits, ModelError, Pipeline},
    store::Stores,
    telemetry::EngineMetrics,
    types::{Batch, Pooling, Provenance, RowResult, TokenChoice},
};

use super::fixtures;

/// The one token that it knows.
const TOKEN: u32 = 1500;
const MAX_MODEL_LEN: usize = 1024;

/// Chooses one token for every row, at once.
struct NoModel {
    vocab_size: usize,
    started: Vec<usize>,
}

impl ForwardPass for NoModel {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        let values = vec![0.0; batch.output_rows.len() * self.vocab_size];
        Ok(Logits { values, vocab_size: self.vocab_size, ..Logits::default() })
    }

    fn pipeline(&mut self) -> Option<&mut dyn Pipeline> {
        Some(self)
    }
}

impl Pipeline for NoModel {
    fn can_choose(&mut self, _choice: &TokenChoice<'_>) -> bool {
        true
    }

    fn start(&mut self, batch: &Batch, _choices: &[Option<TokenChoice<'_>>]) -> Result<(), ModelError> {
        self.started.push(batch.output_rows.len());
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<RowResult>, ModelError> {
        Ok(vec![RowResult::Token { id: TOKEN, logprobs: None }; self.started.remove(0)])
    }

    fn forget(&mut self, _sequence: u64) {}
}

/// A server of it, with these identities and rules.
pub fn state(governance: Governance) -> AppState {
    let codec = fixtures::codec("v3-tekken").clone();
    let engine = EngineConfig {
        num_blocks: 1 << 12,
        max_running: 256,
        max_waiting: 1 << 14,
        max_model_len: MAX_MODEL_LEN,
        speculation: SpeculationMode::Off,
        ..EngineConfig::default()
    };
    let metrics = Arc::new(EngineMetrics::new("none", engine.max_model_len));
    let model = NoModel { vocab_size: codec.vocab_size(), started: Vec::new() };
    let limits = HttpLimits { max_requests: 1 << 14, ..HttpLimits::default() };
    let state = AppState::governed(limits, Stores::in_memory(1 << 20), governance).expect("memory");
    state.set_model(ServedModel {
        names: vec!["none".to_owned()],
        codec,
        max_model_len: engine.max_model_len,
        engine: EngineHandle::spawn(Box::new(model), engine, Arc::clone(&metrics)),
        metrics,
        defaults: GenerationDefaults::default(),
        pooling: Pooling::Embedding { width: 1, normalized: true, max_seq_length: None },
        digest: "none".to_owned(),
        provenance: Provenance::default(),
    });
    state
}
