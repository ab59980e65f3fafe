// The scheduler of the emulation; see emulation.h.
#include "emulation.h"
#include <algorithm>
#include <cstdlib>
#include <random>

namespace emulation {

namespace {
thread_local Launch* active = nullptr;
#ifdef EMULATE_WITH_THREADS
thread_local Thread* active_thread = nullptr;
#endif
} // namespace

Launch& launch() { return *active; }
void* dynamic_shared() { return active->dynamic_shared.data(); }

std::map<std::string, Thunk>& registry() {
    static std::map<std::string, Thunk> kernels;
    return kernels;
}

namespace {

void place(Launch& launch, unsigned linear) {
    Thread& thread = *launch.threads[linear];
    const Dim3& block = launch.block;
    thread.index = {linear % block.x, linear / block.x % block.y, linear / block.x / block.y};
    thread.linear = linear;
    thread.phase = 0;
    thread.wait = Wait::Nothing;
    thread.open.clear();
    thread.groups.clear();
    thread.overdue = 0;
    thread.waited = false;
}

void poison(Launch& launch) {
    if (launch.dynamic_shared.empty()) return;
    std::memset(launch.dynamic_shared.data(), 0xff, launch.dynamic_shared.size() * sizeof(float)); // NaN in every type
}

// Calls `visit` with every block index in turn: blocks may depend on each other's order as little as threads.
template <typename Visit> void each_block(const Launch& launch, Order order, std::mt19937& random, Visit visit) {
    std::vector<Dim3> blocks;
    for (unsigned z = 0; z < launch.grid.z; z++)
        for (unsigned y = 0; y < launch.grid.y; y++)
            for (unsigned x = 0; x < launch.grid.x; x++) blocks.push_back(Dim3{x, y, z});
    if (order == Order::Reverse) std::reverse(blocks.begin(), blocks.end());
    if (order == Order::Shuffled) std::shuffle(blocks.begin(), blocks.end(), random);
    for (const Dim3& block : blocks) visit(block);
}

// One thread of a block, from its beginning to its end.
void run_thread(Launch& launch) {
    launch.body();
    if (!self().waited) launch.not_waited = true;
}

#ifdef EMULATE_WITH_THREADS

void run(Launch& launch, Order) {
    const unsigned count = launch.block.count();
    launch.block_barrier = std::make_unique<std::barrier<>>(count);
    // All that there can be, so that nobody has to make one later: a lock for that would order what must not be ordered.
    for (unsigned size = WARP_SIZE; size < count; size += WARP_SIZE)
        for (unsigned index = 0; count % size == 0 && index < count / size; index++)
            launch.group_barriers[{size, index}] = std::make_unique<std::barrier<>>(size);
    std::vector<std::thread> workers;
    for (unsigned linear = 0; linear < count; linear++) {
        workers.emplace_back([&launch, linear] {
            active = &launch;
            active_thread = launch.threads[linear].get();
            std::mt19937 random; // not asked: the operating system gives the order
            each_block(launch, Order::Forward, random, [&](Dim3 index) {
                launch.block_barrier->arrive_and_wait();
                if (linear == 0) {
                    launch.block_index = index;
                    poison(launch);
                }
                place(launch, linear);
                launch.block_barrier->arrive_and_wait();
                run_thread(launch);
            });
        });
    }
    for (std::thread& worker : workers) worker.join();
}

#else

void to_scheduler(Wait wait) {
    Thread& thread = self();
    thread.wait = wait;
    if (_setjmp(thread.position) == 0) _longjmp(active->scheduler, 1);
}

void fiber() {
    for (;;) {
        run_thread(*active);
        to_scheduler(Wait::Ended);
    }
}

void resume(Launch& launch, Thread& thread) {
    launch.current = &thread;
    thread.wait = Wait::Nothing;
    if (_setjmp(launch.scheduler) != 0) return;
    if (thread.started) _longjmp(thread.position, 1);
    thread.started = true;
    getcontext(&thread.entry);
    thread.stack = std::make_unique<char[]>(STACK_BYTES);
    thread.entry.uc_stack.ss_sp = thread.stack.get();
    thread.entry.uc_stack.ss_size = STACK_BYTES;
    thread.entry.uc_link = nullptr;
    makecontext(&thread.entry, fiber, 0);
    setcontext(&thread.entry);
}

// True if every thread of `first..last` waits for `wait`; threads that have ended count if `or_ended`.
bool all_wait(const Launch& launch, unsigned first, unsigned last, Wait wait, bool or_ended) {
    for (unsigned i = first; i < last; i++) {
        const Wait found = launch.threads[i]->wait;
        if (found != wait && !(or_ended && found == Wait::Ended)) return false;
    }
    return true;
}

[[noreturn]] void stuck(const Launch& launch) {
    unsigned counts[5] = {};
    for (const auto& thread : launch.threads) counts[int(thread->wait)]++;
    std::fprintf(stderr, "emulation: block (%u, %u, %u) is stuck: %u threads in a warp operation, %u at a barrier of some, %u at "
                         "one of all, %u ended\n",
                 launch.block_index.x, launch.block_index.y, launch.block_index.z, counts[1], counts[2], counts[3], counts[4]);
    std::abort();
}

void run_block(Launch& launch, Order order, std::mt19937& random) {
    const unsigned count = launch.block.count();
    for (unsigned i = 0; i < count; i++) place(launch, i);
    poison(launch);
    std::vector<unsigned> ready(count);
    for (unsigned i = 0; i < count; i++) ready[i] = i;
    while (!ready.empty()) {
        if (order == Order::Reverse) std::reverse(ready.begin(), ready.end());
        if (order == Order::Shuffled) std::shuffle(ready.begin(), ready.end(), random);
        for (unsigned i : ready) resume(launch, *launch.threads[i]);
        ready.clear();
        for (unsigned first = 0; first < count; first += WARP_SIZE)
            if (all_wait(launch, first, first + WARP_SIZE, Wait::Warp, false))
                for (unsigned i = first; i < first + WARP_SIZE; i++) ready.push_back(i);
        for (unsigned first = 0; first < count; first += WARP_SIZE) {
            const Thread& thread = *launch.threads[first];
            if (thread.wait != Wait::Group || first % thread.group != 0) continue;
            if (all_wait(launch, first, first + thread.group, Wait::Group, false))
                for (unsigned i = first; i < first + thread.group; i++) ready.push_back(i);
        }
        if (!ready.empty()) continue;
        if (all_wait(launch, 0, count, Wait::Ended, true)) return;
        if (!all_wait(launch, 0, count, Wait::Block, false)) stuck(launch);
        for (unsigned i = 0; i < count; i++) ready.push_back(i);
    }
}

void run(Launch& launch, Order order) {
    std::mt19937 random(1);
    each_block(launch, order, random, [&](Dim3 index) {
        launch.block_index = index;
        run_block(launch, order, random);
    });
}

#endif

} // namespace

#ifdef EMULATE_WITH_THREADS
Thread& self() { return *active_thread; }

// Barriers of the block or those of groups are left out on request, to show that a missing one is noticed.
static bool left_out(const char* of) {
    const char* const asked = std::getenv("TRAMONTANE_EMULATION_WITHOUT_BARRIERS");
    return asked != nullptr && std::strcmp(asked, of) == 0;
}

void block_barrier() {
    static const bool is_left_out = left_out("block");
    if (!is_left_out) active->block_barrier->arrive_and_wait();
}

void group_barrier(unsigned size) {
    static const bool is_left_out = left_out("group");
    if (!is_left_out) active->group_barriers.at({size, self().linear / size})->arrive_and_wait();
}

void warp_barrier() { active->warps[self().linear / WARP_SIZE]->arrived.arrive_and_wait(); }
#else
[[gnu::noinline]] Thread& self() { return *active->current; }
void block_barrier() { to_scheduler(Wait::Block); }
void group_barrier(unsigned size) {
    self().group = size;
    to_scheduler(Wait::Group);
}
void warp_barrier() { to_scheduler(Wait::Warp); }
#endif

} // namespace emulation

// Runs kernel `name`. `arguments` are pointers to the parameters' values, as cuLaunchKernel takes them. Returns 0, or 1
// if there is no such kernel, or 2 if the block is no multiple of a warp, or 3 if `overlaps` and some thread ended
// without having waited for earlier launches.
extern "C" int emulation_launch(const char* name, const unsigned* grid, const unsigned* block, size_t shared_bytes,
                                void** arguments, int order, int overlaps) {
    using namespace emulation;
    const auto found = registry().find(name);
    if (found == registry().end()) return 1;
    Launch launch;
    launch.grid = {grid[0], grid[1], grid[2]};
    launch.block = {block[0], block[1], block[2]};
    const unsigned count = launch.block.count();
    if (count == 0 || count % WARP_SIZE != 0) return 2;
    launch.dynamic_shared.resize((shared_bytes + 3) / 4);
    for (unsigned i = 0; i < count; i++) launch.threads.push_back(std::make_unique<Thread>());
    for (unsigned i = 0; i < count / WARP_SIZE; i++) launch.warps.push_back(std::make_unique<Exchange>());
    launch.body = [&] { found->second(arguments); };
    active = &launch;
    run(launch, Order(order));
    active = nullptr;
    return overlaps && launch.not_waited ? 3 : 0;
}
