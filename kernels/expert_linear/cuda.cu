// Matrix products of many experts at once: each takes the rows that a router gave it.
//
// A block computes a tile of one expert: some of its features for some of its rows. Weights and rows pass through a ring
// of stages in shared memory, filled by asynchronous copies several stages ahead. Weights are the left operand of the
// tensor cores, rows the right one, so that few rows fill their narrow side: 8 for a decode step. For few rows a tile
// has room for all that an expert can get, and its weights are read once; for many, blocks that share weights run at the
// same time and find them in the second-level cache.
//
// What an output is does not depend on the tile: all add up the products 16 at a time, in the same order.
#include "gpu.cuh"

constexpr int DEPTH = 64;         // elements of a row in a stage: 128 bytes
constexpr int CHUNKS = DEPTH / 8; // of 16 bytes
constexpr uint32_t NO_ROW = 0xffffffffu;

namespace { // names that other operators use too

template <int FEATURES_, int ROWS_, int FEATURE_WARPS_, int ROW_WARPS_, int STAGES_> struct Tile {
    static constexpr int FEATURES = FEATURES_, ROWS = ROWS_; // rows of weights, rows of x
    static constexpr int FEATURE_WARPS = FEATURE_WARPS_, ROW_WARPS = ROW_WARPS_, STAGES = STAGES_;
    static constexpr int THREADS = FEATURE_WARPS * ROW_WARPS * 32;
    static constexpr int BLOCKS_M = FEATURES / FEATURE_WARPS / 16, BLOCKS_N = ROWS / ROW_WARPS / 8; // of a warp
    static constexpr int WEIGHT_COPIES = FEATURES * CHUNKS / THREADS, ROW_COPIES = (ROWS * CHUNKS + THREADS - 1) / THREADS;
    static constexpr int STAGE_BYTES = (FEATURES + ROWS) * DEPTH * 2; // keep in step with cuda.rs
    static_assert(FEATURES * CHUNKS % THREADS == 0, "every thread copies the same number of weights");
    static_assert((FEATURES + 8) * ROWS * 2 <= STAGES * STAGE_BYTES, "results fit where the stages were");
};

struct Sizes {
    int num_experts;
    int depth;           // elements of a row of x, a multiple of 8
    int width;           // elements of a row of out, a multiple of 8
    int rows_per_source; // assignments that share a row of x
};

enum class Epilogue { Plain, SwiGlu };

// Where chunk `chunk` of row `row` of a stage lies. The 8 rows that a warp reads at once are 128 bytes apart, which is
// the same banks; the chunks of each row are in another order, so that they are not.
__device__ __forceinline__ int place(int row, int chunk) { return row * DEPTH * 2 + (chunk ^ row % 8) * 16; }

template <typename T> __device__ __forceinline__ const T* element(const T* matrix, uint32_t row, int columns, int column) {
    return matrix + (uint64_t(row) * uint32_t(columns) + column);
}

// out (assignments, width) = x (sources, depth) times weights (num_experts, features, depth) of each assignment's expert.
// With SwiGLU an expert has 2 * width features, gates first, and the result is silu(gate) * up (arXiv 2002.05202).
// Assignments of expert e are rows[offsets[e]] .. rows[offsets[e + 1] - 1]; number i takes row i / rows_per_source of x
// and gives row i of out. Block x is a tile of rows, counted over all experts, and y a tile of features.
template <typename T, typename Tile, Epilogue EPILOGUE>
__device__ void expert_linear(const T* __restrict__ x, const T* __restrict__ weights, const uint32_t* __restrict__ rows,
                              const uint32_t* __restrict__ offsets, T* __restrict__ out, const Sizes& sizes) {
    constexpr bool SWIGLU = EPILOGUE == Epilogue::SwiGlu;
    constexpr int OUT_FEATURES = SWIGLU ? Tile::FEATURES / 2 : Tile::FEATURES;
    constexpr int STAGES = Tile::STAGES, THREADS = Tile::THREADS;
    DYNAMIC_SHARED(unsigned char, shared);

    int expert = 0, tile = blockIdx.x, begin, count;
    for (;; expert++) {
        if (expert == sizes.num_experts) return; // fewer tiles than there could have been
        begin = offsets[expert];
        count = offsets[expert + 1] - begin;
        const int tiles = (count + Tile::ROWS - 1) / Tile::ROWS;
        if (tile < tiles) break;
        tile -= tiles;
    }
    rows += begin + tile * Tile::ROWS;
    const int live = min(Tile::ROWS, count - tile * Tile::ROWS); // rows of this tile that are there
    const int first_feature = blockIdx.y * OUT_FEATURES;
    weights += size_t(expert) * (SWIGLU ? 2 : 1) * sizes.width * sizes.depth;

    // What this thread copies: the same chunk of several rows, NO_ROW where the tile reaches further than its operand.
    const int chunk = threadIdx.x % CHUNKS;
    uint32_t weight_from[Tile::WEIGHT_COPIES], row_from[Tile::ROW_COPIES];
#pragma unroll
    for (int i = 0; i < Tile::WEIGHT_COPIES; i++) {
        const int row = (i * THREADS + threadIdx.x) / CHUNKS;
        // With SwiGLU, gates and ups alternate in eights: a lane then holds both of a feature.
        const int feature = first_feature + (SWIGLU ? row / 16 * 8 + row % 8 : row);
        const uint32_t from = SWIGLU && row % 16 >= 8 ? feature + sizes.width : feature;
        weight_from[i] = feature < sizes.width ? from : NO_ROW;
    }
#pragma unroll
    for (int i = 0; i < Tile::ROW_COPIES; i++) {
        const int row = (i * THREADS + threadIdx.x) / CHUNKS;
        row_from[i] = row < live ? rows[row] / sizes.rows_per_source : NO_ROW;
    }
    const int stages = (sizes.depth + DEPTH - 1) / DEPTH;
    const auto begin_copies = [&](int stage) {
        if (stage < stages) {
            unsigned char* to = shared + stage % STAGES * Tile::STAGE_BYTES;
            const int start = stage * DEPTH + chunk * 8; // of what this thread copies
            const bool inside = start < sizes.depth;
#pragma unroll
            for (int i = 0; i < Tile::WEIGHT_COPIES; i++) {
                const int row = (i * THREADS + threadIdx.x) / CHUNKS;
                const bool valid = inside && weight_from[i] != NO_ROW;
                copy16_async(to + place(row, chunk), valid ? element(weights, weight_from[i], sizes.depth, start) : weights, valid);
            }
#pragma unroll
            for (int i = 0; i < Tile::ROW_COPIES; i++) {
                const int row = (i * THREADS + threadIdx.x) / CHUNKS;
                if (row >= Tile::ROWS) break; // more threads than chunks
                const bool valid = inside && row_from[i] != NO_ROW;
                copy16_async(to + place(Tile::FEATURES + row, chunk), valid ? element(x, row_from[i], sizes.depth, start) : x, valid);
            }
        }
        copy_commit(); // empty at the end, so that the count of groups stays right
    };

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_feature = warp % Tile::FEATURE_WARPS * Tile::BLOCKS_M * 16; // of the tile
    const int warp_row = warp / Tile::FEATURE_WARPS * Tile::BLOCKS_N * 8;
    float sums[Tile::BLOCKS_M][Tile::BLOCKS_N][4] = {};
    for (int stage = 0; stage < STAGES - 1; stage++) begin_copies(stage);
    for (int stage = 0; stage < stages; stage++) {
        copy_wait<STAGES - 2>();
        __syncthreads(); // this stage is there for all, and all have done with the one before, whose place is next
        begin_copies(stage + STAGES - 1);
        if (warp_row >= live) continue;
        const unsigned char* from = shared + stage % STAGES * Tile::STAGE_BYTES;
#pragma unroll
        for (int step = 0; step < DEPTH / 32; step++) {
            uint32_t b[Tile::BLOCKS_N][4]; // two steps of 16
#pragma unroll
            for (int n = 0; n < Tile::BLOCKS_N; n++)
                load_matrices(b[n], from + place(Tile::FEATURES + warp_row + n * 8 + lane % 8, step * 4 + lane / 8));
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int m = 0; m < Tile::BLOCKS_M; m++) {
                    uint32_t a[4];
                    load_matrices(a, from + place(warp_feature + m * 16 + lane % 16, step * 4 + half * 2 + lane / 16));
#pragma unroll
                    for (int n = 0; n < Tile::BLOCKS_N; n++) {
                        const uint32_t pair[2] = {b[n][half * 2], b[n][half * 2 + 1]};
                        mma_16x8x16<T>(sums[m][n], a, pair);
                    }
                }
            }
        }
    }

    // Turned round in shared memory, so that rows are stored as whole vectors.
    constexpr int PITCH = OUT_FEATURES + 8; // elements, with 16 bytes against conflicts of banks
    T* results = reinterpret_cast<T*>(shared);
    copy_wait<0>();
    __syncthreads();
#pragma unroll
    for (int m = 0; m < Tile::BLOCKS_M; m++) {
#pragma unroll
        for (int n = 0; n < Tile::BLOCKS_N; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                T* result = results + (warp_row + n * 8 + lane % 4 * 2 + i) * PITCH + lane / 4;
                const float upper = sums[m][n][i], lower = sums[m][n][2 + i]; // features lane / 4, and 8 further on
                if (SWIGLU) {
                    round_to(upper / (1.0f + expf(-upper)) * lower, result[(warp_feature + m * 16) / 2]);
                } else {
                    round_to(upper, result[warp_feature + m * 16]);
                    round_to(lower, result[warp_feature + m * 16 + 8]);
                }
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < live * (OUT_FEATURES / 8); i += THREADS) {
        const int row = i / (OUT_FEATURES / 8), feature = i % (OUT_FEATURES / 8) * 8;
        if (first_feature + feature < sizes.width)
            store16(out + size_t(rows[row]) * sizes.width + first_feature + feature, load16(results + row * PITCH + feature));
    }
}

// Tiles by the number of rows. Keep in step with cuda.rs.
using Rows8 = Tile<64, 8, 4, 1, 8>;
using Rows16 = Tile<64, 16, 4, 1, 7>;
using Rows32 = Tile<64, 32, 4, 1, 6>;
using Rows64 = Tile<64, 64, 2, 2, 4>;
using Rows128 = Tile<128, 128, 2, 4, 3>;

} // namespace

#define EXPERT_LINEAR(name, T, TILE, EPILOGUE)                                                                        \
    KERNEL(name, TILE::THREADS, 2)                                                                                    \
    (const T* x, const T* weights, const uint32_t* rows, const uint32_t* offsets, T* out, int num_experts, int depth, \
     int width, int rows_per_source) {                                                                                \
        const Sizes sizes{num_experts, depth, width, rows_per_source};                                                \
        expert_linear<T, TILE, Epilogue::EPILOGUE>(x, weights, rows, offsets, out, sizes);                            \
    }                                                                                                                 \
    REGISTER_KERNEL(name)

EXPERT_LINEAR(expert_linear_8_bf16, bf16, Rows8, Plain)
EXPERT_LINEAR(expert_linear_8_f16, f16, Rows8, Plain)
EXPERT_LINEAR(expert_linear_16_bf16, bf16, Rows16, Plain)
EXPERT_LINEAR(expert_linear_16_f16, f16, Rows16, Plain)
EXPERT_LINEAR(expert_linear_32_bf16, bf16, Rows32, Plain)
EXPERT_LINEAR(expert_linear_32_f16, f16, Rows32, Plain)
EXPERT_LINEAR(expert_linear_64_bf16, bf16, Rows64, Plain)
EXPERT_LINEAR(expert_linear_64_f16, f16, Rows64, Plain)
EXPERT_LINEAR(expert_linear_128_bf16, bf16, Rows128, Plain)
EXPERT_LINEAR(expert_linear_128_f16, f16, Rows128, Plain)
EXPERT_LINEAR(expert_swiglu_8_bf16, bf16, Rows8, SwiGlu)
EXPERT_LINEAR(expert_swiglu_8_f16, f16, Rows8, SwiGlu)
EXPERT_LINEAR(expert_swiglu_16_bf16, bf16, Rows16, SwiGlu)
EXPERT_LINEAR(expert_swiglu_16_f16, f16, Rows16, SwiGlu)
EXPERT_LINEAR(expert_swiglu_32_bf16, bf16, Rows32, SwiGlu)
EXPERT_LINEAR(expert_swiglu_32_f16, f16, Rows32, SwiGlu)
EXPERT_LINEAR(expert_swiglu_64_bf16, bf16, Rows64, SwiGlu)
EXPERT_LINEAR(expert_swiglu_64_f16, f16, Rows64, SwiGlu)
EXPERT_LINEAR(expert_swiglu_128_bf16, bf16, Rows128, SwiGlu)
EXPERT_LINEAR(expert_swiglu_128_f16, f16, Rows128, SwiGlu)
