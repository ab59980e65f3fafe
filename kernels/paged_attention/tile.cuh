// What decode and prefill share: where a KV head lies in the paged cache, and one step of attention of a warp's queries
// over a tile of keys, on tensor cores and with an online softmax (arXiv 1805.02867, arXiv 2307.08691).
#pragma once
#include <cfloat>
#include "gpu.cuh"

// Elements from one row of a tile in shared memory to the next: 16 bytes more than it has, an odd multiple of 16, so
// that the eight rows that a matrix load reads at once lie in different banks.
template <int HEAD_DIM> constexpr int ROW = HEAD_DIM + 8;
// 16-byte pieces of a row.
template <int HEAD_DIM> constexpr int PIECES = HEAD_DIM / 8;

// 2^x to a unit or two in the last place, without denormals. 2^0 is 1 and 2^-inf is 0.
__device__ __forceinline__ float exp2_approx(float x) {
#ifdef __CUDACC__
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
#else
    return exp2f(x);
#endif
}

// One KV head of cache (2, num_blocks, block_size, kv_heads, HEAD_DIM), as one sequence sees it.
template <typename T, int HEAD_DIM> struct PagedHead {
    const T* keys;         // of slot 0
    size_t values;         // elements from a key to its value
    int stride;            // elements from a slot to the next
    const uint32_t* table; // blocks of the sequence
    int block_shift;       // log2 of block_size

    __device__ __forceinline__ PagedHead(const T* cache, int num_blocks, int block_shift, int kv_heads, int kv_head,
                                         const uint32_t* table)
        : keys(cache + size_t(kv_head) * HEAD_DIM), values((size_t(num_blocks) << block_shift) * kv_heads * HEAD_DIM),
          stride(kv_heads * HEAD_DIM), table(table), block_shift(block_shift) {}

    // The slot of a position in `begin..end`, or -1: outside, the table may name blocks that are gone.
    __device__ __forceinline__ int slot(int position, int begin, int end) const {
        if (position < begin || position >= end) return -1;
        const int offset = position & ((1 << block_shift) - 1);
        return int(table[position >> block_shift] << block_shift) + offset;
    }

    // Where a slot's key lies; any valid address for no slot.
    __device__ __forceinline__ const T* key(int slot) const { return keys + size_t(max(slot, 0)) * stride; }
};

// Attention of BANDS times 16 query rows of one warp over the keys so far. As mma holds its results, lane 4 g + t has
// rows g (half 0) and g + 8 (half 1) of each band, and of those columns 8 j + 2 t and the next.
template <typename T, int HEAD_DIM, int BANDS> struct Attention {
    float sums[BANDS][HEAD_DIM / 8][4]; // of values, weighted by 2^(score - highest)
    float highest[BANDS][2];            // score, scaled
    float total[BANDS][2];              // of the weights; of this lane's columns only, until `finish`

    __device__ __forceinline__ Attention() {
#pragma unroll
        for (int band = 0; band < BANDS; band++) {
#pragma unroll
            for (int j = 0; j < HEAD_DIM / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) sums[band][j][i] = 0;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                highest[band][half] = -FLT_MAX; // finite: a masked score, -inf, is below it and never meets another -inf
                total[band][half] = 0;
            }
        }
    }

    // scores = queries keys^T, unscaled. `queries` are the warp's rows, both tiles have ROW elements a row.
    template <int KEYS>
    __device__ __forceinline__ static void multiply(float (&scores)[BANDS][KEYS / 8][4], const T* queries, const T* keys) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int band = 0; band < BANDS; band++)
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) scores[band][j][i] = 0;
#pragma unroll
        for (int k = 0; k < HEAD_DIM; k += 16) {
            uint32_t a[BANDS][4];
#pragma unroll
            for (int band = 0; band < BANDS; band++)
                load_matrices(a[band], queries + (16 * band + lane % 16) * ROW<HEAD_DIM> + k + lane / 16 * 8);
#pragma unroll
            for (int j = 0; j < KEYS; j += 16) {
                uint32_t pair[4]; // keys j and on at columns k, k + 8, then keys j + 8 and on
                load_matrices(pair, keys + (j + lane / 16 * 8 + lane % 8) * ROW<HEAD_DIM> + k + lane / 8 % 2 * 8);
                const uint32_t left[2] = {pair[0], pair[1]}, right[2] = {pair[2], pair[3]};
#pragma unroll
                for (int band = 0; band < BANDS; band++) {
                    mma_16x8x16<T>(scores[band][j / 8], a[band], left);
                    mma_16x8x16<T>(scores[band][j / 8 + 1], a[band], right);
                }
            }
        }
    }

    // Leaves to each row the last `window` keys up to `last`, of a tile that begins at position `start`.
    template <int KEYS>
    __device__ __forceinline__ static void mask(float (&scores)[BANDS][KEYS / 8][4], int start, const int (&last)[BANDS][2],
                                                int window) {
        const int column = start + threadIdx.x % 4 * 2;
#pragma unroll
        for (int band = 0; band < BANDS; band++)
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int behind = last[band][i / 2] - (column + 8 * j + i % 2);
                    if (behind < 0 || behind >= window) scores[band][j][i] = -INFINITY;
                }
    }

    // Turns scores into weights and makes room for them. A tile that is masked for a row changes none of its bits:
    // its weights are 0, and what was summed is multiplied by 1.
    template <int KEYS> __device__ __forceinline__ void weigh(float (&scores)[BANDS][KEYS / 8][4], float scale) {
        float fade[BANDS][2];
        bool higher = false;
#pragma unroll
        for (int band = 0; band < BANDS; band++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float top = -INFINITY;
#pragma unroll
                for (int j = 0; j < KEYS / 8; j++)
                    top = fmaxf(top, fmaxf(scores[band][j][2 * half], scores[band][j][2 * half + 1]));
                top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
                top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
                const float before = highest[band][half], now = fmaxf(before, top * scale);
                highest[band][half] = now;
                fade[band][half] = exp2_approx(before - now);
                higher |= now != before;
                float sum = total[band][half] * fade[band][half];
#pragma unroll
                for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; i++) {
                        scores[band][j][i] = exp2_approx(fmaf(scores[band][j][i], scale, -now));
                        sum += scores[band][j][i];
                    }
                total[band][half] = sum;
            }
        if (!__any_sync(ALL_LANES, higher)) return;
#pragma unroll
        for (int band = 0; band < BANDS; band++)
#pragma unroll
            for (int j = 0; j < HEAD_DIM / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) sums[band][j][i] *= fade[band][i / 2];
    }

    // sums += weights values. Two neighbouring tiles of mma's results are one tile of its left operand.
    template <int KEYS>
    __device__ __forceinline__ void accumulate(const float (&weights)[BANDS][KEYS / 8][4], const T* values) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int k = 0; k < KEYS; k += 16) {
            uint32_t a[BANDS][4];
#pragma unroll
            for (int band = 0; band < BANDS; band++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float(&from)[4] = weights[band][k / 8 + i / 2];
                    a[band][i] = pack<T>(from[i % 2 * 2], from[i % 2 * 2 + 1]);
                }
#pragma unroll
            for (int j = 0; j < HEAD_DIM; j += 16) {
                uint32_t pair[4]; // columns j and on of keys k, k + 8, then columns j + 8 and on
                load_matrices_transposed(pair, values + (k + lane % 16) * ROW<HEAD_DIM> + j + lane / 16 * 8);
                const uint32_t left[2] = {pair[0], pair[1]}, right[2] = {pair[2], pair[3]};
#pragma unroll
                for (int band = 0; band < BANDS; band++) {
                    mma_16x8x16<T>(sums[band][j / 8], a[band], left);
                    mma_16x8x16<T>(sums[band][j / 8 + 1], a[band], right);
                }
            }
        }
    }

    // Completes `total`.
    __device__ __forceinline__ void finish() {
#pragma unroll
        for (int band = 0; band < BANDS; band++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                for (int mask = 1; mask <= 2; mask *= 2)
                    total[band][half] += __shfl_xor_sync(ALL_LANES, total[band][half], mask);
    }
};
