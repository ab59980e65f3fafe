// Gathers rows: of the token table, widened to the f32 residual, and of activations, unchanged.
#include "gpu.cuh"

// A thread moves one vector of 16 bytes; blocks along y share a row, so that a single row is spread over the GPU too.
constexpr int THREADS = 128;
constexpr int PER_VECTOR = 8;

constexpr uint32_t UNREAD = 0x80000000u, NONE = 0xffffffffu;

// out (n, width) = table (size, width) at ids (n). An id with the highest bit set is an index among `chosen`. A row whose
// id is outside the table, as that of padding, is zero: nothing is ever read outside.
template <typename T>
__device__ void embed_tokens(const T* __restrict__ table, const uint32_t* __restrict__ ids,
                             const uint32_t* __restrict__ chosen, float* __restrict__ out, int size, int width) {
    uint32_t id = ids[blockIdx.x];
    if (id != NONE && id & UNREAD) id = chosen[id & ~UNREAD];
    const bool inside = id < uint32_t(size);
    const T* row = table + size_t(inside ? id : 0) * width;
    out += size_t(blockIdx.x) * width;
    const int first = (blockIdx.y * THREADS + threadIdx.x) * PER_VECTOR;
    if (first >= width) return;
    if (width % PER_VECTOR == 0) {
        const Vector16 packed = inside ? load16(row + first) : zero16();
        Vector16 wide[2];
        for (int i = 0; i < 4; i++) {
            wide[i / 2].word[i % 2 * 2] = __float_as_uint(low_half<T>(packed.word[i]));
            wide[i / 2].word[i % 2 * 2 + 1] = __float_as_uint(high_half<T>(packed.word[i]));
        }
        store16(out + first, wide[0]);
        store16(out + first + 4, wide[1]);
        return;
    }
    for (int i = first; i < min(first + PER_VECTOR, width); i++) out[i] = inside ? to_float(row[i]) : 0.0f;
}

KERNEL(embed_tokens_bf16, THREADS)
(const bf16* table, const uint32_t* ids, const uint32_t* chosen, float* out, int size, int width) {
    embed_tokens(table, ids, chosen, out, size, width);
}
REGISTER_KERNEL(embed_tokens_bf16)

KERNEL(embed_tokens_f16, THREADS)
(const f16* table, const uint32_t* ids, const uint32_t* chosen, float* out, int size, int width) {
    embed_tokens(table, ids, chosen, out, size, width);
}
REGISTER_KERNEL(embed_tokens_f16)

// out (m, units) = x (size, units) at rows (m), zero where a row is outside of x. Copies bits, in units of 2 bytes, so
// that it does for every type.
KERNEL(gather_rows, THREADS)
(const uint16_t* __restrict__ x, const uint32_t* __restrict__ rows, uint16_t* __restrict__ out, int size, int units) {
    const uint32_t from = rows[blockIdx.x];
    const bool inside = from < uint32_t(size);
    const uint16_t* row = x + size_t(inside ? from : 0) * units;
    out += size_t(blockIdx.x) * units;
    const int first = (blockIdx.y * THREADS + threadIdx.x) * PER_VECTOR;
    if (first >= units) return;
    if (units % PER_VECTOR == 0) {
        store16(out + first, inside ? load16(row + first) : zero16());
        return;
    }
    for (int i = first; i < min(first + PER_VECTOR, units); i++) out[i] = inside ? row[i] : uint16_t(0);
}
REGISTER_KERNEL(gather_rows)
