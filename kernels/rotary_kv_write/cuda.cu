// Rotates queries and keys (arXiv 2104.09864, half-split: element i of a head with element i + head_dim / 2) and writes
// keys and values to the paged cache. What a step changes - slots and positions - is read from device memory.
#include "gpu.cuh"

constexpr int THREADS = 128;

namespace { // names that other operators use too

struct Operands {
    const uint32_t* __restrict__ slots;     // (n)
    const uint32_t* __restrict__ positions; // (n)
    const float* __restrict__ cos_sin;      // (max_positions, head_dim): cosines, then sines
    const float* __restrict__ query_scale;  // (max_positions), or null for 1
    int heads, kv_heads, head_dim, num_slots, max_positions;
};

// `COUNT` neighbouring elements, as f32. Addresses of eight are multiples of 16 bytes.
template <int COUNT, typename T> __device__ __forceinline__ void read(const T* from, float (&values)[COUNT]) {
    if constexpr (COUNT == 8 && sizeof(T) == 4) {
        for (int i = 0; i < 8; i++) values[i] = __uint_as_float(load16(from + i / 4 * 4).word[i % 4]);
    } else if constexpr (COUNT == 8) {
        const Vector16 packed = load16(from);
        for (int i = 0; i < 4; i++) {
            values[2 * i] = low_half<T>(packed.word[i]);
            values[2 * i + 1] = high_half<T>(packed.word[i]);
        }
    } else {
        for (int i = 0; i < COUNT; i++) values[i] = to_float(from[i]);
    }
}
template <int COUNT, typename T> __device__ __forceinline__ void write(T* to, const float (&values)[COUNT]) {
    if constexpr (COUNT == 8) {
        Vector16 packed;
        for (int i = 0; i < 4; i++) packed.word[i] = pack<T>(values[2 * i], values[2 * i + 1]);
        store16(to, packed);
    } else {
        for (int i = 0; i < COUNT; i++) to[i] = from_float<T>(values[i]);
    }
}

// qkv (n, (heads + 2 kv_heads) head_dim) -> queries (n, heads head_dim), cache (2, num_slots, kv_heads, head_dim).
// Block (token, part); a thread takes `COUNT` elements of the lower half of a head and their partners.
template <typename T, int COUNT>
__device__ void rotary_kv_write(const T* qkv, T* __restrict__ queries, T* __restrict__ cache,
                                const Operands& operands) {
    const int half = operands.head_dim / 2, per_head = half / COUNT;
    const int item = blockIdx.y * THREADS + threadIdx.x;
    const int head = item / per_head, first = item % per_head * COUNT;
    const int heads = operands.heads, kv_heads = operands.kv_heads;
    if (head >= heads + 2 * kv_heads) return;
    const size_t token = blockIdx.x;
    const uint32_t slot = operands.slots[token];
    const bool padded = slot >= uint32_t(operands.num_slots); // as 2^32 - 1 says, or simply no slot of this cache
    const bool is_query = head < heads;
    T* to;
    if (is_query) {
        to = queries + (token * heads + head) * operands.head_dim + first;
    } else {
        if (padded) return;
        const int head_of_two = head - heads; // keys, then values
        const size_t row = size_t(head_of_two / kv_heads) * operands.num_slots + slot;
        to = cache + (row * kv_heads + head_of_two % kv_heads) * operands.head_dim + first;
    }
    float x[COUNT] = {}, y[COUNT] = {};
    if (!padded) {
        const T* from = qkv + (token * (heads + 2 * kv_heads) + head) * operands.head_dim + first;
        read(from, x);
        read(from + half, y);
        if (head < heads + kv_heads) {
            const uint32_t position = min(operands.positions[token], uint32_t(operands.max_positions - 1));
            const float* row = operands.cos_sin + size_t(position) * operands.head_dim + first;
            float cos[COUNT], sin[COUNT];
            read(row, cos);
            read(row + half, sin);
            const float scale = is_query && operands.query_scale ? operands.query_scale[position] : 1.0f;
            for (int i = 0; i < COUNT; i++) {
                const float before = x[i];
                x[i] = (before * cos[i] - y[i] * sin[i]) * scale;
                y[i] = (y[i] * cos[i] + before * sin[i]) * scale;
            }
        }
    }
    write(to, x);
    write(to + half, y);
}

} // namespace

// Heads whose halves are whole vectors, and any others.
#define ROTARY(name, T, COUNT)                                                                                        \
    KERNEL(name, THREADS)                                                                                             \
    (const T* qkv, T* queries, T* cache, const uint32_t* slots, const uint32_t* positions, const float* cos_sin,      \
     const float* query_scale, int heads, int kv_heads, int head_dim, int num_slots, int max_positions) {             \
        wait_for_earlier_launches();                                                                                  \
        const Operands operands{slots, positions, cos_sin, query_scale, heads, kv_heads, head_dim, num_slots, max_positions};\
        rotary_kv_write<T, COUNT>(qkv, queries, cache, operands);                                                     \
    }                                                                                                                 \
    REGISTER_KERNEL(name)

ROTARY(rotary_kv_write_bf16, bf16, 8)
ROTARY(rotary_kv_write_f16, f16, 8)
ROTARY(rotary_kv_write_bf16_any, bf16, 1)
ROTARY(rotary_kv_write_f16_any, f16, 1)
