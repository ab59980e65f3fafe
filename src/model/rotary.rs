//! Rotary embedding: inverse frequencies of a checkpoint, and the cosines and sines of a batch.
//!
//! Frequencies and angles are f32 as in transformers' `modeling_rope_utils.py`: at long context the
//! rounding of an angle is part of what a model was trained with.

use candle_core::{Device, Tensor};
use tramontane_kernels::RotaryRows;

use super::ModelError;
use super::config::{AttentionTemperature, Config, RopeScaling, YarnConfig};

/// The rotation as a function of position.
#[derive(Debug)]
pub(super) struct Rotary {
    /// `(head_dim / 2)`
    inverse_frequencies: Vec<f32>,
    /// Multiplies cos and sin.
    attention_factor: f32,
    temperature: Option<AttentionTemperature>,
}

/// Rotations of some positions.
pub(super) struct RotaryTable {
    /// `(positions, head_dim)`: cosines of the pairs, then their sines.
    pub(super) cos_sin: Vec<f32>,
    /// `(positions)`
    pub(super) query_scale: Vec<f32>,
}

impl Rotary {
    pub(super) fn new(config: &Config) -> Self {
        let head_dim = config.attention.head_dim;
        let theta = config.rope.theta;
        let frequencies = frequencies(head_dim, theta);
        let (inverse_frequencies, attention_factor) = match &config.rope.scaling {
            RopeScaling::None => (frequencies.iter().map(|f| 1.0 / f).collect(), 1.0),
            RopeScaling::Linear { factor } => (frequencies.iter().map(|f| 1.0 / f / *factor as f32).collect(), 1.0),
            RopeScaling::Yarn(yarn) => (yarn_frequencies(&frequencies, theta, yarn), yarn.attention_factor as f32),
        };
        Self { inverse_frequencies, attention_factor, temperature: config.attention.temperature }
    }

    /// Cosines, sines and query scales of tokens at `positions`.
    pub(super) fn rows(&self, positions: &[u32]) -> Result<RotaryRows, ModelError> {
        let (n_tokens, head_dim) = (positions.len(), 2 * self.inverse_frequencies.len());
        let RotaryTable { cos_sin, query_scale } = self.values(positions.iter().copied());
        Ok(RotaryRows {
            cos_sin: Tensor::from_vec(cos_sin, (n_tokens, head_dim), &Device::Cpu)?,
            query_scale: Tensor::from_vec(query_scale, n_tokens, &Device::Cpu)?,
        })
    }

    /// The same of all positions below `max_positions`.
    pub(super) fn table(&self, max_positions: usize) -> RotaryTable {
        self.values(0..max_positions as u32)
    }

    fn values(&self, positions: impl Iterator<Item = u32> + Clone) -> RotaryTable {
        let mut cos_sin = Vec::new();
        for position in positions.clone() {
            let angles = self.inverse_frequencies.iter().map(|frequency| frequency * position as f32);
            cos_sin.extend(angles.clone().map(|angle| f64::from(angle).cos() as f32 * self.attention_factor));
            cos_sin.extend(angles.map(|angle| f64::from(angle).sin() as f32 * self.attention_factor));
        }
        RotaryTable { cos_sin, query_scale: positions.map(|position| self.query_scale(position)).collect() }
    }

    fn query_scale(&self, position: u32) -> f32 {
        let Some(AttentionTemperature { beta, original_max_position_embeddings }) = self.temperature else {
            return 1.0;
        };
        let steps = position as usize / original_max_position_embeddings;
        (1.0 + beta * (1.0 + steps as f64).ln()) as f32
    }
}

/// `theta^(2i / head_dim)`, `(head_dim / 2)`
fn frequencies(head_dim: usize, theta: f64) -> Vec<f32> {
    let exponent = |i: usize| f64::from((2 * i) as f32 / head_dim as f32);
    (0..head_dim / 2).map(|i| theta.powf(exponent(i)) as f32).collect()
}

/// YaRN (arXiv 2309.00071): fast dimensions as they were, slow ones interpolated, a ramp between.
fn yarn_frequencies(frequencies: &[f32], theta: f64, yarn: &YarnConfig) -> Vec<f32> {
    let head_dim = 2 * frequencies.len();
    let dimension_of = |rotations: f64| {
        let wavelengths = yarn.original_max_position_embeddings as f64 / (rotations * 2.0 * std::f64::consts::PI);
        head_dim as f64 * wavelengths.ln() / (2.0 * theta.ln())
    };
    let (mut low, mut high) = (dimension_of(yarn.beta_fast), dimension_of(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    let factor = yarn.factor as f32;
    let blend = |(i, &frequency): (usize, &f32)| {
        let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
        let kept = 1.0 - ramp;
        1.0 / (factor * frequency) * (1.0 - kept) + 1.0 / frequency * kept
    };
    frequencies.iter().enumerate().map(blend).collect()
}
