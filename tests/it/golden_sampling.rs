//! The sampler against the sampling goldens: the distribution each case draws from, in vLLM's order of
//! stages. `TRAMONTANE_GOLDEN_DIR` points to a further directory of cases.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use tramontane::{
    engine::sampler::{Draw, History, distribution, sample},
    types::SamplingParams,
};

const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Golden {
    order: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: usize,
    logits: String,
    probs: String,
    prompt_ids: Vec<u32>,
    output_ids: Vec<u32>,
    params: Params,
    support: usize,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    temperature: Option<f32>,
    top_k: Option<i64>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    typical_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    #[serde(default)]
    logit_bias: BTreeMap<u32, f32>,
}

impl From<Params> for SamplingParams {
    fn from(params: Params) -> Self {
        let off = SamplingParams::default();
        Self {
            temperature: params.temperature.unwrap_or(off.temperature),
            top_k: params.top_k.map_or(off.top_k, |k| u32::try_from(k).unwrap_or(0)),
            top_p: params.top_p.unwrap_or(off.top_p),
            min_p: params.min_p.unwrap_or(off.min_p),
            typical_p: params.typical_p.unwrap_or(off.typical_p),
            repetition_penalty: params.repetition_penalty.unwrap_or(off.repetition_penalty),
            presence_penalty: params.presence_penalty.unwrap_or(off.presence_penalty),
            frequency_penalty: params.frequency_penalty.unwrap_or(off.frequency_penalty),
            logit_bias: params.logit_bias.into_iter().collect(),
            ..off
        }
    }
}

/// A case with its tensors read.
struct Loaded {
    case: Case,
    logits: Vec<f32>,
    probs: Vec<f64>,
}

impl Loaded {
    fn params(&self) -> SamplingParams {
        let params = SamplingParams::from(self.case.params.clone());
        params.validate().unwrap();
        params
    }

    fn history(&self) -> History<'_> {
        History { prompt_ids: &self.case.prompt_ids, output_ids: &self.case.output_ids, ..History::default() }
    }
}

/// The cases of every folder that holds a `sampling.json`: the committed ones, and those of the directory
/// that is named, which need not have any.
fn load() -> Vec<Loaded> {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    let named = std::env::var_os("TRAMONTANE_GOLDEN_DIR").map(PathBuf::from);
    let load_root = |root: PathBuf| {
        let entries = std::fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
        let folders = entries.map(|entry| entry.unwrap().path()).filter(|path| path.join("sampling.json").is_file());
        let cases: Vec<Loaded> = folders.flat_map(|folder| load_folder(&folder)).collect();
        println!("{} sampling cases in {}", cases.len(), root.display());
        cases
    };
    std::iter::once(committed).chain(named).flat_map(load_root).collect()
}

fn load_folder(folder: &Path) -> Vec<Loaded> {
    let golden: Golden = serde_json::from_slice(&std::fs::read(folder.join("sampling.json")).unwrap()).unwrap();
    let edits = ["logit_bias", "repetition_penalty", "frequency_penalty", "presence_penalty"];
    assert_eq!(golden.order[..4], edits);
    assert_eq!(golden.order[4..], ["temperature", "min_p", "top_k", "top_p"]);
    let bytes = std::fs::read(folder.join("sampling.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let load_case = |case: Case| {
        let logits = tensors.tensor(&case.logits).unwrap();
        let probs = tensors.tensor(&case.probs).unwrap();
        assert_eq!((logits.dtype(), probs.dtype()), (Dtype::F32, Dtype::F64));
        let logits = logits.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let probs = probs.data().as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect();
        Loaded { case, logits, probs }
    };
    golden.cases.into_iter().map(load_case).collect()
}

#[test]
fn golden_distributions() {
    for loaded in load() {
        let got = distribution(&loaded.logits, &loaded.params(), &loaded.history()).unwrap();
        let name = format!("case {} {:?}", loaded.case.id, loaded.case.params);
        let support = loaded.probs.iter().filter(|&&p| p > 0.0).count();
        assert_eq!(support, loaded.case.support, "{name}: the golden itself");
        for (id, (got, want)) in got.iter().zip(&loaded.probs).enumerate() {
            assert_eq!(*got > 0.0, *want > 0.0, "{name}: support at id {id}: got {got}, want {want}");
            assert!((got - want).abs() <= TOLERANCE, "{name}: id {id}: got {got}, want {want}");
        }
    }
}

/// Draws with consecutive token indices of one seed follow the distribution: Pearson's chi-square over the
/// ids that are expected at least ten times, the others as one.
#[test]
fn golden_draws_follow_the_distribution() {
    const DRAWS: usize = 20_000;
    for loaded in load() {
        let params = loaded.params();
        let expected = distribution(&loaded.logits, &params, &loaded.history()).unwrap();
        let mut counts = vec![0usize; expected.len()];
        for index in 0..DRAWS {
            let draw = Draw { seed: loaded.case.id as u64, index };
            counts[sample(&loaded.logits, &params, &loaded.history(), draw).unwrap() as usize] += 1;
        }
        let (mut statistic, mut freedom) = (0.0, -1.0);
        let (mut rare_expected, mut rare_count) = (0.0, 0.0);
        for (&p, &count) in expected.iter().zip(&counts) {
            assert!(p > 0.0 || count == 0, "case {}: drew an id outside the support", loaded.case.id);
            let want = p * DRAWS as f64;
            if want >= 10.0 {
                statistic += (count as f64 - want).powi(2) / want;
                freedom += 1.0;
            } else {
                rare_expected += want;
                rare_count += count as f64;
            }
        }
        if rare_expected >= 10.0 {
            statistic += f64::powi(rare_count - rare_expected, 2) / rare_expected;
            freedom += 1.0;
        }
        // Mean and deviation of chi-square: a correct sampler exceeds five deviations about once in a million.
        let limit = freedom + 5.0 * (2.0 * f64::max(freedom, 1.0)).sqrt() + 3.0;
        assert!(statistic <= limit, "case {}: chi-square {statistic} with {freedom} degrees", loaded.case.id);
    }
}

#[test]
fn golden_cases_are_committed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/sampling");
    assert_eq!(load_folder(&folder).len(), 91);
}
