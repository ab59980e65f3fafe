//! What comes through a cache of packed weights against what is quantized anew, and every way in which a cache may not fit.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use tramontane_kernels::{PanelFormat, QuantizedFormat};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::model::checkpoint::{CacheOutcome, ComputeDtype, NoProgress, PackedCache, WeightTypes};
use crate::model::weights::{FeedForwardWeights, Weights};

const FORMATS: [QuantizedFormat; 2] = [QuantizedFormat::Q8, QuantizedFormat::Q4];

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny")
}

fn through(dir: &Path, cache: &PackedCache, progress: &dyn Progress) -> (Weights, CacheOutcome) {
    let checkpoint = Checkpoint::open(dir).unwrap();
    checkpoint.load_through(cache, ComputeDtype::Bf16, progress, &|| checkpoint.digest(&NoProgress)).unwrap()
}

fn quantized(dir: &Path, format: QuantizedFormat) -> Weights {
    let types = WeightTypes { dtype: ComputeDtype::Bf16, panels: Some(PanelFormat::Quantized(format)) };
    Checkpoint::open(dir).unwrap().load(types, &Device::Cpu, &NoProgress).unwrap()
}

fn tensors(weights: &Weights) -> Vec<&Tensor> {
    let Weights { embed_tokens, layers, norm, head } = weights;
    let mut all = vec![embed_tokens, norm, table(head)];
    for layer in layers {
        all.extend([&layer.qkv_proj, &layer.o_proj, &layer.input_layernorm, &layer.post_attention_layernorm]);
        match &layer.feed_forward {
            FeedForwardWeights::Dense(block) => all.extend([&block.gate_up_proj, &block.down_proj]),
            FeedForwardWeights::Experts { .. } => panic!("experts"),
        }
    }
    all
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    match tensor.dtype() {
        DType::U8 => {
            let (storage, layout) = tensor.storage_and_layout();
            let (Storage::Cpu(CpuStorage::U8(all)), Some((start, end))) = (&*storage, layout.contiguous_offsets())
            else {
                panic!("not in the CPU's memory")
            };
            assert!(all[start..end].as_ptr().addr().is_multiple_of(64), "panels begin at a line of the cache");
            all[start..end].to_vec()
        }
        _ => {
            let values = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values.into_iter().flat_map(f32::to_le_bytes).collect()
        }
    }
}

fn assert_same(found: &Weights, expected: &Weights) {
    let (found, expected) = (tensors(found), tensors(expected));
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.into_iter().zip(expected).enumerate() {
        assert_eq!((found.dtype(), found.dims()), (expected.dtype(), expected.dims()), "tensor {index}");
        assert!(bytes(found) == bytes(expected), "tensor {index} of shape {:?} differs", found.dims());
    }
}

/// Why the file was replaced.
fn replaced(outcome: CacheOutcome) -> Option<String> {
    match outcome {
        CacheOutcome::Written { replaced, .. } => replaced,
        other => panic!("{other:?}"),
    }
}

fn files(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

fn flip_bit(path: &Path, from_the_end: usize) {
    let mut bytes = fs::read(path).unwrap();
    let place = bytes.len() - from_the_end;
    bytes[place] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Changes text of a header without moving anything.
fn overwrite(path: &Path, text: &str, other: &str) {
    assert_eq!(text.len(), other.len());
    let bytes = fs::read(path).unwrap();
    let place = bytes.windows(text.len()).position(|window| window == text.as_bytes()).expect(text);
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(place as u64)).unwrap();
    file.write_all(other.as_bytes()).unwrap();
}

#[test]
fn cached_weights_are_the_quantized_ones() {
    let directory = tempfile::tempdir().unwrap();
    let shared = directory.path().join("made/when/needed");
    let mut written = 0;
    for dir in [tiny(), golden("fp8-block-hf")] {
        for format in FORMATS {
            let expected = quantized(&dir, format);
            let cache = PackedCache::in_directory(&shared, &dir, format);
            let (weights, outcome) = through(&dir, &cache, &NoProgress);
            assert_same(&weights, &expected);
            let CacheOutcome::Written { bytes, replaced: None } = outcome else { panic!("{outcome:?}") };
            let metadata = fs::metadata(cache.path()).unwrap();
            assert_eq!(metadata.len(), bytes);
            #[cfg(unix)]
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777, 0o600);
            written += 1;
            assert_eq!(files(&shared), written, "nothing but the caches, each under its own name");

            let progress = Counter::default();
            let (weights, outcome) = through(&dir, &cache, &progress);
            assert!(matches!(outcome, CacheOutcome::Used), "{outcome:?}");
            assert_same(&weights, &expected);
            let Counter([total, done, finished]) = progress;
            assert_eq!((done.into_inner(), finished.into_inner()), (total.into_inner(), 1));
            if Checkpoint::open(&dir).unwrap().config().tie_word_embeddings {
                assert_eq!(table(&weights.head).id(), weights.embed_tokens.id());
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_replaced() {
    let dir = copy_of("fp8-block-hf");
    let beside = |format| PackedCache::beside(dir.path(), format);
    let cache = beside(QuantizedFormat::Q4);
    let path = cache.path();
    assert_eq!(replaced(through(dir.path(), &cache, &NoProgress).1), None);
    assert_eq!(replaced(through(dir.path(), &beside(QuantizedFormat::Q8), &NoProgress).1), None);
    let elsewhere = tempfile::tempdir().unwrap();
    let others = PackedCache::beside(elsewhere.path(), QuantizedFormat::Q4);
    assert_eq!(replaced(through(&tiny(), &others, &NoProgress).1), None);
    let weights_file = dir.path().join("model.safetensors");
    type Damage<'a> = (&'a str, &'a dyn Fn());
    let cases: [Damage; 11] = [
        ("its version of the panels is 0, expected 1", &|| overwrite(path, r#"panels":"1""#, r#"panels":"0""#)),
        ("its version of the panels is none", &|| overwrite(path, "tramontane.panels", "tramontane.boards")),
        ("its format is q8, expected q4", &|| _ = fs::copy(beside(QuantizedFormat::Q8).path(), path).unwrap()),
        ("layout of the stored weights", &|| _ = fs::copy(others.path(), path).unwrap()),
        ("expected a range within", &|| {
            File::options().write(true).open(path).unwrap().set_len(fs::metadata(path).unwrap().len() - 1).unwrap();
        }),
        ("0 bytes", &|| fs::write(path, "").unwrap()),
        ("the header length", &|| fs::write(path, [0xff; 4096]).unwrap()),
        ("is corrupt: its checksum is", &|| flip_bit(path, 1)),
        ("is corrupt: its checksum is", &|| {
            overwrite(path, r#""xxh3.lm_head.weight":""#, r#""xxh3.lm_head.height":""#)
        }),
        ("it has no lm_head.weight", &|| overwrite(path, r#""lm_head.weight":{"#, r#""lm_head.height":{"#)),
        ("it was made from other weights", &|| flip_bit(&weights_file, 3000)),
    ];
    for (expected, damage) in cases {
        damage();
        let fresh = quantized(dir.path(), QuantizedFormat::Q4);
        let progress = Counter::default();
        let (weights, outcome) = through(dir.path(), &cache, &progress);
        let reason = replaced(outcome).expect(expected);
        assert!(reason.contains(expected), "{reason}, expected {expected}");
        assert_same(&weights, &fresh);
        assert_eq!(progress.0[2].load(Ordering::Relaxed), 1);
        let (weights, outcome) = through(dir.path(), &cache, &NoProgress);
        assert!(matches!(outcome, CacheOutcome::Used), "{expected}: {outcome:?}");
        assert_same(&weights, &fresh);
    }
}

/// The same bytes, whose rows the configuration puts into another order.
#[test]
fn a_changed_configuration_is_noticed() {
    let dir = copy_of("native-v01");
    let params = dir.path().join("params.json");
    widen_feed_forward(&dir.path().join("consolidated.safetensors"), [80, 96]);
    edit(&params, |value| value["hidden_dim"] = json!(96));
    let cache = PackedCache::beside(dir.path(), QuantizedFormat::Q8);
    let start = || {
        let (weights, outcome) = through(dir.path(), &cache, &NoProgress);
        assert_same(&weights, &quantized(dir.path(), QuantizedFormat::Q8));
        outcome
    };
    assert_eq!(replaced(start()), None);
    assert!(matches!(start(), CacheOutcome::Used));
    edit(&params, |value| {
        for (key, changed) in [("n_heads", 2), ("n_kv_heads", 1), ("head_dim", 32)] {
            value[key] = json!(changed);
        }
    });
    let reason = replaced(start()).unwrap();
    assert!(reason.contains("layout of the stored weights"), "{reason}");
}

/// Zeros in place of feed-forward weights, which are wider then.
fn widen_feed_forward(path: &Path, [from, to]: [usize; 2]) {
    let (header, data) = take_apart(path);
    let (mut new_header, mut new_data) = (BTreeMap::new(), Vec::new());
    for (name, mut entry) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
        let start = new_data.len();
        let offsets: [usize; 2] = serde_json::from_value(entry["data_offsets"].clone()).unwrap();
        let mut shape: Vec<usize> = serde_json::from_value(entry["shape"].clone()).unwrap();
        match shape.iter().position(|size| *size == from) {
            None => new_data.extend(&data[offsets[0]..offsets[1]]),
            Some(place) => {
                shape[place] = to;
                new_data.resize(start + (offsets[1] - offsets[0]) / from * to, 0);
            }
        }
        entry["shape"] = json!(shape);
        entry["data_offsets"] = json!([start, new_data.len()]);
        new_header.insert(name, entry);
    }
    fs::write(path, safetensors(&serde_json::to_string(&new_header).unwrap(), &new_data)).unwrap();
}

#[test]
fn a_cache_that_cannot_be_written_stops_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let dir = golden("fp8-block-hf");
    // A directory that cannot be, and a file whose place is taken.
    let nowhere = PackedCache::in_directory(&file, &dir, QuantizedFormat::Q8);
    let taken = PackedCache::in_directory(directory.path(), &dir, QuantizedFormat::Q8);
    fs::create_dir_all(taken.path().join("taken")).unwrap();
    let before = files(directory.path());
    for cache in [nowhere, taken] {
        let (weights, outcome) = through(&dir, &cache, &NoProgress);
        assert!(matches!(outcome, CacheOutcome::NotWritten { .. }), "{outcome:?}");
        assert_same(&weights, &quantized(&dir, QuantizedFormat::Q8));
    }
    assert_eq!(files(directory.path()), before, "no part of a file is left");
}

#[test]
fn parts_are_removed_when_nobody_writes_them_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let dir = golden("fp8-block-hf");
    let cache = PackedCache::in_directory(directory.path(), &dir, QuantizedFormat::Q8);
    let part = || {
        let mut path = cache.path().as_os_str().to_owned();
        path.push(format!(".{}.part", Uuid::new_v4().simple()));
        PathBuf::from(path)
    };
    let (left, being_written) = (part(), part());
    fs::write(&left, "left").unwrap();
    let writer = File::create(&being_written).unwrap();
    writer.try_lock().unwrap();
    let foreign = cache.path().with_extension("panels.mine.part");
    fs::write(&foreign, "not ours").unwrap();
    assert_eq!(replaced(through(&dir, &cache, &NoProgress).1), None);
    assert!(!left.exists() && being_written.exists() && foreign.exists());
}

#[test]
fn starts_at_the_same_time_do_not_disturb_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let dir = golden("fp8-block-hf");
    let cache = PackedCache::in_directory(directory.path(), &dir, QuantizedFormat::Q4);
    let expected = quantized(&dir, QuantizedFormat::Q4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let (weights, outcome) = through(&dir, &cache, &NoProgress);
                    assert!(!matches!(outcome, CacheOutcome::NotWritten { .. }), "{outcome:?}");
                    assert_same(&weights, &expected);
                }
            });
        }
    });
    assert!(matches!(through(&dir, &cache, &NoProgress).1, CacheOutcome::Used));
    assert_eq!(files(directory.path()), 1);
}

/// Who changes these bytes has to raise the version of the panels, or old caches give weights that a fresh start does not.
#[test]
fn the_version_stands_for_these_bytes() {
    let values: Vec<f32> =
        (0..32 * 64u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect();
    let weight = Tensor::from_vec(values, (32, 64), &Device::Cpu).unwrap();
    let hash = |format: PanelFormat| xxh3_64(&bytes(&format.pack(&weight).unwrap()));
    assert_eq!([PanelFormat::Q8, PanelFormat::Q4].map(hash), [2_766_361_659_286_900_785, 3_540_841_761_397_648_435]);
}
