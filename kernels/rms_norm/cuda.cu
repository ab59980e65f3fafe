// Root mean square norm (arXiv 1910.07467) of the residual stream, one block per row.
#include "gpu.cuh"

constexpr int THREADS = 256;

// out (rows, columns) = residual (rows, columns) / rms(residual) * weight (columns)
template <typename T>
__device__ void rms_norm(const float* residual, const float* __restrict__ weight, T* __restrict__ out,
                         int columns, float epsilon) {
    __shared__ float scratch[THREADS / 32];
    wait_for_earlier_launches();
    residual += size_t(blockIdx.x) * columns;
    out += size_t(blockIdx.x) * columns;
    float squares = 0;
    for (int i = threadIdx.x; i < columns; i += THREADS) squares += residual[i] * residual[i];
    const float scale = rsqrtf(block_sum<THREADS>(squares, scratch) / columns + epsilon);
    for (int i = threadIdx.x; i < columns; i += THREADS) out[i] = from_float<T>(residual[i] * scale * weight[i]);
}

KERNEL(rms_norm_bf16, THREADS)
(const float* residual, const float* weight, bf16* out, int columns, float epsilon) {
    rms_norm(residual, weight, out, columns, epsilon);
}
REGISTER_KERNEL(rms_norm_bf16)

KERNEL(rms_norm_f16, THREADS)
(const float* residual, const float* weight, f16* out, int columns, float epsilon) {
    rms_norm(residual, weight, out, columns, epsilon);
}
REGISTER_KERNEL(rms_norm_f16)
