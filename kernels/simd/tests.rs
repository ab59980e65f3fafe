//! What the instruction sets promise each other, beyond what operators use of it.

#![expect(unsafe_code, reason = "runs kernels on arrays")]

use half::bf16;

use super::{
    ByteKernel, ByteSums, Kernel, OUTPUTS, PairKernel, PairSums, Tier, Vector, dispatch, dispatch_bytes, dispatch_pairs,
};

/// `TRAMONTANE_TEST_INSTRUCTION_SET` is the name that is expected: an emulator's processor is known.
#[test]
fn the_best_instruction_set_is_the_last_supported() {
    assert_eq!(Tier::supported().last(), Some(&Tier::best()));
    if let Ok(expected) = std::env::var("TRAMONTANE_TEST_INSTRUCTION_SET") {
        assert_eq!(Tier::best().name(), expected);
    }
}

/// Sums of 64 codes per output, of eight bits and of the same bytes as two codes of four.
struct Sums<'a> {
    codes: &'a [u8; 16 * 64],
    row: &'a [i8; 128],
    out: &'a mut [[f32; OUTPUTS]; 2],
}

impl ByteKernel for Sums<'_> {
    #[inline(always)]
    unsafe fn run<S: ByteSums>(self) {
        // SAFETY: sixteen steps read 64 codes and four of the row each, in two halves where codes have four bits.
        unsafe {
            let scales = S::scales([bf16::ONE; OUTPUTS].as_ptr());
            let (mut eight, mut four) = (S::begin(-7), S::begin(i32::MAX / 2));
            for step in 0..16 {
                let (codes, row) = (self.codes.as_ptr().add(64 * step), self.row.as_ptr().add(4 * step));
                eight = eight.add_products(S::codes(codes), S::row(row));
                let [low, high] = S::nibbles(codes);
                four = four.add_products(low, S::row(row)).add_products(high, S::row(row.add(64)));
            }
            self.out[0] = S::to_array(eight.add_scaled(S::floats([0.0; OUTPUTS].as_ptr()), scales, 1.0));
            self.out[1] = S::to_array(four.add_scaled(S::floats([0.0; OUTPUTS].as_ptr()), scales, 1.0));
        }
    }
}

/// All bytes there are, though operators do not use those at the ends.
#[test]
fn sums_of_bytes_are_exact() {
    let all = |step: usize| std::array::from_fn::<u8, 1024, _>(|i| (i * step) as u8);
    for (codes, row) in [
        (all(77), std::array::from_fn::<i8, 128, _>(|i| (i * 51) as i8)),
        ([255; 1024], [-128; 128]),
        ([255; 1024], [127; 128]),
        ([128; 1024], [-128; 128]),
        ([127; 1024], [-128; 128]),
        ([0; 1024], [-128; 128]),
    ] {
        let mut expected = [[-7i32; OUTPUTS], [i32::MAX / 2; OUTPUTS]];
        for (i, code) in codes.iter().enumerate() {
            let (output, at) = (i % 64 / 4, i / 64 * 4 + i % 4);
            expected[0][output] += i32::from(*code) * i32::from(row[at]);
            expected[1][output] +=
                i32::from(code & 15) * i32::from(row[at]) + i32::from(code >> 4) * i32::from(row[64 + at]);
        }
        let expected = expected.map(|sums| sums.map(|sum| sum as f32));
        for tier in Tier::supported() {
            let mut out = [[f32::NAN; OUTPUTS]; 2];
            // SAFETY: the kernel holds arrays of the lengths that it reads.
            unsafe { dispatch_bytes(tier, Sums { codes: &codes, row: &row, out: &mut out }) };
            assert_eq!(out, expected, "{tier:?}");
        }
    }
}

/// Operations of a vector, on sixteen numbers at a time.
struct Operations<'a> {
    a: &'a [f32; 16],
    b: &'a [f32; 16],
    out: &'a mut [[f32; 16]; 7],
}

impl Kernel for Operations<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for i in (0..16).step_by(V::LANES) {
            // SAFETY: sixteen is a multiple of the lanes.
            unsafe {
                let (a, b) = (V::load(self.a.as_ptr().add(i)), V::load(self.b.as_ptr().add(i)));
                let results = [a.add(b), a.mul(b), a.div(b), a.max(b), a.min(b), b.round(), a.scale_by_power_of_two(b)];
                for (out, result) in self.out.iter_mut().zip(results) {
                    result.store(out.as_mut_ptr().add(i));
                }
            }
        }
    }
}

#[test]
fn operations_round_as_scalars_do() {
    let a = [1.5, -0.1, 3e-20, 1e20, 0.7, -2.0, 123.456, -1e-3, 9.0, 0.3, 1.0, f32::NAN, 5.0, -5.0, 0.2, 77.0];
    let b = [0.0, 1.0, -20.0, 30.0, -126.0, 2.0, -1.0, 10.0, 3.0, -3.0, 7.0, 1.0, 5.0, 5.0, 0.0, 4.0];
    let halves = b.map(|b: f32| b / 2.0);
    let lanewise = |f: &dyn Fn(f32, f32) -> f32, b: &[f32; 16]| std::array::from_fn::<f32, 16, _>(|i| f(a[i], b[i]));
    for tier in Tier::supported() {
        let run = |b: &[f32; 16]| {
            let mut out = [[0.0; 16]; 7];
            // SAFETY: the kernel holds arrays of the length that it reads.
            unsafe { dispatch(tier, Operations { a: &a, b, out: &mut out }) };
            out.map(|numbers| numbers.map(|number| if number.is_nan() { None } else { Some(number) }))
        };
        let wanted = |f: &dyn Fn(f32, f32) -> f32, b| {
            lanewise(f, b).map(|number| if number.is_nan() { None } else { Some(number) })
        };
        let out = run(&b);
        assert_eq!(out[0], wanted(&|a, b| a + b, &b), "{tier:?} add");
        assert_eq!(out[1], wanted(&|a, b| a * b, &b), "{tier:?} mul");
        assert_eq!(out[2], wanted(&|a, b| a / b, &b), "{tier:?} div");
        assert_eq!(out[3], wanted(&|a, b| if a < b { b } else { a }, &b), "{tier:?} max");
        assert_eq!(out[4], wanted(&|a, b| if a > b { b } else { a }, &b), "{tier:?} min");
        assert_eq!(out[6], wanted(&|a, b| a * 2f32.powi(b as i32), &b), "{tier:?} scale");
        assert_eq!(run(&halves)[5], wanted(&|_, b| b.round_ties_even(), &halves), "{tier:?} round");
    }
}

/// Words of a pair and rows of the largest tile, as a kernel finds them.
struct PairShape<'a>(&'a mut (usize, usize));

impl PairKernel for PairShape<'_> {
    #[inline(always)]
    unsafe fn run<S: PairSums, const ROWS: usize, const PANELS: usize>(self) {
        *self.0 = (S::WORDS, ROWS);
    }
}

#[test]
fn sums_of_pairs_are_as_tiers_say() {
    for tier in Tier::supported() {
        let mut found = (0, 0);
        // SAFETY: the kernel has no pointers.
        unsafe { dispatch_pairs(tier, PairShape(&mut found)) };
        assert_eq!(found, (tier.pair_words(), tier.pair_rows()), "{tier:?}");
    }
}
