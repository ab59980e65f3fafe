//! Row by row. Squares are summed in f64, so that no activation overflows.

use crate::threads::for_each_row;

/// Partial sums per row; a fixed number fixes the order of the additions.
const LANES: usize = 8;

/// `(n, weight.len())`
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    let mut out = vec![0.0; x.len()];
    for_each_row(&mut out, width, x.len(), |row, out| {
        normalise(&x[row * width..(row + 1) * width], weight, eps, out);
    });
    out
}

fn normalise(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut lanes = [0.0f64; LANES];
    let chunks = x.chunks_exact(LANES);
    for (lane, &value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = f64::from(value) * f64::from(value);
    }
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(value) * f64::from(value);
        }
    }
    let mean_square = lanes.iter().sum::<f64>() / x.len() as f64;
    let scale = (1.0 / (mean_square + f64::from(eps)).sqrt()) as f32;
    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}
