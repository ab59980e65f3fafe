// Runs CUDA kernels on the CPU, so that what a GPU would compute can be tested where there is none.
//
// Blocks run one after the other. The threads of a block are fibers that switch at barriers and warp operations, in
// one of three orders (a missing barrier shows as another result under another order); with EMULATE_WITH_THREADS they
// are operating system threads, for ThreadSanitizer and AddressSanitizer. Shared memory begins as NaN. A barrier that
// some threads never reach ends the process with a message.
//
// Limits: blocks are multiples of 32 threads, and warp operations concern all 32 lanes; there is no memory that is
// weaker than the CPU's, no limit of registers, and blocks never run at the same time.
#pragma once
#include <algorithm>
#include <atomic>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>
#ifdef EMULATE_WITH_THREADS
#include <barrier>
#include <thread>
#else
#include <setjmp.h>
#include <ucontext.h>
#endif

namespace emulation {

constexpr unsigned WARP_SIZE = 32;
constexpr size_t SLOT_BYTES = 64;
constexpr size_t STACK_BYTES = 64 << 10;

struct Dim3 {
    unsigned x = 1, y = 1, z = 1;
    unsigned count() const { return x * y * z; }
};

// An asynchronous copy that has been asked for and not yet waited for.
struct PendingCopy {
    void* to;
    const void* from; // null: zeros
    size_t bytes;
};

// What the lanes of a warp show each other. Two phases, so that one barrier per operation is enough: whoever
// overwrites a phase has passed the barrier of the other one.
struct Exchange {
    alignas(16) unsigned char slot[2][WARP_SIZE][SLOT_BYTES];
#ifdef EMULATE_WITH_THREADS
    std::barrier<> arrived{WARP_SIZE};
#endif
};

enum class Wait : uint8_t { Nothing, Warp, Group, Block, Ended };
enum class Order : int { Forward, Reverse, Shuffled };

struct Thread {
    Dim3 index;
    unsigned linear = 0;
    unsigned phase = 0;
    Wait wait = Wait::Nothing;
    unsigned group = 0;                           // of so many neighbours, if it waits for a group
    std::vector<PendingCopy> open;                // not committed
    std::vector<std::vector<PendingCopy>> groups; // committed, oldest first
    size_t overdue = 0;                           // of them, how many were under way at the last barrier
    bool waited = false;                          // for earlier launches
#ifndef EMULATE_WITH_THREADS
    bool started = false;
    ucontext_t entry;
    jmp_buf position;
    std::unique_ptr<char[]> stack;
#endif
};

// The oldest `count` groups of copies arrive.
inline void land(Thread& thread, size_t count) {
    for (size_t i = 0; i < count; i++)
        for (const auto& copy : thread.groups[i]) {
            if (copy.from) std::memcpy(copy.to, copy.from, copy.bytes);
            else std::memset(copy.to, 0, copy.bytes);
        }
    thread.groups.erase(thread.groups.begin(), thread.groups.begin() + count);
    thread.overdue -= std::min(thread.overdue, count);
}

struct Launch {
    Dim3 grid, block, block_index;
    std::atomic<bool> not_waited = false; // some thread ended without
    std::vector<float> dynamic_shared;
    std::vector<std::unique_ptr<Thread>> threads;
    std::vector<std::unique_ptr<Exchange>> warps;
    std::function<void()> body;
#ifdef EMULATE_WITH_THREADS
    std::unique_ptr<std::barrier<>> block_barrier;
    std::map<std::pair<unsigned, unsigned>, std::unique_ptr<std::barrier<>>> group_barriers; // by size and index
#else
    jmp_buf scheduler;
    Thread* current = nullptr;
#endif
};

// The launch that this operating system thread works on.
Launch& launch();
// The CUDA thread that runs. Not to be inlined: a fiber must not keep the address of a thread local.
Thread& self();
void block_barrier();
void group_barrier(unsigned size); // of `size` neighbours, a divisor of the block's
void warp_barrier();
void* dynamic_shared();

using Thunk = std::function<void(void**)>;
std::map<std::string, Thunk>& registry();

struct Registration {
    template <typename... Parameters>
    Registration(const char* name, void (*kernel)(Parameters...)) {
        registry()[name] = [kernel](void** arguments) {
            [&]<size_t... Index>(std::index_sequence<Index...>) {
                kernel(*static_cast<std::remove_cv_t<Parameters>*>(arguments[Index])...);
            }(std::index_sequence_for<Parameters...>{});
        };
    }
};

inline unsigned lane() { return self().linear % WARP_SIZE; }

// Every lane shows `value`; the result reads what lane `i` showed.
template <typename T> std::function<T(unsigned)> exchange(T value) {
    static_assert(sizeof(T) <= SLOT_BYTES);
    Thread& thread = self();
    Exchange& warp = *launch().warps[thread.linear / WARP_SIZE];
    const unsigned phase = thread.phase;
    thread.phase ^= 1;
    std::memcpy(warp.slot[phase][thread.linear % WARP_SIZE], &value, sizeof(T));
    warp_barrier();
    return [&warp, phase](unsigned from) {
        T shown;
        std::memcpy(&shown, warp.slot[phase][from % WARP_SIZE], sizeof(T));
        return shown;
    };
}

} // namespace emulation

#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __constant__ static const
#ifdef EMULATE_WITH_THREADS
#define __shared__ static
#else
#define __shared__ static thread_local
#endif
#define threadIdx (emulation::self().index)
#define blockIdx (emulation::launch().block_index)
#define blockDim (emulation::launch().block)
#define gridDim (emulation::launch().grid)

#define KERNEL(name, ...) static void name
#define REGISTER_KERNEL(name) static const emulation::Registration register_##name(#name, &name);
#define DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(emulation::dynamic_shared())

// Copies may land at any time, and the emulation lets them land late, to show what did not wait for them: a barrier does
// not. Those that were under way at one barrier land when their thread comes to the next.
template <typename Barrier> void with_late_copies(Barrier barrier) {
    emulation::land(emulation::self(), emulation::self().overdue);
    barrier();
    emulation::self().overdue = emulation::self().groups.size();
}
inline void __syncthreads() { with_late_copies(emulation::block_barrier); }
inline void __syncwarp(unsigned = ~0u) { emulation::warp_barrier(); }
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }

template <typename T> T __shfl_sync(unsigned, T value, int from) { return emulation::exchange(value)(from); }
template <typename T> T __shfl_xor_sync(unsigned, T value, int mask) { return emulation::exchange(value)(emulation::lane() ^ mask); }
template <typename T> T __shfl_down_sync(unsigned, T value, int by) {
    const unsigned lane = emulation::lane();
    return emulation::exchange(value)(lane + by < emulation::WARP_SIZE ? lane + by : lane);
}
template <typename T> T __shfl_up_sync(unsigned, T value, int by) {
    const unsigned lane = emulation::lane();
    return emulation::exchange(value)(lane >= unsigned(by) ? lane - by : lane);
}
inline unsigned __ballot_sync(unsigned, bool vote) {
    auto shown = emulation::exchange(vote);
    unsigned ballot = 0;
    for (unsigned i = 0; i < emulation::WARP_SIZE; i++) ballot |= unsigned(shown(i)) << i;
    return ballot;
}
inline bool __any_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
inline bool __all_sync(unsigned mask, bool vote) { return __ballot_sync(mask, !vote) == 0; }
inline unsigned __reduce_max_sync(unsigned, unsigned value) {
    auto shown = emulation::exchange(value);
    unsigned largest = 0;
    for (unsigned i = 0; i < emulation::WARP_SIZE; i++) largest = std::max(largest, shown(i));
    return largest;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(unsigned(bits)); }

template <typename T> T atomicAdd(T* address, T value) { return std::atomic_ref<T>(*address).fetch_add(value); }
template <typename T> T atomicOr(T* address, T value) { return std::atomic_ref<T>(*address).fetch_or(value); }
template <typename T> T atomicExch(T* address, T value) { return std::atomic_ref<T>(*address).exchange(value); }
template <typename T> T atomicCAS(T* address, T expected, T value) {
    std::atomic_ref<T>(*address).compare_exchange_strong(expected, value);
    return expected;
}
template <typename T> T atomicMax(T* address, T value) {
    std::atomic_ref<T> cell(*address);
    T seen = cell.load();
    while (seen < value && !cell.compare_exchange_weak(seen, value)) {}
    return seen;
}
inline unsigned atomicInc(unsigned* address, unsigned limit) {
    std::atomic_ref<unsigned> cell(*address);
    unsigned seen = cell.load();
    while (!cell.compare_exchange_weak(seen, seen >= limit ? 0 : seen + 1)) {}
    return seen;
}

inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
// Arithmetic that nvcc does not contract to a fused multiply-add.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __int_as_float(int bits) { float value; std::memcpy(&value, &bits, 4); return value; }
inline int __float_as_int(float value) { int bits; std::memcpy(&bits, &value, 4); return bits; }
inline float __uint_as_float(unsigned bits) { float value; std::memcpy(&value, &bits, 4); return value; }
inline unsigned __float_as_uint(float value) { unsigned bits; std::memcpy(&bits, &value, 4); return bits; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
using std::max;
using std::min;
