//! The forward pass of the family in f64 loops: one sequence, no cache, no kernels. The weights are the
//! rounded ones, so that only arithmetic differs.

use candle_core::{DType, Tensor};

use super::random::Model;
use crate::model::config::*;
use crate::model::weights::*;

/// A row-major matrix.
struct Matrix {
    values: Vec<f64>,
    columns: usize,
}

impl Matrix {
    fn of(tensor: &Tensor) -> Self {
        let columns = *tensor.dims().last().unwrap();
        let values = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        Self { values, columns }
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    fn times(&self, x: &[f64]) -> Vec<f64> {
        self.values.chunks_exact(self.columns).map(|row| dot(row, x)).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Logits of every position, `(tokens, vocab_size)`.
pub(super) fn logits(model: &Model, tokens: &[u32]) -> Vec<f64> {
    let (config, weights) = (&model.config, &model.weights);
    let embed = Matrix::of(&weights.embed_tokens);
    let mut stream: Vec<Vec<f64>> = tokens.iter().map(|&token| embed.row(token as usize).to_vec()).collect();
    for (layer, window) in weights.layers.iter().zip(&config.attention.windows) {
        attention(config, layer, *window, &mut stream);
        for x in &mut stream {
            let normed = rms_norm(x, &layer.post_attention_layernorm, config);
            add(x, &feed_forward(config, &layer.feed_forward, &normed));
        }
    }
    let Head::Logits(lm_head) = &weights.head else { panic!("the model has no logits") };
    let lm_head = Matrix::of(lm_head);
    stream.iter().flat_map(|x| lm_head.times(&rms_norm(x, &weights.norm, config))).collect()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn rms_norm(x: &[f64], weight: &Tensor, config: &Config) -> Vec<f64> {
    let weight = Matrix::of(weight);
    let scale = 1.0 / (dot(x, x) / x.len() as f64 + f64::from(config.rms_norm_eps)).sqrt();
    x.iter().zip(&weight.values).map(|(x, w)| x * scale * w).collect()
}

fn attention(config: &Config, layer: &LayerWeights, window: Option<usize>, stream: &mut [Vec<f64>]) {
    let AttentionConfig { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } =
        config.attention.clone();
    let (qkv_proj, o_proj) = (Matrix::of(&layer.qkv_proj), Matrix::of(&layer.o_proj));
    let (mut queries, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (position, x) in stream.iter().enumerate() {
        let qkv = qkv_proj.times(&rms_norm(x, &layer.input_layernorm, config));
        let head = |index: usize| &qkv[index * head_dim..(index + 1) * head_dim];
        let scale = config.attention.temperature.map_or(1.0, |t| {
            let steps = (position / t.original_max_position_embeddings) as f64;
            1.0 + t.beta * (1.0 + steps).ln()
        });
        let scaled = |x: Vec<f64>| -> Vec<f64> { x.iter().map(|x| x * scale).collect() };
        queries.push((0..heads).map(|h| scaled(rotate(config, head(h), position))).collect::<Vec<_>>());
        keys.push((heads..heads + kv_heads).map(|h| rotate(config, head(h), position)).collect::<Vec<_>>());
        values.push((heads + kv_heads..heads + 2 * kv_heads).map(|h| head(h).to_vec()).collect::<Vec<_>>());
    }
    for (i, x) in stream.iter_mut().enumerate() {
        let first = window.map_or(0, |window| (i + 1).saturating_sub(window));
        let mut attended = Vec::new();
        for (h, query) in queries[i].iter().enumerate() {
            let kv_head = h / (heads / kv_heads);
            let score = |j: usize| dot(query, &keys[j][kv_head]) / (head_dim as f64).sqrt();
            let highest = (first..=i).map(score).fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = (first..=i).map(|j| (score(j) - highest).exp()).sum();
            let weight = |j: usize| (score(j) - highest).exp() / total;
            attended.extend((0..head_dim).map(|d| (first..=i).map(|j| weight(j) * values[j][kv_head][d]).sum::<f64>()));
        }
        add(x, &o_proj.times(&attended));
    }
}

fn rotate(config: &Config, head: &[f64], position: usize) -> Vec<f64> {
    let half = head.len() / 2;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for i in 0..half {
        let (frequency, factor) = frequency(config, i);
        let angle = position as f64 * frequency;
        let (cos, sin) = (angle.cos() * factor, angle.sin() * factor);
        first.push(head[i] * cos - head[i + half] * sin);
        second.push(head[i + half] * cos + head[i] * sin);
    }
    first.extend(second);
    first
}

/// Radians per position of pair `i`, and the factor of its cosine and sine.
fn frequency(config: &Config, i: usize) -> (f64, f64) {
    let dim = config.attention.head_dim as f64;
    let base = config.rope.theta;
    let plain = base.powf(-(2.0 * i as f64) / dim);
    match &config.rope.scaling {
        RopeScaling::None => (plain, 1.0),
        RopeScaling::Linear { factor } => (plain / factor, 1.0),
        RopeScaling::Yarn(yarn) => {
            let original = yarn.original_max_position_embeddings as f64;
            let end = |beta: f64| dim * (original / (beta * std::f64::consts::TAU)).ln() / (2.0 * base.ln());
            let (mut low, mut high) = (end(yarn.beta_fast), end(yarn.beta_slow));
            if yarn.truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(dim - 1.0));
            let width = if low == high { 0.001 } else { high - low };
            let interpolated = ((i as f64 - low) / width).clamp(0.0, 1.0);
            let frequency = plain / yarn.factor * interpolated + plain * (1.0 - interpolated);
            (frequency, yarn.attention_factor)
        }
    }
}

fn feed_forward(config: &Config, weights: &FeedForwardWeights, x: &[f64]) -> Vec<f64> {
    match (weights, config.feed_forward.experts) {
        (FeedForwardWeights::Dense(dense), _) => swiglu(dense, x),
        (FeedForwardWeights::Experts { gate, experts }, Some(routing)) => {
            let scores = Matrix::of(gate).times(x);
            let total: f64 = scores.iter().map(|score| score.exp()).sum();
            let mut order: Vec<usize> = (0..experts.len()).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let best = &order[..routing.experts_per_token];
            let probability = |&expert: &usize| scores[expert].exp() / total;
            let kept: f64 = best.iter().map(probability).sum();
            let mut out = vec![0.0; x.len()];
            for expert in best {
                let weight = probability(expert) / kept;
                let output: Vec<f64> = swiglu(&experts[*expert], x).iter().map(|y| y * weight).collect();
                add(&mut out, &output);
            }
            out
        }
        (FeedForwardWeights::Experts { .. }, None) => panic!("experts without a routing"),
    }
}

fn swiglu(weights: &SwiGluWeights, x: &[f64]) -> Vec<f64> {
    let gate_up = Matrix::of(&weights.gate_up_proj).times(x);
    let (gate, up) = gate_up.split_at(gate_up.len() / 2);
    let hidden: Vec<f64> = gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
    Matrix::of(&weights.down_proj).times(&hidden)
}
