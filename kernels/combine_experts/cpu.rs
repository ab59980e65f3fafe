//! Rows over threads.

use super::CombineExperts;
use crate::threads::for_each_row;

pub(super) fn combine_experts(residual: &mut [f32], outputs: &[f32], width: usize, op: &CombineExperts<'_>) {
    let k = op.experts_per_token;
    let work = op.rows.len() * width;
    for_each_row(residual, width, work, |token, residual| {
        let rows = &op.rows[token * k..(token + 1) * k];
        let weights = &op.weights[token * k..(token + 1) * k];
        let mut sum = vec![0.0f32; width];
        for (&row, &weight) in rows.iter().zip(weights) {
            let output = &outputs[row as usize * width..(row as usize + 1) * width];
            sum.iter_mut().zip(output).for_each(|(sum, output)| *sum += weight * output);
        }
        residual.iter_mut().zip(&sum).for_each(|(residual, sum)| *residual += sum);
    });
}
