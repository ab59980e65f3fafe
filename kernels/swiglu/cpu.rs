//! Rows over threads, vectors along a row.

#![expect(unsafe_code, reason = "vector loads and stores")]

use crate::simd::{Kernel, Tier, Vector, dispatch};
use crate::threads::for_each_row;

/// An exponential costs about as much as this many multiply-adds.
const WORK_PER_ELEMENT: usize = 8;

/// `(n, width)` of `gate_up (n, 2 * width)`
pub(super) fn swiglu(tier: Tier, gate_up: &[f32], width: usize) -> Vec<f32> {
    let mut out = vec![0.0; gate_up.len() / 2];
    let work = out.len() * WORK_PER_ELEMENT;
    for_each_row(&mut out, width, work, |row, out| {
        let (gate, up) = gate_up[row * 2 * width..(row + 1) * 2 * width].split_at(width);
        assert!(gate.len() == out.len() && up.len() == out.len(), "gate, up and out are one row each");
        // SAFETY: the three have the same length.
        unsafe { dispatch(tier, Row { gate, up, out }) };
    });
    out
}

/// Three slices of one length.
struct Row<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { gate, up, out } = self;
        let len = out.len();
        let mut i = 0;
        // SAFETY: `i + LANES <= len` for full vectors, `i + (len - i) == len` for the tail.
        unsafe {
            while i + V::LANES <= len {
                product(V::load(gate.as_ptr().add(i)), V::load(up.as_ptr().add(i))).store(out.as_mut_ptr().add(i));
                i += V::LANES;
            }
            if i < len {
                let gate = V::load_partial(gate.as_ptr().add(i), len - i);
                let up = V::load_partial(up.as_ptr().add(i), len - i);
                product(gate, up).store_partial(out.as_mut_ptr().add(i), len - i);
            }
        }
    }
}

/// # Safety
/// The machine has the target feature of `V`.
#[inline(always)]
unsafe fn product<V: Vector>(gate: V, up: V) -> V {
    // SAFETY: by the caller.
    unsafe {
        let denominator = gate.mul(V::splat(-1.0)).exp().add(V::splat(1.0));
        gate.div(denominator).mul(up)
    }
}
