//! The one dot product of the crate. Every product of a row with a weight row, and of a query with a key,
//! has one vector accumulator that walks the shared dimension from 0, a zero-padded tail, and one
//! horizontal sum: its bits do not depend on the tile it was computed in.

#![expect(unsafe_code, reason = "reads through raw pointers inside target-feature functions")]

use super::vector::Vector;
use crate::storage::Element;

/// Adds the products of `R` rows and `O` weight rows over `len` elements to `acc`.
///
/// # Safety
/// All pointers are readable for `len` elements, and the machine has the target feature of `V`.
#[inline(always)]
pub(crate) unsafe fn dot_tile<V: Vector, T: Element, const R: usize, const O: usize>(
    x: [*const f32; R],
    w: [*const T; O],
    len: usize,
    mut acc: [[V; O]; R],
) -> [[V; O]; R] {
    // SAFETY: `k + LANES <= len` for full vectors, `k + (len - k) == len` for the tail.
    unsafe {
        let mut k = 0;
        while k + V::LANES <= len {
            let mut weights = [V::splat(0.0); O];
            for o in 0..O {
                weights[o] = V::load(w[o].add(k));
            }
            for r in 0..R {
                let row = V::load(x[r].add(k));
                for o in 0..O {
                    acc[r][o] = acc[r][o].fma(row, weights[o]);
                }
            }
            k += V::LANES;
        }
        if k < len {
            for r in 0..R {
                let row = V::load_partial(x[r].add(k), len - k);
                for o in 0..O {
                    acc[r][o] = acc[r][o].fma(row, V::load_partial(w[o].add(k), len - k));
                }
            }
        }
        acc
    }
}

/// Dot products of `R` rows with `O` weight rows.
///
/// # Safety
/// As [`dot_tile`].
#[inline(always)]
pub(crate) unsafe fn dot<V: Vector, T: Element, const R: usize, const O: usize>(
    x: [*const f32; R],
    w: [*const T; O],
    len: usize,
) -> [[f32; O]; R] {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let acc = dot_tile::<V, T, R, O>(x, w, len, [[V::splat(0.0); O]; R]);
        let mut sums = [[0.0; O]; R];
        for r in 0..R {
            for o in 0..O {
                sums[r][o] = acc[r][o].sum();
            }
        }
        sums
    }
}

/// Copies `len` elements to f32.
///
/// # Safety
/// Both pointers are valid for `len` elements.
#[inline(always)]
pub(crate) unsafe fn widen<V: Vector, T: Element>(from: *const T, to: *mut f32, len: usize) {
    // SAFETY: `k + LANES <= len` for full vectors, `k + (len - k) == len` for the tail.
    unsafe {
        let mut k = 0;
        while k + V::LANES <= len {
            V::load(from.add(k)).store(to.add(k));
            k += V::LANES;
        }
        if k < len {
            V::load_partial(from.add(k), len - k).store_partial(to.add(k), len - k);
        }
    }
}
