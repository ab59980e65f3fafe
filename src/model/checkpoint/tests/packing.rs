//! Every loaded tensor of every golden checkpoint against a second, plain reading of the same files.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use float8::F8E4M3;
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use tramontane_kernels::{PanelFormat, embedding};

use super::*;
use crate::model::checkpoint::{ComputeDtype, NoProgress, WeightTypes, summary};
use crate::model::weights::{FeedForwardWeights, WeightSource};

/// All tensors of a checkpoint in f32, FP8 still without scales.
fn read_plainly(dir: &Path) -> HashMap<String, Tensor> {
    let mut tensors = HashMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.ends_with(".safetensors") || name == "golden.safetensors" {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let data = view.data();
            let values: Vec<f32> = match view.dtype() {
                Dtype::F32 => data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
                Dtype::BF16 => data.chunks(2).map(|b| bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
                Dtype::F16 => data.chunks(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
                Dtype::F8_E4M3 => data.iter().map(|b| F8E4M3::from_bits(*b).to_f32()).collect(),
                other => panic!("{other}"),
            };
            tensors.insert(name.to_string(), Tensor::from_vec(values, view.shape(), &Device::Cpu).unwrap());
        }
    }
    tensors
}

/// A module's weight times its scale, the scale repeated over its block element by element.
fn plain_matrix(tensors: &HashMap<String, Tensor>, module: &str) -> Tensor {
    let weight = &tensors[&format!("{module}.weight")];
    let suffixes = ["weight_scale_inv", "weight_scale", "qscale_weight"];
    let Some(scale) = suffixes.iter().find_map(|suffix| tensors.get(&format!("{module}.{suffix}"))) else {
        return weight.clone();
    };
    let (rows, columns) = weight.dims2().unwrap();
    let (scale_rows, scale_columns) = scale.dims2().unwrap_or((1, 1));
    let scale: Vec<f32> = scale.flatten_all().unwrap().to_vec1().unwrap();
    let (tall, wide) = (if scale_rows == rows { 1 } else { 128 }, if scale_columns == 1 { columns } else { 128 });
    let scales: Vec<f32> =
        (0..rows * columns)
            .map(|i| {
                if scale.len() == 1 { scale[0] } else { scale[i / columns / tall * scale_columns + i % columns / wide] }
            })
            .collect();
    (weight * Tensor::from_vec(scales, (rows, columns), &Device::Cpu).unwrap()).unwrap()
}

/// `w.view(heads, d/2, 2, in).transpose(1, 2).reshape(heads * d, in)`, as released conversion scripts do it.
fn half_split(weight: &Tensor, head_dim: usize) -> Tensor {
    let (rows, columns) = weight.dims2().unwrap();
    let pairs = weight.reshape((rows / head_dim, head_dim / 2, 2, columns)).unwrap();
    pairs.transpose(1, 2).unwrap().reshape((rows, columns)).unwrap()
}

fn stack(parts: &[Tensor]) -> Tensor {
    Tensor::cat(parts, 0).unwrap()
}

fn assert_equal(what: &str, loaded: &Tensor, plain: &Tensor) {
    let values = |tensor: &Tensor| -> Vec<f32> {
        tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    // Panels are of bf16 here.
    let (loaded, dtype) = match PanelFormat::of(loaded) {
        Some((format, [rows, _])) => {
            assert_eq!(format, PanelFormat::Bf16, "{what}");
            (&embedding(loaded, &(0..rows as u32).collect::<Vec<_>>()).unwrap(), DType::BF16)
        }
        None => (loaded, loaded.dtype()),
    };
    assert_eq!(loaded.dims(), plain.dims(), "{what}: shape");
    let plain = plain.to_dtype(dtype).unwrap();
    for (index, (found, expected)) in values(loaded).into_iter().zip(values(&plain)).enumerate() {
        assert!(found == expected, "{what}[{index}]: {found}, expected {expected}");
    }
}

/// Compares all weights in one dtype; returns false for a case that is no served checkpoint.
fn check(case: &str, dtype: ComputeDtype) -> bool {
    let dir = golden(case);
    let Ok(checkpoint) = Checkpoint::open(&dir) else { return false };
    let config = checkpoint.config().clone();
    let weights = checkpoint.load(dtype, &Device::Cpu, &NoProgress).unwrap();
    if !config.tie_word_embeddings || dtype != ComputeDtype::Bf16 {
        assert_eq!(weights.embed_tokens.dtype(), dtype.dtype());
    }
    assert_eq!(weights.norm.dtype(), DType::F32);

    let source = checkpoint.source(dtype, &NoProgress);
    assert_equal("the source's embedding", &weights.embed_tokens, &source.embed_tokens().unwrap());
    assert_equal("the source's head", table(&weights.head), table(&source.head().unwrap()));
    assert_equal("the source's norm", &weights.norm, &source.norm().unwrap());
    assert_eq!(source.num_layers(), weights.layers.len());
    for (index, loaded) in weights.layers.iter().enumerate() {
        let layer = source.layer(index).unwrap();
        assert_equal("the source's projections", &loaded.qkv_proj, &layer.qkv_proj);
        assert_equal("the source's output projection", &loaded.o_proj, &layer.o_proj);
    }

    let tensors = read_plainly(&dir);
    let native = tensors.contains_key("tok_embeddings.weight");
    let embedding = tensors.keys().find(|name| name.ends_with("embed_tokens.weight"));
    let prefix = embedding.map_or("", |name| name.trim_end_matches("embed_tokens.weight"));
    let name = |hugging_face: &str, native_name: &str| match native {
        true => native_name.to_string(),
        false => format!("{prefix}{hugging_face}"),
    };
    let matrix = |module: String| plain_matrix(&tensors, &module);
    let rotary = |module: String| match native {
        true => half_split(&matrix(module), config.attention.head_dim),
        false => matrix(module),
    };

    assert_equal("embedding", &weights.embed_tokens, &matrix(name("embed_tokens", "tok_embeddings")));
    assert_equal("norm", &weights.norm, &matrix(name("norm", "norm")));
    let head = ["lm_head", "language_model.lm_head", "output"];
    let head = head.iter().find(|module| tensors.contains_key(&format!("{module}.weight")));
    assert_eq!(config.tie_word_embeddings, head.is_none(), "{case}");
    let head = head.map_or_else(|| name("embed_tokens", "tok_embeddings"), ToString::to_string);
    assert_equal("lm_head", table(&weights.head), &matrix(head));
    for (i, layer) in weights.layers.iter().enumerate() {
        let name = |hugging_face: &str, native_name: &str| {
            name(&format!("layers.{i}.{hugging_face}"), &format!("layers.{i}.{native_name}"))
        };
        let qkv = stack(&[
            rotary(name("self_attn.q_proj", "attention.wq")),
            rotary(name("self_attn.k_proj", "attention.wk")),
            matrix(name("self_attn.v_proj", "attention.wv")),
        ]);
        assert_equal("qkv_proj", &layer.qkv_proj, &qkv);
        assert_equal("o_proj", &layer.o_proj, &matrix(name("self_attn.o_proj", "attention.wo")));
        assert_equal("input norm", &layer.input_layernorm, &matrix(name("input_layernorm", "attention_norm")));
        let post = matrix(name("post_attention_layernorm", "ffn_norm"));
        assert_equal("post-attention norm", &layer.post_attention_layernorm, &post);
        match &layer.feed_forward {
            FeedForwardWeights::Dense(block) => {
                let gate = matrix(name("mlp.gate_proj", "feed_forward.w1"));
                let up = matrix(name("mlp.up_proj", "feed_forward.w3"));
                assert_equal("gate_up_proj", &block.gate_up_proj, &stack(&[gate, up]));
                assert_equal("down_proj", &block.down_proj, &matrix(name("mlp.down_proj", "feed_forward.w2")));
            }
            FeedForwardWeights::Experts { gate, experts } => {
                assert_equal("router", gate, &matrix(name("block_sparse_moe.gate", "feed_forward.gate")));
                for (e, expert) in experts.iter().enumerate() {
                    let part = |w: &str| {
                        let hugging_face = format!("block_sparse_moe.experts.{e}.{w}");
                        matrix(name(&hugging_face, &format!("feed_forward.experts.{e}.{w}")))
                    };
                    assert_equal("gate_up_proj", &expert.gate_up_proj, &stack(&[part("w1"), part("w3")]));
                    assert_equal("down_proj", &expert.down_proj, &part("w2"));
                }
            }
        }
    }
    true
}

#[test]
fn packed_weights_equal_a_plain_reading() {
    let mut checked = 0;
    for entry in fs::read_dir(golden("")).unwrap() {
        let case = entry.unwrap().file_name().into_string().unwrap();
        for dtype in [ComputeDtype::F32, ComputeDtype::Bf16, ComputeDtype::F16] {
            checked += usize::from(check(&case, dtype));
        }
    }
    assert!(checked >= 3 * 20, "only {checked} loads");
}

#[test]
fn fp8_is_handed_out_as_it_is_stored() {
    for (case, has_activation_scales) in [("fp8-block-hf", false), ("fp8-static-hf", true)] {
        let dir = golden(case);
        let file = fs::read(dir.join("model.safetensors")).unwrap();
        let stored = SafeTensors::deserialize(&file).unwrap();
        let plain = read_plainly(&dir);
        let bits = |tensor: &Tensor| -> Vec<u32> {
            tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
        };
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let mut n_matrices = 0;
        for matrix in checkpoint.quantized_matrices() {
            let matrix = matrix.unwrap();
            n_matrices += 1;
            let view = stored.tensor(matrix.name).unwrap();
            assert_eq!((view.shape(), view.data()), (&matrix.shape[..], matrix.codes), "{}", matrix.name);
            let module = matrix.name.strip_suffix(".weight").unwrap();
            let scale = plain.get(&format!("{module}.weight_scale_inv")).unwrap();
            let found: Vec<u32> = matrix.weight_scales.iter().map(|scale| scale.to_bits()).collect();
            assert_eq!(found, bits(scale), "{}", matrix.name);
            let scale = plain.get(&format!("{module}.activation_scale")).map(|scale| bits(scale)[0]);
            assert_eq!(scale.is_some(), has_activation_scales, "{}", matrix.name);
            assert_eq!(matrix.activation_scale.map(f32::to_bits), scale, "{}", matrix.name);
            assert_eq!(matrix.interleaved_head_dim, None);
        }
        let all = stored.iter().filter(|(_, view)| view.dtype() == Dtype::F8_E4M3).count();
        assert_eq!(n_matrices, all, "{case}");
    }
    let native = Checkpoint::open(&golden("fp8-native")).unwrap();
    let interleaved =
        native.quantized_matrices().filter(|matrix| matrix.as_ref().unwrap().interleaved_head_dim.is_some());
    assert_eq!(interleaved.count(), 2 * native.config().num_hidden_layers);
}

#[test]
fn tied_embeddings_share_their_storage() {
    let checkpoint = Checkpoint::open(&golden("mistral-tied")).unwrap();
    let weights = checkpoint.load(ComputeDtype::Bf16, &Device::Cpu, &NoProgress).unwrap();
    assert_eq!(table(&weights.head).id(), weights.embed_tokens.id());
}

#[test]
fn progress_ends_at_the_total() {
    for case in ["sharded", "mixtral-4x2", "fp8-block-hf", "native-ministral3"] {
        let checkpoint = Checkpoint::open(&golden(case)).unwrap();
        let loading = Counter::default();
        checkpoint.load(ComputeDtype::F32, &Device::Cpu, &loading).unwrap();
        let hashing = Counter::default();
        checkpoint.digest(&hashing);
        for Counter([total, done, finished]) in [loading, hashing] {
            assert_eq!(done.into_inner(), total.into_inner(), "{case}");
            assert_eq!(finished.into_inner(), 1, "{case}");
        }
    }
}

/// Matrices and their quantized forms, of tied embeddings and of FP8 with a head of its own.
#[test]
fn quantized_weights_stand_for_the_loaded_ones() {
    for directory in [Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny"), golden("fp8-block-hf")] {
        let checkpoint = Checkpoint::open(&directory).unwrap();
        let plain = checkpoint.load(ComputeDtype::Bf16, &Device::Cpu, &NoProgress).unwrap();
        for (quantize, relative) in [(PanelFormat::Q8, 0.008), (PanelFormat::Q4, 0.12)] {
            let types = WeightTypes { dtype: ComputeDtype::Bf16, panels: Some(quantize) };
            checkpoint.check_types(types).unwrap();
            let weights = checkpoint.load(types, &Device::Cpu, &NoProgress).unwrap();
            let mut bytes = 0;
            let mut check = |what: &str, found: &Tensor, plain: &Tensor, expected: Option<PanelFormat>| {
                assert_eq!(PanelFormat::of(found).map(|(format, _)| format), expected, "{what}");
                bytes += found.elem_count() * found.dtype().size_in_bytes();
                let n_rows = PanelFormat::of(plain).map_or(plain.dims()[0], |(_, [rows, _])| rows);
                let rows: Vec<u32> = (0..n_rows as u32).collect();
                let values =
                    |tensor| embedding(tensor, &rows).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let (mut error, mut size) = (0.0, 0.0);
                for (found, plain) in values(found).into_iter().zip(values(plain)) {
                    error += f64::from(found - plain).powi(2);
                    size += f64::from(plain).powi(2);
                }
                let (limit, found) = (if expected.is_none() { 0.0 } else { relative }, (error / size).sqrt());
                assert!(found <= limit, "{what} {quantize:?}: {found}");
            };
            let head = Some(PanelFormat::Q8);
            check("lm_head", table(&weights.head), table(&plain.head), head);
            if !checkpoint.config().tie_word_embeddings {
                check("embed_tokens", &weights.embed_tokens, &plain.embed_tokens, None);
            }
            let mut norms = 1;
            for (found, plain) in weights.layers.iter().zip(&plain.layers) {
                check("qkv_proj", &found.qkv_proj, &plain.qkv_proj, Some(quantize));
                check("o_proj", &found.o_proj, &plain.o_proj, Some(quantize));
                let (FeedForwardWeights::Dense(found), FeedForwardWeights::Dense(plain)) =
                    (&found.feed_forward, &plain.feed_forward)
                else {
                    panic!("experts")
                };
                check("gate_up_proj", &found.gate_up_proj, &plain.gate_up_proj, Some(quantize));
                check("down_proj", &found.down_proj, &plain.down_proj, Some(quantize));
                norms += 2;
            }
            let norms = (norms * checkpoint.config().hidden_size * size_of::<f32>()) as u64;
            assert_eq!(checkpoint.weight_bytes(types), bytes as u64 + norms, "{}", directory.display());
        }
    }
}

#[test]
fn what_cannot_be_quantized_is_refused_by_its_name() {
    let checkpoint = Checkpoint::open(&golden("mistral-v03")).unwrap();
    let types = WeightTypes { dtype: ComputeDtype::Bf16, panels: Some(PanelFormat::Q4) };
    let error = checkpoint.check_types(types).unwrap_err().to_string();
    for part in ["model.layers.0.mlp.down_proj.weight", "[64, 80]", "4 bits", "80 columns are not a multiple of 32"] {
        assert!(error.contains(part), "{error} lacks {part}");
    }
}

#[test]
fn the_digest_is_that_of_sha256sum() {
    use sha2::{Digest, Sha256};
    let hash = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let file = golden("mistral-v03").join("model.safetensors");
    let checkpoint = Checkpoint::open(&golden("mistral-v03")).unwrap();
    assert_eq!(checkpoint.digest(&NoProgress), hash(&fs::read(file).unwrap()));

    let listing: String = (1..=3)
        .map(|shard| format!("model-0000{shard}-of-00003.safetensors"))
        .map(|name| format!("{}  {name}\n", hash(&fs::read(golden("sharded").join(&name)).unwrap())))
        .collect();
    assert_eq!(Checkpoint::open(&golden("sharded")).unwrap().digest(&NoProgress), hash(listing.as_bytes()));
}

#[test]
fn summaries_count_what_is_loaded() {
    let sharded = Checkpoint::open(&golden("sharded")).unwrap();
    let summary = sharded.summary();
    assert_eq!((summary.parameters, summary.stored_bytes, summary.files.len()), (117_056, 234_112, 3));
    assert_eq!(sharded.weight_bytes(ComputeDtype::Bf16), 2 * 116_736 + 4 * 320);
    assert_eq!(sharded.default_dtype(), ComputeDtype::Bf16);

    let block = Checkpoint::open(&golden("fp8-block-hf")).unwrap();
    let scheme = "fp8 e4m3, scales per block of 128x128, dynamic activations, 14 of 16 matrices";
    assert_eq!(block.summary().quantization.as_deref(), Some(scheme));
    let e4m3 = summary::DtypeCount { dtype: "F8_E4M3".into(), tensors: 14, elements: 245_760, bytes: 245_760 };
    assert_eq!(block.summary().dtypes[1], e4m3);
    assert_eq!(block.quantized_matrices().count(), 14);
    assert_eq!(Checkpoint::open(&golden("mistral3-mistral")).unwrap().summary().skipped.tensors, 15);
}
