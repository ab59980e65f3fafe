// Matrix product with a weight: x (rows, in) times the transpose of weight (out, in), both T, accumulated in f32, with
// what follows it in a decoder: rounding, the sum with the residual, SwiGLU. `in` is a multiple of 8; x and weight are
// aligned to 16 bytes.
//
//   kernel              rows     a block computes       threads   shared memory; of "n of m" n are in flight
//   linear_rows8        1..8     16 rows of the weight  256       40 KiB of the weight, and sums
//   linear_rows16       9..16    32 rows of the weight  256       64 KiB of the weight, and sums
//   linear_wide32       17..32   several times 128 rows 256       60 of 96 KiB of both
//   linear_wide64       33..64   of the weight, or part 256       96 of 160 KiB of both
//   linear_wide128      65..     of their product       256       64 of 160 KiB of both
//   linear_deep128      65..     the same where there   256       128 of 224 KiB of both
//                                are 227 KiB for it
//   linear_normed       1..8     16 rows of the weight  256       32 KiB of the weight, sums, and the normalised rows
//   linear_tiled64      65..     64 x 64                128       32 KiB of both
//   linear_tiled128     65..     128 x 128              256       64 KiB of both
//
// `skinny.cuh`, `wide.cuh` and `tiled.cuh` say why, `output.cuh` what the epilogues are.
#include "skinny.cuh"
#include "tiled.cuh"
#include "wide.cuh"

#define LINEAR(name, threads, T, call)                                                                                  \
    KERNEL(name, threads)(const T* x, const T* weight, void* out, int rows, int in, int columns, int epilogue) {        \
        call(x, weight, in, Output<T>{out, rows, columns, epilogue});                                                   \
    }                                                                                                                   \
    REGISTER_KERNEL(name)

#define WIDE_LINEAR(name, T, ROWS, SHARED_KIB)                                                                          \
    KERNEL(name, WIDE_THREADS, 1)                                                                                       \
    (const T* x, const T* weight, void* out, FloatQuad* partials, unsigned* counters, int items_per_block, int rows,    \
     int in, int columns, int epilogue) {                                                                               \
        Wide<T, ROWS, SHARED_KIB>::run(x, weight, in, Output<T>{out, rows, columns, epilogue},                          \
                                       {partials, counters, items_per_block});                                          \
    }                                                                                                                   \
    REGISTER_KERNEL(name)

#define LINEARS(T)                                                                                                      \
    LINEAR(linear_rows8_##T, SKINNY_THREADS, T, (skinny<T, 1, 1>))                                                      \
    LINEAR(linear_rows16_##T, SKINNY_THREADS, T, (skinny<T, 2, 2>))                                                     \
    WIDE_LINEAR(linear_wide32_##T, T, 32, 96)                                                                           \
    WIDE_LINEAR(linear_wide64_##T, T, 64, 160)                                                                          \
    WIDE_LINEAR(linear_wide128_##T, T, 128, 160)                                                                        \
    WIDE_LINEAR(linear_deep128_##T, T, 128, 224)                                                                        \
    LINEAR(linear_tiled64_##T, 128, T, (Tiled<T, 64, 2>::run))                                                          \
    LINEAR(linear_tiled128_##T, 256, T, (Tiled<T, 128, 4>::run))                                                        \
                                                                                                                        \
    KERNEL(linear_normed_##T, SKINNY_THREADS, 2)                                                                        \
    (const float* residual, const float* norm_weight, float epsilon, const T* weight, void* out, int rows, int in,      \
     int columns, int epilogue) {                                                                                       \
        skinny_normed(residual, norm_weight, epsilon, weight, in, Output<T>{out, rows, columns, epilogue});             \
    }                                                                                                                   \
    REGISTER_KERNEL(linear_normed_##T)

LINEARS(bf16)
LINEARS(f16)
