//! Limits on what a configuration may ask for, checked before anything is allocated. They are far above any
//! released model and far below what would overflow; the shapes of the tensors are what pins the values.

use std::ops::RangeInclusive;

use super::error::CheckpointError;
use super::json::Section;
use crate::model::config::Config;

pub(super) const VOCABULARY: RangeInclusive<usize> = 1..=1 << 24;
pub(super) const WIDTH: RangeInclusive<usize> = 1..=1 << 20;
pub(super) const LAYERS: RangeInclusive<usize> = 1..=1024;
pub(super) const HEADS: RangeInclusive<usize> = 1..=4096;
pub(super) const HEAD_DIM: RangeInclusive<usize> = 2..=4096;
pub(super) const EXPERTS: RangeInclusive<usize> = 1..=4096;
/// Positions are `u32` in a batch.
pub(super) const POSITIONS: RangeInclusive<usize> = 1..=1 << 31;
pub(super) const EPSILON: RangeInclusive<f64> = 1e-12..=1.0;
pub(super) const THETA: RangeInclusive<f64> = 2.0..=1e15;
pub(super) const FACTOR: RangeInclusive<f64> = 1.0..=1e6;
pub(super) const ROTATIONS: RangeInclusive<f64> = 1e-6..=1e6;
pub(super) const SCALE: RangeInclusive<f64> = 1e-6..=1e6;
pub(super) const BETA: RangeInclusive<f64> = 0.0..=1e3;

/// Keys under which a layout states the sizes that must fit each other.
pub(super) struct Keys {
    pub(super) heads: &'static str,
    pub(super) kv_heads: &'static str,
    pub(super) head_dim: &'static str,
    pub(super) experts_per_token: &'static str,
}

/// Relations between the values of a configuration, each of which is within its own bounds.
pub(super) fn check_relations(config: &Config, section: &Section<'_>, keys: &Keys) -> Result<(), CheckpointError> {
    let attention = &config.attention;
    if !attention.head_dim.is_multiple_of(2) || !HEAD_DIM.contains(&attention.head_dim) {
        let expected = format!("an even width from 2 to 4096, not {}", attention.head_dim);
        return Err(section.refuse(keys.head_dim, &expected));
    }
    if !attention.num_attention_heads.is_multiple_of(attention.num_key_value_heads) {
        let expected = format!("a divisor of {} = {}", keys.heads, attention.num_attention_heads);
        return Err(section.refuse(keys.kv_heads, &expected));
    }
    if let Some(experts) = config.feed_forward.experts
        && experts.experts_per_token > experts.num_experts
    {
        return Err(section.refuse(keys.experts_per_token, &format!("at most {}", experts.num_experts)));
    }
    Ok(())
}
