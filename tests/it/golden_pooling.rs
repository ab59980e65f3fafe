//! Texts that are pooled, to embeddings or to scores of classes, against the reference implementation: row by row from
//! the decoder, and through the engine, all texts at once in small chunks beside others.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use tramontane::engine::{EngineConfig, EngineHandle, FinishReason, Request, Task, Update};
use tramontane::model::ForwardPass;
use tramontane::types::{Batch, BatchSequence, Pooling};

use crate::golden::Difference;
use crate::golden_case::{PooledText, Reference};
use crate::golden_run::BLOCK_SIZE;

/// How far from the reference a row may be, as a share of its rms.
#[derive(Clone, Copy)]
pub struct Tolerance {
    pub rms: f64,
    pub max: f64,
}

/// Checks all texts with models that `load` gives for a cache of so many blocks. Returns the largest difference.
pub fn check(
    load: impl Fn(usize) -> Result<Box<dyn ForwardPass>>,
    pooling: &Pooling,
    texts: &[PooledText],
    tolerance: Tolerance,
) -> Result<f64> {
    let blocks: usize = texts.iter().map(|text| text.input_ids.len().div_ceil(BLOCK_SIZE)).sum();
    // Each text twice, beside one that begins as it does.
    let num_blocks = 4 * blocks + texts.len();
    let mut model = load(num_blocks)?;
    let found = through_the_engine(load(num_blocks)?, num_blocks, texts)?;
    let mut worst: f64 = 0.0;
    for (index, text) in texts.iter().enumerate() {
        let rows = rows_of(&mut *model, &text.input_ids)?;
        let last = &rows[rows.len() - pooling.width()..];
        let mut compare = |found: &[f32], expected: &[f32], what: &str| {
            let difference = Difference::between(found, expected)?;
            let within = difference.rms <= tolerance.rms && difference.max <= tolerance.max;
            ensure!(within, "text {index}, {what}: {difference}");
            worst = worst.max(difference.max);
            Ok(())
        };
        match (&text.reference, pooling) {
            (Reference::Embedding { hidden, embedding }, Pooling::Embedding { normalized: true, .. }) => {
                compare(&rows, hidden, "hidden states")?;
                compare(&normalized(last), embedding, "embedding")?;
            }
            (Reference::Classes { scores, probabilities }, Pooling::Classes { activation, .. }) => {
                compare(last, scores, "scores")?;
                compare(&activation.apply(last), probabilities, "probabilities")?;
            }
            (Reference::Embedding { .. } | Reference::Classes { .. }, _) => bail!("{pooling:?}"),
        }
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        for found in &found[2 * index..2 * index + 2] {
            ensure!(bits(found) == bits(last), "text {index}: in company it is pooled to something else");
        }
    }
    Ok(worst)
}

/// Every token of a text, pooled.
fn rows_of(model: &mut dyn ForwardPass, ids: &[u32]) -> Result<Vec<f32>> {
    let n_tokens = ids.len();
    let sequence = BatchSequence {
        query_start: 0,
        query_len: n_tokens,
        context_len: n_tokens,
        block_table: (0..n_tokens.div_ceil(BLOCK_SIZE) as u32).collect(),
        generated: 0,
    };
    let all: Vec<u32> = (0..n_tokens as u32).collect();
    let batch = Batch {
        token_ids: ids.to_vec(),
        positions: all.clone(),
        slots: all.clone(),
        sequences: vec![sequence],
        output_rows: Vec::new(),
        pooled_rows: all,
    };
    Ok(model.forward(&batch)?.pooled)
}

/// Each text twice.
fn through_the_engine(model: Box<dyn ForwardPass>, num_blocks: usize, texts: &[PooledText]) -> Result<Vec<Vec<f32>>> {
    let config = EngineConfig { block_size: BLOCK_SIZE, num_blocks, max_batched_tokens: 13, ..EngineConfig::default() };
    let generates = model.outputs().logits;
    let engine = EngineHandle::spawn(model, config, Arc::default());
    ensure!(engine.outputs().logits == generates);
    let pool = |prompt_ids: &[u32]| Request { prompt_ids: prompt_ids.to_vec(), task: Task::Pool, ..Request::default() };
    let mut streams = Vec::new();
    for text in texts.iter().flat_map(|text| [text, text]) {
        streams.push(engine.submit(pool(&text.input_ids))?);
        // What begins as it does and is read by nobody shares its blocks.
        drop(engine.submit(pool(&[&text.input_ids[..], &[1, 2, 3]].concat()))?);
    }
    let refused = engine.submit(Request { prompt_ids: vec![1], ..Request::default() });
    ensure!(refused.is_err() != generates, "tokens of a model that has none");
    let mut found = Vec::new();
    for mut stream in streams {
        let mut values = None;
        loop {
            match stream.blocking_next().context("the engine is gone")? {
                Update::Values(pooled) => values = Some(pooled),
                Update::Finished(FinishReason::Computed) => break,
                Update::Started { .. } => {}
                other => bail!("{other:?}"),
            }
        }
        found.push(values.context("nothing was pooled")?);
    }
    Ok(found)
}

fn normalized(row: &[f32]) -> Vec<f32> {
    let norm = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    row.iter().map(|value| (f64::from(*value) / norm) as f32).collect()
}
