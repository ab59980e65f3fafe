// What the sampling kernels are made of: the order of scores, their weights, and a row's candidates with the two
// questions that are asked about them: where from the most likely one down a mass is reached, and where in the order
// of ids. Nothing is sorted. Sums are in f64 and in an order that depends on the row alone.
#pragma once
#include "gpu.cuh"

namespace {

constexpr int THREADS = 512; // of the kernels that have a block for each row
constexpr int WARPS = THREADS / 32;
constexpr int BINS = 16;
constexpr int BIN_BITS = 4;
constexpr int LISTED = 2048; // more candidates than this are not listed, but looked for in the row every time
static_assert(BINS == WARPS, "a warp for each bin");

constexpr uint32_t NONE = 0xffffffffu;
constexpr float MASKED = -INFINITY;

// Scores as integers of the same order, -0 below 0. There is no NaN.
__device__ __forceinline__ uint32_t key_of(float score) {
    const uint32_t bits = __float_as_uint(score);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float score_of(uint32_t key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
// The lowest and the highest key of the scores that compare equal: -0 is 0.
__device__ __forceinline__ uint32_t lowest_key_of(float score) { return key_of(score == 0 ? -0.0f : score); }
__device__ __forceinline__ uint32_t highest_key_of(float score) { return key_of(score == 0 ? 0.0f : score); }

constexpr int WEIGHT_SCALE = 115;

// 2^115 e^x for x <= 0, and 0 below e^-166: the engine's own exponential (Cephes `expf`), bit for bit, for which no
// product and sum may be fused.
__device__ __forceinline__ float weight_of(float x) {
    const float clamped = x > -166.0f ? x : -166.0f;
    const float round = 12582912.0f; // 1.5 * 2^23: adding it rounds to an integer, which then is in the low bits
    const float shifted = __fadd_rn(__fmul_rn(clamped, 1.44269504088896340736f), round);
    const float n = __fsub_rn(shifted, round);
    const float r = __fsub_rn(__fsub_rn(clamped, __fmul_rn(n, 0.6933594f)), __fmul_rn(n, -2.1219444e-4f));
    float p = 1.9875691e-4f;
    p = __fadd_rn(__fmul_rn(p, r), 1.3981999e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 8.333452e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 4.1665796e-2f);
    p = __fadd_rn(__fmul_rn(p, r), 0.16666665f);
    p = __fadd_rn(__fmul_rn(p, r), 0.5f);
    const float power = __uint_as_float((__float_as_uint(shifted) + 127 + WEIGHT_SCALE) << 23);
    const float e = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(p, r), r), r), 1.0f);
    return x < -166.0f ? 0.0f : __fmul_rn(e, power);
}

__device__ __forceinline__ double warp_sum(double value) {
    for (int mask = 16; mask > 0; mask >>= 1) value += __shfl_xor_sync(ALL_LANES, value, mask);
    return value;
}

// The sum of the lanes up to this one.
template <typename T> __device__ __forceinline__ T warp_running_sum(T value) {
    for (int by = 1; by < 32; by *= 2) {
        const T before = __shfl_up_sync(ALL_LANES, value, by);
        if (int(threadIdx.x % 32) >= by) value += before;
    }
    return value;
}

// Candidates of one row, by ascending id: a list, or with `ids` null the part of the row from `first`, of which those
// count that `filtered` leaves.
struct Candidates {
    const float* scores;
    const float* weights; // of a list
    const uint32_t* ids;  // of a list
    int first;            // of a part of the row
    int count;
    float max;         // of the row
    float temperature;
    float floor;       // no stage keeps a lower score
    float log_min_p;   // least logarithm of a weight, relative to the heaviest

    __device__ __forceinline__ float log_weight(float score) const { return (score - max) / temperature; }
    __device__ __forceinline__ float filtered(float score) const {
        return score >= floor && log_weight(score) >= log_min_p ? score : MASKED;
    }
    __device__ __forceinline__ float score(int i) const { return ids ? scores[i] : filtered(scores[first + i]); }
    __device__ __forceinline__ float weight(int i) const { return ids ? weights[i] : weight_of(log_weight(score(i))); }
    __device__ __forceinline__ uint32_t id(int i) const { return ids ? ids[i] : uint32_t(first + i); }
};

// The dynamic shared memory of a block: `collect` first marks candidates where `select` later has its bins.
struct Workspace {
    double* bins;   // (BINS, THREADS)
    uint32_t* ids;  // (LISTED), as are the next two
    float* scores;
    float* weights;

    __device__ explicit Workspace(double* memory)
        : bins(memory), ids(reinterpret_cast<uint32_t*>(memory + BINS * THREADS)),
          scores(reinterpret_cast<float*>(ids + LISTED)), weights(scores + LISTED) {}
};

// Where a mass is reached.
struct Boundary {
    uint32_t key;   // the lowest key of the range where it happens; the range is one key if no bits were left
    double missing; // what the keys above the range leave to be reached
    bool reached;   // false if all together are less. Meant for sums that are exact, such as numbers of ids
};

// Finds where the mass of the keys from `high` down reaches `target`, among keys of at least `low`, down to a range of
// 2^`bits_left` keys. Each pass divides the range by 16. A thread has bins of its own, so there is no contention
// however the scores lie, and the order of the additions is fixed. Every thread has the result.
template <typename WeightOf>
__device__ __forceinline__ Boundary select(const Candidates& of, WeightOf weight, uint32_t low, uint32_t high, double target,
                           int bits_left, double* bins) {
    __shared__ double sums[BINS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int bits = 32 - __clz(int(high - low));
    Boundary boundary{low, target, true};
    while (bits > bits_left) {
        const int shift = bits > BIN_BITS ? bits - BIN_BITS : 0;
        for (int bin = 0; bin < BINS; bin++) bins[bin * THREADS + threadIdx.x] = 0;
        for (int i = threadIdx.x; i < of.count; i += THREADS) {
            const float score = of.score(i);
            const uint32_t key = key_of(score), offset = key - boundary.key;
            if (score == MASKED || key < boundary.key || (bits < 32 && offset >> bits != 0)) continue;
            bins[(offset >> shift) * THREADS + threadIdx.x] += weight(i);
        }
        __syncthreads();
        double sum = 0;
#pragma unroll 4
        for (int i = lane; i < THREADS; i += 32) sum += bins[warp * THREADS + i];
        sum = warp_sum(sum);
        if (lane == 0) sums[warp] = sum;
        __syncthreads();
        // The last bin that weighs anything stands in if rounding left the target beyond all of them.
        uint32_t at = 0;
        double missing = boundary.missing, before = missing;
        bool reached = false;
#pragma unroll 4
        for (int bin = BINS - 1; bin >= 0 && !reached; bin--) {
            if (!(sums[bin] > 0)) continue;
            at = bin;
            before = missing;
            missing -= sums[bin];
            reached = missing <= 0;
        }
        boundary.key += at << shift;
        boundary.missing = before;
        boundary.reached = boundary.reached && reached;
        bits = shift;
    }
    __syncthreads(); // the bins and their sums may be overwritten
    return boundary;
}

// Candidates by the warp that adds them up.
__device__ __forceinline__ int segment_begin(int count, int warp) {
    return min(count, (count + THREADS - 1) / THREADS * 32 * warp);
}

// The mass of each warp's part, into `masses` (WARPS), and of all.
template <typename WeightOf> __device__ __forceinline__ double sum_segments(const Candidates& of, WeightOf weight, double* masses) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    double sum = 0;
    for (int i = segment_begin(of.count, warp) + lane; i < segment_begin(of.count, warp + 1); i += 32) sum += weight(i);
    sum = warp_sum(sum);
    __syncthreads(); // nobody reads earlier masses any more
    if (lane == 0) masses[warp] = sum;
    __syncthreads();
    double total = 0;
#pragma unroll 4
    for (int i = 0; i < WARPS; i++) total += masses[i];
    return total;
}

// The first candidate where the running sum exceeds `target`; if rounding left the target beyond the sum, the last one
// that has any weight; -1 if none has. `masses` is from `sum_segments`.
template <typename WeightOf>
__device__ __forceinline__ int position_at(const Candidates& of, WeightOf weight, const double* masses, double target) {
    __shared__ int position;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int segment = -1;
    double rest = target, within = target;
#pragma unroll 4
    for (int i = 0; i < WARPS; i++) {
        if (!(masses[i] > 0)) continue;
        segment = i;
        within = rest;
        rest -= masses[i];
        if (rest < 0) break;
    }
    if (threadIdx.x == 0 && segment < 0) position = -1;
    if (warp == segment) {
        int found = -1;
        const int end = segment_begin(of.count, warp + 1);
        for (int begin = segment_begin(of.count, warp); begin < end; begin += 32) {
            const double mine = begin + lane < end ? double(weight(begin + lane)) : 0.0;
            const double running = warp_running_sum(mine);
            const unsigned weighing = __ballot_sync(ALL_LANES, mine > 0);
            const unsigned beyond = __ballot_sync(ALL_LANES, mine > 0 && within - running < 0);
            if (weighing) found = begin + 31 - __clz(int(weighing));
            if (beyond) {
                found = begin + __ffs(int(beyond)) - 1;
                break;
            }
            within -= __shfl_sync(ALL_LANES, running, 31);
        }
        if (lane == 0) position = found;
    }
    __syncthreads();
    const int result = position;
    __syncthreads(); // the next call may overwrite it
    return result;
}

// Lists the ids of a row (vocab) whose scores `of.filtered` leaves, if they are few; otherwise returns all of the row,
// to be filtered. `maxima` are those of every 32 neighbours: most of them lie below the floor and are passed over.
__device__ __forceinline__ Candidates collect(Candidates of, const float* maxima, int vocab, const Workspace& workspace) {
    __shared__ int counts[WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int groups = (vocab + 31) / 32;
    uint32_t* marks = reinterpret_cast<uint32_t*>(workspace.bins); // (groups), a bit for each id
    for (int begin = warp * 32; begin < groups; begin += THREADS) {
        const float best = begin + lane < groups ? maxima[begin + lane] : MASKED;
        unsigned open = __ballot_sync(ALL_LANES, best > MASKED && best >= of.floor);
        uint32_t mine = 0;
        while (open) {
            constexpr int AT_ONCE = 4; // loads under way together
            int group[AT_ONCE];
            float score[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                group[i] = open ? __ffs(int(open)) - 1 : -1;
                open &= open - 1;
                const int id = (begin + group[i]) * 32 + lane;
                score[i] = group[i] >= 0 && id < vocab ? of.scores[id] : MASKED;
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const unsigned kept = __ballot_sync(ALL_LANES, of.filtered(score[i]) > MASKED);
                if (lane == group[i]) mine = kept;
            }
        }
        if (begin + lane < groups) marks[begin + lane] = mine;
    }
    __syncthreads();
    const int each = (groups + THREADS - 1) / THREADS;
    const int first = min(groups, int(threadIdx.x) * each), last = min(groups, first + each);
    int count = 0;
    for (int group = first; group < last; group++) count += __popc(marks[group]);
    const int running = warp_running_sum(count);
    if (lane == 31) counts[warp] = running;
    __syncthreads();
    int place = running - count, total = 0;
    for (int i = 0; i < WARPS; i++) {
        if (i < warp) place += counts[i];
        total += counts[i];
    }
    of.first = 0;
    of.count = vocab;
    if (total <= LISTED) {
        for (int group = first; group < last; group++) {
            for (uint32_t mark = marks[group]; mark != 0; mark &= mark - 1)
                workspace.ids[place++] = group * 32 + __ffs(int(mark)) - 1;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < total; i += THREADS) {
            const float score = of.scores[workspace.ids[i]];
            workspace.scores[i] = score;
            workspace.weights[i] = weight_of(of.log_weight(score));
        }
        of.scores = workspace.scores;
        of.weights = workspace.weights;
        of.ids = workspace.ids;
        of.count = total;
    }
    __syncthreads(); // the list is there, and the marks may be overwritten
    return of;
}

// A score that at least `n` ids reach: about the n-th largest of the `maxima` of disjoint groups.
__device__ __forceinline__ float floor_of(const float* maxima, int groups, int n, float max, double* bins) {
    if (n > groups) return MASKED;
    constexpr int BITS_LEFT = 16; // 1/128 of a power of two: near enough
    const Candidates of{maxima, nullptr, nullptr, 0, groups, max, 1.0f, MASKED, MASKED};
    const auto one = [](int) { return 1.0; };
    const Boundary boundary = select(of, one, key_of(MASKED) + 1, highest_key_of(max), double(n), BITS_LEFT, bins);
    return boundary.reached ? score_of(boundary.key) : MASKED;
}

} // namespace
