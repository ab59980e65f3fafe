// Prefill: chunks of queries of several sequences over the paged cache, causal, after FlashAttention-2 (arXiv
// 2307.08691).
//
// A block takes up to 128 rows: the query heads that share a KV head, times as many queries as fit, so that keys and
// values are read once for all of them. Its four warps have 32 rows each, and use every fragment of keys and values
// that they load from shared memory twice. Tiles of 32 keys begin at multiples of 32 and are walked upwards, so that a
// row's bits depend on its position only: not on its chunk, nor on its company. While one tile is used the next
// arrives.
//
// With head_dim 128: 68 KB of shared memory and up to 255 registers, so two blocks per SM on 8.0 and 9.0; a block has
// 16 KB of copies under way. Longer tiles do not fit the registers beside the sums.
#pragma once
#include "tile.cuh"

constexpr int PREFILL_THREADS = 128;
constexpr int PREFILL_BANDS = 2;
constexpr int PREFILL_ROWS = PREFILL_THREADS / 32 * PREFILL_BANDS * 16;
constexpr int PREFILL_KEYS = 32;

// For every tile of queries (tiles, 2): its sequence and the first of its queries, counted from the chunk's first. A
// sequence of ~0 is no tile. Grid: (kv_heads, tiles).
template <typename T, int HEAD_DIM>
__device__ void paged_prefill(const T* __restrict__ q,                 // (n, kv_heads * group * HEAD_DIM)
                              const T* __restrict__ cache,             // (2, num_blocks, 1 << block_shift, kv_heads, HEAD_DIM)
                              const uint32_t* __restrict__ tiles,      // (tiles, 2)
                              const uint32_t* __restrict__ query_starts, // (sequences): first row of q
                              const uint32_t* __restrict__ query_lens, // (sequences)
                              const uint32_t* __restrict__ context_lens, // (sequences): positions, the chunk's among them
                              const uint32_t* __restrict__ block_tables, // (sequences, table_stride)
                              T* __restrict__ out,                     // as q
                              int num_blocks, int block_shift, int table_stride, int kv_heads, int group, int window,
                              float scale) {
    constexpr int KEYS = PREFILL_KEYS, THREADS = PREFILL_THREADS, ROWS = PREFILL_ROWS, BANDS = PREFILL_BANDS;
    constexpr int STAGE = 2 * KEYS * ROW<HEAD_DIM>; // keys and values of a tile
    DYNAMIC_SHARED(T, queries);               // (ROWS, ROW)
    T* ring = queries + ROWS * ROW<HEAD_DIM>; // (stages 2, keys and values 2, KEYS, ROW)
    __shared__ int slots[2][KEYS];            // of this tile of keys and of the next

    const uint32_t sequence = tiles[2 * blockIdx.y];
    if (sequence == ~0u) return;
    const int first_query = int(tiles[2 * blockIdx.y + 1]), kv_head = blockIdx.x, thread = threadIdx.x;
    const int query_len = int(query_lens[sequence]), context = int(context_lens[sequence]);
    const int count = min(ROWS / group, query_len - first_query); // queries of this block
    if (count <= 0) return;
    const int position = context - query_len + first_query; // of the first query
    const int begin = max(position - window + 1, 0), end = position + count; // of the keys that any query sees
    const PagedHead<T, HEAD_DIM> head(cache, num_blocks, block_shift, kv_heads, kv_head,
                                      block_tables + size_t(sequence) * table_stride);
    // Row r of the block is query r / group, head r % group of the KV head's.
    const size_t query_stride = size_t(kv_heads) * group * HEAD_DIM;
    const size_t origin = (size_t(query_starts[sequence]) + first_query) * query_stride + size_t(kv_head) * group * HEAD_DIM;

    const auto fetch = [&](int tile) {
        T* keys = ring + tile % 2 * STAGE;
#pragma unroll
        for (int i = 0; i < KEYS * PIECES<HEAD_DIM> / THREADS; i++) {
            const int piece = thread + THREADS * i;
            const int row = piece / PIECES<HEAD_DIM>, column = piece % PIECES<HEAD_DIM> * 8;
            const int slot = slots[tile % 2][row];
            const T* key = head.key(slot) + column;
            copy16_async(keys + row * ROW<HEAD_DIM> + column, key, slot >= 0);
            copy16_async(keys + (KEYS + row) * ROW<HEAD_DIM> + column, key + head.values, slot >= 0);
        }
        copy_commit();
    };

    int tile = begin / KEYS;
    const int last_tile = (end - 1) / KEYS;
    if (thread < KEYS) slots[tile % 2][thread] = head.slot(tile * KEYS + thread, begin, end);
    for (int piece = thread; piece < ROWS * PIECES<HEAD_DIM>; piece += THREADS) {
        const int row = piece / PIECES<HEAD_DIM>, column = piece % PIECES<HEAD_DIM> * 8;
        const bool valid = row < count * group;
        const size_t at = valid ? row / group * query_stride + size_t(row % group) * HEAD_DIM + column : 0;
        copy16_async(queries + row * ROW<HEAD_DIM> + column, q + origin + at, valid);
    }
    __syncthreads();
    fetch(tile);

    const int warp_row = thread / 32 * BANDS * 16, lane_row = warp_row + thread % 32 / 4;
    Attention<T, HEAD_DIM, BANDS> attention;
    int upcoming = thread < KEYS ? head.slot((tile + 1) * KEYS + thread, begin, end) : -1;
    for (; tile <= last_tile; tile++) {
        if (thread < KEYS) slots[(tile + 1) % 2][thread] = upcoming;
        copy_wait<0>();
        __syncthreads(); // this tile and the slots of the next are there, and nobody reads the tile before any more
        if (tile < last_tile) fetch(tile + 1);
        if (thread < KEYS) upcoming = head.slot((tile + 2) * KEYS + thread, begin, end);
        const T* keys = ring + tile % 2 * STAGE;
        float scores[BANDS][KEYS / 8][4];
        attention.template multiply<KEYS>(scores, queries + warp_row * ROW<HEAD_DIM>, keys);
        // At the diagonal and at the window's far edge. Rarely, so the divisions are not kept in registers.
        if ((tile + 1) * KEYS > position + 1 || tile * KEYS < end - window) {
            int last[BANDS][2]; // position of the row's query; rows that are none see what the last one does
#pragma unroll
            for (int band = 0; band < BANDS; band++)
#pragma unroll
                for (int half = 0; half < 2; half++)
                    last[band][half] = position + min((lane_row + 16 * band + 8 * half) / group, count - 1);
            attention.template mask<KEYS>(scores, tile * KEYS, last, window);
        }
        attention.template weigh<KEYS>(scores, scale);
        attention.template accumulate<KEYS>(scores, keys + KEYS * ROW<HEAD_DIM>);
    }
    attention.finish();

#pragma unroll
    for (int band = 0; band < BANDS; band++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = lane_row + 16 * band + 8 * half;
            if (row >= count * group) continue;
            T* to = out + origin + row / group * query_stride + size_t(row % group) * HEAD_DIM + thread % 4 * 2;
            const float norm = 1.0f / attention.total[band][half]; // a query sees itself, so there is a weight
#pragma unroll
            for (int j = 0; j < HEAD_DIM / 8; j++) {
                const float(&sums)[4] = attention.sums[band][j];
                *reinterpret_cast<uint32_t*>(to + 8 * j) = pack<T>(sums[2 * half] * norm, sums[2 * half + 1] * norm);
            }
        }
}
