//! Sums of products of pairs of bf16 for sixteen outputs at a time: an output a lane, so that nothing is added up
//! across lanes. Every sum walks the pairs from the first to the last, whatever tile it is computed in.

#![expect(unsafe_code, reason = "each operation needs the target feature of its lanes")]
#![expect(clippy::needless_range_loop, reason = "a tile reads the same index of several arrays")]

#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{Level, OUTPUTS, Tier, Vector};
use crate::storage::Element;

/// Bytes of a pair of sixteen outputs.
pub(crate) const PAIR_BYTES: usize = 4 * OUTPUTS;

/// Work in tiles of rows by panels of outputs, one sum each. `run` must be `#[inline(always)]`, and so must all it
/// calls.
pub(crate) trait PairKernel {
    /// Does all of it with tiles of up to `ROWS` by `PANELS`.
    ///
    /// # Safety
    /// The machine has the instruction set of `S`, and the work's own pointers are valid.
    unsafe fn run<S: PairSums, const ROWS: usize, const PANELS: usize>(self);
}

/// Sums of sixteen outputs. All functions require the target feature of the implementing type, and pointers to as many
/// readable or writable elements as they say; nothing is aligned.
pub(crate) trait PairSums: Copy {
    /// Pairs of sixteen outputs.
    type Weights: Copy;
    /// A pair of a row, for all outputs.
    type Pair: Copy;
    /// For what is done beside the products.
    type Lanes: Vector;
    /// Words that a pair of a row takes.
    const WORDS: usize;

    unsafe fn zeros() -> Self;
    /// Sixteen sums.
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// [`PAIR_BYTES`]: the pair of the first output, that of the next one.
    unsafe fn weights(from: *const u8) -> Self::Weights;
    /// A pair that [`Self::write_pair`] wrote.
    unsafe fn pair(from: *const u32) -> Self::Pair;
    /// Two values of a row, the first in the low half, both bf16, to `WORDS` words.
    unsafe fn write_pair(pair: u32, to: *mut u32);
    unsafe fn add_products(self, weights: Self::Weights, pair: Self::Pair) -> Self;
    /// Every sum times `factor`.
    unsafe fn scale(self, factor: f32) -> Self;
}

/// Rows of the tiles there are, the most first.
const HEIGHTS: [usize; 5] = [12, 8, 4, 2, 1];

/// Neighbouring rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowTile {
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
}

/// Tiles of all rows, of those heights that [`by_height`] knows: the highest that the tier has registers for, but none
/// so low at the end that it waits for its own sums.
pub(crate) fn row_tiles(tier: Tier, rows: usize) -> Vec<RowTile> {
    let mut tiles = Vec::with_capacity(rows / tier.pair_rows() + HEIGHTS.len());
    let mut first_row = 0;
    while first_row < rows {
        let left = rows - first_row;
        let most = if (16..24).contains(&left) { 8 } else { left };
        let fits = |height: &usize| *height <= tier.pair_rows().min(most);
        let height = HEIGHTS.into_iter().find(fits).expect("a tile of one row fits");
        tiles.push(RowTile { first_row, rows: height });
        first_row += height;
    }
    tiles
}

/// Runs `$run` with the constant `$R` at the height of a tile of [`row_tiles`]; `$most` is the constant number of rows
/// that the registers are enough for.
macro_rules! by_height {
    ($rows:expr, $most:expr, $R:ident => $run:expr) => {
        by_height!(@ $rows, $most, $R => $run, 12, 8, 4, 2)
    };
    (@ $rows:expr, $most:expr, $R:ident => $run:expr, $($height:literal),+) => {
        match $rows {
            $($height if $most >= $height => {
                const $R: usize = $height;
                $run
            })+
            1 => {
                const $R: usize = 1;
                $run
            }
            other => unreachable!("no tile has {other} rows where at most {} fit", $most),
        }
    };
}
pub(crate) use by_height;

/// Adds the products of `R` rows with `P` panels of sixteen outputs to `sums`. `row` has of each pair what
/// [`PairSums::write_pair`] wrote for every row; panels have [`PAIR_BYTES`] per pair.
///
/// # Safety
/// All are readable for so many `pairs`, and the machine has the target feature of `S`.
#[inline(always)]
pub(crate) unsafe fn add_pairs<S: PairSums, const R: usize, const P: usize>(
    mut sums: [[S; P]; R],
    mut row: *const u32,
    panels: [*const u8; P],
    pairs: usize,
) -> [[S; P]; R] {
    // SAFETY: by the caller.
    unsafe {
        for pair in 0..pairs {
            let mut weights = [S::weights(panels[0].add(pair * PAIR_BYTES)); P];
            for p in 1..P {
                weights[p] = S::weights(panels[p].add(pair * PAIR_BYTES));
            }
            for r in 0..R {
                let pair = S::pair(row.add(r * S::WORDS));
                for p in 0..P {
                    sums[r][p] = sums[r][p].add_products(weights[p], pair);
                }
            }
            row = row.add(R * S::WORDS);
        }
        sums
    }
}

/// Rounds rows to bf16 and writes them pair after pair, and of each pair row after row. `x` has the rows one after the
/// other, `2 * pairs` values each; `to` has room for `rows * pairs` pairs.
#[inline(always)]
pub(crate) fn write_rows<'a, S: PairSums>(x: impl ExactSizeIterator<Item = &'a [f32]>, pairs: usize, to: &mut [u32]) {
    /// Pairs that are rounded at a time.
    const ROUNDED: usize = 64;
    let rows = x.len();
    assert!(to.len() >= rows * pairs * S::WORDS, "room for every pair");
    for (row, x) in x.enumerate() {
        assert_eq!(x.len(), 2 * pairs, "whole pairs");
        for (part, x) in x.chunks(2 * ROUNDED).enumerate() {
            // A loop of its own, which the compiler turns into vectors.
            let mut rounded = [0; 2 * ROUNDED];
            for (value, rounded) in x.iter().zip(&mut rounded) {
                *rounded = <half::bf16 as Element>::from_f32(*value).to_bits();
            }
            for (pair, [first, second]) in rounded.as_chunks::<2>().0[..x.len() / 2].iter().enumerate() {
                let at = ((part * ROUNDED + pair) * rows + row) * S::WORDS;
                // SAFETY: a word or two inside `to`, by the assertions.
                unsafe { S::write_pair(u32::from(*first) | u32::from(*second) << 16, to.as_mut_ptr().add(at)) };
            }
        }
    }
}

impl Tier {
    /// [`PairSums::WORDS`] of what [`dispatch_pairs`] uses.
    pub(crate) fn pair_words(self) -> usize {
        if self.has_bf16_products() { 1 } else { 2 }
    }

    /// Rows of its largest tile.
    pub(crate) fn pair_rows(self) -> usize {
        match self.0 {
            Level::Portable => 1,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => 4,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => 12,
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDotprod | Level::NeonBf16 => 4,
        }
    }
}

/// Runs `kernel` with the sums of `tier`, in tiles whose sums fit its registers.
///
/// # Safety
/// The kernel's own pointers are valid; see its type.
pub(crate) unsafe fn dispatch_pairs<K: PairKernel>(tier: Tier, kernel: K) {
    match tier.0 {
        // SAFETY: these need no feature; the caller vouches for the kernel.
        Level::Portable => unsafe { kernel.run::<Portable, 1, 1>() },
        // SAFETY: a `Tier` of this level exists only where the feature was detected.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { run_avx2(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vnni => unsafe { run_avx512(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => unsafe { run_avx512_bf16(kernel) },
        // SAFETY: these need no feature beyond the base instruction set; the caller vouches for the kernel.
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDotprod => unsafe { kernel.run::<neon::WidenedPairs, 4, 1>() },
        // SAFETY: a `Tier` of this level exists only where the feature was detected.
        #[cfg(target_arch = "aarch64")]
        Level::NeonBf16 => unsafe { run_neon_bf16(kernel) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_avx2<K: PairKernel>(kernel: K) {
    // SAFETY: this function has the feature; the caller vouches for the kernel.
    unsafe { kernel.run::<x86::Avx2, 4, 1>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
unsafe fn run_avx512<K: PairKernel>(kernel: K) {
    // SAFETY: this function has the feature; the caller vouches for the kernel.
    unsafe { kernel.run::<x86::Avx512, 12, 2>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16,avx2,fma,f16c")]
unsafe fn run_avx512_bf16<K: PairKernel>(kernel: K) {
    // SAFETY: this function has the feature; the caller vouches for the kernel.
    unsafe { kernel.run::<x86::Avx512Bf16, 12, 2>() }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "bf16")]
unsafe fn run_neon_bf16<K: PairKernel>(kernel: K) {
    // SAFETY: this function has the feature; the caller vouches for the kernel.
    unsafe { kernel.run::<neon::DottedPairs, 4, 1>() }
}

/// Low and high half of a pair, each widened to f32 bits.
#[inline(always)]
pub(super) fn halves(pair: u32) -> [u32; 2] {
    [pair << 16, pair & 0xFFFF_0000]
}

/// Plain loops.
#[derive(Clone, Copy)]
struct Portable([f32; OUTPUTS]);

// SAFETY (all blocks): the callers vouch for the pointers.
impl PairSums for Portable {
    type Weights = [u32; OUTPUTS];
    type Pair = [f32; 2];
    type Lanes = super::portable::Portable;
    const WORDS: usize = 2;

    #[inline(always)]
    unsafe fn zeros() -> Self {
        Self([0.0; OUTPUTS])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { from.cast::<[f32; OUTPUTS]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { to.cast::<[f32; OUTPUTS]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8) -> Self::Weights {
        // SAFETY: see above.
        unsafe { from.cast::<Self::Weights>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn pair(from: *const u32) -> Self::Pair {
        // SAFETY: see above.
        unsafe { from.cast::<Self::Pair>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn write_pair(pair: u32, to: *mut u32) {
        // SAFETY: see above.
        unsafe { to.cast::<[u32; 2]>().write_unaligned(halves(pair)) }
    }
    #[inline(always)]
    unsafe fn add_products(mut self, weights: Self::Weights, pair: Self::Pair) -> Self {
        for (sum, weights) in self.0.iter_mut().zip(weights) {
            let [first, second] = halves(weights).map(f32::from_bits);
            *sum = *sum + first * pair[0] + second * pair[1];
        }
        self
    }
    #[inline(always)]
    unsafe fn scale(self, factor: f32) -> Self {
        Self(self.0.map(|sum| sum * factor))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{PairSums, halves};

    /// Eight outputs a register; pairs are widened to f32.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2([__m256; 2]);

    // SAFETY (all blocks): the trait's callers have AVX2 and FMA, and vouch for the pointers.
    impl PairSums for Avx2 {
        /// First and second of the pairs, eight outputs each.
        type Weights = [[__m256; 2]; 2];
        type Pair = [__m256; 2];
        type Lanes = crate::simd::avx2::Avx2;
        const WORDS: usize = 2;

        #[inline(always)]
        unsafe fn zeros() -> Self {
            // SAFETY: see above.
            Self([unsafe { _mm256_setzero_ps() }; 2])
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: see above.
            Self(std::array::from_fn(|half| unsafe { _mm256_loadu_ps(from.add(8 * half)) }))
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: see above.
            unsafe {
                _mm256_storeu_ps(to, self.0[0]);
                _mm256_storeu_ps(to.add(8), self.0[1]);
            }
        }
        #[inline(always)]
        unsafe fn weights(from: *const u8) -> Self::Weights {
            // SAFETY: see above.
            unsafe {
                let pairs = [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())];
                let second = _mm256_set1_epi32(0xFFFF_0000_u32 as i32);
                [
                    [_mm256_slli_epi32::<16>(pairs[0]), _mm256_slli_epi32::<16>(pairs[1])],
                    [_mm256_and_si256(pairs[0], second), _mm256_and_si256(pairs[1], second)],
                ]
                .map(|part| part.map(|bits| _mm256_castsi256_ps(bits)))
            }
        }
        #[inline(always)]
        unsafe fn pair(from: *const u32) -> Self::Pair {
            // SAFETY: see above.
            std::array::from_fn(|part| unsafe { _mm256_broadcast_ss(&*from.add(part).cast()) })
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
                    *sum = unsafe { _mm256_fmadd_ps(*weights, value, *sum) };
                }
            }
            self
        }
        #[inline(always)]
        unsafe fn scale(self, factor: f32) -> Self {
            // SAFETY: see above.
            Self(self.0.map(|sums| unsafe { _mm256_mul_ps(sums, _mm256_set1_ps(factor)) }))
        }
    }

    /// Pairs are widened to f32.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(__m512);

    // SAFETY (all blocks): the trait's callers have AVX-512F, and vouch for the pointers.
    impl PairSums for Avx512 {
        /// First and second of the pairs.
        type Weights = [__m512; 2];
        type Pair = [__m512; 2];
        type Lanes = crate::simd::avx512::Avx512;
        const WORDS: usize = 2;

        #[inline(always)]
        unsafe fn zeros() -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_setzero_ps() })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn weights(from: *const u8) -> Self::Weights {
            // SAFETY: see above.
            unsafe {
                let pairs = _mm512_loadu_si512(from.cast());
                let second = _mm512_and_si512(pairs, _mm512_set1_epi32(0xFFFF_0000_u32 as i32));
                [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(second)]
            }
        }
        #[inline(always)]
        unsafe fn pair(from: *const u32) -> Self::Pair {
            // SAFETY: see above.
            std::array::from_fn(|part| unsafe { _mm512_set1_ps(from.add(part).cast::<f32>().read_unaligned()) })
        }
        #[inline(always)]
        unsafe fn write_pair(pair: u32, to: *mut u32) {
            // SAFETY: see above.
            unsafe { to.cast::<[u32; 2]>().write_unaligned(halves(pair)) }
        }
        #[inline(always)]
        unsafe fn add_products(self, weights: Self::Weights, pair: Self::Pair) -> Self {
            // SAFETY: see above.
            Self(unsafe {
                let sum = _mm512_fmadd_ps(weights[0], pair[0], self.0);
                _mm512_fmadd_ps(weights[1], pair[1], sum)
            })
        }
        #[inline(always)]
        unsafe fn scale(self, factor: f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_mul_ps(self.0, _mm512_set1_ps(factor)) })
        }
    }

    /// One instruction per pair. It flushes denormal products to zero.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512Bf16(__m512);

    // SAFETY (all blocks): the trait's callers have AVX512_BF16, and vouch for the pointers.
    impl PairSums for Avx512Bf16 {
        type Weights = __m512bh;
        type Pair = __m512bh;
        type Lanes = crate::simd::avx512::Avx512;
        const WORDS: usize = 1;

        #[inline(always)]
        unsafe fn zeros() -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_setzero_ps() })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn weights(from: *const u8) -> Self::Weights {
            // SAFETY: see above; a vector of bits is a vector of pairs.
            unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(from.cast())) }
        }
        #[inline(always)]
        unsafe fn pair(from: *const u32) -> Self::Pair {
            // SAFETY: as above.
            unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(from.cast::<i32>().read_unaligned())) }
        }
        #[inline(always)]
        unsafe fn write_pair(pair: u32, to: *mut u32) {
            // SAFETY: see above.
            unsafe { to.write_unaligned(pair) }
        }
        #[inline(always)]
        unsafe fn add_products(self, weights: Self::Weights, pair: Self::Pair) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_dpbf16_ps(self.0, weights, pair) })
        }
        #[inline(always)]
        unsafe fn scale(self, factor: f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_mul_ps(self.0, _mm512_set1_ps(factor)) })
        }
    }
}
