//! Sums of products of bytes for sixteen outputs at a time: unsigned codes of weights with signed codes of rows. Sums
//! are exact integers, and what follows them is rounded alike everywhere, so that every tier gives the same bits.

#![expect(unsafe_code, reason = "each operation needs the target feature of its lanes")]

use half::bf16;

#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{Level, Tier};
use crate::storage::Element;

/// Outputs that are computed together.
pub(crate) const OUTPUTS: usize = 16;

/// Work in tiles of rows by panels of outputs, one sum each. `run` must be `#[inline(always)]`, and so must all it
/// calls.
pub(crate) trait ByteTiles {
    /// Does all of it with tiles of up to `ROWS` by `PANELS`.
    ///
    /// # Safety
    /// The machine has the instruction set of `S`, and the work's own pointers are valid.
    unsafe fn run<S: ByteSums, const ROWS: usize, const PANELS: usize>(&mut self);
}

/// Sums of sixteen outputs. All functions require the target feature of the implementing type, and pointers to as many
/// readable elements as they say; nothing is aligned.
pub(crate) trait ByteSums: Copy {
    /// Codes of sixteen outputs, four each.
    type Codes: Copy;
    /// Four codes of a row, for all outputs.
    type Row: Copy;
    /// A number per output.
    type Floats: Copy;

    /// Runs the work with the tiles whose sums and numbers fit this register file: other tiles are not even compiled.
    unsafe fn in_tiles<T: ByteTiles>(work: &mut T);
    /// Every sum begins with `start`.
    unsafe fn begin(start: i32) -> Self;
    /// 64 codes of 8 bits: four of the first output, four of the next.
    unsafe fn codes(from: *const u8) -> Self::Codes;
    /// 64 bytes of two codes each: those of the low halves, then those of the high ones.
    unsafe fn nibbles(from: *const u8) -> [Self::Codes; 2];
    /// Four signed codes.
    unsafe fn row(from: *const i8) -> Self::Row;
    unsafe fn add_products(self, weights: Self::Codes, row: Self::Row) -> Self;
    /// Sixteen scales.
    unsafe fn scales(from: *const bf16) -> Self::Floats;
    /// Sixteen numbers.
    unsafe fn floats(from: *const f32) -> Self::Floats;
    /// `to + sums * (scales * row_scale)`, each operation rounded but for the last product, which is rounded with the
    /// sum.
    unsafe fn add_scaled(self, to: Self::Floats, scales: Self::Floats, row_scale: f32) -> Self::Floats;
    /// The sixteen numbers.
    unsafe fn to_array(from: Self::Floats) -> [f32; OUTPUTS];
}

/// A loop over such sums. `run` must be `#[inline(always)]`, and so must all it calls.
pub(crate) trait ByteKernel {
    /// Runs the loop.
    ///
    /// # Safety
    /// The machine has the instruction set of `S`, and the kernel's own pointers are valid.
    unsafe fn run<S: ByteSums>(self);
}

/// Runs `kernel` with the sums of `tier`.
///
/// # Safety
/// The kernel's own pointers are valid; see its type.
pub(crate) unsafe fn dispatch_bytes<K: ByteKernel>(tier: Tier, kernel: K) {
    match tier.0 {
        // SAFETY: these need no feature; the caller vouches for the kernel.
        Level::Portable => unsafe { kernel.run::<Portable>() },
        // SAFETY: a `Tier` of this level exists only where the feature was detected.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx512 => unsafe { run_avx2(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni | Level::Avx512Bf16 => unsafe { run_vnni(kernel) },
        // SAFETY: these need no feature beyond the base instruction set; the caller vouches for the kernel.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { kernel.run::<neon::Bytes<neon::Words>>() },
        // SAFETY: a `Tier` of this level exists only where the feature was detected.
        #[cfg(target_arch = "aarch64")]
        Level::NeonDotprod => unsafe { run_sdot(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Level::NeonBf16 => unsafe { run_usdot(kernel) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_avx2<K: ByteKernel>(kernel: K) {
    // SAFETY: this function has the feature; the caller vouches for the kernel.
    unsafe { kernel.run::<x86::Avx2>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn run_vnni<K: ByteKernel>(kernel: K) {
    // SAFETY: this function has the feature; the caller vouches for the kernel.
    unsafe { kernel.run::<x86::Vnni>() }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "dotprod")]
unsafe fn run_sdot<K: ByteKernel>(kernel: K) {
    // SAFETY: this function has the feature; the caller vouches for the kernel.
    unsafe { kernel.run::<neon::Bytes<neon::Sdot>>() }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "i8mm")]
unsafe fn run_usdot<K: ByteKernel>(kernel: K) {
    // SAFETY: this function has the feature; the caller vouches for the kernel.
    unsafe { kernel.run::<neon::Bytes<neon::Usdot>>() }
}

/// Plain loops.
#[derive(Clone, Copy)]
struct Portable([i32; OUTPUTS]);

// SAFETY (all blocks): the callers vouch for the pointers.
impl ByteSums for Portable {
    type Codes = [u8; 4 * OUTPUTS];
    type Row = [i8; 4];
    type Floats = [f32; OUTPUTS];

    #[inline(always)]
    unsafe fn in_tiles<T: ByteTiles>(work: &mut T) {
        // SAFETY: see above.
        unsafe { work.run::<Self, 1, 1>() }
    }
    #[inline(always)]
    unsafe fn begin(start: i32) -> Self {
        Self([start; OUTPUTS])
    }
    #[inline(always)]
    unsafe fn codes(from: *const u8) -> Self::Codes {
        // SAFETY: see above.
        unsafe { from.cast::<Self::Codes>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn nibbles(from: *const u8) -> [Self::Codes; 2] {
        // SAFETY: see above.
        let both = unsafe { Self::codes(from) };
        [both.map(|byte| byte & 15), both.map(|byte| byte >> 4)]
    }
    #[inline(always)]
    unsafe fn row(from: *const i8) -> Self::Row {
        // SAFETY: see above.
        unsafe { from.cast::<Self::Row>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn add_products(mut self, weights: Self::Codes, row: Self::Row) -> Self {
        for (sum, weights) in self.0.iter_mut().zip(weights.as_chunks::<4>().0) {
            for (weight, code) in weights.iter().zip(row) {
                *sum += i32::from(*weight) * i32::from(code);
            }
        }
        self
    }
    #[inline(always)]
    unsafe fn scales(from: *const bf16) -> Self::Floats {
        // SAFETY: see above.
        std::array::from_fn(|output| unsafe { from.add(output).read_unaligned() }.to_f32_plain())
    }
    #[inline(always)]
    unsafe fn floats(from: *const f32) -> Self::Floats {
        // SAFETY: see above.
        unsafe { from.cast::<Self::Floats>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn add_scaled(self, to: Self::Floats, scales: Self::Floats, row_scale: f32) -> Self::Floats {
        std::array::from_fn(|output| (self.0[output] as f32).mul_add(scales[output] * row_scale, to[output]))
    }
    #[inline(always)]
    unsafe fn to_array(from: Self::Floats) -> [f32; OUTPUTS] {
        from
    }
}

/// The conversion of [`Element`], by a name that `half`'s own method does not hide.
trait Plain {
    fn to_f32_plain(self) -> f32;
}

impl Plain for bf16 {
    #[inline(always)]
    fn to_f32_plain(self) -> f32 {
        Element::to_f32(self)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::bf16;

    use super::{ByteSums, ByteTiles, OUTPUTS};

    /// Products of words, pairs of which are added by one instruction: those of bytes would saturate. A sum is two
    /// lanes.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2([__m256i; 4]);

    // SAFETY (all blocks): the trait's callers have AVX2 and FMA, and vouch for the pointers.
    impl ByteSums for Avx2 {
        type Codes = [__m128i; 4];
        type Row = __m256i;
        type Floats = [__m256; 2];

        #[inline(always)]
        unsafe fn in_tiles<T: ByteTiles>(work: &mut T) {
            // SAFETY: see above.
            unsafe { work.run::<Self, 1, 1>() }
        }
        #[inline(always)]
        unsafe fn begin(start: i32) -> Self {
            // SAFETY: see above.
            Self([unsafe { _mm256_set1_epi64x(i64::from(start as u32)) }; 4])
        }
        #[inline(always)]
        unsafe fn codes(from: *const u8) -> Self::Codes {
            // SAFETY: see above.
            std::array::from_fn(|quarter| unsafe { _mm_loadu_si128(from.add(16 * quarter).cast()) })
        }
        #[inline(always)]
        unsafe fn nibbles(from: *const u8) -> [Self::Codes; 2] {
            // SAFETY: see above.
            unsafe {
                let both = Self::codes(from);
                let low = |codes| _mm_and_si128(codes, _mm_set1_epi8(15));
                [both.map(low), both.map(|codes| low(_mm_srli_epi16::<4>(codes)))]
            }
        }
        #[inline(always)]
        unsafe fn row(from: *const i8) -> Self::Row {
            // SAFETY: see above.
            unsafe { _mm256_cvtepi8_epi16(_mm_set1_epi32(from.cast::<i32>().read_unaligned())) }
        }
        #[inline(always)]
        unsafe fn add_products(mut self, weights: Self::Codes, row: Self::Row) -> Self {
            // SAFETY: see above.
            unsafe {
                for (sum, weights) in self.0.iter_mut().zip(weights) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_cvtepu8_epi16(weights), row));
                }
            }
            self
        }
        #[inline(always)]
        unsafe fn scales(from: *const bf16) -> Self::Floats {
            // SAFETY: see above.
            std::array::from_fn(|half| unsafe {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(8 * half).cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            })
        }
        #[inline(always)]
        unsafe fn floats(from: *const f32) -> Self::Floats {
            // SAFETY: see above.
            std::array::from_fn(|half| unsafe { _mm256_loadu_ps(from.add(8 * half)) })
        }
        #[inline(always)]
        unsafe fn add_scaled(self, to: Self::Floats, scales: Self::Floats, row_scale: f32) -> Self::Floats {
            // SAFETY: see above.
            std::array::from_fn(|half| unsafe {
                // Of outputs 0 1 4 5 2 3 6 7.
                let sums = _mm256_hadd_epi32(self.0[2 * half], self.0[2 * half + 1]);
                let sums = _mm256_cvtepi32_ps(_mm256_permute4x64_epi64::<0b11_01_10_00>(sums));
                _mm256_fmadd_ps(sums, _mm256_mul_ps(scales[half], _mm256_set1_ps(row_scale)), to[half])
            })
        }
        #[inline(always)]
        unsafe fn to_array(from: Self::Floats) -> [f32; OUTPUTS] {
            let mut numbers = [0.0; OUTPUTS];
            // SAFETY: see above.
            unsafe {
                _mm256_storeu_ps(numbers.as_mut_ptr(), from[0]);
                _mm256_storeu_ps(numbers.as_mut_ptr().add(8), from[1]);
            }
            numbers
        }
    }

    /// One instruction per four products of sixteen outputs.
    #[derive(Clone, Copy)]
    pub(super) struct Vnni(__m512i);

    // SAFETY (all blocks): the trait's callers have AVX-512 with VNNI, and vouch for the pointers.
    impl ByteSums for Vnni {
        type Codes = __m512i;
        type Row = __m512i;
        type Floats = __m512;

        #[inline(always)]
        unsafe fn in_tiles<T: ByteTiles>(work: &mut T) {
            // SAFETY: see above.
            unsafe { work.run::<Self, 4, 3>() }
        }
        #[inline(always)]
        unsafe fn begin(start: i32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_set1_epi32(start) })
        }
        #[inline(always)]
        unsafe fn codes(from: *const u8) -> Self::Codes {
            // SAFETY: see above.
            unsafe { _mm512_loadu_si512(from.cast()) }
        }
        #[inline(always)]
        unsafe fn nibbles(from: *const u8) -> [Self::Codes; 2] {
            // SAFETY: see above.
            unsafe {
                let both = Self::codes(from);
                let low = _mm512_set1_epi8(15);
                [_mm512_and_si512(both, low), _mm512_and_si512(_mm512_srli_epi16::<4>(both), low)]
            }
        }
        #[inline(always)]
        unsafe fn row(from: *const i8) -> Self::Row {
            // SAFETY: see above.
            unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn add_products(self, weights: Self::Codes, row: Self::Row) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_dpbusd_epi32(self.0, weights, row) })
        }
        #[inline(always)]
        unsafe fn scales(from: *const bf16) -> Self::Floats {
            // SAFETY: see above.
            unsafe {
                let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
            }
        }
        #[inline(always)]
        unsafe fn floats(from: *const f32) -> Self::Floats {
            // SAFETY: see above.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn add_scaled(self, to: Self::Floats, scales: Self::Floats, row_scale: f32) -> Self::Floats {
            // SAFETY: see above.
            unsafe { _mm512_fmadd_ps(_mm512_cvtepi32_ps(self.0), _mm512_mul_ps(scales, _mm512_set1_ps(row_scale)), to) }
        }
        #[inline(always)]
        unsafe fn to_array(from: Self::Floats) -> [f32; OUTPUTS] {
            let mut numbers = [0.0; OUTPUTS];
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), from) };
            numbers
        }
    }
}
