// Decode: one query per sequence over the paged cache, bound by the bytes of keys and values.
//
// A block takes one KV head, up to 16 of the query heads that share it (the rows of a tensor core tile; keys and values
// are read once for all of them), and one split of the context. Each of its four warps walks every fourth tile of 16
// keys with a ring of its own in shared memory, so that no warp waits for another before the end. The four are merged
// there in order; a context of one split is then done. Otherwise the block writes its part to `partials`, and the last
// to arrive for a sequence and KV head combines the parts in their order. That costs a counter that wraps around to
// zero, but no second launch per layer, of which a token has dozens and which would cost more than the combining.
//
// Splits begin at multiples of their length. The length is the shortest of 128, 256, ... that cuts what the query sees
// into at most 32: a function of the sequence alone, so that its bits depend neither on the batch nor on the grid,
// and there are enough blocks for a lone sequence, yet few parts to combine. Blocks beyond its splits end at once.
//
// With head_dim 128: 72 KB of shared memory, so three blocks (two on 8.0) per SM; each warp has 8 to 16 KB of copies
// under way, an SM about 96 to 192 KB, where 4.3 TB/s times 1 us of latency over 132 SMs asks for 33 KB. A tile of 8 KB
// costs a warp about 300 instructions; the SM's share of that bandwidth is one tile in 440 cycles of four schedulers.
#pragma once
#include "tile.cuh"

constexpr int DECODE_THREADS = 128;
constexpr int DECODE_WARPS = DECODE_THREADS / 32;
constexpr int DECODE_ROWS = 16;
constexpr int DECODE_KEYS = 16;
constexpr int SHORTEST_SPLIT_SHIFT = 7; // 128 positions
constexpr int MAX_SPLITS = 32;          // a lane each when they are combined

struct alignas(8) Pair { float value[2]; };
struct alignas(16) Quad { float value[4]; };
struct alignas(8) Packed { uint32_t word[2]; };

// A part: HEAD_DIM sums, then the highest score and the total of the weights; its length a multiple of 16 bytes.
template <int HEAD_DIM> constexpr int PART = HEAD_DIM + 4;

// Weighs the parts of `rows` query heads, normalised, by the scores and totals that they hold. One warp per row.
template <int HEAD_DIM>
__device__ __forceinline__ void weigh_parts(float (&weights)[DECODE_ROWS][MAX_SPLITS], const float* parts, size_t row_stride,
                                            int rows, int splits) {
    const int lane = threadIdx.x % 32;
    for (int row = threadIdx.x / 32; row < rows; row += DECODE_WARPS) {
        Pair part = {{-FLT_MAX, 0}};
        if (lane < splits)
            part = *reinterpret_cast<const Pair*>(parts + row * row_stride + lane * PART<HEAD_DIM> + HEAD_DIM);
        const float highest = warp_max(part.value[0]);
        const float weight = lane < splits ? exp2_approx(part.value[0] - highest) : 0;
        weights[row][lane] = weight / warp_sum(weight * part.value[1]);
    }
}

// Grid: (most splits of any sequence, kv_heads times groups of 16 query heads, sequences).
template <typename T, int HEAD_DIM>
__device__ void paged_decode(const T* q,                  // (n, kv_heads * group * HEAD_DIM)
                             const T* cache,              // (2, num_blocks, 1 << block_shift, kv_heads, HEAD_DIM)
                             const uint32_t* __restrict__ context_lens, // (n), 0 for a row that is padding
                             const uint32_t* __restrict__ block_tables, // (n, table_stride)
                             T* __restrict__ out,         // as q
                             float* partials,             // (n, kv_heads * group, gridDim.x, PART)
                             unsigned* counters,          // (n, gridDim.y), zero before and after
                             int num_blocks, int block_shift, int table_stride, int kv_heads, int group, int window,
                             float scale) {
    constexpr int KEYS = DECODE_KEYS, ROWS = DECODE_ROWS, WARPS = DECODE_WARPS, THREADS = DECODE_THREADS;
    constexpr int TILE = KEYS * ROW<HEAD_DIM>, QUADS = HEAD_DIM / 4;
    DYNAMIC_SHARED(T, queries); // (ROWS, ROW), then the warps' rings (WARPS, stages 2, keys and values 2, KEYS, ROW)
    __shared__ float warp_highest[WARPS][ROWS], warp_total[WARPS][ROWS];
    __shared__ float weights[ROWS][MAX_SPLITS];
    __shared__ bool arrived_last;

    wait_for_earlier_launches();
    const int sequence = blockIdx.z, thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int context = int(context_lens[sequence]);
    const int head_tiles = (group + ROWS - 1) / ROWS, kv_head = blockIdx.y / head_tiles;
    const int head_tile = blockIdx.y % head_tiles, rows = min(ROWS, group - head_tile * ROWS);
    const size_t first_head = size_t(sequence) * kv_heads * group + kv_head * group + head_tile * ROWS;
    T* to = out + first_head * HEAD_DIM; // (rows, HEAD_DIM)
    if (context == 0) {
        if (blockIdx.x == 0)
            for (int i = thread; i < rows * PIECES<HEAD_DIM>; i += THREADS) store16(to + 8 * i, zero16());
        return;
    }
    const int first_visible = max(context - window, 0);
    int shift = SHORTEST_SPLIT_SHIFT;
    while (((context - 1) >> shift) - (first_visible >> shift) >= MAX_SPLITS) shift++;
    const int first_split = first_visible >> shift, splits = ((context - 1) >> shift) - first_split + 1;
    const int split = blockIdx.x;
    if (split >= splits) return;
    const int begin = max(first_visible, (first_split + split) << shift);
    const int end = min(context, (first_split + split + 1) << shift);

    const PagedHead<T, HEAD_DIM> head(cache, num_blocks, block_shift, kv_heads, kv_head,
                                      block_tables + size_t(sequence) * table_stride);
    T* ring = queries + ROWS * ROW<HEAD_DIM> + warp * 4 * TILE;
    const int last_tile = (end - 1) / KEYS;
    const auto look_up = [&](int tile) { return head.slot(tile * KEYS + lane % KEYS, begin, end); };
    const auto fetch = [&](int stage, int tile, int slot) { // `slot` is that of key lane % KEYS
        T* keys = ring + stage * 2 * TILE;
        if (tile <= last_tile) {
#pragma unroll
            for (int i = 0; i < KEYS * PIECES<HEAD_DIM> / 32; i++) {
                const int piece = lane + 32 * i, row = piece / PIECES<HEAD_DIM>, column = piece % PIECES<HEAD_DIM> * 8;
                const int of_row = __shfl_sync(ALL_LANES, slot, row);
                const T* key = head.key(of_row) + column;
                copy16_async(keys + row * ROW<HEAD_DIM> + column, key, of_row >= 0);
                copy16_async(keys + TILE + row * ROW<HEAD_DIM> + column, key + head.values, of_row >= 0);
            }
        }
        copy_commit();
    };

    int tile = begin / KEYS;
    tile += (warp - tile) & (WARPS - 1); // the first one that is this warp's
    int upcoming = look_up(tile);
    for (int i = thread; i < ROWS * PIECES<HEAD_DIM>; i += THREADS) {
        const int row = i / PIECES<HEAD_DIM>, column = i % PIECES<HEAD_DIM> * 8;
        const int from = min(row, rows - 1) * HEAD_DIM + column;
        copy16_async(queries + row * ROW<HEAD_DIM> + column, q + first_head * HEAD_DIM + from, row < rows);
    }
    copy_commit();
    fetch(0, tile, upcoming);
    upcoming = look_up(tile + WARPS);
    copy_wait<1>();
    __syncthreads(); // the queries are there

    Attention<T, HEAD_DIM, 1> attention;
    const int last[1][2] = {{end - 1, end - 1}};
    for (int stage = 0; tile <= last_tile; tile += WARPS, stage ^= 1) {
        fetch(stage ^ 1, tile + WARPS, upcoming);
        upcoming = look_up(tile + 2 * WARPS);
        copy_wait<1>();
        __syncwarp(); // every lane's part of this tile is there
        const T* keys = ring + stage * 2 * TILE;
        float scores[1][KEYS / 8][4];
        attention.template multiply<KEYS>(scores, queries, keys);
        if (tile * KEYS < begin || (tile + 1) * KEYS > end)
            attention.template mask<KEYS>(scores, tile * KEYS, last, end - begin);
        attention.template weigh<KEYS>(scores, scale);
        attention.template accumulate<KEYS>(scores, keys + TILE);
        __syncwarp(); // no lane reads this tile any more
    }
    attention.finish();

    // The ring of each warp takes its sums, (ROWS, HEAD_DIM) and 8 floats between rows for the banks.
    constexpr int SUMS = HEAD_DIM + 8;
    static_assert(ROWS * SUMS * sizeof(float) <= 4 * TILE * sizeof(T), "the sums fit a ring");
    float* warp_sums = reinterpret_cast<float*>(ring);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = lane / 4 + 8 * half;
        if (row >= rows) continue;
#pragma unroll
        for (int j = 0; j < HEAD_DIM / 8; j++) {
            const float(&sums)[4] = attention.sums[0][j];
            *reinterpret_cast<Pair*>(warp_sums + row * SUMS + 8 * j + lane % 4 * 2) = {{sums[2 * half], sums[2 * half + 1]}};
        }
        if (lane % 4 != 0) continue;
        warp_highest[warp][row] = attention.highest[0][half];
        warp_total[warp][row] = attention.total[0][half];
    }
    __syncthreads();

    const size_t row_stride = size_t(gridDim.x) * PART<HEAD_DIM>;
    float* parts = partials + first_head * row_stride; // (rows, gridDim.x, PART)
    const auto store = [&](int row, int column, const Quad& quad, float norm) {
        const float(&v)[4] = quad.value;
        const Packed packed = {{pack<T>(v[0] * norm, v[1] * norm), pack<T>(v[2] * norm, v[3] * norm)}};
        *reinterpret_cast<Packed*>(to + row * HEAD_DIM + column) = packed;
    };
    for (int i = thread; i < rows * QUADS; i += THREADS) {
        const int row = i / QUADS, column = i % QUADS * 4;
        float highest = -FLT_MAX, total = 0;
        for (int w = 0; w < WARPS; w++) highest = fmaxf(highest, warp_highest[w][row]);
        Quad sum = {};
        for (int w = 0; w < WARPS; w++) { // a warp without tiles weighs nothing
            const float weight = exp2_approx(warp_highest[w][row] - highest);
            const float* of_warp = reinterpret_cast<const float*>(queries + ROWS * ROW<HEAD_DIM> + w * 4 * TILE);
            const Quad quad = *reinterpret_cast<const Quad*>(of_warp + row * SUMS + column);
            for (int c = 0; c < 4; c++) sum.value[c] = fmaf(weight, quad.value[c], sum.value[c]);
            total = fmaf(weight, warp_total[w][row], total);
        }
        if (splits == 1) {
            store(row, column, sum, 1.0f / total);
            continue;
        }
        float* part = parts + row * row_stride + split * PART<HEAD_DIM>;
        *reinterpret_cast<Quad*>(part + column) = sum;
        if (column == 0) *reinterpret_cast<Pair*>(part + HEAD_DIM) = {{highest, total}};
    }
    if (splits == 1) return;

    // The barrier orders the block's stores before the fence of thread 0, and its fence after the count orders the
    // other blocks' before what is read below (PTX ISA, "Memory consistency model": causality order).
    __syncthreads();
    if (thread == 0) {
        __threadfence();
        unsigned* counter = counters + size_t(sequence) * gridDim.y + blockIdx.y;
        arrived_last = atomicInc(counter, unsigned(splits - 1)) == unsigned(splits - 1);
        __threadfence();
    }
    __syncthreads();
    if (!arrived_last) return;
    weigh_parts<HEAD_DIM>(weights, parts, row_stride, rows, splits);
    __syncthreads();
    for (int i = thread; i < rows * QUADS; i += THREADS) {
        const int row = i / QUADS, column = i % QUADS * 4;
        constexpr int AT_ONCE = 16; // loads under way
        Quad sum = {};
        for (int start = 0; start < splits; start += AT_ONCE) {
            Quad part[AT_ONCE];
#pragma unroll
            for (int s = 0; s < AT_ONCE; s++) {
                part[s] = Quad{};
                if (start + s < splits)
                    part[s] = *reinterpret_cast<const Quad*>(parts + row * row_stride + (start + s) * PART<HEAD_DIM> + column);
            }
#pragma unroll
            for (int s = 0; s < AT_ONCE; s++)
                for (int c = 0; c < 4; c++) sum.value[c] = fmaf(weights[row][start + s], part[s].value[c], sum.value[c]);
        }
        store(row, column, sum, 1.0f);
    }
}
