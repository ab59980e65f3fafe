//! Shows that the golden cases can fail: each single mistake that a loader or decoder could make moves the
//! logits of some case far beyond the tolerance.

use std::path::Path;

use candle_core::{Device, Tensor};
use tramontane::model::checkpoint::{Checkpoint, ComputeDtype, NoProgress};
use tramontane::model::config::{Config, RopeScaling, YarnConfig};
use tramontane::model::weights::Weights;

use crate::golden::{Difference, F32_MAX, decoder};
use crate::golden_case::{Case, Expected};
use crate::golden_run::Run;

/// Case, mistake, largest change of the logits as measured with the reference implementation, how to make it.
type Mistake = (&'static str, &'static str, f64, fn(&mut Config, &mut Weights));

const MISTAKES: [Mistake; 19] = [
    ("mistral-v01-swa", "no sliding window", 5.3, |config, _| config.attention.windows.fill(None)),
    ("mistral-v01-swa", "window 15", 2.6, |config, _| config.attention.windows.fill(Some(15))),
    ("mistral-v01-swa", "window 17", 2.6, |config, _| config.attention.windows.fill(Some(17))),
    ("mistral-v01-swa", "theta 1e6", 3.2, |config, _| config.rope.theta = 1e6),
    ("mistral-v01-swa", "eps 1e-6", 0.022, |config, _| config.rms_norm_eps = 1e-6),
    ("mistral-v03", "theta 1e4", 3.6, |config, _| config.rope.theta = 1e4),
    ("mistral-yarn-legacy", "no yarn", 5.2, |config, _| config.rope.scaling = RopeScaling::None),
    ("mistral-yarn-legacy", "attention_factor 1", 2.5, |config, _| yarn(config).attention_factor = 1.0),
    ("mistral-rope-linear", "no scaling", 5.5, |config, _| config.rope.scaling = RopeScaling::None),
    ("ministral-8b", "all sliding", 5.1, |config, _| config.attention.windows.fill(Some(12))),
    ("ministral-8b", "all full", 4.0, |config, _| config.attention.windows.fill(None)),
    ("mixtral-8x2", "top-1", 2.7, |config, _| experts_per_token(config, 1)),
    ("mixtral-8x2", "top-3", 1.7, |config, _| experts_per_token(config, 3)),
    ("ministral3", "no llama-4 scaling", 1.6, |config, _| config.attention.temperature = None),
    ("ministral3", "attention_factor 0.1 ln(f) + 1", 3.8, |config, _| {
        yarn(config).attention_factor = 0.1 * 16f64.ln() + 1.0;
    }),
    ("ministral3-beta0", "beta_fast 32", 4.7, |config, _| yarn(config).beta_fast = 32.0),
    ("ministral3-beta0", "no truncation of the ramp", 2.7, |config, _| yarn(config).truncate = false),
    ("native-v01", "no q/k permutation", 4.5, |config, weights| interleave_rotary_rows(config, weights)),
    ("native-mixtral", "no q/k permutation", 4.1, |config, weights| interleave_rotary_rows(config, weights)),
];

/// Half of each measured change must show. Runs on the repository's own cases.
#[test]
fn golden_bites() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    let cases = Case::discover(&own).unwrap();
    for (name, mistake, expected, mutate) in MISTAKES {
        let case = cases.iter().find(|case| case.name == name).unwrap();
        let checkpoint = Checkpoint::open(&case.checkpoint).unwrap();
        let mut config = checkpoint.config().clone();
        let mut weights = checkpoint.load(ComputeDtype::F32, &Device::Cpu, &NoProgress).unwrap();
        mutate(&mut config, &mut weights);
        let Expected::Causal(prompts) = case.expected().unwrap() else { panic!("{name} has no logits") };
        let ids: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.input_ids.as_slice()).collect();
        let mut model = decoder(&config, weights, ComputeDtype::F32, Run::blocks_needed(&ids, 0)).unwrap();
        let mut worst: f64 = 0.0;
        for prompt in &prompts {
            let logits = Run::new(&mut model, &[&prompt.input_ids], 0).prefill(&[usize::MAX]).unwrap();
            worst = worst.max(Difference::between(&logits, &prompt.logits).unwrap().max);
        }
        println!("{name:<26} {mistake:<32} {worst:.2e}, measured before {expected:.2e}");
        assert!(
            worst >= expected / 2.0 && worst > 100.0 * F32_MAX,
            "{name}: {mistake} changes the logits by {worst:e}"
        );
    }
}

fn yarn(config: &mut Config) -> &mut YarnConfig {
    match &mut config.rope.scaling {
        RopeScaling::Yarn(yarn) => yarn,
        other => panic!("{other:?}"),
    }
}

fn experts_per_token(config: &mut Config, experts_per_token: usize) {
    config.feed_forward.experts.as_mut().expect("a mixture of experts").experts_per_token = experts_per_token;
}

/// Puts query and key rows back into the native layout's order of pairs.
fn interleave_rotary_rows(config: &Config, weights: &mut Weights) {
    let attention = &config.attention;
    let (head_dim, half) = (attention.head_dim, attention.head_dim / 2);
    let rotary_heads = attention.num_attention_heads + attention.num_key_value_heads;
    let values = attention.num_key_value_heads * head_dim;
    let rotary = (0..rotary_heads * head_dim).map(|row| {
        let within = row % head_dim;
        row - within + within / 2 + within % 2 * half
    });
    let rows: Vec<u32> =
        rotary.chain(rotary_heads * head_dim..rotary_heads * head_dim + values).map(|row| row as u32).collect();
    let index = Tensor::from_vec(rows.clone(), rows.len(), &Device::Cpu).expect("as many rows as counted");
    for layer in &mut weights.layers {
        layer.qkv_proj = layer.qkv_proj.index_select(&index, 0).expect("rows are within the matrix");
    }
}
