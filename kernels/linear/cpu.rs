//! Fast path. Columns of the result are split over threads; a weight is read from memory once.
//!
//! Few rows: the weight is widened in registers and stays in cache for the next rows (`direct`).
//! Many rows: a panel of weight rows is widened once into a scratch that stays in L1, and a block of rows
//! runs over it; accumulators that have not reached the end of `in` wait in a second scratch (`blocked`).
//! Both use the tiles of [`crate::simd::dot_tile`], hence give the same bits.

#![expect(unsafe_code, reason = "raw pointers into rows and panels inside target-feature functions")]
#![expect(clippy::needless_range_loop, reason = "a tile reads the same index of several arrays")]

use std::ops::Range;

use crate::simd::{Kernel, Tier, TileShape, Vector, dispatch, dot_tile, widen};
use crate::storage::Element;
use crate::threads::{self, SharedOutput};

/// Rows from which the blocked path is worth its copies.
const BLOCKED_MIN_ROWS: usize = 24;
/// Rows that share a widened panel.
const ROW_BLOCK: usize = 128;
/// Elements of `in` that a panel spans: a tile's rows and weights fit L1 together.
const DEPTH_BLOCK: usize = 1024;
/// Columns per piece of the blocked path; divisible by the outputs of every tile.
const COLUMN_BLOCK: usize = 48;

/// What to do with the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    /// Replace the output.
    Overwrite,
    /// Add to the output.
    Add,
}

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
    let out = SharedOutput::new(out);
    let work = rows * in_features * out_features;
    let blocked = rows >= BLOCKED_MIN_ROWS;
    let piece = if blocked {
        COLUMN_BLOCK
    } else {
        // Four pieces per thread even out a busy core.
        out_features.div_ceil(4 * threads::count()).next_multiple_of(COLUMN_BLOCK)
    };
    threads::for_each_range(out_features, piece, work, |columns| {
        let task = Columns { product, out, columns, store };
        // SAFETY: the lengths were checked above, and pieces are disjoint ranges of columns.
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
struct Columns<'a, T> {
    product: &'a Product<'a, T>,
    out: SharedOutput,
    columns: Range<usize>,
    store: Store,
}

impl<T: Element> Columns<'_, T> {
    /// # Safety
    /// `row + R <= rows`.
    #[inline(always)]
    unsafe fn rows<const R: usize>(&self, row: usize, depth: usize) -> [*const f32; R] {
        let mut rows = [std::ptr::null(); R];
        for (r, pointer) in rows.iter_mut().enumerate() {
            // SAFETY: inside `x`, by the caller.
            *pointer = unsafe { self.product.x.as_ptr().add((row + r) * self.product.in_features + depth) };
        }
        rows
    }

    /// # Safety
    /// `column + O <= out_features`.
    #[inline(always)]
    unsafe fn weights<const O: usize>(&self, column: usize, depth: usize) -> [*const T; O] {
        let mut weights = [std::ptr::null(); O];
        for (o, pointer) in weights.iter_mut().enumerate() {
            // SAFETY: inside `weight`, by the caller.
            *pointer = unsafe { self.product.weight.as_ptr().add((column + o) * self.product.in_features + depth) };
        }
        weights
    }

    /// # Safety
    /// The tile lies inside the columns of this task.
    #[inline(always)]
    unsafe fn finish<V: Vector, const R: usize, const O: usize>(&self, row: usize, column: usize, acc: [[V; O]; R]) {
        for (r, acc) in acc.iter().enumerate() {
            let start = (row + r) * self.product.out_features + column;
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

struct Direct<'a, T>(Columns<'a, T>);

impl<T: Element> Kernel for Direct<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the shapes are those of the register file; the task's duties are its maker's.
        unsafe {
            match (V::TILE, self.0.product.rows) {
                (TileShape::Rows4Outputs6, 1) => self.outputs::<V, 1, 8>(),
                (TileShape::Rows4Outputs6, _) => self.outputs::<V, 4, 6>(),
                (TileShape::Rows4Outputs3, 1) => self.outputs::<V, 1, 8>(),
                (TileShape::Rows4Outputs3, _) => self.outputs::<V, 4, 3>(),
                (TileShape::Rows2Outputs2, _) => self.outputs::<V, 2, 2>(),
            }
        }
    }
}

impl<T: Element> Direct<'_, T> {
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
        let rows = self.0.product.rows;
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
            let (x, w) = (self.0.rows::<R>(row, 0), self.0.weights::<O>(column, 0));
            let acc = dot_tile::<V, T, R, O>(x, w, self.0.product.in_features, [[V::splat(0.0); O]; R]);
            self.0.finish(row, column, acc);
        }
    }
}

struct Blocked<'a, T>(Columns<'a, T>);

impl<T: Element> Kernel for Blocked<'_, T> {
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

/// Working memory of one piece.
struct Scratch {
    /// Widened weights, `(outputs, depth)`.
    panel: Vec<f32>,
    /// Unfinished accumulators, one vector per element of the block.
    partial: Vec<f32>,
}

impl<T: Element> Blocked<'_, T> {
    #[inline(always)]
    unsafe fn blocks<V: Vector, const R: usize, const O: usize>(&self) {
        let total = self.0.product.in_features;
        let columns = self.0.columns.clone();
        let needs_partial = total > DEPTH_BLOCK;
        let mut scratch = Scratch {
            panel: vec![0.0; O * DEPTH_BLOCK.min(total)],
            partial: vec![0.0; if needs_partial { ROW_BLOCK * columns.len() * V::LANES } else { 0 }],
        };
        let mut row = 0;
        while row < self.0.product.rows {
            let rows = row..(row + ROW_BLOCK).min(self.0.product.rows);
            let mut start = 0;
            // An empty `in` still has to write its zeros.
            while start < total || (total == 0 && start == 0) {
                let depth = Depth { start, len: DEPTH_BLOCK.min(total - start), total };
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
                start += DEPTH_BLOCK;
            }
            row = rows.end;
        }
    }

    /// Widens a panel of `O` weight rows, then runs the block of rows over it.
    #[inline(always)]
    unsafe fn panel<V: Vector, const R: usize, const O: usize>(
        &self,
        scratch: &mut Scratch,
        rows: Range<usize>,
        column: usize,
        depth: Depth,
    ) {
        // SAFETY: the caller keeps the panel inside the weight; the scratch holds `O * depth` elements.
        unsafe {
            let weights = self.0.weights::<O>(column, depth.start);
            let mut panel = [std::ptr::null(); O];
            for o in 0..O {
                let to = scratch.panel.as_mut_ptr().add(o * depth.len);
                widen::<V, T>(weights[o], to, depth.len);
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
        panel: [*const f32; O],
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
            let acc = dot_tile::<V, f32, R, O>(self.0.rows::<R>(row, depth.start), panel, depth.len, acc);
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
