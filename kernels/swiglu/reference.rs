//! The definition, in f64.

pub(super) fn swiglu(gate_up: &[f32], width: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for row in gate_up.chunks_exact(2 * width) {
        let (gate, up) = row.split_at(width);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        out.extend(gate.iter().zip(up).map(|(&gate, &up)| silu(f64::from(gate)) * f64::from(up)));
    }
    out
}
