// The product for more rows of x than skinny.cuh takes, still bound by the memory that the weight is read from, with the
// same bits: a row's results are those that it has alone.
//
// That fixes how k is summed: in eight phases, of which phase w takes the units w, w + 8, ... of 64 k, added pair by pair
// (skinny.cuh). There a phase is a warp. Here it is a stretch of time: a block takes 128 rows of the weight (features)
// and ROWS rows of x, and walks k one pair of phases after the other. Four of its warps compute one phase of the pair and
// four the other, so that what a warp reads of shared memory serves 64 features and ROWS / 2 rows of x; at the end of the
// pair the fours exchange sums. Each of the four pairs of a tile is an item of work.
//
// Stages of 32 k, of x and of the weight, go through a ring in shared memory. The two groups of four warps have a ring each
// and wait for each other at the end of an item alone: while one reads shared memory, the other multiplies. There are as
// many blocks as multiprocessors, each with as many consecutive items, and copies go on over the ends of items and tiles. A block adds
// what it has of a tile by itself: the sum of a pair waits in shared memory for its neighbour's, that of two pairs in the
// workspace. Of a tile that blocks share, each leaves its sums in the workspace, and the last to arrive adds them. Whoever
// adds, the additions are the same.
//
// Blocks for 128 rows read as much of x from the second-level cache as of the weight. Tiles of rows are along the grid's
// y: the blocks of the same features run at the same time and share what the cache has of the weight.
#pragma once
#include "skinny.cuh"

constexpr int WIDE_THREADS = 256;
constexpr int WIDE_FEATURES = 128; // of a tile
constexpr int TILE_ITEMS = 4;      // pairs of phases
static_assert(SKINNY_WARPS == 2 * TILE_ITEMS, "as many phases");

struct alignas(16) FloatQuad { float value[4]; };

template <typename T, int ROWS, int SHARED_KIB> struct Wide {
    static constexpr int CHUNKS = STEP / 8;        // of 16 bytes, per row of a stage
    static constexpr int ROW_TILES = ROWS / 2 / 8; // of 8 rows, per warp
    static constexpr int SUM_QUADS = ROWS / 8 * WIDE_THREADS; // a tile's sums, those of a thread this many threads apart

    // The rows of 64 bytes lie one behind the other: what a warp reads at a time is 512 bytes without a gap.
    struct Operands { Vector16 weight[WIDE_FEATURES * CHUNKS], x[ROWS * CHUNKS]; };
    struct Stage { Operands of_phase[2]; };
    static constexpr int GROUP = WIDE_THREADS / 2; // threads of a phase
    static constexpr int STAGES = ((SHARED_KIB << 10) - SUM_QUADS * int(sizeof(FloatQuad))) / int(sizeof(Stage));
    struct Shared {
        Stage ring[STAGES];
        FloatQuad kept[SUM_QUADS]; // of the pair before; then the results of a tile
    };

    // 16 features by 8 rows of x are a fragment. A warp has 4 by ROW_TILES of its phase; after the exchange it has two
    // of the four, of both phases.
    using Sums = float[ROW_TILES][2][4];

    // Where sums of a tile wait that not one block has computed. A block has at most one of a kind.
    struct Workspace {
        FloatQuad* partials; // (blocks, levels 2: a pair, two pairs; sides 2: first and second of its two; SUM_QUADS)
        unsigned* counters;  // (blocks), zero before and after
        int items_per_block;

        static __device__ __forceinline__ int block(int x) { return int(blockIdx.y * gridDim.x) + x; }

        __device__ __forceinline__ FloatQuad* sums(int of_block, int level, int side) const {
            return partials + size_t((block(of_block) * 2 + level) * 2 + side) * SUM_QUADS;
        }
    };

    // Copies stage after stage of this block's items, each thread of its phase.
    struct Copies {
        static constexpr int WEIGHT_COPIES = WIDE_FEATURES * CHUNKS / GROUP, X_COPIES = ROWS * CHUNKS / GROUP; // per thread
        const T* x;
        const T* weight;
        const T* row[WEIGHT_COPIES]; // of the weight, of the tile that is copied
        const Output<T>& output;
        Stage* ring;
        int in, item, end;
        int k;    // of this thread's chunk
        int slot; // of the next stage

        __device__ __forceinline__ Copies(const T* x, const T* weight, int in, const Output<T>& output, int begin, int end,
                                          Stage* ring)
            : x(x), weight(weight), output(output), ring(ring), in(in), item(begin), end(end), slot(0) {
            begin_item();
            begin_tile();
        }

        static __device__ __forceinline__ int thread() { return threadIdx.x % GROUP; }
        static __device__ __forceinline__ int phase() { return threadIdx.x / GROUP; }

        __device__ __forceinline__ void begin_item() { k = (item % TILE_ITEMS * 2 + phase()) * UNIT + thread() % CHUNKS * 8; }

        __device__ __forceinline__ void begin_tile() {
#pragma unroll
            for (int i = 0; i < WEIGHT_COPIES; i++) {
                const int feature = (i * GROUP + thread()) / CHUNKS;
                row[i] = weight + size_t(output.weight_row(item / TILE_ITEMS * WIDE_FEATURES + feature)) * in;
            }
        }

        // Begins the copy of a stage and turns to the one after. Zeros past the end of k and of x's rows.
        __device__ __forceinline__ void next() {
            if (item < end) {
                copy(ring[slot].of_phase[phase()]);
                slot = slot + 1 == STAGES ? 0 : slot + 1;
                k += (k & STEP) == 0 ? STEP : ROUND - STEP;
                if (k >= rounds(in) * ROUND) {
                    item++;
                    begin_item();
                    if (item % TILE_ITEMS == 0) begin_tile();
                }
            }
            copy_commit();
        }

        __device__ __forceinline__ void copy(Operands& to) const {
#pragma unroll
            for (int i = 0; i < WEIGHT_COPIES; i++) copy16_async_256(&to.weight[i * GROUP + thread()], row[i] + k, k < in);
#pragma unroll
            for (int i = 0; i < X_COPIES; i++) {
                const int at = i * GROUP + thread(), of_x = int(blockIdx.y) * ROWS + at / CHUNKS;
                copy16_async(&to.x[at], x + size_t(of_x) * in + k, k < in && of_x < output.rows);
            }
        }
    };

    // Every phase runs as many steps, as in skinny.cuh.
    static __device__ __forceinline__ int rounds(int in) { return (in + ROUND - 1) / ROUND; }

    // Which part of a tile this thread has.
    struct Place {
        int lane, phase, features, rows; // of the warp: first of its 64 features and of its rows

        __device__ __forceinline__ Place() {
            const int warp = threadIdx.x / 32;
            lane = threadIdx.x % 32, phase = warp / 4, features = warp / 2 % 2 * 64, rows = warp % 2 * (ROWS / 2);
        }

        // First of 32 features: sums[0] are of those that the warp keeps, sums[1] of those that it gives away.
        __device__ __forceinline__ int half(int which) const { return features + (which ^ phase) * 32; }
    };

    // A stage of this warp's phase. Copies begin amid the work, when the tensor cores have some.
    static __device__ __forceinline__ void multiply(Sums (&sums)[2], const Operands& from, const Place& place, Copies& copies) {
        const Vector16* const x_from = from.x + place.rows * CHUNKS + place.lane;
        Vector16 x[2][2]; // two tiles of rows, and the next two
        Vector16 w[2][2][2]; // (halves, tiles, rows g and g + 8)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                w[half][i / 2][i % 2] = from.weight[(place.half(half) + i * 8) * CHUNKS + place.lane];
        x[0][0] = x_from[0], x[0][1] = x_from[8 * CHUNKS];
#pragma unroll
        for (int row = 0; row < ROW_TILES; row += 2) {
            if (row + 2 < ROW_TILES)
#pragma unroll
                for (int i = 0; i < 2; i++) x[row / 2 % 2 ^ 1][i] = x_from[(row + 2 + i) * 8 * CHUNKS];
#pragma unroll
            for (int word = 0; word < 4; word += 2) // a word is two k
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const Vector16& of_row = x[row / 2 % 2][i];
                    const uint32_t b[2] = {of_row.word[word], of_row.word[word + 1]};
#pragma unroll
                    for (int tile = 0; tile < 4; tile++) {
                        const Vector16(&of_tile)[2] = w[tile / 2][tile % 2];
                        const uint32_t a[4] = {of_tile[0].word[word], of_tile[1].word[word], of_tile[0].word[word + 1],
                                               of_tile[1].word[word + 1]};
                        mma_16x8x16<T>(sums[tile / 2][row + i][tile % 2], a, b);
                    }
                }
            if (row == 0) copies.next();
        }
    }

    // The sum of both phases of the half that this warp keeps. Goes through a stage that all are done with.
    static __device__ __forceinline__ void exchange(Sums (&sums)[2], Stage& stage) {
        constexpr int AT_ONCE = ROW_TILES / 2;
        static_assert(AT_ONCE * 2 * WIDE_THREADS * sizeof(FloatQuad) <= sizeof(Stage), "fits");
        FloatQuad* const shown = reinterpret_cast<FloatQuad*>(&stage);
        const unsigned other = threadIdx.x ^ WIDE_THREADS / 2; // has the same part of the other phase
#pragma unroll
        for (int first = 0; first < ROW_TILES; first += AT_ONCE) {
            __syncthreads(); // all have read the stage, or the sums before
#pragma unroll
            for (int i = 0; i < AT_ONCE * 2; i++) shown[i * WIDE_THREADS + threadIdx.x] = quad(sums[1][first + i / 2][i % 2]);
            __syncthreads();
#pragma unroll
            for (int i = 0; i < AT_ONCE * 2; i++) add(sums[0][first + i / 2][i % 2], shown[i * WIDE_THREADS + other]);
        }
        __syncthreads(); // copies to the stage may begin again
    }

    static __device__ __forceinline__ FloatQuad quad(const float (&of)[4]) { return {{of[0], of[1], of[2], of[3]}}; }

    static __device__ __forceinline__ void add(float (&to)[4], const FloatQuad& quad) {
#pragma unroll
        for (int i = 0; i < 4; i++) to[i] += quad.value[i];
    }

    static __device__ __forceinline__ void store(FloatQuad* to, const Sums& sums) {
#pragma unroll
        for (int i = 0; i < ROW_TILES * 2; i++) to[i * WIDE_THREADS + threadIdx.x] = quad(sums[i / 2][i % 2]);
    }

    static __device__ __forceinline__ void load(Sums& to, const FloatQuad* from) {
#pragma unroll
        for (int i = 0; i < ROW_TILES * 2; i++) {
            const FloatQuad quad = from[i * WIDE_THREADS + threadIdx.x];
#pragma unroll
            for (int element = 0; element < 4; element++) to[i / 2][i % 2][element] = quad.value[element];
        }
    }

    static __device__ __forceinline__ void add(Sums& to, const FloatQuad* from) {
#pragma unroll
        for (int i = 0; i < ROW_TILES * 2; i++) add(to[i / 2][i % 2], from[i * WIDE_THREADS + threadIdx.x]);
    }

    // Adds the sum of an item, one pair of phases, to what this block has of the tile; true if that makes it whole, here
    // or together with what other blocks have left. Otherwise it is left where it will be looked for.
    static __device__ __forceinline__ bool fold(Sums& sums, int item, int begin, int end, FloatQuad* kept, const Workspace& workspace) {
        const int pair = item % TILE_ITEMS, block = blockIdx.x;
        const bool second = pair % 2 == 1, two = second && item > begin;
        if (!second && item + 1 < end) {
            store(kept, sums);
            return false;
        }
        if (two) add(sums, kept);
        if (two && item - 3 >= begin && pair == 3) {
            add(sums, workspace.sums(block, 1, 0));
            return true;
        }
        store(two ? workspace.sums(block, 1, pair / 2) : workspace.sums(block, 0, pair % 2), sums);
        if (pair != 3 && item + 1 < end) return false;
        const int first = item - pair;
        if (!arrives_last(item + 1 - max(first, begin), &workspace.counters[Workspace::block(first / workspace.items_per_block)]))
            return false;
        two_pairs(sums, first, workspace);
        Sums others;
        two_pairs(others, first + 2, workspace);
#pragma unroll
        for (int i = 0; i < ROW_TILES * 2; i++) add(sums[i / 2][i % 2], quad(others[i / 2][i % 2]));
        return true;
    }

    // The sum of `item` and the next one, whether or not the same block has them.
    static __device__ __forceinline__ void two_pairs(Sums& sums, int item, const Workspace& workspace) {
        const int block = item / workspace.items_per_block, next = (item + 1) / workspace.items_per_block;
        if (block == next) {
            load(sums, workspace.sums(block, 1, item % TILE_ITEMS / 2));
        } else {
            load(sums, workspace.sums(block, 0, 0));
            add(sums, workspace.sums(next, 0, 1));
        }
    }

    // Whether with these `items` all of a tile are in the workspace. The barriers and fences order the stores of one block
    // before the loads of another as in paged_attention/decode.cuh. The counter is that of the tile's first block, which
    // has no other tile that is shared beyond its end.
    static __device__ __forceinline__ bool arrives_last(int items, unsigned* counter) {
        __shared__ bool last;
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            last = atomicAdd(counter, unsigned(items)) + items == TILE_ITEMS;
            if (last) *counter = 0;
            __threadfence();
        }
        __syncthreads();
        return last;
    }

    // Results of a tile, turned round in shared memory: there an index is at index ^ 8 (row / 2 % 4) of its row, so that
    // the four rows by eight indices of a warp's access are in different banks.
    static __device__ __forceinline__ void write(const Sums& sums, int tile, const Output<T>& output, const Place& place, float* results) {
        const auto at = [&](int row, int index) { return row * WIDE_FEATURES + (index ^ row / 2 % 4 * 8); };
        const int g = place.lane / 4, t = place.lane % 4;
        __syncthreads(); // all have added what was kept
#pragma unroll
        for (int row = 0; row < ROW_TILES; row++)
#pragma unroll
            for (int i = 0; i < 8; i++)
                results[at(place.rows + row * 8 + 2 * t + i % 2, place.half(0) + i / 2 * 8 + g)] = sums[row][i / 4][i % 4];
        __syncthreads();
        constexpr int AT_ONCE = 8, PAIRS = WIDE_FEATURES / 2;
        const int first_row = int(blockIdx.y) * ROWS, rows = min(ROWS, output.rows - first_row);
        // What is added to is read for several at once, before any is written.
        const bool adds = output.epilogue == ADD;
        const Output<T> sum = {output.out, output.rows, output.columns, adds ? STORE_F32 : output.epilogue};
        for (int start = threadIdx.x; start < rows * PAIRS; start += AT_ONCE * WIDE_THREADS) {
            FloatPair before[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const int pair = start + i * WIDE_THREADS;
                if (adds) before[i] = output.read_pair(first_row + pair / PAIRS, tile * WIDE_FEATURES + pair % PAIRS * 2);
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const int pair = start + i * WIDE_THREADS, row = pair / PAIRS, index = pair % PAIRS * 2;
                if (output.is_up(index)) continue;
                const float* const found = results + at(row, index);
                const float values[2] = {adds ? before[i].low + found[0] : found[0], adds ? before[i].high + found[1] : found[1]};
                sum.write_pair(first_row + row, output.column(tile * WIDE_FEATURES + index), values, results + at(row, index | 8));
            }
        }
    }

    // Grid: (blocks of `items_per_block` items, the last one perhaps with fewer; tiles of ROWS rows of x).
    static __device__ __forceinline__ void run(const T* x, const T* weight, int in, const Output<T>& output, const Workspace& workspace) {
        DYNAMIC_SHARED(Shared, shared);
        const int tiles = output.template groups<WIDE_FEATURES / 16>();
        const int begin = int(blockIdx.x) * workspace.items_per_block;
        const int end = min(begin + workspace.items_per_block, tiles * TILE_ITEMS);
        const Place place;
        Copies copies(x, weight, in, output, begin, end, shared->ring);
        for (int stage = 0; stage < STAGES - 1; stage++) copies.next();
        int slot = 0;
        for (int item = begin; item < end; item++) {
            Sums sums[2] = {};
            for (int step = rounds(in) * (UNIT / STEP);;) {
                copy_wait<STAGES - 2>();
                sync_group<GROUP>(); // the stage is there for all of the phase, who have read the one before: it makes room
                multiply(sums, shared->ring[slot].of_phase[place.phase], place, copies);
                if (--step == 0) break;
                slot = slot + 1 == STAGES ? 0 : slot + 1;
            }
            exchange(sums, shared->ring[slot]);
            slot = slot + 1 == STAGES ? 0 : slot + 1;
            if (fold(sums[0], item, begin, end, shared->kept, workspace))
                write(sums[0], item / TILE_ITEMS, output, place, reinterpret_cast<float*>(shared->kept));
        }
    }
};
