//! The definition, in f64.

pub(super) fn combine_experts(
    residual: &[f32],
    outputs: &[f32],
    width: usize,
    rows: &[u32],
    weights: &[f32],
) -> Vec<f64> {
    let k = rows.len() / (residual.len() / width);
    let mut out: Vec<f64> = residual.iter().map(|&v| f64::from(v)).collect();
    for (i, (&row, &weight)) in rows.iter().zip(weights).enumerate() {
        for column in 0..width {
            out[i / k * width + column] += f64::from(weight) * f64::from(outputs[row as usize * width + column]);
        }
    }
    out
}
