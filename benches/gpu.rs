//! What a decode step and a prefill cost on a GPU, how near its kernels for few rows and its decode attention come to a
//! copy's bandwidth, and whether replays of a recorded step take memory.
//!
//! `cargo bench --features cuda --bench gpu -- OUT.json` measures random bf16 weights of the shape of Mistral 7B v0.3 and
//! writes flat keys; `--emulated` instead of the file runs the same code on the emulated device with a shape that takes
//! seconds, whose times mean nothing: it shows that the measuring works.
//!
//! Times are of whole steps. Of decode: the inputs' upload, the replayed graph with the choice of tokens, and those in the
//! host's memory, one step ahead. Of a prompt: the same with logits, nothing ahead. Kernels alone read
//! random numbers, for a card moves and multiplies zeros faster than anything else.

#![allow(missing_docs, reason = "a program")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use candle_core::{DType, Tensor};
use half::bf16;
use tramontane::model::config::{AttentionConfig, Config, FeedForwardConfig, RopeConfig, RopeScaling};
use tramontane::model::gpu::{GpuDecoder, GpuLimits};
use tramontane::model::weights::{FeedForwardWeights, Head, LayerWeights, SwiGluWeights, Weights};
use tramontane::model::{ForwardPass, KvCacheConfig, Pipeline};
use tramontane::types::{Batch, BatchSequence, TokenChoice};
use tramontane_kernels::gpu::{Device, DevicePointer, Float16, Launch};
use tramontane_kernels::linear::cuda::{Epilogue, Family, Linear, Workspace};
use tramontane_kernels::paged_attention::cuda::{PagedDecode, PagedKeys};
use tramontane_kernels::{AttentionParams, KvGeometry};

const BLOCK_SIZE: usize = 16;
/// Of each measurement, after a first call that is not counted.
const REPEATS: usize = 10;

/// Of decode steps of several sequences.
const MANY_ROWS: [usize; 4] = [32, 64, 128, 256];

/// What is measured on which shape.
struct Plan {
    config: Config,
    /// Sequences and context of decode steps.
    decode: Vec<(usize, usize)>,
    /// Tokens of prompts.
    prefill: Vec<usize>,
    /// Bytes of the copy whose bandwidth is the ceiling.
    copy_bytes: usize,
    /// Rows of the square product that is measured.
    product: usize,
    /// Contexts of decode attention alone.
    attention: Vec<usize>,
    /// Tokens of its sequences together: more than fit into a cache.
    attention_tokens: usize,
    /// Replays of a decode step, after which as much memory should be taken as before.
    replays: usize,
    /// Bytes of the device's memory that are taken, where it can tell.
    used_memory: fn() -> Option<u64>,
}

/// Flat keys and what was measured.
type Results = BTreeMap<String, f64>;

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match asked.as_slice() {
        [emulated] if emulated == "--emulated" => {
            let results = measure(tramontane_kernels::gpu::Emulated::default, &tiny());
            println!("{}", serde_json::to_string_pretty(&results).expect("numbers"));
        }
        #[cfg(feature = "cuda")]
        [out] => on_cuda(out),
        _ => println!("nothing measured: give --emulated, or with the feature cuda a file for the results"),
    }
}

#[cfg(feature = "cuda")]
fn on_cuda(out: &str) {
    use tramontane_kernels::gpu::cuda::{self, Cuda};
    let card = cuda::properties(0).expect("a GPU");
    let results = measure(|| Cuda::open(0).expect("a GPU"), &mistral_7b());
    let mut report = serde_json::json!({
        "card": card.name,
        "driver_cuda": card.driver,
        "memory_bytes": card.total_memory,
        "version": env!("CARGO_PKG_VERSION"),
    });
    for (key, value) in results {
        report[key] = value.into();
    }
    std::fs::write(out, serde_json::to_string_pretty(&report).expect("numbers") + "\n").expect("the file for results");
}

/// Kernels alone on one device, then the decoder on another, which has the first one's memory again.
fn measure<D: Device + Send>(open: impl Fn() -> D, plan: &Plan) -> Results {
    let mut results = Results::new();
    kernels(&open(), plan, &mut results);
    decoder(open(), plan, &mut results);
    results
}

/// Our own copy and large product, and the products of decode steps of one row and of many.
fn kernels(device: &impl Device, plan: &Plan, results: &mut Results) {
    let copy = copy_gb_s(device, plan.copy_bytes);
    results.insert("copy_gb_s".to_owned(), copy);
    let n = plan.product;
    let tflop_s = |seconds: f64| 2.0 * (n as f64).powi(3) / seconds / 1e12;
    let weight = noise(device, n * n * Float16::BYTES);
    let mut launches = product_launches(device, (n, n, n), Family::Tiled, &[weight]);
    if device.has_library() {
        results.insert("cublas_bf16_tflop_s".to_owned(), tflop_s(graph_seconds(device, &launches, 1)));
    }
    launches.iter_mut().for_each(|launch| launch.product = None);
    results.insert("tiled_bf16_tflop_s".to_owned(), tflop_s(graph_seconds(device, &launches, 1)));
    let config = &plan.config;
    let (hidden, width) = (config.hidden_size, config.feed_forward.intermediate_size);
    let attention = &config.attention;
    let q_width = attention.num_attention_heads * attention.head_dim;
    let qkv_width = q_width + 2 * attention.num_key_value_heads * attention.head_dim;
    for (name, in_features, out_features) in [
        ("qkv_proj", hidden, qkv_width),
        ("o_proj", q_width, hidden),
        ("gate_up_proj", hidden, 2 * width),
        ("down_proj", width, hidden),
        ("lm_head", hidden, config.vocab_size),
    ] {
        let bytes = in_features * out_features * Float16::BYTES;
        // More copies of the weight than fit into a cache.
        let copies = (plan.copy_bytes / bytes).clamp(1, 16);
        let weights: Vec<_> = (0..copies).map(|_| noise(device, bytes)).collect();
        let gb_s = |rows: usize| {
            let family = Family::Streamed(workspace(device, rows));
            let launches = product_launches(device, (rows, in_features, out_features), family, &weights);
            bytes as f64 / graph_seconds(device, &launches, copies) / 1e9
        };
        let rate = gb_s(1);
        results.insert(format!("gemv_gb_s.{name}"), rate);
        for rows in MANY_ROWS {
            results.insert(format!("rows{rows}_gb_s.{name}"), gb_s(rows));
        }
        // A copy reads and writes, a product reads.
        results.insert(format!("gemv_fraction.{name}"), rate / copy);
    }
    for &context in &plan.attention {
        let rate = attention_gb_s(device, attention, (plan.attention_tokens / context, context));
        results.insert(format!("attention_gb_s.{}", short(context)), rate);
        results.insert(format!("attention_fraction.{}", short(context)), rate / copy);
    }
}

/// Bytes read and written per second by the kernel that gathers rows, all of them in order.
fn copy_gb_s(device: &impl Device, bytes: usize) -> f64 {
    use tramontane_kernels::embedding::cuda::GatherRows;
    let (width, element_bytes) = (4096, 4);
    let rows = bytes / (width * element_bytes);
    let (x, out) = (noise(device, bytes), allocate(device, bytes));
    let order: Vec<u32> = (0..rows as u32).collect();
    let indices = upload(device, bytemuck::cast_slice(&order));
    let launch = GatherRows { x, indices, out, size: rows, width, rows, element_bytes }.launch();
    2.0 * bytes as f64 / graph_seconds(device, &[launch], 1) / 1e9
}

/// Products of one kind, one with each weight.
fn product_launches(
    device: &impl Device,
    (rows, in_features, out_features): (usize, usize, usize),
    family: Family,
    weights: &[DevicePointer],
) -> Vec<Launch> {
    let x = noise(device, rows * in_features * Float16::BYTES);
    let out = allocate(device, rows * out_features * 4);
    let (epilogue, dtype) = (Epilogue::StoreF32, Float16::Bf16);
    let product = |&weight| Linear { x, weight, out, rows, in_features, out_features, epilogue, dtype }.launch(family);
    weights.iter().map(product).collect()
}

fn workspace(device: &impl Device, rows: usize) -> Workspace {
    Workspace {
        partials: allocate(device, Workspace::partials_len(rows) * 4),
        counters: allocate(device, Workspace::counters_len(rows) * 4),
        capacity: device.capacity(),
    }
}

/// Keys and values read per second by decode attention of `n` sequences.
fn attention_gb_s(device: &impl Device, attention: &AttentionConfig, (n, context): (usize, usize)) -> f64 {
    let AttentionConfig { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = *attention;
    let blocks = context.div_ceil(BLOCK_SIZE);
    let geometry = KvGeometry { num_blocks: n * blocks, block_size: BLOCK_SIZE };
    let token_bytes = 2 * kv_heads * head_dim * Float16::BYTES;
    let row_bytes = heads * head_dim * Float16::BYTES;
    // Blocks of a sequence lie apart, as they do in use.
    let tables: Vec<u32> = (0..n).flat_map(|row| (0..blocks).map(move |block| (block * n + row) as u32)).collect();
    let keys = PagedKeys {
        cache: noise(device, n * blocks * BLOCK_SIZE * token_bytes),
        geometry,
        kv_heads,
        head_dim,
        context_lens: upload(device, bytemuck::cast_slice(&vec![context as u32; n])),
        block_tables: upload(device, bytemuck::cast_slice(&tables)),
        table_stride: blocks,
        dtype: Float16::Bf16,
    };
    let decode = PagedDecode {
        q: noise(device, n * row_bytes),
        out: allocate(device, n * row_bytes),
        keys,
        partials: allocate(device, 4 * PagedDecode::most_partials(n, heads, head_dim)),
        counters: allocate(device, 4 * PagedDecode::most_counters(n, heads, kv_heads)),
        n,
        heads,
        max_context: context,
        params: AttentionParams { softmax_scale: (head_dim as f32).powf(-0.5), window: None },
    };
    (n * context * token_bytes) as f64 / graph_seconds(device, &[decode.launch()], 1) / 1e9
}

/// Of one of `parts` equal parts of some launches.
#[expect(unsafe_code, reason = "device memory is addressed by number")]
fn graph_seconds(device: &impl Device, launches: &[Launch], parts: usize) -> f64 {
    let wait = allocate(device, 4);
    let run = |graph: &_, times: usize| {
        // SAFETY: the launches are on memory of their sizes.
        unsafe {
            for _ in 0..times {
                device.replay(graph).expect("a launch");
            }
            device.download(wait, &mut [0; 4]).expect("a copy");
        }
    };
    // SAFETY: as above.
    let graph = unsafe { device.record(launches) }.expect("a recording");
    run(&graph, 1);
    let started = Instant::now();
    run(&graph, REPEATS);
    started.elapsed().as_secs_f64() / (REPEATS * parts) as f64
}

/// Decode steps and prefills of the whole model.
fn decoder<D: Device + Send>(device: D, plan: &Plan, results: &mut Results) {
    let longest = plan.decode.iter().map(|&(_, context)| context).chain(plan.prefill.iter().copied()).max();
    let tokens = plan.decode.iter().map(|&(n, context)| n * context.next_multiple_of(BLOCK_SIZE)).max();
    let (longest, tokens) = (longest.unwrap_or(1), tokens.unwrap_or(1));
    let config = Config { max_position_embeddings: longest, ..plan.config.clone() };
    let num_blocks = tokens.max(longest).div_ceil(BLOCK_SIZE);
    let cache = KvCacheConfig { num_blocks, block_size: BLOCK_SIZE, dtype: DType::BF16 };
    let limits = GpuLimits { max_tokens: longest, max_sequences: 256 };
    let weights = weights(&config);
    let started = Instant::now();
    let mut decoder = GpuDecoder::new(config, &weights, cache, limits, device).expect("a decoder");
    results.insert("upload_s".to_owned(), started.elapsed().as_secs_f64());
    drop(weights);
    fill_cache(&mut decoder, num_blocks, longest);
    for &(n, context) in &plan.decode {
        let (milliseconds, start_us) = decode_steps(&mut decoder, &decode_batch(n, context));
        results.insert(format!("decode_ms.b{n}.{}", short(context)), milliseconds);
        results.insert(format!("start_us.b{n}.{}", short(context)), start_us);
    }
    assert!(decoder.num_recorded() >= plan.decode.len(), "decode steps are not recorded");
    if let Some(drift) = replay_drift(&mut decoder, plan) {
        results.insert("replay_drift_bytes".to_owned(), drift);
    }
    for &tokens in &plan.prefill {
        let blocks: Vec<u32> = (0..tokens.div_ceil(BLOCK_SIZE) as u32).collect();
        let milliseconds = forward_ms(&mut decoder, &prefill_batch(&blocks));
        results.insert(format!("prefill_ms.{}", short(tokens)), milliseconds);
    }
}

/// Bytes of the device's memory that repeated decode steps leave taken. The driver counts in pieces of 2 MiB, so that
/// less than some KiB per step can hide.
fn replay_drift(decoder: &mut dyn ForwardPass, plan: &Plan) -> Option<f64> {
    let &(n, context) = plan.decode.first()?;
    let batch = decode_batch(n, context);
    let choices = greedy(&batch);
    let pipeline = decoder.pipeline().expect("a GPU chooses tokens");
    let mut step = || {
        pipeline.start(&batch, &choices).expect("a step");
        pipeline.finish().expect("its tokens");
    };
    step();
    let before = (plan.used_memory)();
    (0..plan.replays).for_each(|_| step());
    Some((plan.used_memory)()? as f64 - before? as f64)
}

/// The most likely token of every row.
fn greedy(batch: &Batch) -> Vec<Option<TokenChoice<'static>>> {
    let choice = TokenChoice {
        uniform: 0.0,
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        allowed_token_ids: None,
        biases: Vec::new(),
        penalties: None,
        logprobs: None,
    };
    vec![Some(choice); batch.output_rows.len()]
}

/// Milliseconds of a decode step whose tokens the device chooses, each started before the last one's are read, as the
/// engine does it; and the median of the microseconds that the host needs to start one.
fn decode_steps(decoder: &mut dyn ForwardPass, batch: &Batch) -> (f64, f64) {
    let choices = greedy(batch);
    let pipeline = decoder.pipeline().expect("a GPU chooses tokens");
    let mut host = Vec::new();
    let mut start = |pipeline: &mut dyn Pipeline| {
        let started = Instant::now();
        pipeline.start(batch, &choices).expect("a step");
        host.push(started.elapsed());
    };
    // The first records the graph.
    start(pipeline);
    pipeline.finish().expect("its tokens");
    start(pipeline);
    let started = Instant::now();
    for _ in 0..REPEATS {
        start(pipeline);
        pipeline.finish().expect("the tokens of the step before");
    }
    let seconds = started.elapsed().as_secs_f64() / REPEATS as f64;
    pipeline.finish().expect("the last tokens");
    let mut host = host.split_off(2);
    host.sort();
    (seconds * 1e3, host[host.len() / 2].as_secs_f64() * 1e6)
}

/// The median of some calls.
fn forward_ms(decoder: &mut dyn ForwardPass, batch: &Batch) -> f64 {
    decoder.forward(batch).expect("a step");
    let mut times: Vec<Duration> = (0..REPEATS)
        .map(|_| {
            let started = Instant::now();
            decoder.forward(batch).expect("a step");
            started.elapsed()
        })
        .collect();
    times.sort();
    times[REPEATS / 2].as_secs_f64() * 1e3
}

/// Gives every block of the cache keys and values of some text.
fn fill_cache(decoder: &mut dyn ForwardPass, num_blocks: usize, longest: usize) {
    let blocks: Vec<u32> = (0..num_blocks as u32).collect();
    for blocks in blocks.chunks(longest / BLOCK_SIZE) {
        decoder.forward(&prefill_batch(blocks)).expect("a prompt");
    }
}

/// A token for each of `n` sequences.
fn decode_batch(n: usize, context: usize) -> Batch {
    let blocks = context.div_ceil(BLOCK_SIZE);
    let mut batch = Batch::default();
    for sequence in 0..n {
        let block_table: Vec<u32> = (0..blocks).map(|block| (sequence * blocks + block) as u32).collect();
        let last = context - 1;
        batch.token_ids.push(token(sequence));
        batch.positions.push(last as u32);
        batch.slots.push(block_table[last / BLOCK_SIZE] * BLOCK_SIZE as u32 + (last % BLOCK_SIZE) as u32);
        batch.output_rows.push(sequence as u32);
        batch.sequences.push(BatchSequence {
            query_start: sequence,
            query_len: 1,
            context_len: context,
            block_table,
            generated: 1,
        });
    }
    batch
}

/// A prompt that fills these blocks, in one go, of which the last token's logits are wanted.
fn prefill_batch(blocks: &[u32]) -> Batch {
    let tokens = blocks.len() * BLOCK_SIZE;
    let slots = |&block: &u32| block * BLOCK_SIZE as u32..(block + 1) * BLOCK_SIZE as u32;
    Batch {
        token_ids: (0..tokens).map(token).collect(),
        positions: (0..tokens as u32).collect(),
        slots: blocks.iter().flat_map(slots).collect(),
        sequences: vec![BatchSequence {
            query_start: 0,
            query_len: tokens,
            context_len: tokens,
            block_table: blocks.to_vec(),
            generated: 0,
        }],
        output_rows: vec![tokens as u32 - 1],
        pooled_rows: Vec::new(),
    }
}

/// Tokens that differ, of any vocabulary of at least 61.
fn token(index: usize) -> u32 {
    (index * 37 % 61) as u32
}

fn short(tokens: usize) -> String {
    if tokens.is_multiple_of(1024) { format!("{}k", tokens / 1024) } else { tokens.to_string() }
}

/// Small numbers that look random.
fn pattern() -> Vec<bf16> {
    (0..1 << 20)
        .map(|i: u32| bf16::from_f32((i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1.7e7 * 0.04 - 0.02))
        .collect()
}

/// Those of a model of this shape.
fn weights(config: &Config) -> Weights {
    let device = candle_core::Device::Cpu;
    let pattern = pattern();
    let matrix = |rows: usize, columns: usize| {
        let values: Vec<bf16> = pattern.iter().cycle().take(rows * columns).copied().collect();
        Tensor::from_vec(values, (rows, columns), &device).expect("a matrix")
    };
    let norm = || Tensor::ones(config.hidden_size, DType::F32, &device).expect("a vector");
    let (hidden, width) = (config.hidden_size, config.feed_forward.intermediate_size);
    let attention = &config.attention;
    let q_width = attention.num_attention_heads * attention.head_dim;
    let kv_width = attention.num_key_value_heads * attention.head_dim;
    // All layers share their tensors on the host; on the device each has its own.
    let layer = LayerWeights {
        input_layernorm: norm(),
        qkv_proj: matrix(q_width + 2 * kv_width, hidden),
        o_proj: matrix(hidden, q_width),
        post_attention_layernorm: norm(),
        feed_forward: FeedForwardWeights::Dense(SwiGluWeights {
            gate_up_proj: matrix(2 * width, hidden),
            down_proj: matrix(hidden, width),
        }),
    };
    Weights {
        embed_tokens: matrix(config.vocab_size, hidden),
        layers: vec![layer; config.num_hidden_layers],
        norm: norm(),
        head: Head::Logits(matrix(config.vocab_size, hidden)),
    }
}

/// Mistral 7B v0.3.
#[cfg(feature = "cuda")]
fn mistral_7b() -> Plan {
    let long = [1, 8, 32].map(|n| (n, 8192));
    let decode = [1, 8, 32, 128, 256].map(|n| (n, 1024)).into_iter().chain(long).collect();
    Plan {
        config: config((32_768, 4096, 32), (32, 8, 128), 14_336),
        decode,
        prefill: vec![128, 1024, 8192],
        copy_bytes: 2 << 30,
        product: 8192,
        attention: vec![2048, 8192],
        attention_tokens: 256 << 10,
        replays: 1000,
        used_memory: || {
            let card = tramontane_kernels::gpu::cuda::properties(0).ok()?;
            Some(card.total_memory - card.free_memory)
        },
    }
}

fn tiny() -> Plan {
    Plan {
        config: config((512, 64, 2), (4, 2, 32), 96),
        decode: vec![(1, 40), (3, 40)],
        prefill: vec![32],
        copy_bytes: 64 << 10,
        product: 64,
        attention: vec![48],
        attention_tokens: 150,
        replays: 3,
        used_memory: || None,
    }
}

fn config(
    (vocab_size, hidden_size, num_hidden_layers): (usize, usize, usize),
    (num_attention_heads, num_key_value_heads, head_dim): (usize, usize, usize),
    intermediate_size: usize,
) -> Config {
    Config {
        vocab_size,
        hidden_size,
        num_hidden_layers,
        attention: AttentionConfig {
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            windows: vec![None; num_hidden_layers],
            temperature: None,
        },
        feed_forward: FeedForwardConfig { intermediate_size, experts: None },
        rms_norm_eps: 1e-5,
        rope: RopeConfig { theta: 1e6, scaling: RopeScaling::None },
        tie_word_embeddings: false,
        max_position_embeddings: 32_768,
    }
}

fn allocate(device: &impl Device, bytes: usize) -> DevicePointer {
    device.allocate(bytes).expect("memory")
}

/// So many bytes of [`pattern`].
#[expect(unsafe_code, reason = "device memory is addressed by number")]
fn noise(device: &impl Device, bytes: usize) -> DevicePointer {
    let pointer = allocate(device, bytes);
    let pattern = pattern();
    let part: &[u8] = bytemuck::cast_slice(&pattern);
    for begin in (0..bytes).step_by(part.len()) {
        let len = part.len().min(bytes - begin);
        // SAFETY: the allocation goes on for at least `len` bytes.
        unsafe { device.upload(pointer.plus(begin), &part[..len]) }.expect("a copy");
    }
    pointer
}

#[expect(unsafe_code, reason = "device memory is addressed by number")]
fn upload(device: &impl Device, bytes: &[u8]) -> DevicePointer {
    let pointer = allocate(device, bytes.len());
    // SAFETY: the allocation is as long as the bytes.
    unsafe { device.upload(pointer, bytes) }.expect("a copy");
    pointer
}
