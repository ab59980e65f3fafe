//! The one decoder of the family. Its main type is [`Decoder`]; a model variant is a value of
//! [`Config`], read when the decoder is built.
//!
//! Invariant: everything computed for a token depends on its own sequence only, bit for bit (see
//! [`ForwardPass`]). The decoder knows tensors and positions, not requests or text.

use candle_core::Tensor;
use tramontane_kernels::{PagedBatch, PagedSequence, embedding, linear, linear_add, rms_norm, threads};

use super::attention::{Attention, Pass};
use super::config::Config;
use super::kv_cache::{KvCache, KvCacheConfig};
use super::mlp::FeedForward;
use super::op_times::{NoClock, Op, OpClock, OpTimes};
use super::rotary::Rotary;
use super::weights::{Head, LayerWeights, Weights};
use super::{ForwardPass, Logits, ModelError, validate};
use crate::types::{Batch, Outputs};

/// A Mistral-family decoder with its own KV cache.
#[derive(Debug)]
pub struct Decoder {
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    /// `(vocab_size, hidden_size)`
    embed_tokens: Tensor,
    layers: Vec<Layer>,
    /// `(hidden_size)`
    norm: Tensor,
    head: Head,
    outputs: Outputs,
    rotary: Rotary,
    cache: KvCache,
}

#[derive(Debug)]
struct Layer {
    /// `(hidden_size)`
    input_layernorm: Tensor,
    attention: Attention,
    /// `(hidden_size, heads * head_dim)`
    o_proj: Tensor,
    /// `(hidden_size)`
    post_attention_layernorm: Tensor,
    feed_forward: FeedForward,
}

impl Decoder {
    /// Checks `config` and the shape and type of every tensor against it, then allocates the cache.
    pub fn new(config: Config, weights: Weights, cache: KvCacheConfig) -> Result<Self, ModelError> {
        validate::config(&config)?;
        validate::weights(&config, &weights)?;
        let cache = KvCache::new(&config, cache)?;
        let rotary = Rotary::new(&config);
        let layer = |(index, weights)| Layer::new(&config, index, weights);
        let layers = weights.layers.into_iter().enumerate().map(layer).collect::<Result<_, _>>()?;
        Ok(Self {
            vocab_size: config.vocab_size,
            max_position_embeddings: config.max_position_embeddings,
            rms_norm_eps: config.rms_norm_eps,
            embed_tokens: weights.embed_tokens,
            layers,
            norm: weights.norm,
            outputs: weights.head.outputs(config.hidden_size),
            head: weights.head,
            rotary,
            cache,
        })
    }

    /// Makes the whole cache take its memory at once, with values of no meaning: for measuring steps that read it.
    pub fn occupy_cache(&mut self) -> Result<(), ModelError> {
        self.cache.occupy()
    }

    fn compute(&self, batch: &Batch, clock: &mut impl OpClock) -> Result<Logits, ModelError> {
        let pass = clock.time(Op::Prepare, || self.prepare(batch))?;
        if batch.n_tokens() == 0 {
            return Ok(self.nothing());
        }
        let norm = |x: &Tensor, weight| rms_norm(x, weight, self.rms_norm_eps);
        let mut residual = clock.time(Op::Embedding, || embedding(&self.embed_tokens, &batch.token_ids))?; // (n_tokens, hidden_size)
        let wanted = WantedRows::of(batch);
        let last = self.layers.len() - 1;
        for (index, layer) in self.layers.iter().enumerate() {
            let cache = self.cache.layer(index);
            let x = clock.time(Op::Norm, || norm(&residual, &layer.input_layernorm))?;
            let q = clock.time(Op::QkvProj, || layer.attention.write(&x, cache, &pass))?; // (n_tokens, heads * head_dim)
            if index == last && wanted.all.is_empty() {
                // A prefill chunk of which nobody wants more: its keys and values are all it leaves.
                return Ok(self.nothing());
            }
            let mut attended = clock.time(Op::Attention, || layer.attention.attend(&q, cache, &pass))?;
            if index == last {
                // Beyond its keys and values, the last layer serves the requested rows only.
                attended = embedding(&attended, &wanted.all)?; // (n_wanted, heads * head_dim)
                residual = embedding(&residual, &wanted.all)?; // (n_wanted, hidden_size)
            }
            clock.time(Op::OProj, || linear_add(&residual, &attended, &layer.o_proj))?;
            let x = clock.time(Op::Norm, || norm(&residual, &layer.post_attention_layernorm))?;
            clock.time(Op::FeedForward, || layer.feed_forward.add(&residual, &x))?;
        }
        let x = clock.time(Op::Norm, || norm(&residual, &self.norm))?;
        clock.time(Op::LmHead, || self.read_out(&x, &wanted))
    }

    /// Logits and pooled rows of `x (n_wanted, hidden_size)`.
    fn read_out(&self, x: &Tensor, wanted: &WantedRows) -> Result<Logits, ModelError> {
        let mut read = self.nothing();
        if wanted.pooled.is_empty() {
            read.values = values(&linear(x, self.lm_head()?)?)?; // (n_outputs, vocab_size)
            return Ok(read);
        }
        if !wanted.logits.is_empty() {
            read.values = values(&linear(&embedding(x, &wanted.logits)?, self.lm_head()?)?)?; // (n_outputs, vocab_size)
        }
        let pooled = embedding(x, &wanted.pooled)?; // (n_pooled, hidden_size)
        read.pooled = match &self.head {
            Head::Logits(_) | Head::Nothing => values(&pooled)?,
            Head::Classes(classes) => values(&linear(&pooled, classes)?)?, // (n_pooled, classes)
        };
        Ok(read)
    }

    fn lm_head(&self) -> Result<&Tensor, ModelError> {
        match &self.head {
            Head::Logits(lm_head) => Ok(lm_head),
            Head::Classes(_) | Head::Nothing => Err(ModelError::NoSuchOutput { what: "logits" }),
        }
    }

    fn nothing(&self) -> Logits {
        Logits { vocab_size: self.vocab_size, ..Logits::default() }
    }

    /// Turns a batch into what the layers need, or says what is wrong with it.
    fn prepare(&self, batch: &Batch) -> Result<Pass, ModelError> {
        validate::batch(batch, self.vocab_size, self.max_position_embeddings, 0)?;
        let sequences = batch.sequences.iter().map(|sequence| PagedSequence {
            query_start: sequence.query_start,
            query_len: sequence.query_len,
            context_len: sequence.context_len,
            block_table: sequence.block_table.clone(),
        });
        let paged = PagedBatch::new(batch.slots.clone(), sequences.collect(), self.cache.geometry())?;
        validate::positions(batch, &paged)?;
        Ok(Pass { batch: paged, rotary: self.rotary.rows(&batch.positions)? })
    }
}

/// Rows of a batch that the last layer goes on with.
struct WantedRows {
    /// Of the batch, ascending.
    all: Vec<u32>,
    /// Which of them, by their place in `all`, become logits; not said where all do.
    logits: Vec<u32>,
    /// Which of them are pooled.
    pooled: Vec<u32>,
}

impl WantedRows {
    fn of(batch: &Batch) -> Self {
        if batch.pooled_rows.is_empty() {
            return Self { all: batch.output_rows.clone(), logits: Vec::new(), pooled: Vec::new() };
        }
        let mut all = [&batch.output_rows[..], &batch.pooled_rows].concat();
        all.sort_unstable();
        let is_pooled = |place: &u32| batch.pooled_rows.binary_search(&all[*place as usize]).is_ok();
        let (pooled, logits) = (0..all.len() as u32).partition(is_pooled);
        Self { all, logits, pooled }
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f32>, ModelError> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

impl ForwardPass for Decoder {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn outputs(&self) -> Outputs {
        self.outputs
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        let this = &*self;
        threads::run(|| this.compute(batch, &mut NoClock))
    }

    fn forward_timed(&mut self, batch: &Batch, times: &mut OpTimes) -> Result<Logits, ModelError> {
        let this = &*self;
        threads::run(|| this.compute(batch, times))
    }
}

impl Layer {
    fn new(config: &Config, index: usize, weights: LayerWeights) -> Result<Self, ModelError> {
        Ok(Self {
            input_layernorm: weights.input_layernorm,
            attention: Attention::new(config, index, weights.qkv_proj),
            o_proj: weights.o_proj,
            post_attention_layernorm: weights.post_attention_layernorm,
            feed_forward: FeedForward::new(&config.feed_forward, weights.feed_forward)?,
        })
    }
}
