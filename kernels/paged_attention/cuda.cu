// Causal grouped-query attention over the paged cache: the entry points, by type and head_dim. The algorithms are in
// decode.cuh and prefill.cuh, what they share in tile.cuh.
#include "decode.cuh"
#include "prefill.cuh"

#define PAGED_DECODE(T, head_dim)                                                                                           \
    KERNEL(paged_decode_##T##_##head_dim, DECODE_THREADS)                                                                   \
    (const T* q, const T* cache, const uint32_t* context_lens, const uint32_t* block_tables, T* out, float* partials,       \
     unsigned* counters, int num_blocks, int block_shift, int table_stride, int kv_heads, int group, int window,            \
     float scale) {                                                                                                         \
        paged_decode<T, head_dim>(q, cache, context_lens, block_tables, out, partials, counters, num_blocks, block_shift,   \
                                  table_stride, kv_heads, group, window, scale);                                            \
    }                                                                                                                       \
    REGISTER_KERNEL(paged_decode_##T##_##head_dim)

#define PAGED_PREFILL(T, head_dim)                                                                                          \
    KERNEL(paged_prefill_##T##_##head_dim, PREFILL_THREADS)                                                                 \
    (const T* q, const T* cache, const uint32_t* tiles, const uint32_t* query_starts, const uint32_t* query_lens,           \
     const uint32_t* context_lens, const uint32_t* block_tables, T* out, int num_blocks, int block_shift,                   \
     int table_stride, int kv_heads, int group, int window, float scale) {                                                  \
        paged_prefill<T, head_dim>(q, cache, tiles, query_starts, query_lens, context_lens, block_tables, out, num_blocks,  \
                                   block_shift, table_stride, kv_heads, group, window, scale);                              \
    }                                                                                                                       \
    REGISTER_KERNEL(paged_prefill_##T##_##head_dim)

PAGED_DECODE(bf16, 32)
PAGED_DECODE(bf16, 64)
PAGED_DECODE(bf16, 96)
PAGED_DECODE(bf16, 128)
PAGED_DECODE(f16, 32)
PAGED_DECODE(f16, 64)
PAGED_DECODE(f16, 96)
PAGED_DECODE(f16, 128)

PAGED_PREFILL(bf16, 32)
PAGED_PREFILL(bf16, 64)
PAGED_PREFILL(bf16, 96)
PAGED_PREFILL(bf16, 128)
PAGED_PREFILL(f16, 32)
PAGED_PREFILL(f16, 64)
PAGED_PREFILL(f16, 96)
PAGED_PREFILL(f16, 128)
