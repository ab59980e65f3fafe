//! Fast path over a cache in rows. One piece of work is a run of queries of one sequence under some KV heads; its rows
//! are, for each of them, those queries times the query heads of the group. Scores are the crate's dot products, so
//! queries and keys can be tiled at will; the softmax state and the weighted sum of a row advance tile by tile.
//!
//! With several queries the keys and values of a tile are widened once, and a piece has one KV head. A decode
//! step reads them as stored, and a piece takes several KV heads: they lie side by side in memory, so that
//! the cache is read in long runs.

#![expect(unsafe_code, reason = "raw pointers into cache rows inside target-feature functions")]
#![expect(clippy::needless_range_loop, reason = "a tile reads the same index of several arrays")]

use std::ops::Range;

use crate::paged_attention::{Heads, PagedAttention, first_visible};
use crate::paged_batch::PagedSequence;
use crate::simd::{Kernel, Tier, TileShape, Vector, dispatch, dot, prefetch, widen};
use crate::storage::Element;
use crate::threads::{self, SharedOutput};

/// Positions per softmax step; tiles begin at its multiples. A multiple of every vector's lanes.
const TILE: usize = 32;
/// Queries per piece of work.
const QUERY_BLOCK: usize = 16;
/// Bytes that memory hands out at once.
const CACHE_LINE: usize = 64;
/// Queries from which widening a tile once pays.
const WIDEN_MIN_QUERIES: usize = 3;

/// `(n, heads * head_dim)`
pub(in crate::paged_attention) fn paged_attention<T: Element>(
    tier: Tier,
    op: &PagedAttention<'_>,
    q: &[f32],
    cache: &[T],
) -> Vec<f32> {
    let geometry = op.batch.geometry();
    let Heads { group, kv_heads, head_dim } = op.heads;
    let slots = geometry.num_blocks * geometry.block_size;
    assert_eq!(cache.len(), 2 * slots * kv_heads * head_dim, "the cache holds two planes of all slots");
    assert_eq!(q.len(), op.batch.n_tokens() * group * kv_heads * head_dim, "one row of queries per token");
    let mut out = vec![0.0; q.len()];
    let shared = SharedOutput::new(&mut out);
    let pieces = pieces(op);
    let work = op.batch.sequences().iter().map(|s| s.query_len * s.context_len).sum::<usize>();
    threads::for_each_range(pieces.len(), 1, work * group * kv_heads * head_dim * 2, |range| {
        for (sequence, queries, heads) in &pieces[range] {
            let head = |kv_head| Head { op, q, cache, out: shared, sequence, queries: queries.clone(), kv_head };
            let piece = Piece { heads: heads.clone().map(head).collect() };
            // SAFETY: the lengths were checked above, the batch checked its blocks against this geometry,
            // and no two pieces share a query and a head.
            unsafe { dispatch(tier, piece) };
        }
    });
    out
}

/// Splits the work into runs of queries of one sequence under a range of KV heads.
fn pieces<'a>(op: &PagedAttention<'a>) -> Vec<(&'a PagedSequence, Range<usize>, Range<usize>)> {
    let sequences = op.batch.sequences();
    let kv_heads = op.heads.kv_heads;
    let mut pieces = Vec::new();
    for sequence in sequences {
        // Decode: as many heads together as leave each thread a few pieces.
        let heads_together = match sequence.query_len < WIDEN_MIN_QUERIES {
            true => (kv_heads * sequences.len() / (2 * threads::count())).clamp(1, kv_heads),
            false => 1,
        };
        for first in (0..sequence.query_len).step_by(QUERY_BLOCK) {
            let queries = first..(first + QUERY_BLOCK).min(sequence.query_len);
            for head in (0..kv_heads).step_by(heads_together) {
                pieces.push((sequence, queries.clone(), head..(head + heads_together).min(kv_heads)));
            }
        }
    }
    pieces
}

/// The same queries under neighbouring KV heads; at least one.
struct Piece<'a, T> {
    heads: Vec<Head<'a, T>>,
}

/// Queries of one sequence under one KV head. Whoever runs it vouches that `q`, `cache` and `out` have the
/// sizes that `op` says, and that nobody else writes the outputs of these queries under this KV head.
struct Head<'a, T> {
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

/// Slots of the positions of a tile; those of invisible positions are not set.
type TileSlots = [usize; TILE];

impl<T: Element> Kernel for Piece<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Head { op, sequence, ref queries, .. } = self.heads[0];
        let head_dim = op.heads.head_dim;
        let rows = queries.len() * op.heads.group;
        let mut states = Vec::with_capacity(self.heads.len());
        for _ in &self.heads {
            states.push(State::new(rows, head_dim));
        }
        let several = queries.len() >= WIDEN_MIN_QUERIES;
        let mut widened = vec![0.0; if several { 2 * TILE * head_dim } else { 0 }];
        let last = sequence.position(queries.end - 1);
        let first = first_visible(sequence.position(queries.start), op.params.window);
        let visible = |tile: usize| (tile * TILE).max(first)..(tile * TILE + TILE).min(last + 1);
        let block_size = op.batch.geometry().block_size;
        let mut next = slots(sequence, block_size, visible(first / TILE));
        for tile in first / TILE..=last / TILE {
            let current = std::mem::replace(&mut next, [0; TILE]);
            let ahead = if tile == last / TILE { 0..0 } else { visible(tile + 1) };
            next = slots(sequence, block_size, ahead.clone());
            for (head, state) in self.heads.iter().zip(&mut states) {
                // SAFETY: both ranges lie in the sequence's context, whose blocks lie in the cache.
                unsafe {
                    let stored = head.stored(&current, visible(tile));
                    if several {
                        let wide = widen_tile::<V, T>(&stored, visible(tile), head_dim, &mut widened);
                        head.tile::<V, f32>(&wide, tile * TILE, state);
                    } else {
                        head.stored(&next, ahead.clone()).prefetch(ahead.clone(), head_dim);
                        head.tile::<V, T>(&stored, tile * TILE, state);
                    }
                }
            }
        }
        for (head, state) in self.heads.iter().zip(&states) {
            // SAFETY: the caller has the target feature and vouches for the output.
            unsafe { head.finish(state) };
        }
    }
}

impl<T: Element> TileRows<T> {
    /// Asks for the rows of `visible`: a decode step is as fast as they come from memory, and blocks that
    /// follow each other in the table do not do so in memory, where the machine would look ahead by itself.
    #[inline(always)]
    fn prefetch(&self, visible: Range<usize>, head_dim: usize) {
        for position in visible {
            for rows in [&self.keys, &self.values] {
                let row = rows[position % TILE].cast::<u8>();
                for offset in (0..head_dim * size_of::<T>()).step_by(CACHE_LINE) {
                    prefetch(row.wrapping_add(offset));
                }
            }
        }
    }
}

impl State {
    fn new(rows: usize, head_dim: usize) -> Self {
        Self {
            highest: vec![f32::NEG_INFINITY; rows],
            total: vec![0.0; rows],
            sum: vec![0.0; rows * head_dim],
            scores: vec![0.0; rows * TILE],
            rescale: vec![0.0; rows],
        }
    }
}

/// Slots of `visible`, which lies inside the sequence's context and one tile, or is empty.
#[inline(always)]
fn slots(sequence: &PagedSequence, block_size: usize, visible: Range<usize>) -> TileSlots {
    let mut slots = [0; TILE];
    let (mut block, mut offset) = (visible.start / block_size, visible.start % block_size);
    for position in visible {
        slots[position % TILE] = sequence.block_table[block] as usize * block_size + offset;
        offset += 1;
        if offset == block_size {
            (block, offset) = (block + 1, 0);
        }
    }
    slots
}

impl<T: Element> Head<'_, T> {
    /// # Safety
    /// `slots` holds the slots of `visible`, which lies inside the sequence's context and one tile.
    #[inline(always)]
    unsafe fn stored(&self, slots: &TileSlots, visible: Range<usize>) -> TileRows<T> {
        let Heads { kv_heads, head_dim, .. } = self.op.heads;
        let mut rows = TileRows { keys: [std::ptr::null(); TILE], values: [std::ptr::null(); TILE] };
        let keys = self.cache.as_ptr();
        // SAFETY: the values are the second half of the cache.
        let values = unsafe { keys.add(self.cache.len() / 2) };
        for position in visible {
            let i = position % TILE;
            let cell = (slots[i] * kv_heads + self.kv_head) * head_dim;
            // SAFETY: the batch was checked: the block, hence the slot, lies in the cache.
            unsafe {
                rows.keys[i] = keys.add(cell);
                rows.values[i] = values.add(cell);
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
    unsafe fn finish(&self, state: &State) {
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
