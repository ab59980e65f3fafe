// The product for many rows, bound by arithmetic: a block computes a square tile of the result.
//
// Slices of 32 k of x and of the weight go through shared memory in a ring of 4 stages, of which 3 are being copied;
// a stage of the 128-tile is 16 KiB, so a block of it takes 64 KiB and two fit on a multiprocessor of any kind from
// sm_80 on with 163 KiB. 128 x 128 gives 64 operations per byte read from the second-level cache. The 64-tile is for
// results with fewer 128-tiles than multiprocessors. Every result is one sum along k in order, in both.
//
// Shared memory: a row of a slice is 4 chunks of 16 bytes, two rows to the 32 banks. Chunk c of row r lies at position
// c ^ (r / 2 % 4), so that the 8 rows of a matrix that `load_matrices` reads at the same chunk are in different banks.
#pragma once
#include "output.cuh"

constexpr int STAGES = 4;
constexpr int SLICE = 32;             // k per stage
constexpr int CHUNKS = SLICE / 8;     // of 16 bytes per row

// Warps as 2 along rows and WARPS_ACROSS along columns. TILE * 512 bytes of dynamic shared memory.
template <typename T, int TILE, int WARPS_ACROSS> struct Tiled {
    static constexpr int THREADS = 64 * WARPS_ACROSS;
    static constexpr int WARP_ROWS = TILE / 2, WARP_COLUMNS = TILE / WARPS_ACROSS;
    static constexpr int ROW_TILES = WARP_ROWS / 16, COLUMN_TILES = WARP_COLUMNS / 8;
    static constexpr int COPIES = TILE * CHUNKS / THREADS; // per thread, operand and stage
    static_assert(COLUMN_TILES % 2 == 0, "a gate and its up are neighbouring column tiles of one warp");

    struct Slice { Vector16 x[TILE * CHUNKS], weight[TILE * CHUNKS]; };

    static __device__ __forceinline__ int place(int row, int chunk) { return row * CHUNKS + (chunk ^ (row / 2 % 4)); }

    // What this thread copies of every slice.
    struct Sources {
        const T* x[COPIES];
        const T* weight[COPIES];

        __device__ __forceinline__ Sources(const T* x_begin, const T* weight_begin, int in, const Output<T>& output) {
#pragma unroll
            for (int i = 0; i < COPIES; i++) {
                const int at = threadIdx.x + i * THREADS, row = at / CHUNKS, k = at % CHUNKS * 8;
                x[i] = x_begin + size_t(min(int(blockIdx.x) * TILE + row, output.rows - 1)) * in + k;
                weight[i] = weight_begin + size_t(output.weight_row(int(blockIdx.y) * TILE + row)) * in + k;
            }
        }

        __device__ __forceinline__ void copy(Slice& to, int first_k, int in) const {
#pragma unroll
            for (int i = 0; i < COPIES; i++) {
                const int at = threadIdx.x + i * THREADS, row = at / CHUNKS, chunk = at % CHUNKS;
                const bool valid = first_k + chunk * 8 < in;
                copy16_async(&to.x[place(row, chunk)], x[i] + first_k, valid);
                copy16_async(&to.weight[place(row, chunk)], weight[i] + first_k, valid);
            }
        }
    };

    static __device__ __forceinline__ void multiply(float (&sum)[ROW_TILES][COLUMN_TILES][4], const Slice& slice) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int first_row = warp / WARPS_ACROSS * WARP_ROWS, first_column = warp % WARPS_ACROSS * WARP_COLUMNS;
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk += 2) {
            uint32_t a[ROW_TILES][4], b[COLUMN_TILES / 2][4];
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++)
                load_matrices(a[i], &slice.x[place(first_row + i * 16 + lane % 16, chunk + lane / 16)]);
#pragma unroll
            for (int i = 0; i < COLUMN_TILES / 2; i++)
                load_matrices(b[i], &slice.weight[place(first_column + i * 16 + lane / 16 * 8 + lane % 8, chunk + lane / 8 % 2)]);
#pragma unroll
            for (int row = 0; row < ROW_TILES; row++)
#pragma unroll
                for (int column = 0; column < COLUMN_TILES; column++) {
                    const uint32_t of_column[2] = {b[column / 2][column % 2 * 2], b[column / 2][column % 2 * 2 + 1]};
                    mma_16x8x16<T>(sum[row][column], a[row], of_column);
                }
        }
    }

    static __device__ __forceinline__ void write(const float (&sum)[ROW_TILES][COLUMN_TILES][4], const Output<T>& output) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int first_row = int(blockIdx.x) * TILE + warp / WARPS_ACROSS * WARP_ROWS + lane / 4;
        const int first_index = int(blockIdx.y) * TILE + warp % WARPS_ACROSS * WARP_COLUMNS;
#pragma unroll
        for (int row = 0; row < ROW_TILES; row++)
#pragma unroll
            for (int column = 0; column < COLUMN_TILES; column++) {
                const int index = first_index + column * 8;
                if (output.is_up(index)) continue;
                const float(&up)[4] = sum[row][column | 1];
#pragma unroll
                for (int half = 0; half < 2; half++)
                    output.write_pair(first_row + row * 16 + half * 8, output.column(index) + lane % 4 * 2,
                                      &sum[row][column][2 * half], &up[2 * half]);
            }
    }

    static __device__ __forceinline__ void run(const T* x, const T* weight, int in, const Output<T>& output) {
        DYNAMIC_SHARED(Slice, stages);
        const Sources sources(x, weight, in, output);
        const int slices = (in + SLICE - 1) / SLICE;
        float sum[ROW_TILES][COLUMN_TILES][4] = {};
        for (int slice = 0; slice < STAGES - 1; slice++) {
            if (slice < slices) sources.copy(stages[slice], slice * SLICE, in);
            copy_commit();
        }
        for (int slice = 0; slice < slices; slice++) {
            copy_wait<STAGES - 2>();
            __syncthreads(); // this slice is there for all, and all have read the one before, which now makes room
            const int ahead = slice + STAGES - 1;
            if (ahead < slices) sources.copy(stages[ahead % STAGES], ahead * SLICE, in);
            copy_commit();
            multiply(sum, stages[slice % STAGES]);
        }
        write(sum, output);
    }
};
