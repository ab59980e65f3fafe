//! The one dot product of the crate. Every product of a row with a weight row, and of a query with a key,
//! has one vector accumulator that walks the shared dimension from 0, a zero-padded tail, and one
//! horizontal sum: its bits do not depend on the tile it was computed in.

#![expect(unsafe_code, reason = "reads through raw pointers inside target-feature functions")]

use half::bf16;

use super::vector::Vector;
use crate::storage::Element;

/// How rows and weight rows meet in a product: what they are in memory and what one vector takes of them.
/// Functions require what those of [`Vector`] require; partial ones read `len` elements, fewer than a step.
pub(crate) trait Multiply {
    /// Element of a row.
    type X: Copy + Send + Sync + 'static;
    /// Element of a weight row.
    type W: Copy + Send + Sync + 'static;
    /// The same product with weights that have been copied for repeated use.
    type Packed: Multiply<X = Self::X>;
    /// Elements per lane that one step takes.
    const PER_LANE: usize;

    unsafe fn load_x<V: Vector>(from: *const Self::X) -> V;
    unsafe fn load_x_partial<V: Vector>(from: *const Self::X, len: usize) -> V;
    unsafe fn load_w<V: Vector>(from: *const Self::W) -> V;
    unsafe fn load_w_partial<V: Vector>(from: *const Self::W, len: usize) -> V;
    /// `acc` and the products of a step.
    unsafe fn fma<V: Vector>(acc: V, x: V, w: V) -> V;
    /// Copies `len` elements of a weight row for repeated use.
    unsafe fn pack<V: Vector>(from: *const Self::W, to: *mut <Self::Packed as Multiply>::W, len: usize);
}

/// Rows in f32 and weights of any type, which are widened to f32.
pub(crate) struct Widened<T>(std::marker::PhantomData<T>);

// SAFETY (all blocks): the trait's callers vouch for what the vector's functions need.
impl<T: Element> Multiply for Widened<T> {
    type X = f32;
    type W = T;
    type Packed = Widened<f32>;
    const PER_LANE: usize = 1;

    #[inline(always)]
    unsafe fn load_x<V: Vector>(from: *const f32) -> V {
        // SAFETY: see above.
        unsafe { V::load(from) }
    }
    #[inline(always)]
    unsafe fn load_x_partial<V: Vector>(from: *const f32, len: usize) -> V {
        // SAFETY: see above.
        unsafe { V::load_partial(from, len) }
    }
    #[inline(always)]
    unsafe fn load_w<V: Vector>(from: *const T) -> V {
        // SAFETY: see above.
        unsafe { V::load(from) }
    }
    #[inline(always)]
    unsafe fn load_w_partial<V: Vector>(from: *const T, len: usize) -> V {
        // SAFETY: see above.
        unsafe { V::load_partial(from, len) }
    }
    #[inline(always)]
    unsafe fn fma<V: Vector>(acc: V, x: V, w: V) -> V {
        // SAFETY: see above.
        unsafe { acc.fma(x, w) }
    }
    #[inline(always)]
    unsafe fn pack<V: Vector>(from: *const T, to: *mut f32, len: usize) {
        // SAFETY: see above.
        unsafe { widen::<V, T>(from, to, len) }
    }
}

/// Rows and weights in bf16, two of which each lane multiplies and adds at a time; for tiers that have
/// [`Vector::fma_pairs`].
pub(crate) struct Bf16Pairs;

// SAFETY (all blocks): as above.
impl Multiply for Bf16Pairs {
    type X = bf16;
    type W = bf16;
    type Packed = Self;
    const PER_LANE: usize = 2;

    #[inline(always)]
    unsafe fn load_x<V: Vector>(from: *const bf16) -> V {
        // SAFETY: see above.
        unsafe { V::load_pairs(from) }
    }
    #[inline(always)]
    unsafe fn load_x_partial<V: Vector>(from: *const bf16, len: usize) -> V {
        let mut lanes = [bf16::ZERO; 32];
        // SAFETY: the caller vouches for `len` elements; `lanes` holds at least two per lane.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), len);
            V::load_pairs(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn load_w<V: Vector>(from: *const bf16) -> V {
        // SAFETY: see above.
        unsafe { V::load_pairs(from) }
    }
    #[inline(always)]
    unsafe fn load_w_partial<V: Vector>(from: *const bf16, len: usize) -> V {
        // SAFETY: see above.
        unsafe { Self::load_x_partial(from, len) }
    }
    #[inline(always)]
    unsafe fn fma<V: Vector>(acc: V, x: V, w: V) -> V {
        // SAFETY: see above.
        unsafe { acc.fma_pairs(x, w) }
    }
    #[inline(always)]
    unsafe fn pack<V: Vector>(from: *const bf16, to: *mut bf16, len: usize) {
        // SAFETY: see above.
        unsafe { std::ptr::copy_nonoverlapping(from, to, len) }
    }
}

/// Adds the products of `R` rows and `O` weight rows over `len` elements to `acc`.
///
/// # Safety
/// All pointers are readable for `len` elements, and the machine has the target feature of `V`.
#[inline(always)]
pub(crate) unsafe fn dot_tile<V: Vector, M: Multiply, const R: usize, const O: usize>(
    x: [*const M::X; R],
    w: [*const M::W; O],
    len: usize,
    mut acc: [[V; O]; R],
) -> [[V; O]; R] {
    let step = M::PER_LANE * V::LANES;
    // SAFETY: `k + step <= len` for full vectors, `k + (len - k) == len` for the tail.
    unsafe {
        let mut k = 0;
        while k + step <= len {
            let mut weights = [V::splat(0.0); O];
            for o in 0..O {
                weights[o] = M::load_w(w[o].add(k));
            }
            for r in 0..R {
                let row = M::load_x(x[r].add(k));
                for o in 0..O {
                    acc[r][o] = M::fma(acc[r][o], row, weights[o]);
                }
            }
            k += step;
        }
        if k < len {
            for r in 0..R {
                let row = M::load_x_partial(x[r].add(k), len - k);
                for o in 0..O {
                    acc[r][o] = M::fma(acc[r][o], row, M::load_w_partial(w[o].add(k), len - k));
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
        let acc = dot_tile::<V, Widened<T>, R, O>(x, w, len, [[V::splat(0.0); O]; R]);
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
