//! Fast path beside codes. Rows are quantized first. Panels are split over threads; a thread computes tiles of a few
//! rows by a few panels, and goes through the rows in blocks and through `in` in parts, so that what it uses again is
//! still in its caches.

#![expect(unsafe_code, reason = "raw pointers into rows and panels inside target-feature functions")]
#![expect(clippy::needless_range_loop, reason = "a tile reads the same index of several arrays")]

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::Product;
use crate::panel_linear::{GROUP, PANEL, QuantizedFormat, SCALE_BYTES};
use crate::simd::{ByteKernel, ByteSums, ByteTiles, Kernel, Tier, Vector, dispatch, dispatch_bytes};
use crate::threads::{self, SharedOutput, Store};

/// Panels of the largest tile.
const MOST_PANELS: usize = 3;
/// Rows that one part of a panel is used for before the next.
const ROW_BLOCK: usize = 96;
/// Groups of a part of `in`: those of the panels of a tile fit L1.
const DEPTH: usize = 16;
/// Elements from which it pays to quantize rows on several threads.
const PARALLEL_QUANTIZING: usize = 1 << 15;

/// Computes `out (rows, out_features)`.
pub(super) fn run<C: Codes>(tier: Tier, product: &Product<'_>, store: Store, out: &mut [f32]) {
    let &Product { x, weight, rows, in_features, out_features } = product;
    let (panels, groups) = (out_features / PANEL, in_features / GROUP);
    let x = &Rows::quantize::<C>(tier, x, in_features);
    let work = rows * in_features * out_features;
    // Four pieces per thread even out a busy core.
    let piece = panels.div_ceil(4 * threads::count()).next_multiple_of(MOST_PANELS);
    let out = SharedOutput::new(out);
    threads::for_each_range(panels, piece, work, |panels| {
        let task = Panels { x, weight, rows, groups, out_features, out, panels, store };
        // SAFETY: the lengths were checked, and pieces are disjoint ranges of panels.
        unsafe { dispatch_bytes(tier, OfFormat(task, std::marker::PhantomData::<C>)) };
    });
}

/// Quantized rows.
struct Rows {
    /// `(rows, in_features)`
    codes: Vec<i8>,
    /// `(rows, groups)`
    scales: Vec<f32>,
    /// Where sums of a group begin, because codes of the weight stand for a zero that is above 0: `(rows, groups)`
    starts: Vec<i32>,
}

impl Rows {
    fn quantize<C: Codes>(tier: Tier, x: &[f32], in_features: usize) -> Self {
        let groups = x.len() / GROUP;
        let mut rows = Self { codes: vec![0; x.len()], scales: vec![0.0; groups], starts: vec![0; groups] };
        if groups == 0 {
            return rows;
        }
        let Self { codes, scales, starts } = &mut rows;
        let per_row = in_features / GROUP;
        let of_row = |(((x, codes), scales), starts)| {
            // SAFETY: the kernel has no pointers.
            unsafe { dispatch(tier, QuantizeRow { x, codes, scales, starts, zero: C::FORMAT.zero() }) }
        };
        if x.len() < PARALLEL_QUANTIZING || threads::count() == 1 {
            let rows = x.chunks_exact(in_features).zip(codes.chunks_exact_mut(in_features));
            rows.zip(scales.chunks_exact_mut(per_row)).zip(starts.chunks_exact_mut(per_row)).for_each(of_row);
        } else {
            let rows = x.par_chunks_exact(in_features).zip(codes.par_chunks_exact_mut(in_features));
            let rows = rows.zip(scales.par_chunks_exact_mut(per_row)).zip(starts.par_chunks_exact_mut(per_row));
            threads::run(|| rows.for_each(of_row));
        }
        rows
    }
}

/// One row; plain loops, which the compiler turns into vectors of the tier.
struct QuantizeRow<'a> {
    x: &'a [f32],
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    starts: &'a mut [i32],
    zero: i32,
}

impl Kernel for QuantizeRow<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let groups = self.x.as_chunks::<GROUP>().0.iter().zip(self.codes.as_chunks_mut::<GROUP>().0);
        for ((x, codes), (scale, start)) in groups.zip(self.scales.iter_mut().zip(self.starts)) {
            // Bits of numbers that are not negative are in the order of the numbers, and NaN is above all.
            let largest = x.iter().fold(0, |largest, value| value.abs().to_bits().max(largest));
            let largest = f32::from_bits(largest);
            // What is not finite makes every result of the row not finite.
            *scale = if largest.is_finite() { largest / 127.0 } else { f32::NAN };
            let codes_per_one = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            let codes_per_one = if codes_per_one.is_finite() { codes_per_one } else { 0.0 };
            let mut sum = 0;
            for (value, code) in x.iter().zip(codes) {
                *code = (value * codes_per_one).round_ties_even() as i8;
                sum += i32::from(*code);
            }
            *start = -self.zero * sum;
        }
    }
}

/// A range of panels. Whoever runs it vouches that the operands have the lengths of their shapes, that the panels lie
/// inside, and that nobody else writes their columns.
struct Panels<'a> {
    x: &'a Rows,
    weight: &'a [u8],
    rows: usize,
    groups: usize,
    out_features: usize,
    out: SharedOutput,
    panels: Range<usize>,
    store: Store,
}

/// How the codes of a group are read.
pub(super) trait Codes: Sync {
    const FORMAT: QuantizedFormat;
    const BYTES: usize = Self::FORMAT.code_bytes();
    /// Vectors of codes that are read at a time, and how many columns apart those are.
    const AT_ONCE: usize;
    unsafe fn load<S: ByteSums>(from: *const u8) -> [S::Codes; 2];
}

/// A byte each.
pub(super) enum Eight {}
/// Half a byte each.
pub(super) enum Four {}

// SAFETY (both): the caller vouches for the bytes, and has the target feature.
impl Codes for Eight {
    const FORMAT: QuantizedFormat = QuantizedFormat::Q8;
    const AT_ONCE: usize = 1;
    #[inline(always)]
    unsafe fn load<S: ByteSums>(from: *const u8) -> [S::Codes; 2] {
        // SAFETY: see above.
        unsafe { [S::codes(from); 2] }
    }
}

impl Codes for Four {
    const FORMAT: QuantizedFormat = QuantizedFormat::Q4;
    const AT_ONCE: usize = 2;
    #[inline(always)]
    unsafe fn load<S: ByteSums>(from: *const u8) -> [S::Codes; 2] {
        // SAFETY: see above.
        unsafe { S::nibbles(from) }
    }
}

struct OfFormat<'a, C>(Panels<'a>, std::marker::PhantomData<C>);

impl<C: Codes> ByteKernel for OfFormat<'_, C> {
    #[inline(always)]
    unsafe fn run<S: ByteSums>(mut self) {
        // SAFETY: the task's duties are its maker's.
        unsafe { S::in_tiles(&mut self) };
    }
}

impl<C: Codes> ByteTiles for OfFormat<'_, C> {
    #[inline(always)]
    unsafe fn run<S: ByteSums, const R: usize, const P: usize>(&mut self) {
        let mut waiting = vec![0.0; ROW_BLOCK.min(self.0.rows) * P * PANEL];
        for first in (0..self.0.rows).step_by(ROW_BLOCK) {
            let rows = first..(first + ROW_BLOCK).min(self.0.rows);
            let mut panel = self.0.panels.start;
            // SAFETY: the tiles stay inside the panels.
            unsafe {
                while panel + P <= self.0.panels.end {
                    self.block::<S, R, P>(rows.clone(), panel, &mut waiting);
                    panel += P;
                }
                while panel < self.0.panels.end {
                    self.block::<S, R, 1>(rows.clone(), panel, &mut waiting);
                    panel += 1;
                }
            }
        }
    }
}

/// Where a tile is: its first panel, a part of the groups, and where totals wait that have not reached the last group.
struct Place {
    panel: usize,
    depth: Range<usize>,
    waiting: *mut f32,
}

impl<C: Codes> OfFormat<'_, C> {
    /// All groups of some rows by `P` panels.
    #[inline(always)]
    unsafe fn block<S: ByteSums, const R: usize, const P: usize>(
        &self,
        rows: Range<usize>,
        panel: usize,
        waiting: &mut [f32],
    ) {
        let groups = self.0.groups;
        // A single tile uses nothing again.
        let depth = if rows.len() <= R { groups } else { DEPTH };
        let mut start = 0;
        // An empty `in` still has to write its zeros.
        while start < groups || (groups == 0 && start == 0) {
            let end = (start + depth).min(groups);
            let mut row = rows.start;
            let mut place = |row: usize| {
                let waiting = waiting.as_mut_ptr().wrapping_add((row - rows.start) * P * PANEL);
                Place { panel, depth: start..end, waiting }
            };
            // SAFETY: the tiles stay inside the rows.
            unsafe {
                while row + R <= rows.end {
                    self.tile::<S, R, P>(row, place(row));
                    row += R;
                }
                while row < rows.end {
                    self.tile::<S, 1, P>(row, place(row));
                    row += 1;
                }
            }
            start += depth.max(1);
        }
    }

    #[inline(always)]
    unsafe fn tile<S: ByteSums, const R: usize, const P: usize>(&self, row: usize, place: Place) {
        const STEP_BYTES: usize = 4 * PANEL;
        const ZEROS: [f32; PANEL] = [0.0; PANEL];
        let Panels { x, weight, groups, .. } = self.0;
        let Place { panel, depth, waiting } = place;
        let is_last = depth.end == groups;
        // SAFETY: rows and panels lie inside their operands, by the caller; the offsets stay inside a row and a panel;
        // totals wait where `in` has several parts.
        unsafe {
            let panel_at = |p: usize| weight.as_ptr().add((panel + p) * groups * (C::BYTES + SCALE_BYTES));
            let mut totals = [[S::floats(ZEROS.as_ptr()); P]; R];
            if depth.start > 0 {
                for r in 0..R {
                    for p in 0..P {
                        totals[r][p] = S::floats(waiting.add((r * P + p) * PANEL).cast_const());
                    }
                }
            }
            for group in depth {
                let mut sums = [[S::begin(0); P]; R];
                for r in 0..R {
                    sums[r] = [S::begin(*x.starts.get_unchecked((row + r) * groups + group)); P];
                }
                for step in 0..C::BYTES / STEP_BYTES {
                    let at = group * C::BYTES + step * STEP_BYTES;
                    let mut codes = [C::load::<S>(panel_at(0).add(at)); P];
                    for p in 1..P {
                        codes[p] = C::load::<S>(panel_at(p).add(at));
                    }
                    for r in 0..R {
                        let from = x.codes.as_ptr().add(((row + r) * groups + group) * GROUP + 4 * step);
                        for part in 0..C::AT_ONCE {
                            let row = S::row(from.add(part * GROUP / 2));
                            for p in 0..P {
                                sums[r][p] = sums[r][p].add_products(codes[p][part], row);
                            }
                        }
                    }
                }
                for p in 0..P {
                    let scales = S::scales(panel_at(p).add(groups * C::BYTES + group * SCALE_BYTES).cast::<bf16>());
                    for r in 0..R {
                        let row_scale = *x.scales.get_unchecked((row + r) * groups + group);
                        totals[r][p] = sums[r][p].add_scaled(totals[r][p], scales, row_scale);
                    }
                }
            }
            for r in 0..R {
                for p in 0..P {
                    let totals = S::to_array(totals[r][p]);
                    if is_last {
                        self.finish(row + r, panel + p, totals);
                    } else {
                        waiting.add((r * P + p) * PANEL).cast::<[f32; PANEL]>().write_unaligned(totals);
                    }
                }
            }
        }
    }

    /// # Safety
    /// The panel is one of this task.
    #[inline(always)]
    unsafe fn finish(&self, row: usize, panel: usize, sums: [f32; PANEL]) {
        let start = row * self.0.out_features + panel * PANEL;
        // SAFETY: inside this task's columns.
        let out = unsafe { self.0.out.part(start..start + PANEL) };
        self.0.store.write(out, &sums);
    }
}
