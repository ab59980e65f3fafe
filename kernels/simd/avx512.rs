//! Sixteen lanes: AVX-512F, and AVX512_BF16 for products of bf16.

#![expect(unsafe_code, reason = "vector intrinsics")]

use std::arch::x86_64::*;

use super::vector::{TileShape, Vector};
use crate::storage::{Element, ElementKind};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(__m512);

// SAFETY (all blocks): the trait's callers have AVX-512F and what it implies, and vouch for the pointers.
impl Vector for Avx512 {
    const LANES: usize = 16;
    const TILE: TileShape = TileShape::Rows4Outputs6;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load<T: Element>(from: *const T) -> Self {
        // SAFETY: see above; the kind names the element's layout.
        unsafe {
            Self(match T::KIND {
                ElementKind::F32 => _mm512_loadu_ps(from.cast()),
                ElementKind::Bf16 => {
                    let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
                }
                ElementKind::F16 => _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())),
            })
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const half::bf16) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_loadu_ps(from.cast()) })
    }
    #[inline(always)]
    unsafe fn fma_pairs(self, a: Self, b: Self) -> Self {
        // SAFETY: see above; the callers have AVX512_BF16, whose vectors have no other layout.
        Self(unsafe {
            let pairs = |vector: __m512| std::mem::transmute::<__m512, __m512bh>(vector);
            _mm512_dpbf16_ps(self.0, pairs(a.0), pairs(b.0))
        })
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: see above. Of a NaN and a number the instruction returns its second operand.
        Self(unsafe { _mm512_max_ps(other.0, self.0) })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: see above; the order as in `max`.
        Self(unsafe { _mm512_min_ps(other.0, self.0) })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(self, n: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_scalef_ps(self.0, n.0) })
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(self.0)));
            let eight = _mm256_add_ps(_mm512_castps512_ps256(self.0), upper);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}
