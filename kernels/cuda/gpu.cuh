// What every cuda.cu is written against: 16-bit floats, warp reductions, 16-byte accesses, tensor cores,
// asynchronous copies. With nvcc these are intrinsics and PTX; elsewhere kernels/emulation stands in.
#pragma once
#include <cstdint>
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
// `KERNEL(name, threads)(parameters) { ... }`: an entry point for blocks of at most `threads` threads. With a third
// argument the compiler limits registers such that a multiprocessor has room for so many blocks.
#define KERNEL(name, ...) extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name
#define REGISTER_KERNEL(name)
// The block's dynamic shared memory, 16-byte aligned, as an array of `type`.
#define DYNAMIC_SHARED(type, name)                                      \
    extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[]; \
    type* name = reinterpret_cast<type*>(dynamic_shared_bytes)
using bf16 = __nv_bfloat16;
using f16 = __half;
#else
#include "emulation.h"
struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };
#endif

constexpr unsigned ALL_LANES = 0xffffffffu;

// ---- 16-bit floats -------------------------------------------------------------------------------------------------

__device__ __forceinline__ float to_float(float value) { return value; }
#ifdef __CUDACC__
__device__ __forceinline__ float to_float(bf16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float to_float(f16 value) { return __half2float(value); }
__device__ __forceinline__ void round_to(float value, bf16& to) { to = __float2bfloat16_rn(value); }
__device__ __forceinline__ void round_to(float value, f16& to) { to = __float2half_rn(value); }
#else
// The C++ of GCC 12 and before has no `_Float16` on aarch64, where `__fp16` is the same format.
#ifdef __aarch64__
using float16 = __fp16;
#else
using float16 = _Float16;
#endif
inline float to_float(bf16 value) { return __uint_as_float(unsigned(value.bits) << 16); }
inline float to_float(f16 value) { float16 half; std::memcpy(&half, &value.bits, 2); return float(half); }
inline void round_to(float value, bf16& to) {
    const unsigned bits = __float_as_uint(value);
    to.bits = value != value ? 0x7fff : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline void round_to(float value, f16& to) { const float16 half = float16(value); std::memcpy(&to.bits, &half, 2); }
#endif
__device__ __forceinline__ void round_to(float value, float& to) { to = value; }

// Rounds to nearest, ties to even.
template <typename T> __device__ __forceinline__ T from_float(float value) {
    T rounded;
    round_to(value, rounded);
    return rounded;
}

// Two 16-bit floats in one register, `low` in the low half, as tensor core fragments hold them.
template <typename T> __device__ __forceinline__ uint32_t pack(float low, float high) {
    const T pair[2] = {from_float<T>(low), from_float<T>(high)};
    uint16_t bits[2];
    memcpy(bits, pair, 4);
    return bits[0] | uint32_t(bits[1]) << 16;
}
template <typename T> __device__ __forceinline__ float low_half(uint32_t packed) {
    const uint16_t bits = uint16_t(packed);
    T value;
    memcpy(&value, &bits, 2);
    return to_float(value);
}
template <typename T> __device__ __forceinline__ float high_half(uint32_t packed) { return low_half<T>(packed >> 16); }

// ---- Memory --------------------------------------------------------------------------------------------------------

// 16 bytes, eight 16-bit floats. Addresses of loads and stores are multiples of 16.
struct alignas(16) Vector16 { uint32_t word[4]; };

__device__ __forceinline__ Vector16 load16(const void* from) { return *static_cast<const Vector16*>(from); }
__device__ __forceinline__ void store16(void* to, const Vector16& value) { *static_cast<Vector16*>(to) = value; }
__device__ __forceinline__ Vector16 zero16() { return Vector16{{0, 0, 0, 0}}; }

// A load of what is read once, such as weights: passes the first-level cache by. Read-only for the whole kernel.
__device__ __forceinline__ Vector16 load16_streaming(const void* from) {
#ifdef __CUDACC__
    Vector16 value;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.word[0]), "=r"(value.word[1]), "=r"(value.word[2]), "=r"(value.word[3]) : "l"(from));
    return value;
#else
    return load16(from);
#endif
}

// The same, or zeros if `valid` is false (`from` is then not read).
__device__ __forceinline__ Vector16 load16_streaming(const void* from, bool valid) {
#ifdef __CUDACC__
    Vector16 value;
    asm volatile("{.reg .pred p; setp.ne.u32 p, %5, 0; mov.u32 %0, 0; mov.u32 %1, 0; mov.u32 %2, 0; mov.u32 %3, 0;\n"
                 "@p ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];}"
                 : "=&r"(value.word[0]), "=&r"(value.word[1]), "=&r"(value.word[2]), "=&r"(value.word[3])
                 : "l"(from), "r"(unsigned(valid)));
    return value;
#else
    return valid ? load16(from) : zero16();
#endif
}

// Starts a copy of 16 bytes from global to shared memory; writes zeros if `valid` is false (`from` is then not read).
// Nothing may be read before `copy_wait` and a barrier.
__device__ __forceinline__ void copy16_async(void* shared, const void* from, bool valid) {
#ifdef __CUDACC__
    const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
#else
    emulation::self().open.push_back({shared, valid ? from : nullptr, 16});
#endif
}

// The same, where the rest of the 256 bytes around is copied soon: the second-level cache reads them in one go.
__device__ __forceinline__ void copy16_async_256(void* shared, const void* from, bool valid) {
#ifdef __CUDACC__
    const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
#else
    copy16_async(shared, from, valid);
#endif
}

// Closes the group of copies begun since the last call.
__device__ __forceinline__ void copy_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    auto& thread = emulation::self();
    thread.groups.push_back(std::move(thread.open));
    thread.open.clear();
#endif
}

// Waits until at most `PENDING` of this thread's latest groups are under way.
template <int PENDING> __device__ __forceinline__ void copy_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#else
    auto& thread = emulation::self(); // the emulation copies as late as it may, to show a missing wait
    if (thread.groups.size() > size_t(PENDING)) emulation::land(thread, thread.groups.size() - PENDING);
#endif
}

// ---- Launches ------------------------------------------------------------------------------------------------------

// A launch that `Launch::overlapping` marks may begin before those in front of it have ended (PTX ISA, griddepcontrol).
// Every thread of its kernel calls this before it reads what any launch may have written, and before it writes anything:
// then all earlier launches have ended, for the one in front has done the same. What they write must not be `const
// __restrict__` here: that says it does not change while the kernel runs, and its loads may be moved in front of this.
// Then the next launch may begin, if it is marked: as soon as all blocks of this one have come here and there is room.
__device__ __forceinline__ void wait_for_earlier_launches() {
#ifndef __CUDACC__
    emulation::self().waited = true;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---- Barriers ------------------------------------------------------------------------------------------------------

// A barrier for each of a block's groups of `THREADS` neighbouring threads, whole warps of it, by itself (PTX ISA, bar). A
// block has at most 15 groups, and one size of group.
template <int THREADS> __device__ __forceinline__ void sync_group() {
    static_assert(THREADS % 32 == 0, "whole warps");
#ifdef __CUDACC__
    asm volatile("bar.sync %0, %1;" ::"r"(1 + threadIdx.x / THREADS), "n"(THREADS) : "memory"); // __syncthreads is 0
#else
    with_late_copies([] { emulation::group_barrier(THREADS); });
#endif
}

// ---- Warps ---------------------------------------------------------------------------------------------------------

// The order of the additions is the same in every lane and for every launch.
__device__ __forceinline__ float warp_sum(float value) {
    for (int mask = 16; mask > 0; mask >>= 1) value += __shfl_xor_sync(ALL_LANES, value, mask);
    return value;
}
__device__ __forceinline__ float warp_max(float value) {
    for (int mask = 16; mask > 0; mask >>= 1) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, mask));
    return value;
}

// The sum over a block of `THREADS` threads, in every thread. `scratch` holds THREADS / 32 floats of shared memory and
// may be reused after the next barrier.
template <int THREADS> __device__ __forceinline__ float block_sum(float value, float* scratch) {
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    float total = 0;
    for (int warp = 0; warp < THREADS / 32; warp++) total += scratch[warp];
    return total;
}

// ---- Tensor cores (PTX ISA, section "Matrix multiply-accumulate operation using mma instruction") --------------------

// d (16, 8) += a (16, 16) b (16, 8) for one warp, f32 accumulation. With g = lane / 4 and t = lane % 4 a lane holds
//   a: rows g, g + 8, g, g + 8 at columns 2t, 2t, 2t + 8, 2t + 8 (two neighbours each);
//   b: column g at rows 2t and 2t + 8 (two neighbours each);
//   d: row g at columns 2t, 2t + 1, then row g + 8 at the same.
template <typename T> __device__ __forceinline__ void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

#ifdef __CUDACC__
#define TRAMONTANE_MMA(T, type)                                                                                             \
    template <> __device__ __forceinline__ void mma_16x8x16<T>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 "                                         \
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                     \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                      \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                  \
    }
TRAMONTANE_MMA(bf16, "bf16")
TRAMONTANE_MMA(f16, "f16")
#undef TRAMONTANE_MMA
#else
template <typename T> inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    struct Fragments { uint32_t a[4], b[2]; } mine;
    std::memcpy(mine.a, a, sizeof a);
    std::memcpy(mine.b, b, sizeof b);
    const auto shown = emulation::exchange(mine);
    const unsigned g = emulation::lane() / 4, t = emulation::lane() % 4;
    for (unsigned element = 0; element < 4; element++) {
        const unsigned row = g, column = 2 * t + element % 2;
        const bool lower = element >= 2; // row g + 8
        for (unsigned quarter = 0; quarter < 4; quarter++) { // columns 2 * quarter, + 1 of a, then those + 8
            const Fragments of_a = shown(row * 4 + quarter), of_b = shown(column * 4 + quarter);
            for (unsigned half = 0; half < 2; half++) {
                const uint32_t x = of_a.a[2 * half + lower], y = of_b.b[half];
                d[element] += low_half<T>(x) * low_half<T>(y);
                d[element] += high_half<T>(x) * high_half<T>(y);
            }
        }
    }
}
#endif

// Loads four 8 x 8 matrices of 16-bit elements from shared memory. Lane i gives the address of row i % 8 of matrix
// i / 8 (16 bytes, aligned). With g and t as above, `out[m]` is elements (g, 2t) and (g, 2t + 1) of matrix m; in the
// transposed form elements (2t, g) and (2t + 1, g).
__device__ __forceinline__ void load_matrices(uint32_t (&out)[4], const void* row) {
#ifdef __CUDACC__
    const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(from) : "memory");
#else
    const auto shown = emulation::exchange(row);
    const unsigned g = emulation::lane() / 4, t = emulation::lane() % 4;
    for (unsigned matrix = 0; matrix < 4; matrix++)
        std::memcpy(&out[matrix], static_cast<const uint16_t*>(shown(matrix * 8 + g)) + 2 * t, 4);
    emulation::warp_barrier(); // nobody overwrites a row that another lane still reads
#endif
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&out)[4], const void* row) {
#ifdef __CUDACC__
    const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(from) : "memory");
#else
    const auto shown = emulation::exchange(row);
    const unsigned g = emulation::lane() / 4, t = emulation::lane() % 4;
    for (unsigned matrix = 0; matrix < 4; matrix++) {
        const uint32_t low = static_cast<const uint16_t*>(shown(matrix * 8 + 2 * t))[g];
        const uint32_t high = static_cast<const uint16_t*>(shown(matrix * 8 + 2 * t + 1))[g];
        out[matrix] = low | high << 16;
    }
    emulation::warp_barrier();
#endif
}
