//! The launches of `cuda.cu`: decode rows and chunks of prompts over the paged cache.
//!
//! Tokens that were generated take [`PagedDecode`] and tokens of a prompt [`PagedPrefill`], also where a chunk is a
//! single token: the two round differently, and each gives a row the same bits in any company and in any chunk. In a
//! mixed batch decode rows come first, then one launch of each, on their own rows of `q` and `out`.

use super::AttentionParams;
use crate::gpu::{DevicePointer, Float16, Launch};
use crate::paged_batch::KvGeometry;

const THREADS: u32 = 128;
/// Widths of heads that the kernels are compiled for.
pub const HEAD_DIMS: [usize; 4] = [32, 64, 96, 128];

// As in `decode.cuh`.
const DECODE_ROWS: usize = 16;
const DECODE_WARPS: usize = 4;
const DECODE_KEYS: usize = 16;
const SHORTEST_SPLIT: usize = 128;
const MAX_SPLITS: usize = 32;

// As in `prefill.cuh`.
const PREFILL_ROWS: usize = 128;
const PREFILL_KEYS: usize = 32;

/// Sequence of a tile that is none.
pub const NO_TILE: u32 = u32::MAX;

/// What is attended to: the cache of one layer, and how a batch of sequences lies in it.
#[derive(Clone, Copy, Debug)]
pub struct PagedKeys {
    /// Of type `dtype`, `(2, num_blocks, block_size, kv_heads, head_dim)`, keys first. The keys and values of the
    /// queries are already there.
    pub cache: DevicePointer,
    /// Any number of blocks, of a power of two of tokens.
    pub geometry: KvGeometry,
    /// Divides the query heads.
    pub kv_heads: usize,
    /// 32, 64, 96 or 128.
    pub head_dim: usize,
    /// u32 `(sequences)`: positions of each sequence, its queries among them; 0 is padding.
    pub context_lens: DevicePointer,
    /// u32 `(sequences, table_stride)`: blocks of positions `0..`, in order. Entries of blocks without a position that a
    /// query sees are not read.
    pub block_tables: DevicePointer,
    /// Entries of a row of `block_tables`.
    pub table_stride: usize,
    /// Of queries, cache and results.
    pub dtype: Float16,
}

/// Operands of attention of one query per sequence, the one at its last position.
#[derive(Clone, Copy, Debug)]
pub struct PagedDecode {
    /// `(n, heads * head_dim)`, rotated.
    pub q: DevicePointer,
    /// `(n, heads * head_dim)`; zeros for padding.
    pub out: DevicePointer,
    /// Cache and sequences, `n` of them.
    pub keys: PagedKeys,
    /// f32, [`Self::partials_len`] of them, of any content.
    pub partials: DevicePointer,
    /// u32, [`Self::counters_len`] of them, zero; they are zero again afterwards.
    pub counters: DevicePointer,
    /// Sequences, padded ones among them, above 0.
    pub n: usize,
    /// Query heads.
    pub heads: usize,
    /// No context is longer. The larger it is the more blocks begin in vain; results do not depend on it.
    pub max_context: usize,
    /// Scale, above 0, and window.
    pub params: AttentionParams,
}

impl PagedDecode {
    /// Rows of a launch, as a measure for `partials`; more are possible.
    pub const MAX_ROWS: usize = 256;

    /// The most that [`Self::partials_len`] is with `n` rows, of any context.
    pub fn most_partials(n: usize, heads: usize, head_dim: usize) -> usize {
        n * heads * MAX_SPLITS * (head_dim + 4)
    }

    /// [`Self::counters_len`] of `n` rows.
    pub fn most_counters(n: usize, heads: usize, kv_heads: usize) -> usize {
        n * kv_heads * (heads / kv_heads).div_ceil(DECODE_ROWS)
    }

    /// A block per split, KV head and sequence. Takes 72 KB of shared memory with a `head_dim` of 128.
    pub fn launch(&self) -> Launch {
        let group = self.keys.group(self.heads);
        assert!(self.max_context > 0, "no context has a position");
        let kernel = self.keys.kernel(
            ["paged_decode_bf16_32", "paged_decode_bf16_64", "paged_decode_bf16_96", "paged_decode_bf16_128"],
            ["paged_decode_f16_32", "paged_decode_f16_64", "paged_decode_f16_96", "paged_decode_f16_128"],
        );
        let grid = [self.most_splits(), self.row_tiles(), self.n].map(|blocks| blocks as u32);
        assert!(grid[1] <= 65_535 && grid[2] <= 65_535, "{} sequences of {} heads are too many", self.n, self.heads);
        let shared_rows = DECODE_ROWS + DECODE_WARPS * 4 * DECODE_KEYS; // two stages of keys and values
        let launch = Launch::new(kernel, grid, THREADS, self.keys.shared_bytes(shared_rows))
            .overlapping()
            .pointer(self.q)
            .pointer(self.keys.cache)
            .pointer(self.keys.context_lens)
            .pointer(self.keys.block_tables)
            .pointer(self.out)
            .pointer(self.partials)
            .pointer(self.counters);
        self.keys.describe(launch, group, self.params)
    }

    /// Length of `partials`, for this launch and for any of fewer sequences or a smaller `max_context`.
    pub fn partials_len(&self) -> usize {
        self.n * self.heads * self.most_splits() * (self.keys.head_dim + 4)
    }

    /// Length of `counters`, for this launch and for any of fewer sequences.
    pub fn counters_len(&self) -> usize {
        Self::most_counters(self.n, self.heads, self.keys.kv_heads)
    }

    /// Splits of the longest context. A window that begins inside a split adds one.
    fn most_splits(&self) -> usize {
        let of_window = self.params.window.map_or(MAX_SPLITS, |window| window.div_ceil(SHORTEST_SPLIT) + 1);
        self.max_context.div_ceil(SHORTEST_SPLIT).min(of_window).min(MAX_SPLITS)
    }

    /// Blocks that share the query heads of a split.
    fn row_tiles(&self) -> usize {
        self.keys.kv_heads * self.keys.group(self.heads).div_ceil(DECODE_ROWS)
    }
}

/// Operands of causal attention of chunks of queries, each the last positions of its sequence.
#[derive(Clone, Copy, Debug)]
pub struct PagedPrefill {
    /// `(n, heads * head_dim)`, rotated.
    pub q: DevicePointer,
    /// `(n, heads * head_dim)`; rows of no sequence stay as they are.
    pub out: DevicePointer,
    /// Cache and sequences.
    pub keys: PagedKeys,
    /// u32 `(sequences)`: first row of each chunk.
    pub query_starts: DevicePointer,
    /// u32 `(sequences)`: rows of each chunk, at most its context.
    pub query_lens: DevicePointer,
    /// u32 `(n_tiles, 2)`: see [`Self::tiles`]; padded with [`NO_TILE`].
    pub tiles: DevicePointer,
    /// Above 0.
    pub n_tiles: usize,
    /// Query heads.
    pub heads: usize,
    /// Scale, above 0, and window.
    pub params: AttentionParams,
}

/// A chunk, to divide into tiles.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    /// Index of its sequence.
    pub sequence: usize,
    /// Its queries.
    pub query_len: usize,
    /// Positions of the sequence.
    pub context_len: usize,
}

impl PagedPrefill {
    /// A block per tile of queries and KV head. Takes 68 KB of shared memory with a `head_dim` of 128.
    pub fn launch(&self) -> Launch {
        let group = self.keys.group(self.heads);
        let kernel = self.keys.kernel(
            ["paged_prefill_bf16_32", "paged_prefill_bf16_64", "paged_prefill_bf16_96", "paged_prefill_bf16_128"],
            ["paged_prefill_f16_32", "paged_prefill_f16_64", "paged_prefill_f16_96", "paged_prefill_f16_128"],
        );
        assert!(group <= PREFILL_ROWS, "{group} query heads share a KV head, at most {PREFILL_ROWS} can");
        assert!(self.n_tiles <= 65_535, "{} tiles of queries are too many", self.n_tiles);
        let grid = [self.keys.kv_heads as u32, self.n_tiles as u32, 1];
        let shared_rows = PREFILL_ROWS + 4 * PREFILL_KEYS; // two stages of keys and values
        let launch = Launch::new(kernel, grid, THREADS, self.keys.shared_bytes(shared_rows))
            .pointer(self.q)
            .pointer(self.keys.cache)
            .pointer(self.tiles)
            .pointer(self.query_starts)
            .pointer(self.query_lens)
            .pointer(self.keys.context_lens)
            .pointer(self.keys.block_tables)
            .pointer(self.out);
        self.keys.describe(launch, group, self.params)
    }

    /// The tiles of queries of some chunks: sequence and first query, counted from the chunk's first. Those that see
    /// most come first, so that the last blocks to run are short ones. `group` is query heads per KV head.
    pub fn tiles(chunks: &[Chunk], group: usize) -> Vec<[u32; 2]> {
        let step = Self::queries_per_tile(group);
        let of_chunk = |chunk: &Chunk| {
            let (sequence, first_position) = (chunk.sequence as u32, chunk.context_len - chunk.query_len);
            (0..chunk.query_len).step_by(step).map(move |first| (first_position + first, [sequence, first as u32]))
        };
        let mut tiles: Vec<_> = chunks.iter().flat_map(of_chunk).collect();
        tiles.sort_by_key(|&(position, _)| std::cmp::Reverse(position));
        tiles.into_iter().map(|(_, tile)| tile).collect()
    }

    /// Queries of a tile: at most `tokens.div_ceil(queries_per_tile) + sequences` tiles are needed.
    pub fn queries_per_tile(group: usize) -> usize {
        PREFILL_ROWS / group
    }
}

impl PagedKeys {
    fn group(&self, heads: usize) -> usize {
        let kv_heads = self.kv_heads;
        assert!(heads > 0 && kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} heads over {kv_heads} KV heads");
        heads / kv_heads
    }

    fn kernel(&self, bf16: [&'static str; 4], f16: [&'static str; 4]) -> &'static str {
        let index = HEAD_DIMS.iter().position(|&compiled| compiled == self.head_dim);
        let index = index.unwrap_or_else(|| panic!("head_dim {} is none of {HEAD_DIMS:?}", self.head_dim));
        self.dtype.pick(bf16[index], f16[index])
    }

    /// Rows have 16 bytes more than their elements.
    fn shared_bytes(&self, rows: usize) -> u32 {
        ((self.head_dim + 8) * rows * Float16::BYTES) as u32
    }

    /// The arguments that all kernels end with.
    fn describe(&self, launch: Launch, group: usize, params: AttentionParams) -> Launch {
        let KvGeometry { num_blocks, block_size } = self.geometry;
        assert!(block_size.is_power_of_two(), "a block size of {block_size} is not a power of two");
        assert!(num_blocks * block_size < 1 << 31, "{num_blocks} blocks of {block_size} tokens are too many");
        assert!(params.softmax_scale > 0.0, "a softmax scale of {}", params.softmax_scale);
        assert!(params.window != Some(0), "a window of 0 sees nothing");
        let all = i32::MAX as usize;
        launch
            .int(num_blocks)
            .int(block_size.trailing_zeros() as usize)
            .int(self.table_stride)
            .int(self.kv_heads)
            .int(group)
            .int(params.window.map_or(all, |window| window.min(all)))
            .float(params.softmax_scale * std::f32::consts::LOG2_E) // weights are powers of 2
    }
}
