//! Fast path. Columns of the result are split over threads; a weight is read from memory once.
//!
//! Few rows: the weight is used from where it is and stays in cache for the next rows (`direct`).
//! Many rows: a panel of weight rows is copied once, widened if need be, into a scratch that stays in L1, and a
//! block of rows runs over it; accumulators that have not reached the end of `in` wait in a second scratch
//! (`blocked`). Both use the tiles of [`crate::simd::dot_tile`], hence give the same bits.

#![expect(unsafe_code, reason = "raw pointers into rows and panels inside target-feature functions")]
#![expect(clippy::needless_range_loop, reason = "a tile reads the same index of several arrays")]

use std::{mem::MaybeUninit, ops::Range};

use half::bf16;
use rayon::prelude::*;

use crate::simd::{Bf16Pairs, Kernel, Multiply, Tier, TileShape, Vector, Widened, dispatch, dot_tile};
use crate::storage::Element;
use crate::threads::{self, SharedOutput, Store};

/// Rows from which the blocked path is worth its copies.
const BLOCKED_MIN_ROWS: usize = 24;
/// Rows that share a widened panel.
const ROW_BLOCK: usize = 128;
/// Bytes of a weight row that a panel spans: a tile's rows and weights fit L1 together.
const DEPTH_BYTES: usize = 4096;
/// Elements between two rows of bf16, beyond a multiple of this many: a tile's rows must not all fall into the
/// same few sets of the cache, as they do where `in` is a power of two.
const ROW_STEP: usize = 32;
/// Columns per piece of the blocked path; divisible by the outputs of every tile.
const COLUMN_BLOCK: usize = 48;

/// Elements from which it pays to round rows on several threads.
const PARALLEL_ROUNDING: usize = 1 << 16;

/// The operands: `x (rows, in_features)` and `weight (out_features, in_features)`.
pub(super) struct Product<'a, T> {
    pub(super) x: &'a [f32],
    pub(super) weight: &'a [T],
    pub(super) rows: usize,
    pub(super) in_features: usize,
    pub(super) out_features: usize,
}

/// Computes `out (rows, out_features)`.
pub(super) fn run<T: Element>(tier: Tier, product: &Product<'_, T>, store: Store, out: &mut [f32]) {
    let &Product { x, weight, rows, in_features, out_features } = product;
    assert_eq!(x.len(), rows * in_features, "x has rows * in_features elements");
    assert_eq!(weight.len(), out_features * in_features, "weight has out_features * in_features elements");
    assert_eq!(out.len(), rows * out_features, "out has rows * out_features elements");
    let out = (SharedOutput::new(out), store);
    let operands = |x, x_stride, weight| Operands { x, x_stride, weight };
    match T::as_bf16(weight) {
        Some(weight) if tier.has_bf16_products() => {
            let x_stride = in_features.next_multiple_of(ROW_STEP) + ROW_STEP;
            let x = round::<bf16>(tier, x, (rows, in_features, x_stride));
            multiply::<T, Bf16Pairs>(tier, product, &Operands { x: &x, x_stride, weight }, out);
        }
        Some(_) => {
            let x = round::<f32>(tier, x, (rows, in_features, in_features));
            multiply::<T, Widened<T>>(tier, product, &operands(&x, in_features, weight), out);
        }
        None => multiply::<T, Widened<T>>(tier, product, &operands(x, in_features, weight), out),
    }
}

/// Rows of `width` elements, rounded to bf16 and `stride` elements apart.
fn round<T: Rounded>(tier: Tier, x: &[f32], (rows, width, stride): (usize, usize, usize)) -> Vec<T> {
    let mut rounded = vec![T::ZERO; rows * stride];
    if width == 0 {
        return rounded;
    }
    // SAFETY: the kernel has no pointers.
    let row = |(to, from): (&mut [T], &[f32])| unsafe { dispatch(tier, Round { from, to }) };
    if x.len() < PARALLEL_ROUNDING || threads::count() == 1 {
        rounded.chunks_exact_mut(stride).zip(x.chunks_exact(width)).for_each(row);
    } else {
        threads::run(|| rounded.par_chunks_exact_mut(stride).zip(x.par_chunks_exact(width)).for_each(row));
    }
    rounded
}

/// What holds a number that was rounded to bf16.
trait Rounded: Copy + Send + Sync {
    const ZERO: Self;
    fn round(value: f32) -> Self;
}

impl Rounded for bf16 {
    const ZERO: Self = bf16::ZERO;
    #[inline(always)]
    fn round(value: f32) -> Self {
        Element::from_f32(value)
    }
}

impl Rounded for f32 {
    const ZERO: Self = 0.0;
    #[inline(always)]
    fn round(value: f32) -> Self {
        Element::to_f32(<bf16 as Rounded>::round(value))
    }
}

/// One row; a plain loop, which the compiler turns into vectors of the tier.
struct Round<'a, T> {
    from: &'a [f32],
    to: &'a mut [T],
}

impl<T: Rounded> Kernel for Round<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for (from, to) in self.from.iter().zip(self.to) {
            *to = T::round(*from);
        }
    }
}

/// The operands as `M` takes them.
struct Operands<'a, M: Multiply> {
    /// `(rows, in_features)`
    x: &'a [M::X],
    /// Elements from one row to the next.
    x_stride: usize,
    /// `(out_features, in_features)`
    weight: &'a [M::W],
}

fn multiply<T, M: Multiply>(
    tier: Tier,
    product: &Product<'_, T>,
    operands: &Operands<'_, M>,
    (out, store): (SharedOutput, Store),
) {
    let &Product { rows, in_features, out_features, .. } = product;
    let work = rows * in_features * out_features;
    let blocked = rows >= BLOCKED_MIN_ROWS;
    let piece = if blocked {
        COLUMN_BLOCK
    } else {
        // Four pieces per thread even out a busy core.
        out_features.div_ceil(4 * threads::count()).next_multiple_of(COLUMN_BLOCK)
    };
    threads::for_each_range(out_features, piece, work, |columns| {
        let task = Columns { operands, rows, in_features, out_features, out, columns, store };
        // SAFETY: the lengths were checked by the caller, and pieces are disjoint ranges of columns.
        unsafe {
            match blocked {
                true => dispatch(tier, Blocked(task)),
                false => dispatch(tier, Direct(task)),
            }
        }
    });
}

/// A range of columns of the result. Whoever runs it vouches that the operands have the lengths of
/// their shapes, that the columns lie inside, and that nobody else writes them.
struct Columns<'a, M: Multiply> {
    operands: &'a Operands<'a, M>,
    rows: usize,
    in_features: usize,
    out_features: usize,
    out: SharedOutput,
    columns: Range<usize>,
    store: Store,
}

impl<M: Multiply> Columns<'_, M> {
    /// # Safety
    /// `row + R <= rows`.
    #[inline(always)]
    unsafe fn x<const R: usize>(&self, row: usize, depth: usize) -> [*const M::X; R] {
        let mut rows = [std::ptr::null(); R];
        for (r, pointer) in rows.iter_mut().enumerate() {
            // SAFETY: inside `x`, by the caller.
            *pointer = unsafe { self.operands.x.as_ptr().add((row + r) * self.operands.x_stride + depth) };
        }
        rows
    }

    /// # Safety
    /// `column + O <= out_features`.
    #[inline(always)]
    unsafe fn weights<const O: usize>(&self, column: usize, depth: usize) -> [*const M::W; O] {
        let mut weights = [std::ptr::null(); O];
        for (o, pointer) in weights.iter_mut().enumerate() {
            // SAFETY: inside `weight`, by the caller.
            *pointer = unsafe { self.operands.weight.as_ptr().add((column + o) * self.in_features + depth) };
        }
        weights
    }

    /// # Safety
    /// The tile lies inside the columns of this task.
    #[inline(always)]
    unsafe fn finish<V: Vector, const R: usize, const O: usize>(&self, row: usize, column: usize, acc: [[V; O]; R]) {
        for (r, acc) in acc.iter().enumerate() {
            let start = (row + r) * self.out_features + column;
            // SAFETY: inside this task's columns.
            let out = unsafe { self.out.part(start..start + O) };
            for (o, acc) in acc.iter().enumerate() {
                // SAFETY: the caller has the target feature.
                let sum = unsafe { acc.sum() };
                match self.store {
                    Store::Overwrite => out[o] = sum,
                    Store::Add => out[o] += sum,
                }
            }
        }
    }
}

struct Direct<'a, M: Multiply>(Columns<'a, M>);

impl<M: Multiply> Kernel for Direct<'_, M> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the shapes are those of the register file; the task's duties are its maker's.
        unsafe {
            match (V::TILE, self.0.rows) {
                (TileShape::Rows4Outputs6, 1) => self.outputs::<V, 1, 8>(),
                (TileShape::Rows4Outputs6, _) => self.outputs::<V, 4, 6>(),
                (TileShape::Rows4Outputs3, 1) => self.outputs::<V, 1, 8>(),
                (TileShape::Rows4Outputs3, _) => self.outputs::<V, 4, 3>(),
                (TileShape::Rows2Outputs2, _) => self.outputs::<V, 2, 2>(),
            }
        }
    }
}

impl<M: Multiply> Direct<'_, M> {
    #[inline(always)]
    unsafe fn outputs<V: Vector, const R: usize, const O: usize>(&self) {
        let columns = self.0.columns.clone();
        let mut column = columns.start;
        // SAFETY: `column + O` and `column + 1` stay inside the columns.
        unsafe {
            while column + O <= columns.end {
                self.rows::<V, R, O>(column);
                column += O;
            }
            while column < columns.end {
                self.rows::<V, R, 1>(column);
                column += 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn rows<V: Vector, const R: usize, const O: usize>(&self, column: usize) {
        let rows = self.0.rows;
        let mut row = 0;
        // SAFETY: `row + R`, `row + 2` and `row + 1` stay inside the rows.
        unsafe {
            while row + R <= rows {
                self.tile::<V, R, O>(row, column);
                row += R;
            }
            while row + 2 <= rows {
                self.tile::<V, 2, O>(row, column);
                row += 2;
            }
            if row < rows {
                self.tile::<V, 1, O>(row, column);
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<V: Vector, const R: usize, const O: usize>(&self, row: usize, column: usize) {
        // SAFETY: the caller keeps the tile inside.
        unsafe {
            let (x, w) = (self.0.x::<R>(row, 0), self.0.weights::<O>(column, 0));
            let acc = dot_tile::<V, M, R, O>(x, w, self.0.in_features, [[V::splat(0.0); O]; R]);
            self.0.finish(row, column, acc);
        }
    }
}

struct Blocked<'a, M: Multiply>(Columns<'a, M>);

impl<M: Multiply> Kernel for Blocked<'_, M> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the shapes are those of the register file; the task's duties are its maker's.
        unsafe {
            match V::TILE {
                TileShape::Rows4Outputs6 => self.blocks::<V, 4, 6>(),
                TileShape::Rows4Outputs3 => self.blocks::<V, 4, 3>(),
                TileShape::Rows2Outputs2 => self.blocks::<V, 2, 2>(),
            }
        }
    }
}

/// Part of `in` that a panel spans.
#[derive(Clone, Copy)]
struct Depth {
    start: usize,
    len: usize,
    total: usize,
}

/// Element of a panel.
type Packed<M> = <<M as Multiply>::Packed as Multiply>::W;

/// Working memory of one piece.
struct Scratch<M: Multiply> {
    /// Weights, `(outputs, depth)`, not yet filled where nothing has been copied to.
    panel: Vec<MaybeUninit<Packed<M>>>,
    /// Unfinished accumulators, one vector per element of the block.
    partial: Vec<f32>,
}

impl<M: Multiply> Blocked<'_, M> {
    #[inline(always)]
    unsafe fn blocks<V: Vector, const R: usize, const O: usize>(&self) {
        let total = self.0.in_features;
        let depth_block = DEPTH_BYTES / size_of::<Packed<M>>();
        let columns = self.0.columns.clone();
        let needs_partial = total > depth_block;
        let mut scratch = Scratch {
            panel: vec![MaybeUninit::uninit(); O * depth_block.min(total)],
            partial: vec![0.0; if needs_partial { ROW_BLOCK * columns.len() * V::LANES } else { 0 }],
        };
        let mut row = 0;
        while row < self.0.rows {
            let rows = row..(row + ROW_BLOCK).min(self.0.rows);
            let mut start = 0;
            // An empty `in` still has to write its zeros.
            while start < total || (total == 0 && start == 0) {
                let depth = Depth { start, len: depth_block.min(total - start), total };
                let mut column = columns.start;
                // SAFETY: `column + O` and `column + 1` stay inside the columns.
                unsafe {
                    while column + O <= columns.end {
                        self.panel::<V, R, O>(&mut scratch, rows.clone(), column, depth);
                        column += O;
                    }
                    while column < columns.end {
                        self.panel::<V, R, 1>(&mut scratch, rows.clone(), column, depth);
                        column += 1;
                    }
                }
                start += depth_block;
            }
            row = rows.end;
        }
    }

    /// Copies a panel of `O` weight rows, then runs the block of rows over it.
    #[inline(always)]
    unsafe fn panel<V: Vector, const R: usize, const O: usize>(
        &self,
        scratch: &mut Scratch<M>,
        rows: Range<usize>,
        column: usize,
        depth: Depth,
    ) {
        // SAFETY: the caller keeps the panel inside the weight; the scratch holds `O * depth` elements.
        unsafe {
            let weights = self.0.weights::<O>(column, depth.start);
            let mut panel = [std::ptr::null(); O];
            for o in 0..O {
                let to = scratch.panel.as_mut_ptr().add(o * depth.len).cast::<Packed<M>>();
                M::pack::<V>(weights[o], to, depth.len);
                panel[o] = to.cast_const();
            }
            // One vector per element: rows of the block, then this task's columns.
            let stride = self.0.columns.len() * V::LANES;
            let offset = (column - self.0.columns.start) * V::LANES;
            let mut row = rows.start;
            while row < rows.end {
                let partial = scratch.partial.as_mut_ptr().wrapping_add((row - rows.start) * stride + offset);
                if row + R <= rows.end {
                    self.tile::<V, R, O>(row, column, panel, depth, (partial, stride));
                    row += R;
                } else {
                    self.tile::<V, 1, O>(row, column, panel, depth, (partial, stride));
                    row += 1;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<V: Vector, const R: usize, const O: usize>(
        &self,
        row: usize,
        column: usize,
        panel: [*const Packed<M>; O],
        depth: Depth,
        (partial, stride): (*mut f32, usize),
    ) {
        // SAFETY: the caller keeps the tile inside; partial sums exist wherever `in` has several parts.
        unsafe {
            let mut acc = [[V::splat(0.0); O]; R];
            if depth.start > 0 {
                for r in 0..R {
                    for o in 0..O {
                        acc[r][o] = V::load(partial.add(r * stride + o * V::LANES).cast_const());
                    }
                }
            }
            let acc = dot_tile::<V, M::Packed, R, O>(self.0.x::<R>(row, depth.start), panel, depth.len, acc);
            if depth.start + depth.len == depth.total {
                self.0.finish(row, column, acc);
                return;
            }
            for r in 0..R {
                for o in 0..O {
                    acc[r][o].store(partial.add(r * stride + o * V::LANES));
                }
            }
        }
    }
}
