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
// read it: what is in flight neither takes registers nor depends on how loads are scheduled. A block computes group after
// group of weight rows, and its ring goes on to the next group while the sums of one are added up, so that 32 to 64 KiB
// are in flight from its beginning to its end; an H200 needs some 30 KiB per multiprocessor (4.3 TB/s * 0.9 us / 132).
// The ring fills while the launches before still run (`wait_for_earlier_launches`): weights depend on none.
//
// x is read from the caches, by each warp only its own k: once per group, so there is nothing to share. Its traffic is
// rows / (16 * WEIGHT_TILES) of the weight's, or less where the first-level cache still has it. Rows of x that are not
// there are not read: a single row costs what its weights cost.
#pragma once
#include "output.cuh"

constexpr int SKINNY_THREADS = 256;
constexpr int SKINNY_WARPS = SKINNY_THREADS / 32;
constexpr int UNIT = 64;                   // k that a warp takes at a time, in two steps
constexpr int STEP = 32;                   // k of a step: 8 per lane of four
constexpr int ROUND = UNIT * SKINNY_WARPS; // k that the block takes in two steps

// What a block has for sums; cuda.rs knows it too, and the rings.
template <int WEIGHT_TILES> constexpr int SUM_STRIDE = WEIGHT_TILES * 16 + 4; // + 4: lanes two rows apart differ by 8 banks
template <int WEIGHT_TILES> constexpr int SUM_VECTORS = SKINNY_WARPS * 8 * SUM_STRIDE<WEIGHT_TILES> / 4;

// The rows of x, each `stride` elements after the other, in global or shared memory.
template <typename T> struct Rows {
    const T* x;
    int rows, in, stride;

    __device__ __forceinline__ Vector16 load(int row, int k) const {
        return row < rows && k < in ? load16(x + size_t(row) * stride + k) : zero16();
    }
};

// The k that this warp's lane begins with in every group, and the first past all steps of a group.
__device__ __forceinline__ int first_k() { return int(threadIdx.x / 32) * UNIT + int(threadIdx.x % 4) * 8; }
__device__ __forceinline__ int end_k(int in) { return first_k() + (in + ROUND - 1) / ROUND * ROUND; }
// The k of the step after; units begin at multiples of 64.
__device__ __forceinline__ int next_k(int k) { return k + ((k & STEP) == 0 ? STEP : ROUND - STEP); }

// What this lane reads of the weight: rows g and g + 8 of every tile of group after group. A step of the ring takes 1 KiB
// per tile and warp.
template <typename T, int WEIGHT_TILES, int STEPS> struct WeightStream {
    static constexpr int VECTORS = SKINNY_THREADS * STEPS * WEIGHT_TILES * 2; // of shared memory
    const T* weight;
    const T* row[WEIGHT_TILES][2];
    Vector16* ring; // (STEPS, WEIGHT_TILES, 2), 32 lanes apart
    int in;
    int group;      // that is being copied
    int k;          // first of the step to be copied next
    int next;       // its place
    int slot;       // the place that is read next

    __device__ __forceinline__ void begin(const T* of_weight, const Output<T>& output, int in_features, Vector16* shared) {
        weight = of_weight;
        in = in_features;
        ring = shared + threadIdx.x / 32 * (STEPS * WEIGHT_TILES * 2 * 32) + threadIdx.x % 32;
        next = slot = 0;
        enter(blockIdx.x, output);
        for (int step = 0; step < STEPS - 1; step++) copy(output);
    }

    __device__ __forceinline__ void enter(int of_group, const Output<T>& output) {
        group = of_group;
        k = first_k();
#pragma unroll
        for (int tile = 0; tile < WEIGHT_TILES; tile++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int index = (group * WEIGHT_TILES + tile) * 16 + half * 8 + int(threadIdx.x) % 32 / 4;
                row[tile][half] = weight + size_t(output.weight_row(index)) * in;
            }
    }

    // Begins the copy of a step and turns to the one after. Zeros past the end of k, nothing past the last group.
    __device__ __forceinline__ void copy(const Output<T>& output) {
        if (group < output.template groups<WEIGHT_TILES>()) {
#pragma unroll
            for (int tile = 0; tile < WEIGHT_TILES; tile++)
#pragma unroll
                for (int half = 0; half < 2; half++) copy16_async_256(place(next, tile, half), row[tile][half] + k, k < in);
            k = next_k(k);
            if (k >= end_k(in)) enter(group + gridDim.x, output);
        }
        copy_commit();
        next = next + 1 == STEPS ? 0 : next + 1;
    }

    // What the oldest copy brought, once it is there; a newer one is begun first.
    __device__ __forceinline__ void take(Vector16 (&w)[WEIGHT_TILES][2], const Output<T>& output) {
        copy(output);
        copy_wait<STEPS - 1>();
#pragma unroll
        for (int tile = 0; tile < WEIGHT_TILES; tile++)
#pragma unroll
            for (int half = 0; half < 2; half++) w[tile][half] = *place(slot, tile, half);
        slot = slot + 1 == STEPS ? 0 : slot + 1;
    }

    __device__ __forceinline__ Vector16* place(int at, int tile, int half) const {
        return ring + ((at * WEIGHT_TILES + tile) * 2 + half) * 32;
    }
};

// Of numbers `APART` from each other, one per warp: neighbours first, then their sums.
template <int APART> __device__ __forceinline__ float sum_of_warps(const float* of_warp) {
    static_assert(SKINNY_WARPS == 8, "pairs of pairs of pairs");
    const auto pair = [&](int warp) { return of_warp[warp * APART] + of_warp[(warp + 1) * APART]; };
    return (pair(0) + pair(2)) + (pair(4) + pair(6));
}

// Adds up what the warps have of a group, 8 rows at a time, and writes it. `partial` is SUM_VECTORS of shared memory.
template <typename T, int ROW_TILES, int WEIGHT_TILES>
__device__ __forceinline__ void reduce(const float (&sum)[ROW_TILES][WEIGHT_TILES][4], int group, const Output<T>& output,
                                       float* partial) {
    constexpr int WIDTH = WEIGHT_TILES * 16, STRIDE = SUM_STRIDE<WEIGHT_TILES>, APART = 8 * STRIDE;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int tile_row = 0; tile_row < ROW_TILES; tile_row++) {
        __syncthreads(); // the sums before have been read
#pragma unroll
        for (int tile = 0; tile < WEIGHT_TILES; tile++)
#pragma unroll
            for (int element = 0; element < 4; element++)
                partial[warp * APART + (2 * t + element % 2) * STRIDE + tile * 16 + element / 2 * 8 + g] =
                    sum[tile_row][tile][element];
        __syncthreads();
        for (int i = threadIdx.x; i < 8 * WIDTH; i += SKINNY_THREADS) {
            const int row = tile_row * 8 + i / WIDTH, index = i % WIDTH;
            if (row >= output.rows) break;
            if (output.is_up(index)) continue;
            const float* of_warp = partial + i / WIDTH * STRIDE + index;
            const float value = sum_of_warps<APART>(of_warp);
            const float up = output.epilogue == SWIGLU ? sum_of_warps<APART>(of_warp + 8) : 0.0f;
            output.write(row, output.column(group * WIDTH + index), value, up);
        }
    }
}

// Group after group of 16 * WEIGHT_TILES rows of the weight.
template <int ROW_TILES, typename T, int WEIGHT_TILES, int STEPS>
__device__ __forceinline__ void multiply(WeightStream<T, WEIGHT_TILES, STEPS>& weights, const Rows<T>& rows,
                                         const Output<T>& output, float* partial) {
    constexpr int AHEAD = 2; // steps; x comes from a cache
    const int g = threadIdx.x % 32 / 4, in = rows.in;
    Vector16 x[AHEAD][ROW_TILES];
    int k = first_k(); // of the x to be loaded next
    const auto load = [&](Vector16 (&of_step)[ROW_TILES]) {
#pragma unroll
        for (int row = 0; row < ROW_TILES; row++) of_step[row] = rows.load(row * 8 + g, k);
        k = next_k(k);
        if (k >= end_k(in)) k = first_k(); // of the next group
    };
#pragma unroll
    for (int step = 0; step < AHEAD; step++) load(x[step]);
    for (int group = blockIdx.x; group < output.template groups<WEIGHT_TILES>(); group += gridDim.x) {
        float sum[ROW_TILES][WEIGHT_TILES][4] = {};
        for (int start = 0; start < in; start += ROUND) {
#pragma unroll
            for (int step = 0; step < 2; step++) {
                Vector16 w[WEIGHT_TILES][2];
                weights.take(w, output);
#pragma unroll
                for (int row = 0; row < ROW_TILES; row++) {
#pragma unroll
                    for (int word = 0; word < 4; word += 2) { // a word is two k
                        const uint32_t b[2] = {x[step][row].word[word], x[step][row].word[word + 1]};
#pragma unroll
                        for (int tile = 0; tile < WEIGHT_TILES; tile++) {
                            const uint32_t a[4] = {w[tile][0].word[word], w[tile][1].word[word], w[tile][0].word[word + 1],
                                                   w[tile][1].word[word + 1]};
                            mma_16x8x16<T>(sum[row][tile], a, b);
                        }
                    }
                }
                load(x[step]);
                // Without it the compiler moves the loads of x to the end of the loop, right before they are needed.
                __syncwarp();
            }
        }
        reduce(sum, group, output, partial);
    }
}

// At most 8 * ROW_TILES rows of x. Dynamic shared memory: the ring, then the sums.
template <typename T, int ROW_TILES, int WEIGHT_TILES>
__device__ __forceinline__ void skinny(const T* x, const T* weight, int in, const Output<T>& output) {
    DYNAMIC_SHARED(Vector16, shared);
    WeightStream<T, WEIGHT_TILES, WEIGHT_TILES == 1 ? 5 : 4> weights;
    weights.begin(weight, output, in, shared);
    wait_for_earlier_launches();
    float* const partial = reinterpret_cast<float*>(shared + weights.VECTORS);
    multiply<ROW_TILES>(weights, Rows<T>{x, output.rows, in, in}, output, partial);
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
// their way. The normalised rows lie behind the sums. A step less in the ring makes room for them.
template <typename T>
__device__ __forceinline__ void skinny_normed(const float* residual, const float* norm_weight, float epsilon, const T* weight,
                                              int in, const Output<T>& output) {
    DYNAMIC_SHARED(Vector16, shared);
    WeightStream<T, 1, 4> weights;
    weights.begin(weight, output, in, shared);
    wait_for_earlier_launches();
    Vector16* const sums = shared + weights.VECTORS;
    T* const normed = reinterpret_cast<T*>(sums + SUM_VECTORS<1>);
    const Rows<T> rows = normalise(residual, norm_weight, epsilon, output.rows, in, normed);
    multiply<1>(weights, rows, output, reinterpret_cast<float*>(sums));
}
