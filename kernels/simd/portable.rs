//! Sixteen lanes in an array, for the compiler to vectorise as it can.

#![expect(unsafe_code, reason = "implements the unsafe vector trait")]

use super::vector::{TileShape, Vector};
use crate::storage::Element;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable([f32; 16]);

/// Contracted only where fused multiply-add is part of the base instruction set: elsewhere it is a call.
#[inline(always)]
fn multiply_add(sum: f32, a: f32, b: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, sum) } else { sum + a * b }
}

macro_rules! lanewise {
    ($lane:ident => $value:expr) => {{
        let mut out = [0.0f32; 16];
        let mut $lane = 0;
        while $lane < 16 {
            out[$lane] = $value;
            $lane += 1;
        }
        Portable(out)
    }};
}

impl Vector for Portable {
    const LANES: usize = 16;
    const TILE: TileShape = TileShape::Rows2Outputs2;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 16])
    }
    #[inline(always)]
    unsafe fn load<T: Element>(from: *const T) -> Self {
        // SAFETY: the caller vouches for 16 elements.
        lanewise!(i => unsafe { from.add(i).read_unaligned() }.to_f32())
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for 16 elements.
        unsafe { to.cast::<[f32; 16]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        lanewise!(i => multiply_add(self.0[i], a.0[i], b.0[i]))
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        lanewise!(i => self.0[i] + other.0[i])
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        lanewise!(i => self.0[i] * other.0[i])
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        lanewise!(i => self.0[i] / other.0[i])
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        lanewise!(i => if self.0[i] < other.0[i] { other.0[i] } else { self.0[i] })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        lanewise!(i => if self.0[i] > other.0[i] { other.0[i] } else { self.0[i] })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // Adding and taking away 1.5 * 2^23 rounds any |x| < 2^22 without a call.
        const MAGIC: f32 = 12_582_912.0;
        lanewise!(i => (self.0[i] + MAGIC) - MAGIC)
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(self, n: Self) -> Self {
        lanewise!(i => self.0[i] * f32::from_bits((((n.0[i] as i32) + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut lanes = self.0;
        let mut half = 8;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }
}
