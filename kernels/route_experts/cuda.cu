// Chooses each token's experts and groups what they are to do. Both are the same for every order of threads.
#include "gpu.cuh"

constexpr int ROUTE_THREADS = 128; // a warp per token
constexpr int GROUP_THREADS = 512;
constexpr uint32_t NOWHERE = 0xffffffffu; // the slot and the expert of a padded row

namespace {

// Floats in the order of their keys: -NaN, -infinity, .., -0, +0, .., infinity, NaN (IEEE 754, totalOrder).
__device__ __forceinline__ int order_key(float value) {
    const int bits = __float_as_int(value);
    return bits ^ int(uint32_t(bits >> 31) >> 1);
}

} // namespace

// The experts (n, k) of the highest logits (n, num_experts), of equal ones the lower expert first, and their softmax
// weights (n, k). The softmax over all experts cancels out when the best are renormalised to add up to 1. A token whose
// slot (n) is that of padding gets no expert, with weight 0; `slots` may be null.
KERNEL(route_experts, ROUTE_THREADS)
(const float* __restrict__ logits, const uint32_t* __restrict__ slots, uint32_t* __restrict__ experts,
 float* __restrict__ weights, int tokens, int num_experts, int k) {
    const int lane = threadIdx.x % 32;
    const int token = blockIdx.x * (ROUTE_THREADS / 32) + threadIdx.x / 32;
    if (token >= tokens) return;
    logits += size_t(token) * num_experts;
    experts += size_t(token) * k;
    weights += size_t(token) * k;
    if (slots && slots[token] == NOWHERE) {
        if (lane < k) experts[lane] = NOWHERE, weights[lane] = 0;
        return;
    }
    uint32_t taken = 0; // bit i: expert lane + 32 i
    float mine = 0;     // lane r has the logit of rank r, then its exponential
    float highest = 0;
    for (int rank = 0; rank < k; rank++) {
        int best = num_experts, best_key = INT_MIN;
        for (int i = 0, expert = lane; expert < num_experts; i++, expert += 32) {
            const int key = order_key(logits[expert]);
            if (!(taken >> i & 1) && (best == num_experts || key > best_key)) best = expert, best_key = key;
        }
        for (int mask = 16; mask > 0; mask >>= 1) {
            const int other = __shfl_xor_sync(ALL_LANES, best, mask);
            const int other_key = __shfl_xor_sync(ALL_LANES, best_key, mask);
            // Whoever has no expert left shows the lowest key and the highest number, and loses.
            if (other_key > best_key || (other_key == best_key && other < best)) best = other, best_key = other_key;
        }
        if (best % 32 == lane) taken |= 1u << best / 32;
        const float logit = logits[best];
        if (rank == 0) highest = logit;
        if (rank == lane) mine = expf(logit - highest), experts[rank] = best;
    }
    float total = 0;
    for (int rank = 0; rank < k; rank++) total += __shfl_sync(ALL_LANES, mine, rank);
    if (lane < k) weights[lane] = mine / total;
}
REGISTER_KERNEL(route_experts)

namespace {

// Counts the votes of the threads before this one, and those of all: a block of GROUP_THREADS. `scratch` holds a number
// per warp and may be reused after the next barrier.
__device__ __forceinline__ int votes_before(bool vote, int* scratch, int& all) {
    const unsigned ballot = __ballot_sync(ALL_LANES, vote);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) scratch[warp] = __popc(ballot);
    __syncthreads();
    int before = __popc(ballot & ((1u << lane) - 1));
    all = 0;
    for (int i = 0; i < GROUP_THREADS / 32; i++) {
        if (i < warp) before += scratch[i];
        all += scratch[i];
    }
    return before;
}

} // namespace

// Sorts the assignments 0 .. count, of which number i is of token i / k at rank i % k, by their expert, and by number
// within an expert: those of expert e are rows[offsets[e]] .. rows[offsets[e + 1] - 1]. Those without an expert are not
// among them. Block e looks through all assignments for those of expert e.
KERNEL(group_by_expert, GROUP_THREADS)
(const uint32_t* __restrict__ experts, uint32_t* __restrict__ rows, uint32_t* __restrict__ offsets, int count) {
    __shared__ int scratch[2][GROUP_THREADS / 32];
    const uint32_t mine = blockIdx.x;
    int lower = 0; // assignments of lower experts: these go before
    for (int i = threadIdx.x; i < count; i += GROUP_THREADS) lower += experts[i] < mine;
    for (int mask = 16; mask > 0; mask >>= 1) lower += __shfl_xor_sync(ALL_LANES, lower, mask);
    if (threadIdx.x % 32 == 0) scratch[1][threadIdx.x / 32] = lower;
    __syncthreads();
    int next = 0;
    for (int warp = 0; warp < GROUP_THREADS / 32; warp++) next += scratch[1][warp];
    if (threadIdx.x == 0) offsets[mine] = next;
    for (int start = 0, turn = 0; start < count; start += GROUP_THREADS, turn ^= 1) {
        const int i = start + threadIdx.x;
        const bool is_mine = i < count && experts[i] == mine;
        int all; // the two halves of `scratch` take turns, so that one barrier per turn is enough
        const int before = votes_before(is_mine, scratch[turn], all);
        if (is_mine) rows[next + before] = i;
        next += all;
    }
    if (threadIdx.x == 0 && mine + 1 == gridDim.x) offsets[gridDim.x] = next;
}
REGISTER_KERNEL(group_by_expert)
