//! Fast path over a cache in panels. One piece of work is a run of queries of one sequence under some KV heads; its
//! rows are, for each of them, those queries times the query heads of the group. They are computed in tiles of a few
//! rows by one or two panels, straight from the cache: first scores, a position a lane, then the sums of the values, a
//! column a lane. Queries, and probabilities relative to the highest score so far, are rounded to bf16.

#![expect(unsafe_code, reason = "raw pointers into cache rows and panels inside target-feature functions")]
#![expect(clippy::needless_range_loop, reason = "a tile reads the same index of several arrays")]

use std::ops::Range;

use half::bf16;

use super::chunks::{CHUNK, Piece, Plan, Softmax};
use crate::kv_cache::PANEL;
use crate::paged_attention::{Heads, PagedAttention, first_visible};
use crate::simd::{
    PAIR_BYTES, PairKernel, PairSums, RowTile, Tier, Vector, add_pairs, by_height, dispatch_pairs, row_tiles,
    write_rows,
};
use crate::threads::{self, SharedOutput};

/// Positions per softmax step; tiles begin at its multiples. A multiple of the positions of a panel.
const TILE: usize = 64;
/// Lanes of the widest vector.
const MAX_LANES: usize = 16;
/// The exponent of a bf16: all of it is set where a number is not finite.
const EXPONENT: u16 = 0x7F80;
/// Panels of a tile.
const TILE_PANELS: usize = TILE / PANEL;

/// `(n, heads * head_dim)`
pub(in crate::paged_attention) fn paged_attention(
    tier: Tier,
    op: &PagedAttention<'_>,
    q: &[f32],
    cache: &[bf16],
) -> Vec<f32> {
    let geometry = op.batch.geometry();
    let Heads { group, kv_heads, head_dim } = op.heads;
    let slots = geometry.num_blocks * geometry.block_size;
    assert!(head_dim.is_multiple_of(PANEL) && geometry.block_size.is_multiple_of(PANEL), "whole panels");
    assert_eq!(cache.len(), 2 * slots * kv_heads * head_dim, "the cache holds two planes of all slots");
    assert_eq!(q.len(), op.batch.n_tokens() * group * kv_heads * head_dim, "one row of queries per token");
    let mut out = vec![0.0; q.len()];
    let plan = Plan::new(op);
    let mut parts = vec![0.0; plan.part_len];
    let shared = Shared { op, q, cache, out: SharedOutput::new(&mut out), parts: SharedOutput::new(&mut parts), tier };
    let work = op.batch.sequences().iter().map(|s| s.query_len * s.context_len).sum::<usize>();
    threads::for_each_range(plan.pieces.len(), 1, work * group * kv_heads * head_dim * 2, |range| {
        for piece in &plan.pieces[range] {
            // SAFETY: the lengths were checked above, the batch checked its blocks against this geometry, and no two
            // pieces share a query, a head and a chunk.
            unsafe { dispatch_pairs(tier, Work { shared: &shared, piece }) };
        }
    });
    for split in &plan.splits {
        split.merge(op.heads, &parts, &mut out);
    }
    out
}

/// What all pieces share.
struct Shared<'a> {
    op: &'a PagedAttention<'a>,
    q: &'a [f32],
    cache: &'a [bf16],
    out: SharedOutput,
    /// Of split sequences.
    parts: SharedOutput,
    tier: Tier,
}

/// A piece to be computed. Whoever runs it vouches that `q`, `cache`, `out` and `parts` have the sizes that the
/// operands and the plan say, and that nobody else writes the results of these queries, heads and chunks.
struct Work<'a> {
    shared: &'a Shared<'a>,
    piece: &'a Piece<'a>,
}

/// One KV head of a piece.
struct Head {
    kv_head: usize,
    /// Queries in tiles of rows, as [`write_rows`] leaves them.
    queries: Vec<u32>,
    /// Highest score of the chunk so far, `(rows)`.
    highest: Vec<f32>,
    /// Sum of its exponentials, `(rows)`.
    total: Vec<f32>,
    /// Weighted sum of its values, `(rows, head_dim)`.
    sum: Vec<f32>,
    /// The chunks before, `(rows)`; none where chunks are computed apart.
    before: Vec<Softmax>,
}

/// Room for one tile of one head.
struct Scratch {
    /// Scores, then probabilities, `(rows, TILE)`.
    scores: Vec<f32>,
    /// What the tile multiplies the earlier sums by, `(rows)`.
    rescale: Vec<f32>,
    /// Probabilities of a tile of rows, as [`write_rows`] leaves them.
    probabilities: Vec<u32>,
    /// Values of a tile's first and last panel, without those that are not seen.
    seen_values: [Vec<bf16>; 2],
}

/// Panels of keys and of values that a tile sees something of.
struct TilePanels {
    keys: [*const bf16; TILE_PANELS],
    values: [*const bf16; TILE_PANELS],
    seen: Range<usize>,
}

impl PairKernel for Work<'_> {
    #[inline(always)]
    unsafe fn run<S: PairSums, const ROWS: usize, const PANELS: usize>(self) {
        let Piece { sequence, queries, heads, chunks, part } = self.piece;
        let Heads { group, head_dim, .. } = self.shared.op.heads;
        let rows = queries.len() * group;
        let tiles = row_tiles(self.shared.tier, rows);
        let mut of_heads: Vec<Head> = heads.clone().map(|kv_head| self.head::<S>(kv_head, &tiles)).collect();
        let mut scratch = Scratch {
            scores: vec![0.0; rows * TILE],
            rescale: vec![0.0; rows],
            probabilities: vec![0; ROWS * TILE / 2 * S::WORDS],
            seen_values: [vec![bf16::ZERO; head_dim * PANEL], vec![bf16::ZERO; head_dim * PANEL]],
        };
        let end = sequence.position(queries.end - 1) + 1;
        let start = first_visible(sequence.position(queries.start), self.shared.op.params.window);
        for chunk in chunks.clone() {
            let (first, last) = ((chunk * CHUNK).max(start), ((chunk + 1) * CHUNK).min(end));
            for tile in first / TILE..last.div_ceil(TILE) {
                let visible = (tile * TILE).max(first)..((tile + 1) * TILE).min(last);
                for head in &mut of_heads {
                    // SAFETY: visible positions have slots, which lie in the cache.
                    unsafe { self.tile::<S, ROWS, PANELS>(head, &tiles, visible.clone(), &mut scratch) };
                }
            }
            for head in &mut of_heads {
                match part {
                    Some(part) => self.hand_in(head, *part),
                    None => head.end_chunk(head_dim),
                }
            }
        }
        if part.is_none() {
            for head in &of_heads {
                for (row, softmax) in head.before.iter().enumerate() {
                    let start = self.row_offset(head.kv_head, row);
                    // SAFETY: by the maker of the work, nobody else writes this row.
                    softmax.write(unsafe { self.shared.out.part(start..start + head_dim) });
                }
            }
        }
    }
}

impl Head {
    /// Adds the chunk to those before and begins the next.
    #[inline(always)]
    fn end_chunk(&mut self, head_dim: usize) {
        for (row, before) in self.before.iter_mut().enumerate() {
            before.merge(self.highest[row], self.total[row], &self.sum[row * head_dim..][..head_dim]);
        }
        self.highest.fill(f32::NEG_INFINITY);
        self.total.fill(0.0);
        self.sum.fill(0.0);
    }
}

impl Work<'_> {
    #[inline(always)]
    fn head<S: PairSums>(&self, kv_head: usize, tiles: &[RowTile]) -> Head {
        let head_dim = self.shared.op.heads.head_dim;
        let rows = tiles.iter().map(|tile| tile.rows).sum();
        let mut queries = vec![0; rows * head_dim / 2 * S::WORDS];
        for tile in tiles {
            let of_tile =
                (0..tile.rows).map(|row| &self.shared.q[self.row_offset(kv_head, tile.first_row + row)..][..head_dim]);
            let at = tile.first_row * head_dim / 2 * S::WORDS;
            write_rows::<S>(of_tile, head_dim / 2, &mut queries[at..]);
        }
        Head {
            kv_head,
            queries,
            highest: vec![f32::NEG_INFINITY; rows],
            total: vec![0.0; rows],
            sum: vec![0.0; rows * head_dim],
            before: match self.piece.part {
                Some(_) => Vec::new(),
                None => (0..rows).map(|_| Softmax::new(head_dim)).collect(),
            },
        }
    }

    /// Where a row's query is in `q`, and its result in the output.
    #[inline(always)]
    fn row_offset(&self, kv_head: usize, row: usize) -> usize {
        let Heads { group, kv_heads, head_dim } = self.shared.op.heads;
        let token = self.piece.sequence.query_start + self.piece.queries.start + row / group;
        ((token * kv_heads + kv_head) * group + row % group) * head_dim
    }

    /// The panels of a tile, of which `visible` is seen. Values that are not seen may be anything, and anything times
    /// zero need not be zero: panels that have some are copied without them.
    #[inline(always)]
    fn panels(&self, kv_head: usize, visible: Range<usize>, copies: &mut [Vec<bf16>; 2]) -> TilePanels {
        let Shared { op, cache, .. } = self.shared;
        let (block_size, len) = (op.cache.geometry.block_size, op.heads.head_dim * PANEL);
        let (keys, values) = cache.split_at(cache.len() / 2);
        let start = visible.start / TILE * TILE;
        let seen = visible.start - start..visible.end - start;
        let mut panels =
            TilePanels { keys: [std::ptr::null(); TILE_PANELS], values: [std::ptr::null(); TILE_PANELS], seen };
        for panel in panels.seen.start / PANEL..panels.seen.end.div_ceil(PANEL) {
            let position = start + panel * PANEL;
            let slot = self.piece.sequence.block_table[position / block_size] as usize * block_size;
            let (at, _) = op.cache.panel(slot + position % block_size, kv_head);
            panels.keys[panel] = keys[at..at + len].as_ptr();
            panels.values[panel] = values[at..at + len].as_ptr();
            let of_panel = panel * PANEL..(panel + 1) * PANEL;
            if panels.seen.start > of_panel.start || panels.seen.end < of_panel.end {
                let copy = &mut copies[usize::from(panels.seen.end < of_panel.end)];
                for (pair, (to, from)) in
                    copy.chunks_exact_mut(2 * PANEL).zip(values[at..].chunks(2 * PANEL)).enumerate()
                {
                    for lane in 0..2 {
                        let is_seen = panels.seen.contains(&(of_panel.start + pair % (PANEL / 2) * 2 + lane));
                        for column in 0..PANEL {
                            to[2 * column + lane] = if is_seen { from[2 * column + lane] } else { bf16::ZERO };
                        }
                    }
                }
                panels.values[panel] = copy.as_ptr();
            }
        }
        panels
    }

    /// Advances all rows of a head by one tile.
    #[inline(always)]
    unsafe fn tile<S: PairSums, const ROWS: usize, const P: usize>(
        &self,
        head: &mut Head,
        tiles: &[RowTile],
        visible: Range<usize>,
        scratch: &mut Scratch,
    ) {
        let panels = self.panels(head.kv_head, visible.clone(), &mut scratch.seen_values);
        // SAFETY: by the caller, the panels lie in the cache or in scratch, which has room for a tile.
        unsafe {
            for tile in tiles {
                by_height!(tile.rows, ROWS, R => self.scores::<S, R, P>(head, tile, &panels, scratch));
            }
            self.softmax::<S::Lanes>(head, visible.start / TILE * TILE, scratch);
            if self.some_see_less(&visible) && self.has_infinite(&panels) {
                self.weigh_apart::<S, P>(head, visible, scratch);
                return;
            }
            for tile in tiles {
                by_height!(tile.rows, ROWS, R => self.weigh::<S, R, P>(head, tile, &panels, scratch));
            }
        }
    }

    /// Is there something that one of the queries sees and another does not?
    #[inline(always)]
    fn some_see_less(&self, visible: &Range<usize>) -> bool {
        let all = self.visible(0, visible);
        (1..self.piece.queries.len()).any(|query| self.visible(query, visible) != all)
    }

    /// What a query of the piece sees of a range of positions.
    #[inline(always)]
    fn visible(&self, query: usize, range: &Range<usize>) -> Range<usize> {
        let position = self.piece.sequence.position(self.piece.queries.start + query);
        let first = first_visible(position, self.shared.op.params.window).clamp(range.start, range.end);
        first..(position + 1).clamp(first, range.end)
    }

    /// Is there a value that is not finite?
    #[inline(always)]
    fn has_infinite(&self, panels: &TilePanels) -> bool {
        let len = self.shared.op.heads.head_dim * PANEL;
        panels.values[panels.seen.start / PANEL..panels.seen.end.div_ceil(PANEL)].iter().any(|values| {
            // SAFETY: a panel of a tile lies in the cache or in scratch.
            let values = unsafe { std::slice::from_raw_parts(*values, len) };
            values.iter().fold(false, |found, value| found | (value.to_bits() & EXPONENT == EXPONENT))
        })
    }

    /// As [`Self::weigh`], row by row and without values that the row does not see: zero times infinity is not zero.
    #[inline(always)]
    unsafe fn weigh_apart<S: PairSums, const P: usize>(
        &self,
        head: &mut Head,
        visible: Range<usize>,
        scratch: &mut Scratch,
    ) {
        for row in 0..head.highest.len() {
            let of_row = self.visible(row / self.shared.op.heads.group, &visible);
            if of_row.is_empty() {
                continue;
            }
            let panels = self.panels(head.kv_head, of_row, &mut scratch.seen_values);
            // SAFETY: as in `tile`.
            unsafe { self.weigh::<S, 1, P>(head, &RowTile { first_row: row, rows: 1 }, &panels, scratch) };
        }
    }

    /// Scores of a tile of rows with the panels of positions.
    #[inline(always)]
    unsafe fn scores<S: PairSums, const R: usize, const P: usize>(
        &self,
        head: &Head,
        tile: &RowTile,
        panels: &TilePanels,
        scratch: &mut Scratch,
    ) {
        let (mut panel, end) = (panels.seen.start / PANEL, panels.seen.end.div_ceil(PANEL));
        // SAFETY: the panels are set, and the tile lies in rows of scores.
        unsafe {
            while panel + P <= end {
                self.score_panels::<S, R, P>(head, tile, (panels, panel), scratch);
                panel += P;
            }
            while panel < end {
                self.score_panels::<S, R, 1>(head, tile, (panels, panel), scratch);
                panel += 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn score_panels<S: PairSums, const R: usize, const P: usize>(
        &self,
        head: &Head,
        tile: &RowTile,
        (panels, panel): (&TilePanels, usize),
        scratch: &mut Scratch,
    ) {
        let pairs = self.shared.op.heads.head_dim / 2;
        // SAFETY: by the caller.
        unsafe {
            let row = head.queries.as_ptr().add(tile.first_row * pairs * S::WORDS);
            let keys = std::array::from_fn(|p| panels.keys[panel + p].cast());
            let sums = add_pairs([[S::zeros(); P]; R], row, keys, pairs);
            let to = scratch.scores.as_mut_ptr().add(tile.first_row * TILE + panel * PANEL);
            for r in 0..R {
                for p in 0..P {
                    sums[r][p].store(to.add(r * TILE + p * PANEL));
                }
            }
        }
    }

    /// Turns the scores of a tile, which begins at `start`, into probabilities relative to the highest score so far.
    #[inline(always)]
    unsafe fn softmax<V: Vector>(&self, head: &mut Head, start: usize, scratch: &mut Scratch) {
        let params = self.shared.op.params;
        for row in 0..head.highest.len() {
            let query = self.piece.queries.start + row / self.shared.op.heads.group;
            let position = self.piece.sequence.position(query);
            let first = first_visible(position, params.window).clamp(start, start + TILE) - start;
            let end = (position + 1).clamp(start, start + TILE) - start;
            let scores = &mut scratch.scores[row * TILE..(row + 1) * TILE];
            if first >= end {
                scores.fill(0.0);
                scratch.rescale[row] = 1.0;
                continue;
            }
            // What the exponential makes of minus infinity is not quite zero.
            scores[..first].fill(f32::NEG_INFINITY);
            scores[end..].fill(f32::NEG_INFINITY);
            let before = head.highest[row];
            let mut lanes = [before; MAX_LANES];
            for scores in scores.as_chunks_mut::<MAX_LANES>().0 {
                for (score, lane) in scores.iter_mut().zip(&mut lanes) {
                    *score *= params.softmax_scale;
                    *lane = if *score > *lane { *score } else { *lane };
                }
            }
            let highest = lanes.into_iter().fold(before, |highest, lane| if lane > highest { lane } else { highest });
            // SAFETY: `TILE` is a multiple of the lanes; the caller has the target feature.
            unsafe {
                let rescale = V::splat(before - highest).exp();
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
                scratch.rescale[row] = rescale.sum() / V::LANES as f32;
                head.total[row] = head.total[row] * scratch.rescale[row] + lanes.sum();
            }
            scores[..first].fill(0.0);
            scores[end..].fill(0.0);
            head.highest[row] = highest;
        }
    }

    /// Adds the values of the panels, weighted by the probabilities of a tile of rows, to their rescaled sums.
    #[inline(always)]
    unsafe fn weigh<S: PairSums, const R: usize, const P: usize>(
        &self,
        head: &mut Head,
        tile: &RowTile,
        panels: &TilePanels,
        scratch: &mut Scratch,
    ) {
        let of_tile = (0..R).map(|row| &scratch.scores[(tile.first_row + row) * TILE..][..TILE]);
        write_rows::<S>(of_tile, TILE / 2, &mut scratch.probabilities);
        let columns = self.shared.op.heads.head_dim / PANEL;
        let mut column = 0;
        // SAFETY: the columns lie in the values, and the tile in rows of sums.
        unsafe {
            while column + P <= columns {
                self.weigh_columns::<S, R, P>(head, tile, (panels, column), scratch);
                column += P;
            }
            while column < columns {
                self.weigh_columns::<S, R, 1>(head, tile, (panels, column), scratch);
                column += 1;
            }
        }
    }

    /// `P` times sixteen columns.
    #[inline(always)]
    unsafe fn weigh_columns<S: PairSums, const R: usize, const P: usize>(
        &self,
        head: &mut Head,
        tile: &RowTile,
        (panels, column): (&TilePanels, usize),
        scratch: &Scratch,
    ) {
        const PAIRS: usize = PANEL / 2;
        let head_dim = self.shared.op.heads.head_dim;
        // SAFETY: by the caller.
        unsafe {
            let sum = head.sum.as_mut_ptr().add(tile.first_row * head_dim + column * PANEL);
            let mut sums = [[S::zeros(); P]; R];
            for r in 0..R {
                let rescale = *scratch.rescale.as_ptr().add(tile.first_row + r);
                for p in 0..P {
                    sums[r][p] = S::load(sum.add(r * head_dim + p * PANEL).cast_const()).scale(rescale);
                }
            }
            for panel in panels.seen.start / PANEL..panels.seen.end.div_ceil(PANEL) {
                let row = scratch.probabilities.as_ptr().add(panel * PAIRS * R * S::WORDS);
                let values = panels.values[panel].cast::<u8>();
                let of_columns = std::array::from_fn(|p| values.add((column + p) * PAIRS * PAIR_BYTES));
                sums = add_pairs(sums, row, of_columns, PAIRS);
            }
            for r in 0..R {
                for p in 0..P {
                    sums[r][p].store(sum.add(r * head_dim + p * PANEL));
                }
            }
        }
    }

    /// Leaves the softmax of the chunk to whoever merges.
    #[inline(always)]
    fn hand_in(&self, head: &Head, part: usize) {
        let head_dim = self.shared.op.heads.head_dim;
        let rows = head.highest.len();
        for row in 0..rows {
            let at = part + (head.kv_head * rows + row) * (head_dim + 2);
            // SAFETY: by the maker of the work, nobody else writes this row of this part.
            let to = unsafe { self.shared.parts.part(at..at + head_dim + 2) };
            let (sum, rest) = to.split_at_mut(head_dim);
            sum.copy_from_slice(&head.sum[row * head_dim..][..head_dim]);
            rest.copy_from_slice(&[head.highest[row], head.total[row]]);
        }
    }
}
