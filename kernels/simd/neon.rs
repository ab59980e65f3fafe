//! Four lanes: NEON, which every aarch64 processor has, and its extensions for products of bytes and of bf16.
//!
//! The instructions of the extensions are written as assembly: their intrinsics are not stable. Each stands in a
//! function of its own that has the feature, as an intrinsic does.

#![expect(unsafe_code, reason = "vector intrinsics")]

use std::arch::{aarch64::*, asm};

use half::bf16;

use super::bytes::{ByteSums, ByteTiles, OUTPUTS};
use super::pairs::{PairSums, halves};
use super::vector::{TileShape, Vector};
use crate::storage::{Element, ElementKind};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon(float32x4_t);

// SAFETY (all blocks): NEON is part of the base instruction set; the trait's callers vouch for the pointers.
impl Vector for Neon {
    const LANES: usize = 4;
    const TILE: TileShape = TileShape::Rows4Outputs6;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { vdupq_n_f32(value) })
    }
    #[inline(always)]
    unsafe fn load<T: Element>(from: *const T) -> Self {
        // SAFETY: see above; the kind names the element's layout.
        unsafe {
            Self(match T::KIND {
                ElementKind::F32 => vld1q_f32(from.cast()),
                ElementKind::Bf16 => widen_bf16(vld1_u16(from.cast())),
                ElementKind::F16 => vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from.cast()))),
            })
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { vst1q_f32(to, self.0) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vfmaq_f32(self.0, a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const bf16) -> Self {
        // SAFETY: see above.
        Self(unsafe { vld1q_f32(from.cast()) })
    }
    /// Rounds as no other operation here: each product, the sum of both and what is added to it are rounded to odd (an
    /// inexact result gets a last bit of 1), and subnormal numbers count as zero. Products of normal size are exact.
    /// Bits are therefore those of this tier alone. A kernel may have set `FPCR.EBF` for other rules; Linux does not.
    #[inline(always)]
    unsafe fn fma_pairs(self, a: Self, b: Self) -> Self {
        // SAFETY: see above; the callers have the bf16 extension.
        Self(unsafe { bfdot(self.0, a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vaddq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vmulq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vdivq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: see above. Of a NaN and a number the instruction returns the NaN.
        Self(unsafe { vmaxq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: see above; NaN as in `max`.
        Self(unsafe { vminq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vrndnq_f32(self.0) })
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(self, n: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let exponent = vaddq_s32(vcvtq_s32_f32(n.0), vdupq_n_s32(127));
            Self(vmulq_f32(self.0, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe { vpadds_f32(vadd_f32(vget_low_f32(self.0), vget_high_f32(self.0))) }
    }
}

/// # Safety
/// None on aarch64.
#[inline(always)]
unsafe fn widen_bf16(bits: uint16x4_t) -> float32x4_t {
    // SAFETY: NEON is part of the base instruction set.
    unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(bits)) }
}

/// Adds two products of bf16 to each lane of `sum`.
#[inline]
#[target_feature(enable = "bf16")]
fn bfdot(mut sum: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: registers alone; the function has the feature.
    unsafe {
        asm!("bfdot {0:v}.4s, {1:v}.8h, {2:v}.8h", inout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Adds four products of signed bytes to each lane of `sum`.
#[inline]
#[target_feature(enable = "dotprod")]
fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers alone; the function has the feature.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Adds four products of unsigned bytes with signed ones to each lane of `sum`.
#[inline]
#[target_feature(enable = "i8mm")]
fn usdot(mut sum: int32x4_t, a: uint8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers alone; the function has the feature.
    unsafe {
        asm!("usdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Sums of products for four outputs. Functions require the instructions of the implementing type.
pub(crate) trait Products: Copy {
    /// Are codes of weights signed bytes to the instructions? If so, 128 is taken from those of eight bits.
    const SIGNED: bool;

    unsafe fn in_tiles<T: ByteTiles>(work: &mut T);
    unsafe fn begin(start: i32) -> Self;
    /// Adds the products of four codes of each output with those of `row`, where the same four stand four times.
    unsafe fn add(self, codes: uint8x16_t, row: int8x16_t) -> Self;
    unsafe fn totals(self) -> int32x4_t;
}

/// Products of the base instruction set: words, pairs of which are added. A sum is two lanes.
#[derive(Clone, Copy)]
pub(crate) struct Words([int32x4_t; 2]);

// SAFETY (all blocks): NEON is part of the base instruction set.
impl Products for Words {
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn in_tiles<T: ByteTiles>(work: &mut T) {
        // SAFETY: the caller vouches for the work.
        unsafe { work.run::<Bytes<Self>, 1, 1>() }
    }
    #[inline(always)]
    unsafe fn begin(start: i32) -> Self {
        // SAFETY: see above.
        Self([unsafe { vreinterpretq_s32_u64(vdupq_n_u64(u64::from(start as u32))) }; 2])
    }
    #[inline(always)]
    unsafe fn add(self, codes: uint8x16_t, row: int8x16_t) -> Self {
        // SAFETY: see above.
        unsafe {
            let codes = vreinterpretq_s8_u8(codes);
            let low = vmull_s8(vget_low_s8(codes), vget_low_s8(row));
            Self([vpadalq_s16(self.0[0], low), vpadalq_s16(self.0[1], vmull_high_s8(codes, row))])
        }
    }
    #[inline(always)]
    unsafe fn totals(self) -> int32x4_t {
        // SAFETY: see above.
        unsafe { vpaddq_s32(self.0[0], self.0[1]) }
    }
}

/// One instruction per four products of four outputs.
#[derive(Clone, Copy)]
pub(crate) struct Sdot(int32x4_t);

// SAFETY (all blocks): the trait's callers have the dot products of bytes.
impl Products for Sdot {
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn in_tiles<T: ByteTiles>(work: &mut T) {
        // SAFETY: the caller vouches for the work.
        unsafe { work.run::<Bytes<Self>, 4, 1>() }
    }
    #[inline(always)]
    unsafe fn begin(start: i32) -> Self {
        // SAFETY: see above.
        Self(unsafe { vdupq_n_s32(start) })
    }
    #[inline(always)]
    unsafe fn add(self, codes: uint8x16_t, row: int8x16_t) -> Self {
        // SAFETY: see above.
        Self(unsafe { sdot(self.0, vreinterpretq_s8_u8(codes), row) })
    }
    #[inline(always)]
    unsafe fn totals(self) -> int32x4_t {
        self.0
    }
}

/// The same where the instruction takes codes without a sign.
#[derive(Clone, Copy)]
pub(crate) struct Usdot(int32x4_t);

// SAFETY (all blocks): the trait's callers have the extension for matrices of bytes.
impl Products for Usdot {
    const SIGNED: bool = false;

    #[inline(always)]
    unsafe fn in_tiles<T: ByteTiles>(work: &mut T) {
        // SAFETY: the caller vouches for the work.
        unsafe { work.run::<Bytes<Self>, 4, 1>() }
    }
    #[inline(always)]
    unsafe fn begin(start: i32) -> Self {
        // SAFETY: see above.
        Self(unsafe { vdupq_n_s32(start) })
    }
    #[inline(always)]
    unsafe fn add(self, codes: uint8x16_t, row: int8x16_t) -> Self {
        // SAFETY: see above.
        Self(unsafe { usdot(self.0, codes, row) })
    }
    #[inline(always)]
    unsafe fn totals(self) -> int32x4_t {
        self.0
    }
}

/// Sums of sixteen outputs.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<P> {
    sums: [P; 4],
    /// Sums of -128 times the codes of the row, to be taken away, in every lane: what codes less by 128 leave out.
    left_out: P,
}

/// Codes of sixteen outputs.
#[derive(Clone, Copy)]
pub(crate) struct Codes {
    bytes: [uint8x16_t; 4],
    /// Are they less by 128? A constant to the compiler, once everything is inlined.
    shifted: bool,
}

// SAFETY (all blocks): the trait's callers have the instructions of the products, and vouch for the pointers.
impl<P: Products> ByteSums for Bytes<P> {
    type Codes = Codes;
    type Row = int8x16_t;
    type Floats = [float32x4_t; 4];

    #[inline(always)]
    unsafe fn in_tiles<T: ByteTiles>(work: &mut T) {
        // SAFETY: see above.
        unsafe { P::in_tiles(work) }
    }
    #[inline(always)]
    unsafe fn begin(start: i32) -> Self {
        // SAFETY: see above.
        unsafe { Self { sums: [P::begin(start); 4], left_out: P::begin(0) } }
    }
    #[inline(always)]
    unsafe fn codes(from: *const u8) -> Codes {
        // SAFETY: see above.
        let bytes = unsafe { load_bytes(from) };
        // SAFETY: see above. Of a byte without a sign, this is 128 less with one.
        let signed = |byte| unsafe { veorq_u8(byte, vdupq_n_u8(128)) };
        Codes { bytes: if P::SIGNED { bytes.map(signed) } else { bytes }, shifted: P::SIGNED }
    }
    #[inline(always)]
    unsafe fn nibbles(from: *const u8) -> [Codes; 2] {
        // SAFETY: see above.
        unsafe {
            let both = load_bytes(from);
            let low = both.map(|byte| vandq_u8(byte, vdupq_n_u8(15)));
            let high = both.map(|byte| vshrq_n_u8::<4>(byte));
            [low, high].map(|bytes| Codes { bytes, shifted: false })
        }
    }
    #[inline(always)]
    unsafe fn row(from: *const i8) -> int8x16_t {
        // SAFETY: see above; four codes of the row.
        unsafe { vreinterpretq_s8_s32(vdupq_n_s32(from.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn add_products(mut self, weights: Codes, row: int8x16_t) -> Self {
        // SAFETY: see above.
        unsafe {
            for (sum, codes) in self.sums.iter_mut().zip(weights.bytes) {
                *sum = sum.add(codes, row);
            }
            if weights.shifted {
                self.left_out = self.left_out.add(vdupq_n_u8(128), row);
            }
        }
        self
    }
    #[inline(always)]
    unsafe fn scales(from: *const bf16) -> Self::Floats {
        // SAFETY: see above.
        std::array::from_fn(|quarter| unsafe { widen_bf16(vld1_u16(from.add(4 * quarter).cast())) })
    }
    #[inline(always)]
    unsafe fn floats(from: *const f32) -> Self::Floats {
        // SAFETY: see above.
        unsafe { load_floats(from) }
    }
    #[inline(always)]
    unsafe fn add_scaled(self, to: Self::Floats, scales: Self::Floats, row_scale: f32) -> Self::Floats {
        // SAFETY: see above.
        std::array::from_fn(|quarter| unsafe {
            let sums = vsubq_s32(self.sums[quarter].totals(), self.left_out.totals());
            vfmaq_f32(to[quarter], vcvtq_f32_s32(sums), vmulq_n_f32(scales[quarter], row_scale))
        })
    }
    #[inline(always)]
    unsafe fn to_array(from: Self::Floats) -> [f32; OUTPUTS] {
        let mut numbers = [0.0; OUTPUTS];
        // SAFETY: sixteen numbers.
        unsafe { store_floats(from, numbers.as_mut_ptr()) };
        numbers
    }
}

/// # Safety
/// 64 bytes can be read.
#[inline(always)]
unsafe fn load_bytes(from: *const u8) -> [uint8x16_t; 4] {
    // SAFETY: the caller vouches for the pointer.
    std::array::from_fn(|quarter| unsafe { vld1q_u8(from.add(16 * quarter)) })
}

/// # Safety
/// Sixteen numbers can be read.
#[inline(always)]
unsafe fn load_floats(from: *const f32) -> [float32x4_t; 4] {
    // SAFETY: the caller vouches for the pointer.
    std::array::from_fn(|quarter| unsafe { vld1q_f32(from.add(4 * quarter)) })
}

/// # Safety
/// Sixteen numbers can be written.
#[inline(always)]
unsafe fn store_floats(numbers: [float32x4_t; 4], to: *mut f32) {
    for (quarter, numbers) in numbers.into_iter().enumerate() {
        // SAFETY: the caller vouches for the pointer.
        unsafe { vst1q_f32(to.add(4 * quarter), numbers) };
    }
}

/// Sums of products of pairs, which are widened to f32.
#[derive(Clone, Copy)]
pub(crate) struct WidenedPairs([float32x4_t; 4]);

// SAFETY (all blocks): NEON is part of the base instruction set; the trait's callers vouch for the pointers.
impl PairSums for WidenedPairs {
    /// First and second of the pairs, four outputs each.
    type Weights = [[float32x4_t; 4]; 2];
    type Pair = [float32x4_t; 2];
    type Lanes = Neon;
    const WORDS: usize = 2;

    #[inline(always)]
    unsafe fn zeros() -> Self {
        // SAFETY: see above.
        Self([unsafe { vdupq_n_f32(0.0) }; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { load_floats(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { store_floats(self.0, to) }
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8) -> Self::Weights {
        // SAFETY: see above.
        unsafe {
            let pairs = load_bytes(from).map(|bytes| vreinterpretq_u32_u8(bytes));
            let first = pairs.map(|pair| vreinterpretq_f32_u32(vshlq_n_u32::<16>(pair)));
            let second = pairs.map(|pair| vreinterpretq_f32_u32(vandq_u32(pair, vdupq_n_u32(0xFFFF_0000))));
            [first, second]
        }
    }
    #[inline(always)]
    unsafe fn pair(from: *const u32) -> Self::Pair {
        // SAFETY: see above.
        std::array::from_fn(|part| unsafe { vdupq_n_f32(from.add(part).cast::<f32>().read_unaligned()) })
    }
    #[inline(always)]
    unsafe fn write_pair(pair: u32, to: *mut u32) {
        // SAFETY: see above.
        unsafe { to.cast::<[u32; 2]>().write_unaligned(halves(pair)) }
    }
    #[inline(always)]
    unsafe fn add_products(mut self, weights: Self::Weights, pair: Self::Pair) -> Self {
        for (weights, value) in weights.iter().zip(pair) {
            for (sum, weights) in self.0.iter_mut().zip(weights) {
                // SAFETY: see above.
                *sum = unsafe { vfmaq_f32(*sum, *weights, value) };
            }
        }
        self
    }
    #[inline(always)]
    unsafe fn scale(self, factor: f32) -> Self {
        // SAFETY: see above.
        Self(self.0.map(|sums| unsafe { vmulq_n_f32(sums, factor) }))
    }
}

/// One instruction per four pairs; it rounds as [`Neon::fma_pairs`] says.
#[derive(Clone, Copy)]
pub(crate) struct DottedPairs([float32x4_t; 4]);

// SAFETY (all blocks): the trait's callers have the bf16 extension, and vouch for the pointers.
impl PairSums for DottedPairs {
    /// The bits of four pairs each.
    type Weights = [float32x4_t; 4];
    type Pair = float32x4_t;
    type Lanes = Neon;
    const WORDS: usize = 1;

    #[inline(always)]
    unsafe fn zeros() -> Self {
        // SAFETY: see above.
        Self([unsafe { vdupq_n_f32(0.0) }; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { load_floats(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { store_floats(self.0, to) }
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8) -> Self::Weights {
        // SAFETY: see above.
        unsafe { load_bytes(from).map(|bytes| vreinterpretq_f32_u8(bytes)) }
    }
    #[inline(always)]
    unsafe fn pair(from: *const u32) -> Self::Pair {
        // SAFETY: see above.
        unsafe { vreinterpretq_f32_u32(vdupq_n_u32(from.read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn write_pair(pair: u32, to: *mut u32) {
        // SAFETY: see above.
        unsafe { to.write_unaligned(pair) }
    }
    #[inline(always)]
    unsafe fn add_products(mut self, weights: Self::Weights, pair: Self::Pair) -> Self {
        for (sum, weights) in self.0.iter_mut().zip(weights) {
            // SAFETY: see above.
            *sum = unsafe { bfdot(*sum, weights, pair) };
        }
        self
    }
    #[inline(always)]
    unsafe fn scale(self, factor: f32) -> Self {
        // SAFETY: see above.
        Self(self.0.map(|sums| unsafe { vmulq_n_f32(sums, factor) }))
    }
}
