// Adds the weighted outputs of each token's experts to the residual stream, in the order of the token's own ranking.
#include "gpu.cuh"

// A thread takes one vector of columns; blocks along y share a row.
constexpr int THREADS = 128;
constexpr int PER_THREAD = 8;

// residual (n, width) += sum over r < k of weights (n, k) times outputs (n * k, width) of row token * k + r.
// An output of weight 0, as those of padded rows, is not read: no expert may have written it.
template <typename T>
__device__ void combine_experts(float* __restrict__ residual, const T* __restrict__ outputs,
                                const float* __restrict__ weights, int width, int k) {
    const size_t token = blockIdx.x;
    const int first = (blockIdx.y * THREADS + threadIdx.x) * PER_THREAD;
    if (first >= width) return;
    residual += token * width + first;
    const bool whole = width % PER_THREAD == 0;
    const int count = whole ? PER_THREAD : min(PER_THREAD, width - first);
    float sum[PER_THREAD] = {};
    for (int rank = 0; rank < k; rank++) {
        const float weight = weights[token * k + rank];
        if (weight == 0) continue;
        const T* output = outputs + (token * k + rank) * width + first;
        if (whole) {
            const Vector16 packed = load16(output);
#pragma unroll
            for (int i = 0; i < PER_THREAD; i += 2) {
                sum[i] += weight * low_half<T>(packed.word[i / 2]);
                sum[i + 1] += weight * high_half<T>(packed.word[i / 2]);
            }
        } else {
#pragma unroll
            for (int i = 0; i < PER_THREAD; i++)
                if (i < count) sum[i] += weight * to_float(output[i]);
        }
    }
    if (whole) {
#pragma unroll
        for (int i = 0; i < PER_THREAD; i += 4) {
            Vector16 old = load16(residual + i);
            for (int j = 0; j < 4; j++) old.word[j] = __float_as_uint(__uint_as_float(old.word[j]) + sum[i + j]);
            store16(residual + i, old);
        }
    } else {
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++)
            if (i < count) residual[i] += sum[i];
    }
}

KERNEL(combine_experts_bf16, THREADS)(float* residual, const bf16* outputs, const float* weights, int width, int k) {
    combine_experts(residual, outputs, weights, width, k);
}
REGISTER_KERNEL(combine_experts_bf16)

KERNEL(combine_experts_f16, THREADS)(float* residual, const f16* outputs, const float* weights, int width, int k) {
    combine_experts(residual, outputs, weights, width, k);
}
REGISTER_KERNEL(combine_experts_f16)
