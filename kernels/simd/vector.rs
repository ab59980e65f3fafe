//! The vector operations that the kernels use, in f32.

#![expect(unsafe_code, reason = "each operation needs the target feature of its vector")]

use crate::storage::Element;

/// Register-blocked tile of a matrix product: rows by outputs whose accumulators fit the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TileShape {
    /// 32 registers of one vector each.
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), expect(dead_code, reason = "AVX-512, NEON"))]
    Rows4Outputs6,
    /// 16 registers.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "AVX2"))]
    Rows4Outputs3,
    /// Vectors that span several registers.
    Rows2Outputs2,
}

/// A register of f32 lanes. All functions require the target feature of the implementing type, pointers
/// to `LANES` (or `len`) readable or writable elements without alignment, and nothing else.
pub(crate) trait Vector: Copy {
    /// Number of lanes.
    const LANES: usize;
    /// The tile that suits this register file.
    const TILE: TileShape;

    unsafe fn splat(value: f32) -> Self;
    /// `LANES` elements, widened to f32.
    unsafe fn load<T: Element>(from: *const T) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self + a * b`, rounded once where the machine can.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// The bits of `2 * LANES` elements, for [`Self::fma_pairs`] alone.
    ///
    /// # Safety
    /// The tier has bf16 products ([`super::Tier::has_bf16_products`]).
    unsafe fn load_pairs(_from: *const half::bf16) -> Self {
        unreachable!("a tier without bf16 products widens bf16")
    }
    /// In each lane `self` and two products of [`Self::load_pairs`].
    ///
    /// # Safety
    /// As [`Self::load_pairs`].
    unsafe fn fma_pairs(self, _a: Self, _b: Self) -> Self {
        unreachable!("a tier without bf16 products widens bf16")
    }
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// Lane-wise maximum; a NaN in `self` stays.
    unsafe fn max(self, other: Self) -> Self;
    /// Lane-wise minimum; a NaN in `self` stays.
    unsafe fn min(self, other: Self) -> Self;
    /// To the nearest integer.
    unsafe fn round(self) -> Self;
    /// `self * 2^n` for integers `n` in -126..=127.
    unsafe fn scale_by_power_of_two(self, n: Self) -> Self;
    /// Sum of the lanes: halves are added to each other until one lane is left.
    unsafe fn sum(self) -> f32;

    /// The first `len < LANES` elements, the other lanes zero.
    #[inline(always)]
    unsafe fn load_partial<T: Element>(from: *const T, len: usize) -> Self {
        let mut lanes = [0.0f32; 16];
        // SAFETY: the caller vouches for `len` elements; `lanes` holds at least `LANES`.
        unsafe {
            for (i, lane) in lanes.iter_mut().enumerate().take(len) {
                *lane = from.add(i).read_unaligned().to_f32();
            }
            Self::load(lanes.as_ptr())
        }
    }

    /// Stores the first `len < LANES` lanes.
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, len: usize) {
        let mut lanes = [0.0f32; 16];
        // SAFETY: `lanes` holds at least `LANES`; the caller vouches for `len` elements.
        unsafe {
            self.store(lanes.as_mut_ptr());
            for (i, lane) in lanes.iter().enumerate().take(len) {
                *to.add(i) = *lane;
            }
        }
    }

    /// `e^self` to about 2 ulp; arguments are clamped to -87.3..=88, NaN stays NaN, 0 gives exactly 1.
    ///
    /// Cody-Waite reduction by ln 2, then the polynomial of Cephes' `expf`.
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        // SAFETY: the caller has the target feature.
        unsafe {
            let x = self.max(Self::splat(-87.3)).min(Self::splat(88.0));
            let n = x.mul(Self::splat(std::f32::consts::LOG2_E)).round();
            let r = x.fma(n, Self::splat(-355.0 / 512.0)).fma(n, Self::splat(2.121_944_4e-4));
            let mut p = Self::splat(1.987_569_1e-4);
            for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
                p = Self::splat(coefficient).fma(p, r);
            }
            let one_plus_r = r.add(Self::splat(1.0));
            one_plus_r.fma(p, r.mul(r)).scale_by_power_of_two(n)
        }
    }
}
