//! The definition, in f64.

/// One head: `out[i] = x[i] cos[i] - x[i + half] sin[i]`, `out[i + half] = x[i + half] cos[i] + x[i] sin[i]`.
pub(super) fn rotate(head: &[f32], cos_sin: &[f32]) -> Vec<f64> {
    let half = head.len() / 2;
    let x = |i: usize| f64::from(head[i]);
    let (cos, sin) = (|i: usize| f64::from(cos_sin[i]), |i: usize| f64::from(cos_sin[half + i]));
    let first = (0..half).map(|i| x(i) * cos(i) - x(i + half) * sin(i));
    let second = (0..half).map(|i| x(i + half) * cos(i) + x(i) * sin(i));
    first.chain(second).collect()
}
