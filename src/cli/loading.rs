//! From a model's name to a model that answers, for every subcommand that computes. Two steps: [`prepare`]
//! checks everything that can be checked without reading weights, [`Prepared::load`] reads them.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail};
use candle_core::Device;
use tramontane_kernels::{PanelFormat, threads};

use super::{
    accelerator::{self, Accelerator},
    draft_model::DraftModel,
    locate::{self, Located, Network},
    machine,
    memory_plan::{self, MemoryPlan, Needs},
    progress::TaskProgress,
    vouching::Vouched,
};
#[cfg(feature = "cuda")]
use crate::model::{self, gpu::GpuDecoder};
#[cfg(feature = "cuda")]
use tramontane_kernels::gpu::cuda::Cuda;

use crate::{
    api::{GenerationDefaults, GenerationParams, ServedModel},
    bench::engine::{Limits, ModelSize},
    config::{
        ByteSize, Config, Dtype, EngineLimits, MessageOrder, ModelConfig, Quantize, QuantizeCache, Speculation,
        TemplateChoice,
    },
    engine::{EngineConfig, EngineHandle, SpeculationMode, draft::Drafter},
    model::{
        Decoder, ForwardPass, KvCacheConfig,
        checkpoint::{
            self, CacheOutcome, Checkpoint, CheckpointError, ComputeDtype, NoProgress, PackedCache, WeightTypes,
        },
        gpu::GpuLimits,
    },
    prompt::{self, Codec, CodecOptions},
    telemetry::{EngineMetrics, logs::LogStyle},
};

/// Multiply-adds and the like per second and thread that even a slow processor reaches: an engine whose step
/// takes longer than this allows is taken to be stuck.
const SLOW_OPERATIONS_PER_S: f64 = 4e9;

/// A checkpoint that can be served, not yet in memory.
pub(super) struct Prepared {
    names: Vec<String>,
    checkpoint: Checkpoint,
    codec: Codec,
    tokenizer: PathBuf,
    vouched: Vouched,
    defaults: GenerationDefaults,
    accelerator: Accelerator,
    types: WeightTypes,
    packed_cache: Option<PackedCache>,
    memory: MemoryPlan,
    engine: EngineConfig,
    draft_model: Option<DraftModel>,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "of a GPU's decoder"))]
    gpu_limits: GpuLimits,
}

/// Finds the model and checks its metadata, its tokenizer, and that it fits this machine.
pub(super) fn prepare(config: &Config, network: Network, style: LogStyle) -> Result<Prepared> {
    prepare_located(config, locate::checkpoint(&config.model, network, style)?)
}

/// The same once the model has been found.
pub(super) fn prepare_located(config: &Config, located: Located) -> Result<Prepared> {
    limit_threads(config.model.threads);
    let accelerator = accelerator::choose(config.model.device)?;
    // Before anything else is made of these files.
    let vouched = Vouched::check(config, &located)?;
    let checkpoint = open(&located.directory)?;
    let tokenizer = Codec::tokenizer_file(&located.directory, &codec_options(&config.model)?)
        .with_context(|| format!("no tokenizer for {}", located.directory.display()))?;
    vouched.check_tokenizer(&tokenizer)?;
    let codec = open_codec(&located.directory, &config.model)?;
    if codec.vocab_size() > checkpoint.config().vocab_size {
        let (tokens, rows) = (codec.vocab_size(), checkpoint.config().vocab_size);
        bail!("the tokenizer has {tokens} tokens, but the model's vocabulary only {rows}: they do not belong together");
    }
    let defaults = generation_defaults(checkpoint.generation_defaults(), &codec)?;
    let (types, needs) = match accelerator.is_gpu() {
        false => {
            let types = cpu_types(&config.model, &checkpoint)
                .with_context(|| format!("cannot serve {}", located.directory.display()))?;
            (types, cpu_needs(&checkpoint, types))
        }
        true => {
            let dtype = gpu_dtype(config.model.dtype, &checkpoint)?;
            (dtype.into(), gpu_needs(&checkpoint, dtype, &config.engine)?)
        }
    };
    let draft_model = DraftModel::prepare(config, &checkpoint, accelerator.is_gpu())?;
    let needs = draft_model.as_ref().map_or(needs, |draft_model| draft_model.add_to(needs));
    let memory = memory_plan::plan(&config.engine, &needs, accelerator.memory().or_else(machine::memory))?;
    let packed_cache = packed_cache(&config.model.quantize_cache, &located.directory, types);
    let names = match config.model.served_model_name.as_slice() {
        [] => located.names,
        names => names.to_vec(),
    };
    let engine = engine_config(config, &memory, checkpoint.summary().parameters);
    let gpu_limits = accelerator::gpu_limits(&config.engine);
    Ok(Prepared {
        names,
        checkpoint,
        codec,
        tokenizer,
        vouched,
        defaults,
        accelerator,
        types,
        packed_cache,
        memory,
        engine,
        draft_model,
        gpu_limits,
    })
}

impl Prepared {
    /// Reads the weights and hashes their files at the same time, then starts the engine.
    pub(super) fn load(self, style: LogStyle) -> Result<ServedModel> {
        let started = Instant::now();
        let hashes = LazyLock::new(|| self.checkpoint.hashes(&NoProgress));
        let (hashed, decoder) = thread::scope(|scope| {
            let hashed = scope.spawn(|| _ = LazyLock::force(&hashes));
            let decoder = self.decoder(&TaskProgress::new("loading", style), &|| hashes.digest());
            (hashed.join(), decoder)
        });
        let decoder = decoder?;
        hashed.map_err(|_| anyhow!("hashing the weights failed"))?;
        let (digest, weights) = (hashes.digest(), hashes.files().to_vec());
        let drafter = self.drafter(style)?;
        tracing::info!(
            model = self.names.first(),
            device = self.accelerator.name(),
            digest,
            dtype = %self.types,
            weight_bytes = self.checkpoint.weight_bytes(self.types),
            kv_bytes = self.memory.kv_bytes,
            kv_blocks = self.memory.num_blocks,
            max_model_len = self.memory.max_model_len,
            threads = threads::count(),
            instructions = tramontane_kernels::instruction_set(),
            seconds = started.elapsed().as_secs_f64(),
            "model loaded; keys and values have {} for {} tokens",
            ByteSize::new(self.memory.kv_bytes).human(),
            self.memory.num_blocks * self.engine.block_size,
        );
        if !self.accelerator.is_gpu() && tramontane_kernels::instruction_set() == "portable" {
            tracing::warn!("this processor has neither AVX2 nor NEON: plain loops compute, many times slower");
        }
        let name = self.names.first().map_or("", String::as_str);
        let metrics = Arc::new(EngineMetrics::new(name, self.memory.max_model_len));
        metrics.set_cache_config(self.engine.block_size, self.memory.num_blocks);
        let provenance = self.vouched.with_weights(&weights, &self.tokenizer)?;
        tracing::info!(state = provenance.state(), signer = provenance.signer, "where the model comes from");
        Ok(ServedModel {
            provenance,
            engine: EngineHandle::spawn_with_drafter(decoder, drafter, self.engine, Arc::clone(&metrics)),
            names: self.names,
            codec: self.codec,
            metrics,
            defaults: self.defaults,
            max_model_len: self.memory.max_model_len,
            pooling: self.checkpoint.pooling().clone(),
            digest,
        })
    }
}

/// A model in memory, without an engine.
pub(super) struct Loaded {
    pub(super) name: String,
    pub(super) decoder: Decoder,
    pub(super) size: ModelSize,
}

impl Prepared {
    /// How much the cache holds, and how it is cut; steps as the engine cuts them by default.
    pub(super) fn limits(&self) -> Limits {
        let EngineConfig { block_size, num_blocks, max_batched_tokens, .. } = self.engine;
        Limits { block_size, num_blocks, max_batched_tokens }
    }

    pub(super) fn is_gpu(&self) -> bool {
        self.accelerator.is_gpu()
    }

    /// Longest sequence, and most sequences of a step.
    pub(super) fn sequence_limits(&self) -> (usize, usize) {
        (self.engine.max_model_len, self.engine.max_running)
    }

    /// Memory for weights, and for so many blocks of keys and values, in bytes.
    pub(super) fn bytes(&self, num_blocks: usize) -> u64 {
        let block_bytes = self.memory.kv_bytes / self.memory.num_blocks.max(1) as u64;
        self.checkpoint.weight_bytes(self.types).saturating_add(block_bytes.saturating_mul(num_blocks as u64))
    }

    /// Of weights and of the cache.
    pub(super) fn types(&self) -> WeightTypes {
        self.types
    }

    /// The tokenizer.
    pub(super) fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Reads the weights, for measuring them on the CPU without an engine, with a cache of so many blocks that has its
    /// memory.
    pub(super) fn load_alone(self, num_blocks: usize, style: LogStyle) -> Result<Loaded> {
        let config = self.checkpoint.config().clone();
        let digest = || self.checkpoint.digest(&NoProgress);
        let mut decoder = self.cpu_decoder(self.cache(num_blocks), &TaskProgress::new("loading", style), &digest)?;
        decoder.occupy_cache()?;
        let dtype_bytes = self.types.dtype.size_in_bytes() as f64;
        let bytes = |format: Option<PanelFormat>| format.map_or(dtype_bytes, |format| format.bits() / 8.0);
        Ok(Loaded {
            name: self.names.first().cloned().unwrap_or_default(),
            decoder,
            size: ModelSize {
                config,
                weight_bytes: bytes(self.types.panels),
                head_bytes: bytes(self.types.head_panels()),
                kv_bytes: dtype_bytes,
            },
        })
    }

    fn cache(&self, num_blocks: usize) -> KvCacheConfig {
        KvCacheConfig { num_blocks, block_size: self.engine.block_size, dtype: self.types.dtype.dtype() }
    }

    /// `digest` gives that of the weights' files.
    fn cpu_decoder(
        &self,
        cache: KvCacheConfig,
        progress: &TaskProgress,
        digest: &dyn Fn() -> String,
    ) -> Result<Decoder> {
        let weights = match &self.packed_cache {
            None => self.checkpoint.load(self.types, &Device::Cpu, progress)?,
            Some(packed_cache) => {
                let loaded = self.checkpoint.load_through(packed_cache, self.types.dtype, progress, digest);
                let (weights, outcome) = loaded?;
                tell(packed_cache, &outcome);
                weights
            }
        };
        Ok(Decoder::new(self.checkpoint.config().clone(), weights, cache)?)
    }

    fn drafter(&self, style: LogStyle) -> Result<Option<Box<dyn Drafter>>> {
        let Some(draft_model) = &self.draft_model else { return Ok(None) };
        let progress = TaskProgress::new("loading the draft model", style);
        draft_model.load(self.engine.block_size, self.memory.num_blocks, &progress).map(Some)
    }

    fn decoder(&self, progress: &TaskProgress, digest: &dyn Fn() -> String) -> Result<Box<dyn ForwardPass>> {
        let cache = self.cache(self.memory.num_blocks);
        match &self.accelerator {
            Accelerator::Cpu => Ok(Box::new(self.cpu_decoder(cache, progress, digest)?)),
            #[cfg(feature = "cuda")]
            Accelerator::Cuda { ordinal, .. } => {
                // Tables of positions that no sequence can reach would only take memory.
                let config = self.checkpoint.config().clone();
                let config = model::config::Config { max_position_embeddings: self.memory.max_model_len, ..config };
                let device = Cuda::open(*ordinal)?;
                // Layer by layer: the machine's memory need not hold them all.
                let weights = self.checkpoint.source(self.types.dtype, progress);
                Ok(Box::new(GpuDecoder::new(config, &weights, cache, self.gpu_limits, device)?))
            }
        }
    }
}

/// Opens a checkpoint and checks its metadata.
pub(super) fn open(directory: &Path) -> Result<Checkpoint> {
    Checkpoint::open(directory).with_context(|| format!("cannot serve {}", directory.display()))
}

/// Opens the tokenizer with its settings.
pub(super) fn open_codec(directory: &Path, model: &ModelConfig) -> Result<Codec> {
    let options = codec_options(model)?;
    let codec =
        Codec::open(directory, &options).with_context(|| format!("no tokenizer for {}", directory.display()))?;
    Ok(codec.with_message_order(match model.message_order {
        MessageOrder::Lenient => prompt::MessageOrder::Lenient,
        MessageOrder::Strict => prompt::MessageOrder::Strict,
    }))
}

fn codec_options(model: &ModelConfig) -> Result<CodecOptions> {
    Ok(CodecOptions {
        template: match model.template {
            TemplateChoice::Auto => prompt::TemplateChoice::Auto,
            TemplateChoice::Native => prompt::TemplateChoice::Native,
            TemplateChoice::Jinja => prompt::TemplateChoice::Jinja,
        },
        tokenizer_file: model.tokenizer.clone(),
        tokenizer_version: model.tokenizer_version.map(|version| version.to_string().parse()).transpose()?,
    })
}

/// What was asked for, or the checkpoint's dtype. Fails if the checkpoint cannot be quantized like that.
pub(super) fn cpu_types(model: &ModelConfig, checkpoint: &Checkpoint) -> Result<WeightTypes, CheckpointError> {
    let dtype = match model.dtype {
        Dtype::Auto => checkpoint.default_dtype(),
        Dtype::F32 => ComputeDtype::F32,
        Dtype::Bf16 => ComputeDtype::Bf16,
        Dtype::F16 => ComputeDtype::F16,
    };
    let types = match model.quantize {
        Quantize::None => dtype.into(),
        Quantize::Q8 => WeightTypes { dtype, panels: Some(PanelFormat::Q8) },
        Quantize::Q4 => WeightTypes { dtype, panels: Some(PanelFormat::Q4) },
    };
    checkpoint.check_types(types)?;
    Ok(types)
}

/// Where quantized weights are kept, if they are.
fn packed_cache(setting: &QuantizeCache, checkpoint: &Path, types: WeightTypes) -> Option<PackedCache> {
    let Some(PanelFormat::Quantized(format)) = types.panels else { return None };
    match setting {
        QuantizeCache::Off => None,
        QuantizeCache::On => Some(PackedCache::beside(checkpoint, format)),
        QuantizeCache::Directory(directory) => Some(PackedCache::in_directory(directory, checkpoint, format)),
    }
}

/// What became of the cache is a warning where it is not what the operator asked for.
fn tell(cache: &PackedCache, outcome: &CacheOutcome) {
    let path = cache.path().display();
    match outcome {
        CacheOutcome::Used => tracing::info!(%path, "quantized weights were read from their cache"),
        CacheOutcome::Written { bytes, replaced: None } => {
            tracing::info!(%path, bytes, "quantized weights were written to their cache");
        }
        CacheOutcome::Written { bytes, replaced: Some(reason) } => {
            tracing::warn!(%path, reason, bytes, "the cache of quantized weights did not fit and was replaced");
        }
        CacheOutcome::NotWritten { error, refused } => {
            let directory = cache.path().parent().unwrap_or(Path::new("")).display();
            tracing::warn!(
                %path, reason = refused, %error,
                "the cache of quantized weights cannot be written to {directory}; the next start quantizes again"
            );
        }
    }
}

/// The dtype on a GPU, whose kernels compute with 16-bit types.
fn gpu_dtype(asked: Dtype, checkpoint: &Checkpoint) -> Result<ComputeDtype> {
    match (asked, checkpoint.default_dtype()) {
        (Dtype::F32, _) => bail!("dtype = \"f32\": on a GPU it must be bf16 or f16; --device cpu computes in f32"),
        (Dtype::F16, _) | (Dtype::Auto, ComputeDtype::F16) => Ok(ComputeDtype::F16),
        (Dtype::Bf16 | Dtype::Auto, _) => Ok(ComputeDtype::Bf16),
    }
}

/// What a GPU has to hold.
fn gpu_needs(checkpoint: &Checkpoint, dtype: ComputeDtype, limits: &EngineLimits) -> Result<Needs> {
    let config = checkpoint.config();
    let (working_bytes, kv_bytes_per_token) = accelerator::gpu_needs(config, limits)?;
    Ok(Needs { working_bytes, dedicated: true, kv_bytes_per_token, ..cpu_needs(checkpoint, dtype.into()) })
}

/// What the model needs with such weights, keys and values included.
pub(super) fn cpu_needs(checkpoint: &Checkpoint, types: WeightTypes) -> Needs {
    let config = checkpoint.config();
    Needs {
        weight_bytes: checkpoint.weight_bytes(types),
        working_bytes: 0,
        dedicated: false,
        kv_bytes_per_token: KvCacheConfig::bytes_per_token(config, types.dtype.dtype()) as u64,
        max_position_embeddings: config.max_position_embeddings,
    }
}

/// For kernels, and for reading and hashing weights.
fn limit_threads(count: usize) {
    threads::request(count);
    // The only failure is that the pool exists already, as in a second call.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(count).build_global();
}

fn engine_config(config: &Config, memory: &MemoryPlan, parameters: u64) -> EngineConfig {
    let limits = &config.engine;
    let defaults = EngineConfig::default();
    let token_s = 2.0 * parameters as f64 / (SLOW_OPERATIONS_PER_S * config.model.threads as f64);
    EngineConfig {
        block_size: limits.block_size,
        num_blocks: memory.num_blocks,
        max_running: limits.max_running,
        max_waiting: limits.max_waiting,
        max_batched_tokens: limits.max_batched_tokens,
        max_model_len: memory.max_model_len,
        prefix_caching: limits.prefix_caching.is_on(),
        speculation: match limits.speculation {
            Speculation::Auto => SpeculationMode::Auto,
            Speculation::Off => SpeculationMode::Off,
        },
        max_step_ms: defaults.max_step_ms,
        max_step_us_per_token: (token_s * 1e6) as u64,
    }
}

/// The checkpoint's recommendations, checked as a request's values would be: every request inherits them.
fn generation_defaults(stated: &checkpoint::GenerationDefaults, codec: &Codec) -> Result<GenerationDefaults> {
    let single = |value: Option<f64>| value.map(|value| value as f32);
    let mut eos_token_ids = stated.eos_token_ids.clone();
    if eos_token_ids.is_empty() {
        eos_token_ids.extend(codec.eos_id());
    }
    let defaults = GenerationDefaults {
        temperature: single(stated.temperature),
        top_p: single(stated.top_p),
        top_k: stated.top_k.map(|top_k| u32::try_from(top_k).unwrap_or(0)),
        min_p: single(stated.min_p),
        repetition_penalty: single(stated.repetition_penalty),
        eos_token_ids,
    };
    GenerationParams::new(&defaults).sampling.validate().context("generation_config.json")?;
    Ok(defaults)
}
