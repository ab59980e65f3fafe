// SwiGLU (arXiv 2002.05202) on the result of a packed projection: 8 columns per thread, one row of x per block in x.
// For products that another library computes; those of kernels/linear do it in passing.
#include "gpu.cuh"

constexpr int THREADS = 256;

__device__ __forceinline__ float product(float gate, float up) {
    return gate / (1.0f + expf(-gate)) * up; // -0 for a gate far below zero: its exponential is infinite
}

// out (rows, columns) = silu(gate) * up of gate_up (rows, 2 * columns): gates, then ups. `columns` is a multiple of 8.
template <typename T> __device__ void swiglu(const T* __restrict__ gate_up, T* __restrict__ out, int columns) {
    const int column = (blockIdx.y * THREADS + threadIdx.x) * 8;
    if (column >= columns) return;
    const T* gate_row = gate_up + size_t(blockIdx.x) * 2 * columns;
    const Vector16 gate = load16(gate_row + column), up = load16(gate_row + columns + column);
    Vector16 result;
#pragma unroll
    for (int i = 0; i < 4; i++)
        result.word[i] = pack<T>(product(low_half<T>(gate.word[i]), low_half<T>(up.word[i])),
                                 product(high_half<T>(gate.word[i]), high_half<T>(up.word[i])));
    store16(out + size_t(blockIdx.x) * columns + column, result);
}

KERNEL(swiglu_bf16, THREADS)(const bf16* gate_up, bf16* out, int columns) { swiglu(gate_up, out, columns); }
REGISTER_KERNEL(swiglu_bf16)

KERNEL(swiglu_f16, THREADS)(const f16* gate_up, f16* out, int columns) { swiglu(gate_up, out, columns); }
REGISTER_KERNEL(swiglu_f16)
