//! Small random models and the batches to run them with.

use candle_core::{DType, Device, Tensor};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use tramontane_kernels::PanelFormat;
use tramontane_kernels::gpu::Emulated;
use tramontane_kernels::panel_linear::GROUP;

use crate::model::config::*;
use crate::model::gpu::{GpuDecoder, GpuLimits};
use crate::model::weights::*;
use crate::model::{Decoder, ForwardPass, KvCacheConfig};
use crate::types::{Batch, BatchSequence};

pub(super) const BLOCK_SIZE: usize = 4;
pub(super) const NUM_BLOCKS: usize = 64;

/// A model and what made it.
pub(super) struct Model {
    pub(super) config: Config,
    pub(super) weights: Weights,
}

impl Model {
    /// Anything the family can be, a few layers deep.
    pub(super) fn random(seed: u64, dtype: DType) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let config = config(&mut rng);
        let weights = weights(&mut rng, &config, dtype);
        Self { config, weights }
    }

    /// The same in widths that a GPU's kernels take.
    pub(super) fn random_for_gpu(seed: u64, dtype: DType) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut config = config(&mut rng);
        for width in [&mut config.hidden_size, &mut config.feed_forward.intermediate_size] {
            *width = width.next_multiple_of(8);
        }
        let weights = weights(&mut rng, &config, dtype);
        Self { config, weights }
    }

    /// The same in widths that fill panels, and in panels.
    pub(super) fn random_in_panels(seed: u64, format: PanelFormat) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut config = config(&mut rng);
        let widths = [&mut config.hidden_size, &mut config.attention.head_dim, &mut config.vocab_size];
        for width in widths.into_iter().chain([&mut config.feed_forward.intermediate_size]) {
            *width = width.next_multiple_of(GROUP);
        }
        let mut weights = weights(&mut rng, &config, DType::F32);
        let pack = |tensor: &mut Tensor| *tensor = format.pack(tensor).unwrap();
        for layer in &mut weights.layers {
            let blocks = match &mut layer.feed_forward {
                FeedForwardWeights::Dense(block) => std::slice::from_mut(block),
                FeedForwardWeights::Experts { experts, .. } => experts,
            };
            blocks.iter_mut().flat_map(|block| [&mut block.gate_up_proj, &mut block.down_proj]).for_each(pack);
            [&mut layer.qkv_proj, &mut layer.o_proj].into_iter().for_each(pack);
        }
        let Head::Logits(lm_head) = &mut weights.head else { panic!("the model has no logits") };
        pack(lm_head);
        if config.tie_word_embeddings {
            weights.embed_tokens = lm_head.clone();
        }
        Self { config, weights }
    }

    /// On the emulated GPU, or on a real one where `TRAMONTANE_TEST_DEVICE` says so.
    pub(super) fn gpu_decoder(&self, dtype: DType, emulated: Emulated) -> Box<dyn ForwardPass> {
        let cache = KvCacheConfig { num_blocks: NUM_BLOCKS, block_size: BLOCK_SIZE, dtype };
        let limits = GpuLimits { max_tokens: NUM_BLOCKS * BLOCK_SIZE, max_sequences: NUM_BLOCKS };
        gpu_decoder(self.config.clone(), &self.weights, (cache, limits), emulated)
    }

    pub(super) fn decoder(&self, cache_dtype: DType) -> Decoder {
        let cache = KvCacheConfig { num_blocks: NUM_BLOCKS, block_size: BLOCK_SIZE, dtype: cache_dtype };
        Decoder::new(self.config.clone(), self.weights.clone(), cache).unwrap()
    }

    pub(super) fn tokens(&self, seed: u64, len: usize) -> Vec<u32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..len).map(|_| rng.random_range(0..self.config.vocab_size as u32)).collect()
    }
}

fn gpu_decoder(
    config: Config,
    weights: &Weights,
    (cache, limits): (KvCacheConfig, GpuLimits),
    emulated: Emulated,
) -> Box<dyn ForwardPass> {
    #[cfg(feature = "cuda")]
    if std::env::var("TRAMONTANE_TEST_DEVICE").is_ok_and(|device| device == "cuda") {
        let device = tramontane_kernels::gpu::cuda::Cuda::open(0).unwrap();
        return Box::new(GpuDecoder::new(config, weights, cache, limits, device).unwrap());
    }
    Box::new(GpuDecoder::new(config, weights, cache, limits, emulated).unwrap())
}

fn pick<T: Copy>(rng: &mut impl Rng, from: &[T]) -> T {
    from[rng.random_range(0..from.len())]
}

fn config(rng: &mut impl Rng) -> Config {
    let num_key_value_heads = pick(rng, &[1, 2, 3]);
    let num_hidden_layers = rng.random_range(1..=3);
    let original_max_position_embeddings = pick(rng, &[4, 16]);
    let scaling = match rng.random_range(0..4) {
        0 | 1 => RopeScaling::None,
        2 => RopeScaling::Linear { factor: 2.0 },
        _ => RopeScaling::Yarn(YarnConfig {
            factor: 4.0,
            original_max_position_embeddings,
            beta_fast: pick(rng, &[32.0, 4.0]),
            beta_slow: pick(rng, &[1.0, 0.25]),
            attention_factor: pick(rng, &[1.0, 1.2]),
            truncate: rng.random(),
        }),
    };
    let experts = rng
        .random::<bool>()
        .then(|| ExpertsConfig { num_experts: pick(rng, &[4, 8]), experts_per_token: pick(rng, &[1, 2, 3]) });
    let temperature =
        rng.random::<bool>().then_some(AttentionTemperature { beta: 0.5, original_max_position_embeddings });
    Config {
        vocab_size: rng.random_range(16..80),
        hidden_size: rng.random_range(9..70),
        num_hidden_layers,
        attention: AttentionConfig {
            num_attention_heads: num_key_value_heads * pick(rng, &[1, 2, 4, 8]),
            num_key_value_heads,
            head_dim: pick(rng, &[2, 6, 8, 16, 34, 64]),
            windows: (0..num_hidden_layers).map(|_| pick(rng, &[None, Some(1), Some(5), Some(40)])).collect(),
            temperature,
        },
        feed_forward: FeedForwardConfig { intermediate_size: rng.random_range(5..90), experts },
        rms_norm_eps: 1e-5,
        rope: RopeConfig { theta: pick(rng, &[1e4, 1e6]), scaling },
        tie_word_embeddings: rng.random(),
        max_position_embeddings: NUM_BLOCKS * BLOCK_SIZE,
    }
}

fn matrix(rng: &mut impl Rng, rows: usize, columns: usize, dtype: DType) -> Tensor {
    let magnitude = (3.0 / columns as f32).sqrt();
    let values: Vec<f32> = (0..rows * columns).map(|_| rng.random_range(-magnitude..magnitude)).collect();
    Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn norm(rng: &mut impl Rng, width: usize) -> Tensor {
    let values: Vec<f32> = (0..width).map(|_| rng.random_range(0.5..1.5)).collect();
    Tensor::from_vec(values, width, &Device::Cpu).unwrap()
}

fn weights(rng: &mut impl Rng, config: &Config, dtype: DType) -> Weights {
    let hidden = config.hidden_size;
    let attention = &config.attention;
    let q_width = attention.num_attention_heads * attention.head_dim;
    let qkv_width = q_width + 2 * attention.num_key_value_heads * attention.head_dim;
    let width = config.feed_forward.intermediate_size;
    let swiglu = |rng: &mut _| SwiGluWeights {
        gate_up_proj: matrix(rng, 2 * width, hidden, dtype),
        down_proj: matrix(rng, hidden, width, dtype),
    };
    let embed_tokens = matrix(rng, config.vocab_size, hidden, dtype);
    let mut layers = Vec::new();
    for _ in 0..config.num_hidden_layers {
        layers.push(LayerWeights {
            input_layernorm: norm(rng, hidden),
            qkv_proj: matrix(rng, qkv_width, hidden, dtype),
            o_proj: matrix(rng, hidden, q_width, dtype),
            post_attention_layernorm: norm(rng, hidden),
            feed_forward: match config.feed_forward.experts {
                None => FeedForwardWeights::Dense(swiglu(rng)),
                Some(experts) => FeedForwardWeights::Experts {
                    gate: matrix(rng, experts.num_experts, hidden, dtype),
                    experts: (0..experts.num_experts).map(|_| swiglu(rng)).collect(),
                },
            },
        });
    }
    let lm_head = match config.tie_word_embeddings {
        true => embed_tokens.clone(),
        false => matrix(rng, config.vocab_size, hidden, dtype),
    };
    Weights { embed_tokens, layers, norm: norm(rng, hidden), head: Head::Logits(lm_head) }
}

/// A sequence on its way through the model.
#[derive(Clone)]
pub(super) struct Progress {
    pub(super) tokens: Vec<u32>,
    /// Tokens from here on were generated.
    pub(super) prompt_len: usize,
    pub(super) blocks: Vec<u32>,
    pub(super) done: usize,
}

impl Progress {
    pub(super) fn new(tokens: Vec<u32>, blocks: Vec<u32>) -> Self {
        Self { prompt_len: tokens.len(), tokens, blocks, done: 0 }
    }
}

/// A batch of the next `chunk` tokens of each sequence, all rows wanted.
pub(super) fn batch_of(sequences: &mut [(&mut Progress, usize)]) -> Batch {
    let mut batch = Batch::default();
    for (progress, chunk) in sequences {
        let query_start = batch.n_tokens();
        for position in progress.done..progress.done + *chunk {
            let block = progress.blocks[position / BLOCK_SIZE];
            batch.token_ids.push(progress.tokens[position]);
            batch.positions.push(position as u32);
            batch.slots.push(block * BLOCK_SIZE as u32 + (position % BLOCK_SIZE) as u32);
        }
        progress.done += *chunk;
        batch.sequences.push(BatchSequence {
            query_start,
            query_len: *chunk,
            context_len: progress.done,
            block_table: progress.blocks[..progress.done.div_ceil(BLOCK_SIZE)].to_vec(),
            generated: progress.done - progress.prompt_len.clamp(progress.done - *chunk, progress.done),
        });
    }
    batch.output_rows = (0..batch.n_tokens() as u32).collect();
    batch
}

/// What every token of one sequence is pooled to, computed alone in one chunk: `(tokens, pooled_width)`.
pub(super) fn pooled_alone(decoder: &mut dyn ForwardPass, tokens: &[u32], prompt_len: usize) -> Vec<f32> {
    let blocks = (0..tokens.len().div_ceil(BLOCK_SIZE) as u32).collect();
    let mut progress = Progress { prompt_len, ..Progress::new(tokens.to_vec(), blocks) };
    let mut batch = batch_of(&mut [(&mut progress, tokens.len())]);
    batch.pooled_rows = std::mem::take(&mut batch.output_rows);
    decoder.forward(&batch).unwrap().pooled
}

/// Logits of every token of one sequence, computed alone in one chunk: `(tokens, vocab_size)`.
pub(super) fn alone(decoder: &mut dyn ForwardPass, tokens: &[u32]) -> Vec<f32> {
    generated_alone(decoder, tokens, tokens.len())
}

/// The same of a sequence whose tokens after `prompt_len` were generated.
pub(super) fn generated_alone(decoder: &mut dyn ForwardPass, tokens: &[u32], prompt_len: usize) -> Vec<f32> {
    let blocks = (0..tokens.len().div_ceil(BLOCK_SIZE) as u32).collect();
    let mut progress = Progress { prompt_len, ..Progress::new(tokens.to_vec(), blocks) };
    let batch = batch_of(&mut [(&mut progress, tokens.len())]);
    decoder.forward(&batch).unwrap().values
}
