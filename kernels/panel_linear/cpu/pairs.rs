//! Fast path beside bf16. Rows are rounded and put into tiles first, so that a tile is read in one run. Panels are
//! split over threads; a thread computes tiles of a few rows by one or two panels, and goes through the rows in blocks
//! and through `in` in parts, so that what it uses again is still in its caches.

#![expect(unsafe_code, reason = "raw pointers into rows and panels inside target-feature functions")]
#![expect(clippy::needless_range_loop, reason = "a tile reads the same index of several arrays")]

use std::ops::Range;

use rayon::prelude::*;

use super::Product;
use crate::panel_linear::PANEL;
use crate::simd::{
    PAIR_BYTES, PairKernel, PairSums, RowTile, Tier, add_pairs, by_height, dispatch_pairs, row_tiles, write_rows,
};
use crate::threads::{self, SharedOutput, Store};

/// Tiles that one part of a panel is used for before the next.
const BLOCK_TILES: usize = 32;
/// Pairs of a part of `in`.
const DEPTH: usize = 1024;
/// Panels of the largest tile.
const MOST_PANELS: usize = 2;
/// Elements from which it pays to round rows on several threads.
const PARALLEL_ROUNDING: usize = 1 << 15;

/// Computes `out (rows, out_features)`.
pub(super) fn run(tier: Tier, product: &Product<'_>, store: Store, out: &mut [f32]) {
    let &Product { x, weight, rows, in_features, out_features } = product;
    let panels = out_features / PANEL;
    let x = &Rows::round(tier, x, rows, in_features / 2);
    let work = rows * in_features * out_features;
    // Four pieces per thread even out a busy core.
    let piece = panels.div_ceil(4 * threads::count()).next_multiple_of(MOST_PANELS);
    let out = SharedOutput::new(out);
    threads::for_each_range(panels, piece, work, |panels| {
        let task = Panels { x, weight, out_features, out, panels, store };
        // SAFETY: the lengths were checked, and pieces are disjoint ranges of panels.
        unsafe { dispatch_pairs(tier, task) };
    });
}

/// Rounded rows, tile after tile: pair after pair, and of each pair row after row.
struct Rows {
    values: Vec<u32>,
    tiles: Vec<RowTile>,
    /// Of a row.
    pairs: usize,
}

impl Rows {
    fn round(tier: Tier, x: &[f32], rows: usize, pairs: usize) -> Self {
        let words = tier.pair_words() * pairs;
        let mut this = Self { values: vec![0; rows * words], tiles: row_tiles(tier, rows), pairs };
        let mut parts = Vec::with_capacity(this.tiles.len());
        let mut rest = this.values.as_mut_slice();
        for tile in &this.tiles {
            let (part, others) = rest.split_at_mut(tile.rows * words);
            parts.push((*tile, part));
            rest = others;
        }
        let round = |(tile, to): (RowTile, &mut [u32])| {
            let x = &x[tile.first_row * 2 * pairs..][..tile.rows * 2 * pairs];
            // SAFETY: `to` has a word or two for each pair of the tile, as the tier has it.
            unsafe { dispatch_pairs(tier, Round { x, pairs, to }) };
        };
        if x.len() < PARALLEL_ROUNDING || threads::count() == 1 {
            parts.into_iter().for_each(round);
        } else {
            threads::run(|| parts.into_par_iter().for_each(round));
        }
        this
    }
}

/// Rounds the rows of a tile; `x (rows, 2 * pairs)`. `to` has as many words as the tier takes for them.
struct Round<'a> {
    x: &'a [f32],
    pairs: usize,
    to: &'a mut [u32],
}

impl PairKernel for Round<'_> {
    #[inline(always)]
    unsafe fn run<S: PairSums, const ROWS: usize, const PANELS: usize>(self) {
        write_rows::<S>(self.x.chunks_exact((2 * self.pairs).max(1)), self.pairs, self.to);
    }
}

/// A range of panels. Whoever runs it vouches that the operands have the lengths of their shapes, that the panels lie
/// inside, and that nobody else writes their columns.
struct Panels<'a> {
    x: &'a Rows,
    weight: &'a [u8],
    out_features: usize,
    out: SharedOutput,
    panels: Range<usize>,
    store: Store,
}

/// Where a tile is: its first panel, a part of the pairs, and where sums wait that have not reached the last pair.
struct Place {
    panel: usize,
    depth: Range<usize>,
    waiting: *mut f32,
}

impl PairKernel for Panels<'_> {
    #[inline(always)]
    unsafe fn run<S: PairSums, const ROWS: usize, const PANELS: usize>(self) {
        let waits = self.x.pairs > DEPTH;
        let mut waiting = vec![0.0; if waits { BLOCK_TILES * ROWS * PANELS * PANEL } else { 0 }];
        for tiles in self.x.tiles.chunks(BLOCK_TILES) {
            let mut panel = self.panels.start;
            // SAFETY: the tiles stay inside the panels.
            unsafe {
                while panel + PANELS <= self.panels.end {
                    self.block::<S, ROWS, PANELS>(tiles, panel, &mut waiting);
                    panel += PANELS;
                }
                while panel < self.panels.end {
                    self.block::<S, ROWS, 1>(tiles, panel, &mut waiting);
                    panel += 1;
                }
            }
        }
    }
}

impl Panels<'_> {
    /// All pairs of some tiles by `P` panels.
    #[inline(always)]
    unsafe fn block<S: PairSums, const ROWS: usize, const P: usize>(
        &self,
        tiles: &[RowTile],
        panel: usize,
        waiting: &mut [f32],
    ) {
        let pairs = self.x.pairs;
        let mut start = 0;
        // An empty `in` still has to write its zeros.
        while start < pairs || (pairs == 0 && start == 0) {
            let end = (start + DEPTH).min(pairs);
            for (index, tile) in tiles.iter().enumerate() {
                let waiting = waiting.as_mut_ptr().wrapping_add(index * ROWS * P * PANEL);
                let place = Place { panel, depth: start..end, waiting };
                // SAFETY: a tile has as many rows as the function that computes it; the caller keeps the panels inside.
                unsafe { by_height!(tile.rows, ROWS, R => self.tile::<S, R, P>(tile, place)) };
            }
            start += DEPTH;
        }
    }

    #[inline(always)]
    unsafe fn tile<S: PairSums, const R: usize, const P: usize>(&self, tile: &RowTile, place: Place) {
        let Place { panel, depth, waiting } = place;
        let pairs = self.x.pairs;
        // SAFETY: rows, panels and pairs lie inside their operands, by the caller; sums wait where `in` has several
        // parts.
        unsafe {
            let mut sums = [[S::zeros(); P]; R];
            if depth.start > 0 {
                for r in 0..R {
                    for p in 0..P {
                        sums[r][p] = S::load(waiting.add((r * P + p) * PANEL).cast_const());
                    }
                }
            }
            let row = self.x.values.as_ptr().add((tile.first_row * pairs + depth.start * R) * S::WORDS);
            let panel_at = |p: usize| self.weight.as_ptr().add(((panel + p) * pairs + depth.start) * PAIR_BYTES);
            let sums = add_pairs(sums, row, std::array::from_fn(panel_at), depth.len());
            for r in 0..R {
                for p in 0..P {
                    if depth.end < pairs {
                        sums[r][p].store(waiting.add((r * P + p) * PANEL));
                    } else {
                        self.finish(tile.first_row + r, panel + p, sums[r][p]);
                    }
                }
            }
        }
    }

    /// # Safety
    /// The panel is one of this task.
    #[inline(always)]
    unsafe fn finish<S: PairSums>(&self, row: usize, panel: usize, sums: S) {
        let mut numbers = [0.0; PANEL];
        let start = row * self.out_features + panel * PANEL;
        // SAFETY: sixteen numbers; inside this task's columns.
        unsafe {
            sums.store(numbers.as_mut_ptr());
            self.store.write(self.out.part(start..start + PANEL), &numbers);
        }
    }
}
