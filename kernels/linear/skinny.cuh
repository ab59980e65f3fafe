// The product for up to 16 rows of x, bound by the memory that the weight is read from.
//
// The weight is the 16-row operand of the tensor core instruction, the rows of x are its 8 columns. A dot product may
// take k in any order, so a lane loads 16 bytes (8 consecutive k) of its weight row and hands them to two instructions
// as they lie: the four lanes of a row cover 32 k per step, and x is permuted alike by loading the same 16 bytes of its
// own row.
//
// The 8 warps of a block split k in units of 64 (a line of 128 bytes per weight row): warp w takes units w, w + 8, ...
// Their sums meet in shared memory and are added pair by pair. All of this is the same for any number of rows, also for
// the many of wide.cuh, so a row's results have the same bits in any batch.
//
// Every lane copies its own part of the weight to a ring in shared memory, several steps ahead, and is the only one to
// read it: there are no barriers, and what is in flight neither takes registers nor depends on how loads are scheduled.
// 64 to 96 KiB are in flight per block, where an H200 needs some 30 KiB per multiprocessor (4.3 TB/s * 0.9 us / 132):
// one block is enough, and two or three that fit next to each other cover each other's beginning and end.
//
// x is read from the caches, by each warp only its own k: once per block, so there is nothing to share. Its traffic is
// rows / (16 * WEIGHT_TILES) of the weight's, or less where the first-level cache still has x from an earlier block.
// More rows, and outputs that make enough blocks all the same, hence get more WEIGHT_TILES (cuda.rs chooses). Rows of x
// that are not there are not read: a single row costs what its weights cost.
#pragma once
#include "output.cuh"

constexpr int SKINNY_THREADS = 256;
constexpr int SKINNY_WARPS = SKINNY_THREADS / 32;
constexpr int UNIT = 64;                   // k that a warp takes at a time, in two steps
constexpr int STEP = 32;                   // k of a step: 8 per lane of four
constexpr int ROUND = UNIT * SKINNY_WARPS; // k that the block takes in two steps

// Steps in the ring for WEIGHT_TILES, each of 1 KiB per tile and warp; cuda.rs knows them too.
template <int WEIGHT_TILES> constexpr int RING_STEPS = WEIGHT_TILES == 4 ? 3 : 8 / WEIGHT_TILES;

// The rows of x, each `stride` elements after the other, in global or shared memory.
template <typename T> struct Rows {
    const T* x;
    int rows, in, stride;

    __device__ __forceinline__ Vector16 load(int row, int k) const {
        return row < rows && k < in ? load16(x + size_t(row) * stride + k) : zero16();
    }
};

// What this lane reads of the weight: rows g and g + 8 of every tile.
template <typename T, int WEIGHT_TILES> struct WeightStream {
    static constexpr int STEPS = RING_STEPS<WEIGHT_TILES>;
    const T* row[WEIGHT_TILES][2];
    Vector16* ring; // (STEPS, WEIGHT_TILES, 2), 32 lanes apart
    int in;
    int k;          // first of the step to be copied next
    int next;       // its place

    // The ring takes the first STEPS * WEIGHT_TILES * 8 KiB of dynamic shared memory.
    __device__ __forceinline__ void begin(const T* weight, const Output<T>& output, int in_features, Vector16* shared) {
        in = in_features;
        ring = shared + threadIdx.x / 32 * (STEPS * WEIGHT_TILES * 2 * 32) + threadIdx.x % 32;
#pragma unroll
        for (int tile = 0; tile < WEIGHT_TILES; tile++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int index = (int(blockIdx.x) * WEIGHT_TILES + tile) * 16 + half * 8 + int(threadIdx.x) % 32 / 4;
                row[tile][half] = weight + size_t(output.weight_row(index)) * in;
            }
        k = first_k();
        next = 0;
        for (int step = 0; step < STEPS - 1; step++) copy();
    }

    static __device__ __forceinline__ int first_k() { return int(threadIdx.x / 32) * UNIT + int(threadIdx.x % 4) * 8; }

    // Begins the copy of a step and turns to the one after. Zeros past the end.
    __device__ __forceinline__ void copy() {
#pragma unroll
        for (int tile = 0; tile < WEIGHT_TILES; tile++)
#pragma unroll
            for (int half = 0; half < 2; half++) copy16_async(place(next, tile, half), row[tile][half] + k, k < in);
        copy_commit();
        k += (k & STEP) == 0 ? STEP : ROUND - STEP; // units begin at multiples of 64
        next = next + 1 == STEPS ? 0 : next + 1;
    }

    __device__ __forceinline__ Vector16* place(int slot, int tile, int half) const {
        return ring + ((slot * WEIGHT_TILES + tile) * 2 + half) * 32;
    }
};

// This warp's share of all products.
template <typename T, int ROW_TILES, int WEIGHT_TILES>
__device__ __forceinline__ void multiply(float (&sum)[ROW_TILES][WEIGHT_TILES][4], WeightStream<T, WEIGHT_TILES>& weights,
                                         const Rows<T>& rows) {
    const int g = threadIdx.x % 32 / 4;
    int k = weights.first_k(), slot = 0;
    Vector16 x[2][ROW_TILES]; // of the next two steps: it comes from a cache
#pragma unroll
    for (int step = 0; step < 2; step++)
#pragma unroll
        for (int row = 0; row < ROW_TILES; row++) x[step][row] = rows.load(row * 8 + g, k + step * STEP);
    for (int start = 0; start < weights.in; start += ROUND) {
#pragma unroll
        for (int step = 0; step < 2; step++) {
            weights.copy();
            copy_wait<RING_STEPS<WEIGHT_TILES> - 1>();
            Vector16 w[WEIGHT_TILES][2];
#pragma unroll
            for (int tile = 0; tile < WEIGHT_TILES; tile++)
#pragma unroll
                for (int half = 0; half < 2; half++) w[tile][half] = *weights.place(slot, tile, half);
            slot = slot + 1 == RING_STEPS<WEIGHT_TILES> ? 0 : slot + 1;
#pragma unroll
            for (int row = 0; row < ROW_TILES; row++) {
                Vector16& of_row = x[step][row];
#pragma unroll
                for (int word = 0; word < 4; word += 2) { // a word is two k
                    const uint32_t b[2] = {of_row.word[word], of_row.word[word + 1]};
#pragma unroll
                    for (int tile = 0; tile < WEIGHT_TILES; tile++) {
                        const uint32_t a[4] = {w[tile][0].word[word], w[tile][1].word[word], w[tile][0].word[word + 1],
                                               w[tile][1].word[word + 1]};
                        mma_16x8x16<T>(sum[row][tile], a, b);
                    }
                }
                of_row = rows.load(row * 8 + g, k + ROUND + step * STEP);
            }
            // Without it the compiler moves the loads of x to the end of the loop, right before they are needed.
            __syncwarp();
        }
        k += ROUND;
    }
    copy_wait<0>(); // what was begun past the end writes zeros into the ring, where the sums go next
}

// Of numbers `APART` from each other, one per warp: neighbours first, then their sums.
template <int APART> __device__ __forceinline__ float sum_of_warps(const float* of_warp) {
    static_assert(SKINNY_WARPS == 8, "pairs of pairs of pairs");
    const auto pair = [&](int warp) { return of_warp[warp * APART] + of_warp[(warp + 1) * APART]; };
    return (pair(0) + pair(2)) + (pair(4) + pair(6));
}

// Adds up what the warps have, and writes it.
template <typename T, int ROW_TILES, int WEIGHT_TILES>
__device__ __forceinline__ void reduce(const float (&sum)[ROW_TILES][WEIGHT_TILES][4], const Output<T>& output, void* shared) {
    constexpr int WIDTH = WEIGHT_TILES * 16, STRIDE = WIDTH + 4; // + 4: lanes two rows apart differ by 8 banks
    constexpr int ROWS = ROW_TILES * 8;
    static_assert(SKINNY_WARPS * ROWS * STRIDE * 4 <= RING_STEPS<WEIGHT_TILES> * WEIGHT_TILES * 8192, "fits into the ring");
    float* const partial = static_cast<float*>(shared); // (SKINNY_WARPS, ROWS, STRIDE)
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    __syncthreads(); // all have read their ring
#pragma unroll
    for (int row = 0; row < ROW_TILES; row++)
#pragma unroll
        for (int tile = 0; tile < WEIGHT_TILES; tile++)
#pragma unroll
            for (int element = 0; element < 4; element++)
                partial[(warp * ROWS + row * 8 + 2 * t + element % 2) * STRIDE + tile * 16 + element / 2 * 8 + g] =
                    sum[row][tile][element];
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * WIDTH; i += SKINNY_THREADS) {
        const int row = i / WIDTH, index = i % WIDTH;
        if (row >= output.rows) break;
        if (output.is_up(index)) continue;
        const float* of_warp = partial + row * STRIDE + index;
        const float value = sum_of_warps<ROWS * STRIDE>(of_warp);
        const float up = output.epilogue == SWIGLU ? sum_of_warps<ROWS * STRIDE>(of_warp + 8) : 0.0f;
        output.write(row, output.column(int(blockIdx.x) * WIDTH + index), value, up);
    }
}

// One block per 16 * WEIGHT_TILES rows of the weight; at most 8 * ROW_TILES rows of x. As much dynamic shared memory as
// the ring takes.
template <typename T, int ROW_TILES, int WEIGHT_TILES>
__device__ __forceinline__ void skinny(const T* x, const T* weight, int in, const Output<T>& output) {
    DYNAMIC_SHARED(Vector16, shared);
    float sum[ROW_TILES][WEIGHT_TILES][4] = {};
    WeightStream<T, WEIGHT_TILES> weights;
    weights.begin(weight, output, in, shared);
    multiply(sum, weights, Rows<T>{x, output.rows, in, in});
    reduce(sum, output, shared);
}

// Rows of the residual, normalised (arXiv 1910.07467) and rounded as kernels/rms_norm/cuda.cu does it: the same sums in
// the same order, so that a row has the same bits with this fusion and without.
//
// A row of `normed` ends half a line of 128 bytes after a whole number of lines: then the 16 bytes of two rows and
// four lanes each are in different banks.
template <typename T>
__device__ __forceinline__ Rows<T> normalise(const float* __restrict__ residual, const float* __restrict__ norm_weight,
                                             float epsilon, int rows, int in, T* normed) {
    __shared__ float squares_of[8][SKINNY_WARPS], scale_of[8];
    const int stride = (in + 63) / 64 * 64 + 32;
    for (int row = 0; row < rows; row++) {
        const float* x = residual + size_t(row) * in;
        float squares = 0;
#pragma unroll 8
        for (int i = threadIdx.x; i < in; i += SKINNY_THREADS) squares += x[i] * x[i];
        squares = warp_sum(squares);
        if (threadIdx.x % 32 == 0) squares_of[row][threadIdx.x / 32] = squares;
    }
    __syncthreads();
    if (int(threadIdx.x) < rows) {
        float squares = 0;
        for (int warp = 0; warp < SKINNY_WARPS; warp++) squares += squares_of[threadIdx.x][warp];
        scale_of[threadIdx.x] = rsqrtf(squares / in + epsilon);
    }
    __syncthreads();
    for (int row = 0; row < rows; row++) {
        const float* x = residual + size_t(row) * in;
        const float scale = scale_of[row];
#pragma unroll 8
        for (int i = threadIdx.x; i < in; i += SKINNY_THREADS)
            normed[row * stride + i] = from_float<T>(x[i] * scale * norm_weight[i]);
    }
    __syncthreads();
    return {normed, rows, in, stride};
}

// The product of up to 8 rows of the norm of a residual, which every block computes anew while its first weights are on
// their way. The normalised rows lie behind the ring.
template <typename T, int WEIGHT_TILES>
__device__ __forceinline__ void skinny_normed(const float* residual, const float* norm_weight, float epsilon, const T* weight,
                                              int in, const Output<T>& output) {
    DYNAMIC_SHARED(Vector16, shared);
    float sum[1][WEIGHT_TILES][4] = {};
    WeightStream<T, WEIGHT_TILES> weights;
    weights.begin(weight, output, in, shared);
    T* const normed = reinterpret_cast<T*>(shared + SKINNY_THREADS * weights.STEPS * WEIGHT_TILES * 2);
    multiply(sum, weights, normalise(residual, norm_weight, epsilon, output.rows, in, normed));
    reduce(sum, output, shared);
}
