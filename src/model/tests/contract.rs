//! Broken batches, weights and configurations are refused with what is wrong.

use candle_core::{DType, Device, Tensor};
use expect_test::{Expect, expect};
use tramontane_kernels::PanelFormat;
use tramontane_kernels::gpu::Emulated;

use super::random::{BLOCK_SIZE, Model, NUM_BLOCKS, Progress, alone, batch_of};
use crate::model::gpu::{GpuDecoder, GpuLimits};
use crate::model::kv_cache::KvCache;
use crate::model::weights::Head;
use crate::model::{Decoder, ForwardPass, KvCacheConfig};
use crate::types::Batch;

fn batch() -> Batch {
    let mut first = Progress::new(vec![1, 2, 3, 4, 5], vec![9, 2]);
    let mut second = Progress::new(vec![6], vec![4]);
    batch_of(&mut [(&mut first, 5), (&mut second, 1)])
}

fn check(breach: impl FnOnce(&mut Batch), expected: Expect) {
    let model = Model::random(1, DType::F32);
    let mut decoder = model.decoder(DType::F32);
    let mut batch = batch();
    breach(&mut batch);
    let found = match decoder.forward(&batch) {
        Ok(logits) => format!("{} logits", logits.values.len()),
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&found);
    // A refused batch leaves a decoder that works.
    assert_eq!(alone(&mut decoder, &[1, 2]), alone(&mut model.decoder(DType::F32), &[1, 2]));
}

#[test]
fn broken_batches_are_refused() {
    check(|b| b.token_ids[2] = 1000, expect!["token 1000 in row 2 is outside the vocabulary of 40"]);
    check(|b| b.positions[1] = 4_000_000_000, expect!["position 4000000000 in row 1 is beyond the model's 256"]);
    check(|b| b.positions[1] = 2, expect!["row 1 has position 2, but its sequence's context says 1"]);
    check(|b| b.positions.truncate(3), expect!["batch has 3 positions for 6 tokens"]);
    check(|b| b.slots.truncate(3), expect!["batch has 3 slots for 6 tokens"]);
    check(
        |b| b.slots[0] = u32::MAX,
        expect![
            "batch does not fit the KV cache: token 0 is to be written to slot 4294967295, but its block table says 36"
        ],
    );
    check(
        |b| b.slots[5] = 0,
        expect!["batch does not fit the KV cache: token 5 is to be written to slot 0, but its block table says 16"],
    );
    check(
        |b| b.sequences[0].block_table.truncate(1),
        expect!["batch does not fit the KV cache: sequence 0 has 1 blocks of 4 tokens for a context of 5"],
    );
    check(
        |b| b.sequences[1].block_table[0] = 64,
        expect!["batch does not fit the KV cache: sequence 1 names block 64 of a cache of 64"],
    );
    check(
        |b| b.sequences[1].context_len = 0,
        expect!["batch does not fit the KV cache: sequence 1 has 1 query tokens but a context of 0"],
    );
    check(
        |b| b.sequences[1].query_start = 4,
        expect!["batch does not fit the KV cache: sequence 1 has query rows 4..+1, expected them to begin at 5 of 6"],
    );
    check(
        |b| b.sequences[1].query_len = usize::MAX,
        expect![
            "batch does not fit the KV cache: sequence 1 has query rows 5..+18446744073709551615, expected them to begin at 5 of 6"
        ],
    );
    check(
        |b| b.sequences.truncate(1),
        expect!["batch does not fit the KV cache: sequence 1 has query rows 6..+0, expected them to begin at 5 of 6"],
    );
    check(
        |b| b.output_rows = vec![3, 3],
        expect!["output row 3, entry 1, repeats, goes back or is outside the batch of 6"],
    );
    check(
        |b| b.pooled_rows = vec![2, 1],
        expect!["output row 1, entry 1, repeats, goes back or is outside the batch of 6"],
    );
    check(
        |b| (b.output_rows, b.pooled_rows) = (vec![3, 4], vec![1, 4]),
        expect!["output row 4, entry 1, repeats, goes back or is outside the batch of 6"],
    );
    check(
        |b| b.output_rows = vec![6],
        expect!["output row 6, entry 0, repeats, goes back or is outside the batch of 6"],
    );
}

#[test]
fn empty_batches_are_fine() {
    check(|b| b.output_rows.clear(), expect!["0 logits"]);
    check(|b| *b = Batch::default(), expect!["0 logits"]);
}

fn check_build(breach: impl FnOnce(&mut Model, &mut KvCacheConfig), expected: Expect) {
    let mut model = Model::random(1, DType::F32);
    let mut cache = KvCacheConfig { num_blocks: NUM_BLOCKS, block_size: BLOCK_SIZE, dtype: DType::F32 };
    breach(&mut model, &mut cache);
    let found = match Decoder::new(model.config, model.weights, cache) {
        Ok(_) => String::from("built"),
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&found);
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let zeros = |shape: (usize, usize), dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    check_build(
        |m, _| m.weights.head = Head::Logits(zeros((3, 5), DType::F32)),
        expect!["weight lm_head has shape [3, 5], expected [40, 22]"],
    );
    check_build(
        |m, _| m.weights.layers[0].o_proj = zeros((1, 1), DType::F32),
        expect!["weight layers.0.o_proj has shape [1, 1], expected [22, 96]"],
    );
    check_build(
        |m, _| m.weights.embed_tokens = m.weights.embed_tokens.to_dtype(DType::F64).unwrap(),
        expect!["weight embed_tokens is F64, expected F32, BF16, F16 or in panels"],
    );
    check_build(
        |m, _| m.weights.norm = m.weights.norm.to_dtype(DType::BF16).unwrap(),
        expect!["weight norm is BF16, expected F32"],
    );
    check_build(
        |m, _| drop(m.weights.layers.pop()),
        expect!["model configuration: num_hidden_layers differs from the number of layers in the weights"],
    );
}

/// A GPU takes them layer by layer.
#[test]
fn a_gpu_refuses_the_same_weights() {
    let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::BF16, &Device::Cpu).unwrap();
    let check = |breach: &dyn Fn(&mut Model), expected: Expect| {
        let mut model = Model::random_for_gpu(1, DType::BF16);
        breach(&mut model);
        let cache = KvCacheConfig { num_blocks: NUM_BLOCKS, block_size: BLOCK_SIZE, dtype: DType::BF16 };
        let limits = GpuLimits { max_tokens: 8, max_sequences: 2 };
        let found = match GpuDecoder::new(model.config, &model.weights, cache, limits, Emulated::default()) {
            Ok(_) => String::from("built"),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&found);
    };
    check(&|_| (), expect!["built"]);
    check(
        &|m| m.weights.embed_tokens = zeros((3, 5)),
        expect!["weight embed_tokens has shape [3, 5], expected [40, 24]"],
    );
    check(
        &|m| m.weights.layers[1].o_proj = zeros((1, 1)),
        expect!["weight layers.1.o_proj has shape [1, 1], expected [24, 96]"],
    );
    check(
        &|m| m.weights.layers[0].o_proj = PanelFormat::Q8.pack(&zeros((32, 96))).unwrap(),
        expect!["weight layers.0.o_proj has shape [2, 3, 544], expected [24, 96]"],
    );
    check(
        &|m| m.weights.norm = m.weights.norm.to_dtype(DType::BF16).unwrap(),
        expect!["weight norm is BF16, expected F32"],
    );
    check(
        &|m| drop(m.weights.layers.pop()),
        expect!["model configuration: num_hidden_layers differs from the number of layers in the weights"],
    );
    check(
        &|m| m.weights.layers.push(m.weights.layers[0].clone()),
        expect!["model configuration: num_hidden_layers differs from the number of layers in the weights"],
    );
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    check_build(
        |m, _| m.config.attention.head_dim = 7,
        expect!["model configuration: head_dim must be even and above 0"],
    );
    check_build(
        |m, _| m.config.attention.num_key_value_heads = 0,
        expect!["model configuration: num_key_value_heads must be above 0"],
    );
    check_build(
        |m, _| m.config.attention.windows.clear(),
        expect!["model configuration: windows must have one entry per layer"],
    );
    check_build(|_, c| c.block_size = 0, expect!["model configuration: num_blocks, block_size must be above 0"]);
    check_build(
        |_, c| c.num_blocks = usize::MAX,
        expect!["model configuration: num_blocks has more slots than a u32 counts"],
    );
    check_build(
        |_, c| c.dtype = DType::I64,
        expect!["model configuration: dtype of the KV cache must be f32, bf16 or f16"],
    );
}

#[test]
fn bytes_per_token_counts_both_planes_of_all_layers() {
    let model = Model::random(1, DType::F32);
    let (layers, attention) = (model.config.num_hidden_layers, &model.config.attention);
    let elements = 2 * layers * attention.num_key_value_heads * attention.head_dim;
    assert_eq!(KvCacheConfig::bytes_per_token(&model.config, DType::BF16), 2 * elements);
}

#[test]
fn a_cache_beyond_all_memory_is_an_error() {
    let mut config = Model::random(0, DType::F32).config;
    config.num_hidden_layers = 1;
    (config.attention.num_key_value_heads, config.attention.head_dim) = (1 << 20, 1 << 10);
    let error = |num_blocks| {
        let cache = KvCacheConfig { num_blocks, block_size: 16, dtype: DType::F32 };
        KvCache::new(&config, cache).unwrap_err().to_string()
    };
    let of =
        |bytes: usize| format!("no memory for keys and values: {bytes} bytes; lower --kv-cache-memory or --num-blocks");
    assert_eq!(error(1 << 26), of(1 << 63));
    assert_eq!(error(1 << 27), of(usize::MAX));
}
