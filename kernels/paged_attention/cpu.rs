//! Fast path. One piece of work is a run of queries of one sequence under one KV head; its rows are those
//! queries times the query heads of the group. Scores are the crate's dot products, so queries and keys can
//! be tiled at will; the softmax state and the weighted sum of a row advance tile by tile.
//!
//! With several queries the keys and values of a tile are widened once; a decode step reads them as stored.

#![expect(unsafe_code, reason = "raw pointers into cache rows inside target-feature functions")]

use std::ops::Range;

use super::{Heads, PagedAttention, first_visible};
use crate::paged_batch::PagedSequence;
use crate::simd::{Kernel, Tier, TileShape, Vector, dispatch, dot, widen};
use crate::storage::Element;
use crate::threads::{self, SharedOutput};

/// Positions per softmax step; tiles begin at its multiples. A multiple of every vector's lanes.
const TILE: usize = 32;
/// Queries per piece of work.
const QUERY_BLOCK: usize = 16;
/// Queries from which widening a tile once pays.
const WIDEN_MIN_QUERIES: usize = 3;

/// `(n, heads * head_dim)`
pub(super) fn paged_attention<T: Element>(tier: Tier, op: &PagedAttention<'_>, q: &[f32], cache: &[T]) -> Vec<f32> {
    let geometry = op.batch.geometry();
    let Heads { group, kv_heads, head_dim } = op.heads;
    let slots = geometry.num_blocks * geometry.block_size;
    assert_eq!(cache.len(), 2 * slots * kv_heads * head_dim, "the cache holds two planes of all slots");
    assert_eq!(q.len(), op.batch.n_tokens() * group * kv_heads * head_dim, "one row of queries per token");
    let mut out = vec![0.0; q.len()];
    let shared = SharedOutput::new(&mut out);
    let mut pieces = Vec::new();
    let mut work = 0;
    for sequence in op.batch.sequences() {
        work += sequence.query_len * sequence.context_len * group * kv_heads * head_dim * 2;
        let mut first = 0;
        while first < sequence.query_len {
            let queries = first..(first + QUERY_BLOCK).min(sequence.query_len);
            pieces.extend((0..kv_heads).map(|kv_head| (sequence, queries.clone(), kv_head)));
            first = queries.end;
        }
    }
    threads::for_each_range(pieces.len(), 1, work, |range| {
        for (sequence, queries, kv_head) in &pieces[range] {
            let piece = Piece { op, q, cache, out: shared, sequence, queries: queries.clone(), kv_head: *kv_head };
            // SAFETY: the lengths were checked above, the batch checked its blocks against this geometry,
            // and no two pieces share a query and a head.
            unsafe { dispatch(tier, piece) };
        }
    });
    out
}

/// Whoever runs it vouches that `q`, `cache` and `out` have the sizes that `op` says, and that nobody else
/// writes the outputs of these queries under this KV head.
struct Piece<'a, T> {
    op: &'a PagedAttention<'a>,
    q: &'a [f32],
    cache: &'a [T],
    out: SharedOutput,
    sequence: &'a PagedSequence,
    queries: Range<usize>,
    kv_head: usize,
}

/// The softmax in progress of each row, and room for one tile.
struct State {
    /// Highest score so far, `(rows)`.
    highest: Vec<f32>,
    /// Sum of the exponentials, `(rows)`.
    total: Vec<f32>,
    /// Weighted sum of values, `(rows, head_dim)`.
    sum: Vec<f32>,
    /// Scores, then probabilities of the current tile, `(rows, TILE)`.
    scores: Vec<f32>,
    /// What the current tile multiplies the earlier sums by, `(rows)`.
    rescale: Vec<f32>,
}

/// Rows of keys and values of a tile; those of invisible positions are not set.
struct TileRows<T> {
    keys: [*const T; TILE],
    values: [*const T; TILE],
}

impl<T: Element> Kernel for Piece<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Heads { group, head_dim, .. } = self.op.heads;
        let rows = self.queries.len() * group;
        let mut state = State {
            highest: vec![f32::NEG_INFINITY; rows],
            total: vec![0.0; rows],
            sum: vec![0.0; rows * head_dim],
            scores: vec![0.0; rows * TILE],
            rescale: vec![0.0; rows],
        };
        let wide_enough = self.queries.len() >= WIDEN_MIN_QUERIES;
        let mut widened = vec![0.0; if wide_enough { 2 * TILE * head_dim } else { 0 }];
        let last = self.sequence.position(self.queries.end - 1);
        let first = first_visible(self.sequence.position(self.queries.start), self.op.params.window);
        for tile in first / TILE..=last / TILE {
            let start = tile * TILE;
            let visible = start.max(first)..(start + TILE).min(last + 1);
            // SAFETY: `visible` lies in the sequence's context, whose blocks lie in the cache.
            unsafe {
                let stored = self.stored(visible.clone());
                if wide_enough {
                    let wide = widen_tile::<V, T>(&stored, visible, head_dim, &mut widened);
                    self.tile::<V, f32>(&wide, start, &mut state);
                } else {
                    self.tile::<V, T>(&stored, start, &mut state);
                }
            }
        }
        // SAFETY: the caller has the target feature and vouches for the output.
        unsafe { self.finish::<V>(&state) };
    }
}

impl<T: Element> Piece<'_, T> {
    /// # Safety
    /// `visible` lies inside the sequence's context and one tile.
    #[inline(always)]
    unsafe fn stored(&self, visible: Range<usize>) -> TileRows<T> {
        let Heads { kv_heads, head_dim, .. } = self.op.heads;
        let block_size = self.op.batch.geometry().block_size;
        let mut rows = TileRows { keys: [std::ptr::null(); TILE], values: [std::ptr::null(); TILE] };
        let keys = self.cache.as_ptr();
        // SAFETY: the values are the second half of the cache.
        let values = unsafe { keys.add(self.cache.len() / 2) };
        for position in visible {
            let block = self.sequence.block_table[position / block_size] as usize;
            let slot = block * block_size + position % block_size;
            let cell = (slot * kv_heads + self.kv_head) * head_dim;
            // SAFETY: the batch was checked: the block, hence the slot, lies in the cache.
            unsafe {
                rows.keys[position % TILE] = keys.add(cell);
                rows.values[position % TILE] = values.add(cell);
            }
        }
        rows
    }

    /// Positions of the tile at `start` that query `index` sees, as offsets into the tile.
    #[inline(always)]
    fn visible(&self, index: usize, start: usize) -> Range<usize> {
        let position = self.sequence.position(index);
        let first = first_visible(position, self.op.params.window).max(start);
        let end = (position + 1).min(start + TILE);
        first.min(end) - start.min(end)..end - start.min(end)
    }

    /// Advances all rows by one tile. Queries that see the same part of it go together.
    #[inline(always)]
    unsafe fn tile<V: Vector, U: Element>(&self, tile: &TileRows<U>, start: usize, state: &mut State) {
        let group = self.op.heads.group;
        let mut query = self.queries.start;
        while query < self.queries.end {
            let visible = self.visible(query, start);
            let mut end = query + 1;
            while end < self.queries.end && self.visible(end, start) == visible {
                end += 1;
            }
            if !visible.is_empty() {
                let rows = (query - self.queries.start) * group..(end - self.queries.start) * group;
                // SAFETY: the tile's visible rows are set; the caller has the target feature.
                unsafe {
                    self.scores::<V, U>(tile, rows.clone(), visible.clone(), state);
                    self.softmax::<V>(rows.clone(), visible.clone(), state);
                    self.weigh::<V, U>(tile, rows, visible, state);
                }
            }
            query = end;
        }
    }

    #[inline(always)]
    unsafe fn scores<V: Vector, U: Element>(
        &self,
        tile: &TileRows<U>,
        rows: Range<usize>,
        visible: Range<usize>,
        state: &mut State,
    ) {
        // SAFETY: the shapes fit the register file; rows and positions are those of this piece.
        unsafe {
            match V::TILE {
                TileShape::Rows4Outputs6 => self.score_rows::<V, U, 4, 4>(tile, rows, visible, state),
                TileShape::Rows4Outputs3 => self.score_rows::<V, U, 2, 4>(tile, rows, visible, state),
                TileShape::Rows2Outputs2 => self.score_rows::<V, U, 1, 2>(tile, rows, visible, state),
            }
        }
    }

    #[inline(always)]
    unsafe fn score_rows<V: Vector, U: Element, const R: usize, const O: usize>(
        &self,
        tile: &TileRows<U>,
        rows: Range<usize>,
        visible: Range<usize>,
        state: &mut State,
    ) {
        let mut row = rows.start;
        // SAFETY: `row + R`, `row + 2` and `row + 1` stay inside the rows.
        unsafe {
            while row + R <= rows.end {
                self.score::<V, U, R, O>(tile, row, visible.clone(), state);
                row += R;
            }
            while row + 2 <= rows.end {
                self.score::<V, U, 2, O>(tile, row, visible.clone(), state);
                row += 2;
            }
            if row < rows.end {
                self.score::<V, U, 1, O>(tile, row, visible, state);
            }
        }
    }

    #[inline(always)]
    unsafe fn score<V: Vector, U: Element, const R: usize, const O: usize>(
        &self,
        tile: &TileRows<U>,
        row: usize,
        visible: Range<usize>,
        state: &mut State,
    ) {
        let head_dim = self.op.heads.head_dim;
        let mut queries = [std::ptr::null(); R];
        for (r, query) in queries.iter_mut().enumerate() {
            *query = self.q[self.row_offset(row + r)..][..head_dim].as_ptr();
        }
        let mut position = visible.start;
        // SAFETY: the visible rows of the tile are set and `head_dim` long.
        unsafe {
            while position + O <= visible.end {
                let mut keys = [std::ptr::null(); O];
                keys.copy_from_slice(&tile.keys[position..position + O]);
                let sums = dot::<V, U, R, O>(queries, keys, head_dim);
                for r in 0..R {
                    state.scores[(row + r) * TILE + position..][..O].copy_from_slice(&sums[r]);
                }
                position += O;
            }
            while position < visible.end {
                let sums = dot::<V, U, R, 1>(queries, [tile.keys[position]], head_dim);
                for r in 0..R {
                    state.scores[(row + r) * TILE + position] = sums[r][0];
                }
                position += 1;
            }
        }
    }

    /// Where a row's query is in `q`, and its result in the output.
    #[inline(always)]
    fn row_offset(&self, row: usize) -> usize {
        let Heads { group, kv_heads, head_dim } = self.op.heads;
        let token = self.sequence.query_start + self.queries.start + row / group;
        ((token * kv_heads + self.kv_head) * group + row % group) * head_dim
    }

    /// Turns scores into probabilities relative to the highest score so far.
    #[inline(always)]
    unsafe fn softmax<V: Vector>(&self, rows: Range<usize>, visible: Range<usize>, state: &mut State) {
        for row in rows {
            let scores = &mut state.scores[row * TILE..(row + 1) * TILE];
            scores[..visible.start].fill(f32::NEG_INFINITY);
            scores[visible.end..].fill(f32::NEG_INFINITY);
            let mut highest = state.highest[row];
            for score in &mut scores[visible.clone()] {
                *score *= self.op.params.softmax_scale;
                highest = if *score > highest { *score } else { highest };
            }
            // SAFETY: `TILE` is a multiple of the lanes; the caller has the target feature.
            unsafe {
                let rescale = V::splat(state.highest[row] - highest).exp();
                let mut lanes = V::splat(0.0);
                let mut i = 0;
                while i < TILE {
                    let at = scores.as_mut_ptr().add(i);
                    let probability = V::load(at.cast_const()).add(V::splat(-highest)).exp();
                    probability.store(at);
                    lanes = lanes.add(probability);
                    i += V::LANES;
                }
                // All lanes are equal; a sixteenth or an eighth of their sum is exact.
                state.rescale[row] = rescale.sum() / V::LANES as f32;
                state.total[row] = state.total[row] * state.rescale[row] + lanes.sum();
            }
            state.highest[row] = highest;
        }
    }

    /// Adds the tile's values, weighted by its probabilities, to the rescaled sums.
    #[inline(always)]
    unsafe fn weigh<V: Vector, U: Element>(
        &self,
        tile: &TileRows<U>,
        rows: Range<usize>,
        visible: Range<usize>,
        state: &mut State,
    ) {
        let mut row = rows.start;
        // SAFETY: `row + 4`, `row + 2` and `row + 1` stay inside the rows.
        unsafe {
            while row + 4 <= rows.end {
                self.weigh_rows::<V, U, 4>(tile, row, visible.clone(), state);
                row += 4;
            }
            while row + 2 <= rows.end {
                self.weigh_rows::<V, U, 2>(tile, row, visible.clone(), state);
                row += 2;
            }
            if row < rows.end {
                self.weigh_rows::<V, U, 1>(tile, row, visible, state);
            }
        }
    }

    #[inline(always)]
    unsafe fn weigh_rows<V: Vector, U: Element, const R: usize>(
        &self,
        tile: &TileRows<U>,
        row: usize,
        visible: Range<usize>,
        state: &mut State,
    ) {
        let head_dim = self.op.heads.head_dim;
        let mut i = 0;
        // SAFETY: the columns stay inside `head_dim`; visible rows of the tile are set.
        unsafe {
            while i + 2 * V::LANES <= head_dim {
                weigh_columns::<V, U, R, 2>(tile, row, visible.clone(), state, i, head_dim);
                i += 2 * V::LANES;
            }
            while i + V::LANES <= head_dim {
                weigh_columns::<V, U, R, 1>(tile, row, visible.clone(), state, i, head_dim);
                i += V::LANES;
            }
            if i < head_dim {
                weigh_tail::<V, U, R>(tile, row, visible, state, i, head_dim);
            }
        }
    }

    #[inline(always)]
    unsafe fn finish<V: Vector>(&self, state: &State) {
        let head_dim = self.op.heads.head_dim;
        for (row, (sum, total)) in state.sum.chunks_exact(head_dim).zip(&state.total).enumerate() {
            let start = self.row_offset(row);
            // SAFETY: by the caller, nobody else writes this row.
            let out = unsafe { self.out.part(start..start + head_dim) };
            for (out, sum) in out.iter_mut().zip(sum) {
                *out = sum / total;
            }
        }
    }
}

/// `C` vectors of columns from `column` on, for `R` rows from `row` on.
#[inline(always)]
unsafe fn weigh_columns<V: Vector, U: Element, const R: usize, const C: usize>(
    tile: &TileRows<U>,
    row: usize,
    visible: Range<usize>,
    state: &mut State,
    column: usize,
    head_dim: usize,
) {
    // SAFETY: the caller keeps rows and columns inside; `sum` and `scores` have a row per row.
    unsafe {
        let sum = state.sum.as_mut_ptr().add(row * head_dim + column);
        let probabilities = state.scores.as_ptr().add(row * TILE);
        let mut acc = [[V::splat(0.0); C]; R];
        for r in 0..R {
            let rescale = V::splat(*state.rescale.as_ptr().add(row + r));
            for c in 0..C {
                acc[r][c] = V::load(sum.add(r * head_dim + c * V::LANES).cast_const()).mul(rescale);
            }
        }
        for position in visible {
            let from = tile.values.as_ptr().add(position).read().add(column);
            let mut values = [V::splat(0.0); C];
            for c in 0..C {
                values[c] = V::load(from.add(c * V::LANES));
            }
            for r in 0..R {
                let probability = V::splat(*probabilities.add(r * TILE + position));
                for c in 0..C {
                    acc[r][c] = acc[r][c].fma(probability, values[c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                acc[r][c].store(sum.add(r * head_dim + c * V::LANES));
            }
        }
    }
}

/// The last columns, fewer than a vector.
#[inline(always)]
unsafe fn weigh_tail<V: Vector, U: Element, const R: usize>(
    tile: &TileRows<U>,
    row: usize,
    visible: Range<usize>,
    state: &mut State,
    column: usize,
    head_dim: usize,
) {
    let len = head_dim - column;
    // SAFETY: as in `weigh_columns`, with `len` columns.
    unsafe {
        for r in row..row + R {
            let sum = state.sum.as_mut_ptr().add(r * head_dim + column);
            let mut acc = V::load_partial(sum.cast_const(), len).mul(V::splat(state.rescale[r]));
            for position in visible.clone() {
                let values = V::load_partial(tile.values[position].add(column), len);
                acc = acc.fma(V::splat(state.scores[r * TILE + position]), values);
            }
            acc.store_partial(sum, len);
        }
    }
}

/// Copies a tile's visible rows to f32.
///
/// # Safety
/// The visible rows are `head_dim` long, and `to` holds two tiles of them.
#[inline(always)]
unsafe fn widen_tile<V: Vector, T: Element>(
    stored: &TileRows<T>,
    visible: Range<usize>,
    head_dim: usize,
    to: &mut [f32],
) -> TileRows<f32> {
    let mut wide = TileRows { keys: [std::ptr::null(); TILE], values: [std::ptr::null(); TILE] };
    let base = to.as_mut_ptr();
    for position in visible {
        let i = position % TILE;
        // SAFETY: `i < TILE`, so both rows lie in `to`.
        unsafe {
            let (key, value) = (base.add(i * head_dim), base.add((TILE + i) * head_dim));
            widen::<V, T>(stored.keys[i], key, head_dim);
            widen::<V, T>(stored.values[i], value, head_dim);
            (wide.keys[i], wide.values[i]) = (key.cast_const(), value.cast_const());
        }
    }
    wide
}
