//! The decoder on a GPU: what `decoder.rs` computes, as launches of kernels over memory that is allocated once.
//!
//! The main type is [`GpuDecoder`]. A step is a `Step`, the integers of a batch in the order in which a device wants
//! them, and the launches that its `Shape` alone decides (`launches.rs`); so the launches of decode steps are
//! recorded once per shape and replayed.
//!
//! Invariant: generated tokens and those of a prompt take different kernels, whatever their number, and each kernel
//! gives a row the same bits in any company. Only the device knows whether it is CUDA or its emulation.
#![expect(unsafe_code, reason = "device memory is addressed by number")]

mod arena;
mod choice;
mod launches;
mod pooled;
mod step;
mod weights;

use std::collections::{HashMap, VecDeque};

use tramontane_kernels::embedding::cuda::EmbedTokens;
use tramontane_kernels::gpu::{Device, DeviceError, Float16, Launch, ProductKind, ProductOutput};
use tramontane_kernels::{KvGeometry, PagedBatch, PagedSequence};

use self::{
    arena::Arena,
    choice::{Chooser, Outcomes},
    launches::Launches,
    step::{Choice, Shape, Step},
    weights::GpuWeights,
};
use super::config::Config;
use super::kv_cache::KvCacheConfig;
use super::rotary::Rotary;
use super::weights::WeightSource;
use super::{ForwardPass, Logits, ModelError, Pipeline, validate};
use crate::types::{Batch, Outputs, RowResult, TokenChoice};

const _: () = assert!(Batch::UNREAD == EmbedTokens::UNREAD, "batches are uploaded as they are");

/// Recordings that are kept; a server's load rarely has more shapes.
const MOST_GRAPHS: usize = 64;

/// How much a step computes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuLimits {
    /// Query tokens.
    pub max_tokens: usize,
    /// Sequences; also how many there are at once, whether a step computes something for them or not.
    pub max_sequences: usize,
}

/// A Mistral-family decoder whose weights, cache and activations are in the memory of a GPU.
#[derive(Debug)]
pub struct GpuDecoder<D: Device> {
    device: D,
    model: Model,
    arena: Arena,
    chooser: Chooser,
    /// Decode steps, at most [`MOST_GRAPHS`].
    graphs: HashMap<Shape, Recorded<D>>,
    /// Decode steps so far.
    clock: u64,
    started: VecDeque<Started<D>>,
    /// Output rows of the step that was started last: what tokens that are unread may refer to.
    last_outputs: usize,
}

/// A decode step of one shape.
#[derive(Debug)]
struct Recorded<D: Device> {
    /// `None` if it could not be recorded.
    graph: Option<D::Graph>,
    last_used: u64,
}

/// A step whose results have not been read.
#[derive(Debug)]
struct Started<D: Device> {
    /// `None` if there is no choice.
    outcomes: Option<Outcomes<D>>,
    /// See [`Step::places`].
    places: Vec<usize>,
    /// Per output row of the device: is there a choice with log-probabilities, and of how many ids?
    logprobs: Vec<Option<usize>>,
    /// Rows without a choice, by output row of the batch.
    logits: Vec<(usize, Vec<f32>)>,
    /// By pooled row of the batch.
    pooled: Vec<Vec<f32>>,
}

/// What launches are made of, beside the step.
#[derive(Debug)]
struct Model {
    config: Config,
    dtype: Float16,
    geometry: KvGeometry,
    /// Heads as the device has them: padded to a width that its kernels know.
    head_dim: usize,
    /// Rows of the rotary tables: no position is beyond them.
    max_positions: usize,
    /// See [`Device::has_library`].
    has_library: bool,
    weights: GpuWeights,
}

impl<D: Device> GpuDecoder<D> {
    /// Checks `config`, uploads the weights, each checked before, and allocates everything that steps within `limits`
    /// need. Weights, cache and activations are of `cache.dtype`, bf16 or f16; sums and the residual are f32.
    pub fn new(
        config: Config,
        weights: &dyn WeightSource,
        cache: KvCacheConfig,
        limits: GpuLimits,
        device: D,
    ) -> Result<Self, ModelError> {
        validate::config(&config)?;
        let dtype = weights::float16(cache.dtype)?;
        let head_dim = weights::device_head_dim(config.attention.head_dim)?;
        weights::check_widths(&config)?;
        let geometry = cache.geometry()?;
        let max_positions = config.max_position_embeddings.min(geometry.num_blocks * geometry.block_size);
        let rotary = Rotary::new(&config).table(max_positions);
        let cache_bytes =
            2 * geometry.num_blocks * geometry.block_size * config.attention.num_key_value_heads * head_dim;
        let cache_bytes = cache_bytes * Float16::BYTES;
        let weights = GpuWeights::upload(&device, (&config, weights), &rotary, cache_bytes, dtype)?;
        let has_library = device.has_library();
        let model = Model { config, dtype, geometry, head_dim, max_positions, has_library, weights };
        let arena = Arena::new(&device, &model, limits)?;
        let chooser = Chooser::new(&device, limits, model.config.vocab_size, max_positions)?;
        let (graphs, started) = (HashMap::new(), VecDeque::new());
        let mut decoder = Self { device, model, arena, chooser, graphs, clock: 0, started, last_outputs: 0 };
        decoder.warm_up()?;
        tracing::info!(products = ?decoder.device.library_report(), has_library, "the GPU has computed a first token");
        Ok(decoder)
    }

    /// How many shapes of decode steps are recorded.
    pub fn num_recorded(&self) -> usize {
        self.graphs.values().filter(|recorded| recorded.graph.is_some()).count()
    }

    /// Computes a prompt of one token, for nobody: what cannot run is found before anything is served, and what a device
    /// does when it meets a kernel or a product for the first time is done.
    fn warm_up(&mut self) -> Result<(), ModelError> {
        self.compute(&Batch::of_one_token(0, self.model.geometry.block_size, self.model.weights.outputs())).map(drop)
    }

    fn compute(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        self.check(batch)?;
        let vocab_size = self.model.config.vocab_size;
        if batch.n_tokens() == 0 {
            return Ok(Logits { vocab_size, ..Logits::default() });
        }
        let step = Step::new(batch, self.model.geometry, self.model.group(), Choice::Host);
        let mut logits = self.run_step(&step, (0..batch.output_rows.len()).collect())?;
        logits.sort_unstable_by_key(|&(row, _)| row);
        let values = logits.into_iter().flat_map(|(_, row)| row).collect();
        Ok(Logits { values, vocab_size, pooled: self.read_pooled(&step)?.concat() })
    }

    fn start_step(&mut self, batch: &Batch, choices: &[Option<TokenChoice<'_>>]) -> Result<(), ModelError> {
        self.check(batch)?;
        let choice = who_chooses(choices);
        let mut step = Step::new(batch, self.model.geometry, self.model.group(), choice);
        let arranged = self.chooser.arrange(choices)?;
        if choice != Choice::Host {
            step.set_choices(&arranged.rows);
            self.chooser.prepare(&self.device, &arranged)?;
        }
        let mut logprobs = vec![None; step.shape.outputs()];
        let mut wanted = Vec::new();
        for (row, (choice, &place)) in choices.iter().zip(step.output_places()).enumerate() {
            match choice {
                Some(choice) => logprobs[place] = choice.logprobs.map(|n_top| n_top.min(self.model.config.vocab_size)),
                None => wanted.push(row),
            }
        }
        let logits = self.run_step(&step, wanted)?;
        let pooled = self.read_pooled(&step)?;
        let outputs = step.shape.outputs();
        let outcomes = self.chooser.begin_readback(&self.device, outputs, choice)?;
        self.started.push_back(Started { outcomes, places: step.output_places().to_vec(), logprobs, logits, pooled });
        self.last_outputs = batch.output_rows.len();
        Ok(())
    }

    /// Runs the step, and reads those of the batch's output rows that are `wanted`, in the device's order. Waits for the
    /// device only if there are any.
    fn run_step(&mut self, step: &Step, mut wanted: Vec<usize>) -> Result<Vec<(usize, Vec<f32>)>, ModelError> {
        wanted.sort_unstable_by_key(|&row| step.places()[row]);
        let places: Vec<usize> = wanted.iter().map(|&row| step.places()[row]).collect();
        // SAFETY: the batch is within the limits that the arena was made for.
        unsafe { self.device.upload(self.arena.inputs, bytemuck::cast_slice(&step.words)) }?;
        let outputs = step.shape.outputs();
        let mut rows = Vec::with_capacity(wanted.len());
        if step.shape.is_plain_decode() && outputs <= Arena::LOGIT_ROWS {
            self.decode(&step.shape)?;
            self.read_logits(&places, 0, &mut rows)?;
            return Ok(wanted.into_iter().zip(rows).collect());
        }
        let launches = Launches::new(&self.model, &self.arena, &self.chooser, &step.shape);
        self.run(&launches.layers())?;
        // Where all rows are pooled, nobody wants logits.
        let outputs = if step.output_places().is_empty() { 0 } else { outputs };
        for first in (0..outputs).step_by(Arena::LOGIT_ROWS) {
            let end = outputs.min(first + Arena::LOGIT_ROWS);
            self.run(&launches.head(first..end))?;
            let within: Vec<usize> = places.iter().copied().filter(|place| (first..end).contains(place)).collect();
            self.read_logits(&within, first, &mut rows)?;
        }
        Ok(wanted.into_iter().zip(rows).collect())
    }

    /// The pooled rows of a step that has been run, in the order of the batch.
    fn read_pooled(&self, step: &Step) -> Result<Vec<Vec<f32>>, ModelError> {
        let launches = Launches::new(&self.model, &self.arena, &self.chooser, &step.shape);
        let read = |&place: &usize| {
            let mut residual = vec![0.0; self.model.config.hidden_size];
            // SAFETY: the arena has the residual of all rows that the step goes on with, this one among them.
            unsafe { self.device.download(launches.residual(place), bytemuck::cast_slice_mut(&mut residual)) }?;
            self.model.weights.pooled.read(residual)
        };
        step.pooled_places().iter().map(read).collect()
    }

    fn check(&self, batch: &Batch) -> Result<(), ModelError> {
        let Model { config, max_positions, geometry, .. } = &self.model;
        validate::batch(batch, config.vocab_size, *max_positions, self.last_outputs)?;
        let sequences = batch.sequences.iter().map(|sequence| PagedSequence {
            query_start: sequence.query_start,
            query_len: sequence.query_len,
            context_len: sequence.context_len,
            block_table: sequence.block_table.clone(),
        });
        let paged = PagedBatch::new(batch.slots.clone(), sequences.collect(), *geometry)?;
        validate::positions(batch, &paged)?;
        validate::generated(batch)?;
        if !batch.output_rows.is_empty() && self.model.weights.lm_head.is_none() {
            return Err(ModelError::NoSuchOutput { what: "logits" });
        }
        let GpuLimits { max_tokens, max_sequences } = self.arena.limits;
        for (field, found, most) in
            [("tokens", batch.n_tokens(), max_tokens), ("sequences", batch.sequences.len(), max_sequences)]
        {
            if found > most {
                return Err(ModelError::BatchTooLarge { field, found, most });
            }
        }
        Ok(())
    }

    /// A step without prompts, recorded when its shape comes up for the first time. What cannot be recorded, as where
    /// there is no memory for it, runs launch by launch.
    fn decode(&mut self, shape: &Shape) -> Result<(), DeviceError> {
        self.clock += 1;
        if !self.graphs.contains_key(shape) {
            if self.graphs.len() == MOST_GRAPHS {
                let oldest = self.graphs.iter().min_by_key(|(_, recorded)| recorded.last_used).map(|(shape, _)| *shape);
                oldest.and_then(|shape| self.graphs.remove(&shape));
            }
            // SAFETY: as in `run`.
            let graph = unsafe { self.device.record(&self.decode_launches(shape)) };
            let graph = graph.inspect_err(|error| tracing::warn!(%error, ?shape, "a step cannot be recorded")).ok();
            self.graphs.insert(*shape, Recorded { graph, last_used: 0 });
        }
        let recorded = self.graphs.get_mut(shape).expect("the shape was inserted");
        recorded.last_used = self.clock;
        match &recorded.graph {
            // SAFETY: as in `run`.
            Some(graph) => unsafe { self.device.replay(graph) },
            None => self.run(&self.decode_launches(shape)),
        }
    }

    fn decode_launches(&self, shape: &Shape) -> Vec<Launch> {
        let launches = Launches::new(&self.model, &self.arena, &self.chooser, shape);
        let mut all = launches.layers();
        all.extend(launches.head(0..shape.outputs()));
        all
    }

    fn run(&self, launches: &[Launch]) -> Result<(), DeviceError> {
        for launch in launches {
            // SAFETY: all pointers are into the arena, the weights and the cache, which are as large as `launches.rs`
            // takes them to be; what indexes them was checked with the batch.
            unsafe { self.device.launch(launch) }?;
        }
        Ok(())
    }

    /// Rows of logits of a step, in ascending order, of which the arena has those from `first` on.
    fn read_logits(&self, wanted: &[usize], first: usize, rows: &mut Vec<Vec<f32>>) -> Result<(), DeviceError> {
        let vocab_size = self.model.config.vocab_size;
        for run in wanted.chunk_by(|row, next| row + 1 == *next) {
            let mut values = vec![0.0; run.len() * vocab_size];
            let from = self.arena.logits.plus((run[0] - first) * vocab_size * 4);
            // SAFETY: the arena has `LOGIT_ROWS` rows, these among them.
            unsafe { self.device.download(from, bytemuck::cast_slice_mut(&mut values)) }?;
            rows.extend(values.chunks(vocab_size).map(<[f32]>::to_vec));
        }
        Ok(())
    }

    fn finish_step(&mut self) -> Result<Vec<RowResult>, ModelError> {
        let started = self.started.pop_front().ok_or(ModelError::NothingStarted)?;
        let by_place = match started.outcomes {
            Some(outcomes) => outcomes.read(&self.device, &started.logprobs)?,
            None => vec![RowResult::NotFinite; started.places.len()], // each of them becomes logits
        };
        let mut results: Vec<RowResult> = started.places.iter().map(|&place| by_place[place].clone()).collect();
        for (row, logits) in started.logits {
            results[row] = RowResult::Logits(logits);
        }
        results.extend(started.pooled.into_iter().map(RowResult::Pooled));
        Ok(results)
    }
}

impl<D: Device + Send> ForwardPass for GpuDecoder<D> {
    fn vocab_size(&self) -> usize {
        self.model.config.vocab_size
    }

    fn outputs(&self) -> Outputs {
        self.model.weights.outputs()
    }

    fn tells_generated_tokens_apart(&self) -> bool {
        true
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        self.compute(batch)
    }

    fn pipeline(&mut self) -> Option<&mut dyn Pipeline> {
        Some(self)
    }
}

impl<D: Device + Send> Pipeline for GpuDecoder<D> {
    fn can_choose(&mut self, choice: &TokenChoice<'_>) -> bool {
        self.chooser.can_choose(choice)
    }

    fn start(&mut self, batch: &Batch, choices: &[Option<TokenChoice<'_>>]) -> Result<(), ModelError> {
        self.start_step(batch, choices)
    }

    fn finish(&mut self) -> Result<Vec<RowResult>, ModelError> {
        self.finish_step()
    }

    fn forget(&mut self, sequence: u64) {
        self.chooser.forget(sequence);
    }
}

/// Nobody on the device, if there is no choice.
fn who_chooses(choices: &[Option<TokenChoice<'_>>]) -> Choice {
    let mut choices = choices.iter().flatten().peekable();
    if choices.peek().is_none() {
        Choice::Host
    } else if choices.any(|choice| choice.logprobs.is_some()) {
        Choice::DeviceWithLogprobs
    } else {
        Choice::Device
    }
}

impl Model {
    /// Query heads per KV head.
    fn group(&self) -> usize {
        self.config.attention.num_attention_heads / self.config.attention.num_key_value_heads
    }

    /// Elements of the queries of a token.
    fn q_width(&self) -> usize {
        self.config.attention.num_attention_heads * self.head_dim
    }

    /// Elements of the queries, keys and values of a token.
    fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.config.attention.num_key_value_heads * self.head_dim
    }
}

/// Of keys and values that one cached token takes over all layers on a device.
pub fn kv_bytes_per_token(config: &Config) -> Result<usize, ModelError> {
    let head_dim = weights::device_head_dim(config.attention.head_dim)?;
    Ok(2 * config.num_hidden_layers * config.attention.num_key_value_heads * head_dim * Float16::BYTES)
}

/// Bytes of everything but weights and cache, and of the rotary tables for as many positions.
pub fn working_bytes(
    config: &Config,
    limits: GpuLimits,
    block_size: usize,
    max_positions: usize,
) -> Result<usize, ModelError> {
    let head_dim = weights::device_head_dim(config.attention.head_dim)?;
    let tables = max_positions * (head_dim + 1) * 4;
    let choices = choice::bytes(limits, config.vocab_size, max_positions);
    Ok(arena::bytes(config, head_dim, limits, block_size, max_positions) + choices + tables + library_bytes(config))
}

/// Of the largest product of a prompt, as if there were a library.
fn library_bytes(config: &Config) -> usize {
    let (hidden, width) = (config.hidden_size, config.feed_forward.intermediate_size);
    let kind = |in_features, out_features, output| {
        ProductKind { in_features, out_features, output, dtype: Float16::Bf16 }.library_bytes()
    };
    kind(hidden, 2 * width, ProductOutput::Rounded).max(kind(width, hidden, ProductOutput::AddF32))
}
