// The choice of the next tokens: four kernels for a batch of rows, and one that counts a sequence's tokens. Stages and
// their order are those of the engine's sampler; `cuda.rs` describes the operands.
//
// The passes over whole rows (edits, maxima, exponentials) have a block for each 4096 ids, since a row has up to 131072
// and the batch may be one row. What then is left to do for a row concerns few ids and is done by one block. A row that
// is not active is left alone by all of them.
#include "candidates.cuh"

namespace {

constexpr int CHUNK = 4096;
constexpr int CHUNK_THREADS = 256;
constexpr int STEPS = CHUNK / CHUNK_THREADS; // of a thread; a warp has the 32 ids of a group at every step
constexpr int CHUNK_WARPS = CHUNK_THREADS / 32;

constexpr uint32_t ACTIVE = 1, LOGPROBS = 2;
constexpr uint32_t OK = 0, NOT_FINITE = 1, NOTHING_ALLOWED = 2;
constexpr uint32_t IN_PROMPT = 0x80000000u; // of a count
constexpr int MAX_TOP = 20;

struct Row {
    double uniform;
    uint32_t flags;
    float temperature; // 0: greedy
    uint32_t top_k;
    float top_p, log_min_p, repetition, frequency, presence;
    uint32_t edits_begin, edits_end, mask, counts, next, n_top;

    __device__ bool active() const { return flags & ACTIVE; }
    __device__ bool wants_logprobs() const { return flags & LOGPROBS; }
    __device__ bool edited() const { return mask != NONE || counts != NONE || edits_begin < edits_end; }
    __device__ bool random() const { return temperature > 0; }
    __device__ bool has_top_k(int vocab) const { return top_k > 0 && top_k < uint32_t(vocab); }
    __device__ bool cuts_by_score(int vocab) const { return has_top_k(vocab) || log_min_p > MASKED; }
};
static_assert(sizeof(Row) == 64, "as cuda.rs writes it");

struct Edit { uint32_t id; float bias; };
struct Part { float max; uint32_t id; float logits_max; uint32_t finite; }; // of a chunk, or of a row
struct Mass { double scores, logits; };                                     // of a chunk
struct Chosen { uint32_t token, status; float logprob; uint32_t rank; };
struct Top { uint32_t id; float logprob; };

// The higher score, of equals the lower id.
__device__ __forceinline__ void take_better(float& score, uint32_t& id, float other, uint32_t other_id) {
    if (other > score || (other == score && other_id < id)) {
        score = other;
        id = other_id;
    }
}

__device__ Part warp_merge(Part part) {
    for (int mask = 16; mask > 0; mask >>= 1) {
        const float score = __shfl_xor_sync(ALL_LANES, part.max, mask);
        const uint32_t id = __shfl_xor_sync(ALL_LANES, part.id, mask);
        take_better(part.max, part.id, score, id);
        part.logits_max = fmaxf(part.logits_max, __shfl_xor_sync(ALL_LANES, part.logits_max, mask));
    }
    part.finite = __all_sync(ALL_LANES, part.finite != 0);
    return part;
}

// A row of its chunks, in every thread.
__device__ Part merge_parts(const Part* parts, int chunks) {
    Part part{MASKED, NONE, MASKED, 1};
    for (int i = threadIdx.x % 32; i < chunks; i += 32) {
        take_better(part.max, part.id, parts[i].max, parts[i].id);
        part.logits_max = fmaxf(part.logits_max, parts[i].logits_max);
        part.finite = part.finite && parts[i].finite;
    }
    return warp_merge(part);
}

__device__ __forceinline__ uint32_t status_of(const Part& row) {
    if (!row.finite) return NOT_FINITE;
    return row.max == MASKED ? NOTHING_ALLOWED : OK;
}

// The first of the `edits` from `begin` to `end`, which are sorted, whose id is at least `id`.
__device__ uint32_t first_edit(const Edit* edits, uint32_t begin, uint32_t end, uint32_t id) {
    while (begin < end) {
        const uint32_t middle = begin + (end - begin) / 2;
        if (edits[middle].id < id) begin = middle + 1;
        else end = middle;
    }
    return begin;
}

// Adds the biases of a chunk, to one id in the order in which they are listed.
__device__ void add_biases(float (&score)[STEPS], const Edit* edits, const Row& row, uint32_t first, uint32_t end_id) {
    __shared__ float tile[CHUNK];
    const uint32_t begin = first_edit(edits, row.edits_begin, row.edits_end, first);
    const uint32_t end = first_edit(edits, begin, row.edits_end, end_id);
    if (begin == end) return;
    for (int step = 0; step < STEPS; step++) tile[step * CHUNK_THREADS + threadIdx.x] = score[step];
    __syncthreads();
    for (uint32_t i = begin + threadIdx.x; i < end; i += CHUNK_THREADS) {
        const uint32_t id = edits[i].id;
        if (i > begin && edits[i - 1].id == id) continue; // whoever has the first of an id has all of them
        float edited = tile[id - first];
        for (uint32_t same = i; same < end && edits[same].id == id; same++) edited = __fadd_rn(edited, edits[same].bias);
        tile[id - first] = edited;
    }
    __syncthreads();
    for (int step = 0; step < STEPS; step++) score[step] = tile[step * CHUNK_THREADS + threadIdx.x];
}

__device__ __forceinline__ float penalized(float score, uint32_t count, const Row& row) {
    if (count != 0 && row.repetition != 1.0f) score = score > 0 ? score / row.repetition : __fmul_rn(score, row.repetition);
    const uint32_t in_output = count & ~IN_PROMPT;
    if (in_output != 0 && (row.frequency != 0 || row.presence != 0))
        score = __fsub_rn(__fsub_rn(score, __fmul_rn(row.frequency, float(in_output))), row.presence);
    return score;
}

// Writes the maxima of a chunk's groups, returns that of the thread's own group.
__device__ float group_maxima(const float (&score)[STEPS], float* maxima, int first, int groups) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t mine = key_of(MASKED);
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const uint32_t best = __reduce_max_sync(ALL_LANES, key_of(score[step]));
        if (lane == step) mine = best;
    }
    const int group = first / 32 + lane * CHUNK_WARPS + warp;
    if (lane < STEPS && group < groups) maxima[group] = score_of(mine);
    return score_of(mine);
}

} // namespace

// Edits the scores, and finds the best of every chunk and group. A row without edits keeps its scores in `logits`.
KERNEL(sampling_scores, CHUNK_THREADS)
(const float* logits, const Row* rows, const Edit* edits, const uint32_t* masks, const uint32_t* counts, float* scores,
 float* maxima, float* logits_maxima, Part* parts, int vocab) {
    __shared__ Part of_warp[CHUNK_WARPS];
    const Row& row = rows[blockIdx.y];
    if (!row.active()) return;
    const int first = blockIdx.x * CHUNK, groups = (vocab + 31) / 32;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    logits += size_t(blockIdx.y) * vocab;
    float score[STEPS];
    Part part{MASKED, NONE, MASKED, 1};
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const int id = first + step * CHUNK_THREADS + threadIdx.x;
        score[step] = id < vocab ? logits[id] : MASKED;
    }
#pragma unroll
    for (int step = 0; step < STEPS; step++) part.finite = part.finite && score[step] < INFINITY; // false for NaN
    if (row.wants_logprobs())
        part.logits_max = group_maxima(score, logits_maxima + size_t(blockIdx.y) * groups, first, groups);
    if (row.edited()) {
        if (row.mask != NONE) {
            const uint32_t* mask = masks + size_t(row.mask) * groups;
            for (int step = 0; step < STEPS; step++) {
                const int id = first + step * CHUNK_THREADS + threadIdx.x;
                if (id < vocab && !(mask[id / 32] >> (id % 32) & 1)) score[step] = MASKED;
            }
        }
        add_biases(score, edits, row, first, min(vocab, first + CHUNK));
        scores += size_t(blockIdx.y) * vocab;
        for (int step = 0; step < STEPS; step++) {
            const int id = first + step * CHUNK_THREADS + threadIdx.x;
            if (id >= vocab) break;
            if (row.counts != NONE) score[step] = penalized(score[step], counts[size_t(row.counts) * vocab + id], row);
            part.finite = part.finite && score[step] < INFINITY;
            scores[id] = score[step];
        }
    }
    group_maxima(score, maxima + size_t(blockIdx.y) * groups, first, groups);
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const int id = first + step * CHUNK_THREADS + threadIdx.x;
        if (id < vocab) take_better(part.max, part.id, score[step], id);
    }
    part = warp_merge(part);
    if (lane == 0) of_warp[warp] = part;
    __syncthreads();
    if (warp == 0) {
        part = warp_merge(lane < CHUNK_WARPS ? of_warp[lane] : Part{MASKED, NONE, MASKED, 1});
        if (lane == 0) parts[blockIdx.y * gridDim.x + blockIdx.x] = part;
    }
}
REGISTER_KERNEL(sampling_scores)

// The mass of each chunk: of the scores where a draw or `top_p` begins with all of them, and of the logits for
// log-probabilities.
KERNEL(sampling_masses, CHUNK_THREADS)
(const float* logits, const Row* rows, const float* scores, const Part* parts, Mass* masses, int vocab) {
    __shared__ Mass of_warp[CHUNK_WARPS];
    const Row& row = rows[blockIdx.y];
    const bool of_scores = row.random() && !row.cuts_by_score(vocab), of_logits = row.wants_logprobs();
    if (!row.active() || (!of_scores && !of_logits)) return;
    const Part whole = merge_parts(parts + blockIdx.y * gridDim.x, gridDim.x);
    if (status_of(whole) != OK) return;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float temperature = row.temperature;
    logits += size_t(blockIdx.y) * vocab;
    scores = row.edited() ? scores + size_t(blockIdx.y) * vocab : logits;
    Mass mass{0, 0};
    for (int step = 0; step < STEPS; step++) {
        const int id = blockIdx.x * CHUNK + step * CHUNK_THREADS + threadIdx.x;
        if (id >= vocab) break;
        if (of_scores) mass.scores += weight_of((scores[id] - whole.max) / temperature);
        if (of_logits) mass.logits += weight_of(logits[id] - whole.logits_max);
    }
    mass = Mass{warp_sum(mass.scores), warp_sum(mass.logits)};
    if (lane == 0) of_warp[warp] = mass;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int i = 1; i < CHUNK_WARPS; i++) {
        mass.scores += of_warp[i].scores;
        mass.logits += of_warp[i].logits;
    }
    masses[blockIdx.y * gridDim.x + blockIdx.x] = mass;
}
REGISTER_KERNEL(sampling_masses)

namespace {

// The id at `uniform` of the mass of all ids.
__device__ uint32_t draw_from_all(const Row& row, const float* scores, float max, const Mass* masses, int chunks, int vocab) {
    __shared__ double of_warp[WARPS];
    double total = 0;
    for (int i = 0; i < chunks; i++) total += masses[i].scores;
    double rest = __dmul_rn(row.uniform, total), within = rest;
    int chunk = 0;
    for (int i = 0; i < chunks; i++) {
        if (!(masses[i].scores > 0)) continue;
        chunk = i;
        within = rest;
        rest -= masses[i].scores;
        if (rest < 0) break;
    }
    const int first = chunk * CHUNK, count = min(vocab - first, CHUNK);
    const Candidates of{scores, nullptr, nullptr, first, count, max, row.temperature, MASKED, MASKED};
    const auto weight = [&](int i) { return double(of.weight(i)); };
    sum_segments(of, weight, of_warp);
    const int position = position_at(of, weight, of_warp, within);
    return position < 0 ? NONE : of.id(position);
}

// A score below which no stage keeps an id, or the lowest. The margins are far above what rounding could do.
__device__ float truncation_floor(const Row& row, const float* maxima, float max, double total, int vocab, double* bins) {
    float floor = MASKED;
    if (row.has_top_k(vocab)) floor = floor_of(maxima, (vocab + 31) / 32, row.top_k, max, bins);
    if (row.log_min_p > MASKED)
        floor = fmaxf(floor, max - row.temperature * (1e-5f - 1.00001f * row.log_min_p) - 1e-6f * fabsf(max));
    if (!row.cuts_by_score(vocab) && row.top_p > 0) {
        // All ids below this weight together weigh less than 1 - top_p: the others reach top_p without them.
        const double bound = 0.99 * (1.0 - double(row.top_p)) * ldexp(total, -WEIGHT_SCALE) / vocab;
        floor = fmaxf(floor, max + row.temperature * (logf(float(bound)) - 1e-3f));
    }
    return floor;
}

// The id at `uniform` of the mass of what min_p, top_k and top_p leave.
__device__ uint32_t draw_truncated(const Row& row, const float* scores, const float* maxima, float max,
                                   const Mass* masses, int chunks, int vocab, const Workspace& workspace) {
    __shared__ double of_warp[WARPS];
    double total = 0;
    if (!row.cuts_by_score(vocab))
        for (int i = 0; i < chunks; i++) total += masses[i].scores;
    const float floor = truncation_floor(row, maxima, max, total, vocab, workspace.bins);
    const Candidates all{scores, nullptr, nullptr, 0, vocab, max, row.temperature, floor, row.log_min_p};
    const Candidates of = collect(all, maxima, vocab, workspace);
    uint32_t lowest = lowest_key_of(floor), last_id = NONE; // of the lowest key, ids up to `last_id` are kept
    const auto kept_weight = [&](int i) {
        const float score = of.score(i);
        const uint32_t key = key_of(score);
        const bool kept = score > MASKED && (key > lowest || (key == lowest && of.id(i) <= last_id));
        return kept ? double(of.weight(i)) : 0.0;
    };
    if (row.has_top_k(vocab)) {
        const auto one = [](int) { return 1.0; };
        const Boundary kth = select(of, one, lowest, highest_key_of(max), double(row.top_k), 0, workspace.bins);
        lowest = lowest_key_of(score_of(kth.key));
    }
    double kept_total = sum_segments(of, kept_weight, of_warp);
    if (row.top_p < 1) {
        const double target = __dmul_rn(double(row.top_p), row.cuts_by_score(vocab) ? kept_total : total);
        const auto weight = [&](int i) { return double(of.weight(i)); };
        const Boundary boundary = select(of, weight, lowest, highest_key_of(max), target, 0, workspace.bins);
        lowest = boundary.key;
        // Of ids that tie, as many as are still missing, lower ids first.
        const double ties = ceil(boundary.missing / double(weight_of(of.log_weight(score_of(lowest)))));
        const auto tie = [&](int i) { return key_of(of.score(i)) == lowest ? 1.0 : 0.0; };
        sum_segments(of, tie, of_warp);
        const int last = position_at(of, tie, of_warp, ties - 0.5);
        last_id = last < 0 ? NONE : of.id(last);
        kept_total = sum_segments(of, kept_weight, of_warp);
    }
    const int position = position_at(of, kept_weight, of_warp, __dmul_rn(row.uniform, kept_total));
    return position < 0 ? NONE : of.id(position);
}

} // namespace

// Chooses a token for each row, counts it, and writes it where the next step reads its input.
KERNEL(sampling_choose, THREADS, 2)
(const float* logits, const Row* rows, const float* scores, const float* maxima, const Part* parts, const Mass* masses,
 uint32_t* counts, Chosen* chosen, uint32_t* next, int vocab, int chunks) {
    DYNAMIC_SHARED(double, memory);
    const Workspace workspace(memory);
    const Row& row = rows[blockIdx.x];
    if (!row.active()) return;
    const Part whole = merge_parts(parts + blockIdx.x * chunks, chunks);
    const uint32_t status = status_of(whole);
    uint32_t token = whole.id;
    if (status == OK && row.random()) {
        const size_t begin = size_t(blockIdx.x) * vocab;
        const float* from = row.edited() ? scores + begin : logits + begin;
        const Mass* of_chunks = masses + blockIdx.x * chunks;
        uint32_t drawn;
        if (!row.cuts_by_score(vocab) && row.top_p >= 1) {
            drawn = draw_from_all(row, from, whole.max, of_chunks, chunks, vocab);
        } else {
            const float* of_groups = maxima + size_t(blockIdx.x) * ((vocab + 31) / 32);
            drawn = draw_truncated(row, from, of_groups, whole.max, of_chunks, chunks, vocab, workspace);
        }
        if (drawn != NONE) token = drawn;
    }
    if (threadIdx.x != 0) return;
    if (status != OK) token = 0; // an id like any other for whoever reads it before the row is given up
    chosen[blockIdx.x] = Chosen{token, status, 0.0f, 0};
    if (row.next != NONE) next[row.next] = token;
    if (row.counts != NONE && status == OK) counts[size_t(row.counts) * vocab + token]++;
}
REGISTER_KERNEL(sampling_choose)

// Log-probability and rank of the chosen token and the most likely ids, of the untouched logits.
KERNEL(sampling_logprobs, THREADS, 2)
(const float* logits, const Row* rows, const float* logits_maxima, const Part* parts, const Mass* masses, Chosen* chosen,
 Top* top, int vocab, int chunks) {
    DYNAMIC_SHARED(double, memory);
    __shared__ int of_warp[WARPS];
    __shared__ Top best[MAX_TOP];
    __shared__ int n_best;
    __shared__ double log_total; // of the weights relative to that of the best logit
    const Workspace workspace(memory);
    const Row& row = rows[blockIdx.x];
    if (!row.active() || !row.wants_logprobs() || chosen[blockIdx.x].status != OK) return;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, groups = (vocab + 31) / 32;
    logits += size_t(blockIdx.x) * vocab;
    logits_maxima += size_t(blockIdx.x) * groups;
    const float max = merge_parts(parts + blockIdx.x * chunks, chunks).logits_max;
    if (threadIdx.x == 0) {
        double total = 0;
        for (int i = 0; i < chunks; i++) total += masses[blockIdx.x * chunks + i].logits;
        log_total = log(ldexp(total, -WEIGHT_SCALE));
        n_best = 0;
    }

    // The rank: how many ids are more likely. Groups whose maximum is not above are passed over.
    const float mine = logits[chosen[blockIdx.x].token];
    int above = 0;
    for (int begin = warp * 32; begin < groups; begin += THREADS) {
        const float maximum = begin + lane < groups ? logits_maxima[begin + lane] : MASKED;
        for (unsigned open = __ballot_sync(ALL_LANES, maximum > mine); open != 0; open &= open - 1) {
            const int id = (begin + __ffs(int(open)) - 1) * 32 + lane;
            above += id < vocab && logits[id] > mine;
        }
    }
    above = __shfl_sync(ALL_LANES, warp_running_sum(above), 31);
    if (lane == 0) of_warp[warp] = above;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < WARPS; i++) above += of_warp[i];
        chosen[blockIdx.x].logprob = float(double(mine) - double(max) - log_total);
        chosen[blockIdx.x].rank = above + 1;
    }

    const int n_top = min(min(int(row.n_top), MAX_TOP), vocab);
    if (n_top <= 0) return;
    top += size_t(blockIdx.x) * MAX_TOP;
    const float floor = floor_of(logits_maxima, groups, n_top, max, workspace.bins);
    const Candidates all{logits, nullptr, nullptr, 0, vocab, max, 1.0f, floor, MASKED};
    const Candidates of = collect(all, logits_maxima, vocab, workspace);
    const auto one = [](int) { return 1.0; };
    const Boundary nth = select(of, one, lowest_key_of(floor), highest_key_of(max), double(n_top), 0, workspace.bins);
    __shared__ double ties[WARPS];
    const auto tie = [&](int i) { return of.score(i) > MASKED && key_of(of.score(i)) == nth.key ? 1.0 : 0.0; };
    sum_segments(of, tie, ties);
    const int last = position_at(of, tie, ties, nth.missing - 0.5);
    for (int i = threadIdx.x; i < of.count; i += THREADS) {
        const float score = of.score(i);
        const uint32_t key = key_of(score);
        if (score == MASKED || key < nth.key || (key == nth.key && i > last)) continue;
        best[atomicAdd(&n_best, 1)] = Top{of.id(i), score};
    }
    __syncthreads();
    if (int(threadIdx.x) < n_best) {
        const Top own = best[threadIdx.x];
        int place = 0;
        for (int i = 0; i < n_best; i++) {
            const uint32_t key = key_of(best[i].logprob), own_key = key_of(own.logprob);
            place += key > own_key || (key == own_key && best[i].id < own.id);
        }
        top[place] = Top{own.id, float(double(own.logprob) - double(max) - log_total)};
    }
    // Fewer ids than asked for are possible at all: the others follow by id.
    if (threadIdx.x == 0) {
        int place = n_best;
        for (int id = 0; id < vocab && place < n_top; id++)
            if (logits[id] == MASKED) top[place++] = Top{uint32_t(id), MASKED};
    }
}
REGISTER_KERNEL(sampling_logprobs)

namespace {
struct Count { uint32_t slot, begin, n_prompt, n_output; };
}

// Counts the tokens of a sequence afresh, one block for each job. The ids are at `begin`, prompt before output.
KERNEL(sampling_count, THREADS)(const Count* jobs, const uint32_t* ids, uint32_t* counts, int vocab) {
    const Count job = jobs[blockIdx.x];
    if (job.slot == NONE) return;
    counts += size_t(job.slot) * vocab;
    ids += job.begin;
    for (int id = threadIdx.x; id < vocab; id += THREADS) counts[id] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < job.n_prompt + job.n_output; i += THREADS) {
        if (ids[i] >= uint32_t(vocab)) continue;
        if (i < job.n_prompt) atomicOr(&counts[ids[i]], IN_PROMPT);
        else atomicAdd(&counts[ids[i]], 1u);
    }
}
REGISTER_KERNEL(sampling_count)
