//! The fixed pool of worker threads that the CPU kernels share: one thread per physical core, unless told. And what lets other
//! threads run beside it.
//!
//! How work is split may depend on the number of threads; how an element is computed does not, and each is computed by
//! one piece, so results do not depend on it.

use std::ops::Range;
use std::sync::{LazyLock, OnceLock};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Multiply-adds (or like work) below which waking another thread costs more than it gains.
const MIN_PARALLEL_WORK: usize = 1 << 17;

static REQUESTED: OnceLock<usize> = OnceLock::new();

/// `None` where the system refuses threads: then everything runs on the caller's.
static POOL: LazyLock<Option<ThreadPool>> = LazyLock::new(|| {
    let threads = REQUESTED.get().copied().unwrap_or_else(default_count);
    let named = |index| format!("kernels-{index}");
    ThreadPoolBuilder::new().num_threads(threads).thread_name(named).build().ok()
});

/// Threads if nobody asks for another number: one per physical core that this process may use.
pub fn default_count() -> usize {
    num_cpus::get_physical().min(num_cpus::get()).max(1)
}

/// Asks for this many threads. Only the first request counts, and only before any kernel has run.
pub fn request(count: usize) {
    // A later request would have to rebuild a pool that kernels are running on.
    let _ = REQUESTED.set(count.max(1));
}

/// Runs `body` on a worker of the pool, so that the kernels in it start without changing threads.
pub fn run<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    match POOL.as_ref().filter(|_| !in_pool_of_test()) {
        Some(pool) => pool.install(body),
        None => body(),
    }
}

/// Has the calling thread run soon after it wakes, also while kernels compute on all processors: for threads that are waited
/// for and do little at a time. They ask for the shortest time at once, and whoever does is let in before those that have longer
/// (Linux from 6.12 on, `sched_setattr(2)`: `sched_runtime` of ordinary threads). Elsewhere nothing changes.
pub fn answer_soon() {
    #[cfg(target_os = "linux")]
    {
        const SHORTEST_NS: u64 = 100_000;
        let size = size_of::<libc::sched_attr>() as u32;
        let mut attributes = libc::sched_attr {
            size,
            sched_policy: 0,
            sched_flags: 0,
            sched_nice: 0,
            sched_priority: 0,
            sched_runtime: 0,
            sched_deadline: 0,
            sched_period: 0,
        };
        // SAFETY: of this thread, in a structure of the size that it is said to have.
        #[expect(unsafe_code, reason = "a system call on an address")]
        let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
        if got == 0 && attributes.sched_policy == libc::SCHED_OTHER as u32 {
            attributes.sched_runtime = SHORTEST_NS;
            // SAFETY: as above. An older kernel takes it and does nothing; whatever refuses it leaves all as it was.
            #[expect(unsafe_code, reason = "a system call on an address")]
            unsafe {
                libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0)
            };
        }
    }
}

/// Number of worker threads.
pub fn count() -> usize {
    if in_pool_of_test() {
        return rayon::current_num_threads();
    }
    POOL.as_ref().map_or(1, ThreadPool::current_num_threads)
}

/// A test that runs kernels inside a pool of its own means that pool: the shared one has one size per process.
fn in_pool_of_test() -> bool {
    cfg!(test) && rayon::current_thread_index().is_some()
}

/// Calls `body` once on each thread of the pool, with the thread's number; what each call gives, by number.
pub(crate) fn on_each<R: Send>(body: impl Fn(usize) -> R + Sync) -> Vec<R> {
    run(|| match rayon::current_thread_index() {
        Some(_) => rayon::broadcast(|context| body(context.index())),
        None => vec![body(0)],
    })
}

/// Calls `body` on consecutive ranges of `piece` items that tile `0..total`; in parallel if `work`, the
/// total cost in multiply-adds, is worth it.
pub(crate) fn for_each_range(total: usize, piece: usize, work: usize, body: impl Fn(Range<usize>) + Sync + Send) {
    let piece = piece.max(1);
    let pieces = total.div_ceil(piece);
    let range = |index: usize| index * piece..((index + 1) * piece).min(total);
    if pieces <= 1 || work < MIN_PARALLEL_WORK || count() == 1 {
        (0..pieces).for_each(|index| body(range(index)));
    } else {
        run(|| (0..pieces).into_par_iter().for_each(|index| body(range(index))));
    }
}

/// As [`for_each_range`] for the rows of a row-major matrix of `width` columns.
pub(crate) fn for_each_row(out: &mut [f32], width: usize, work: usize, body: impl Fn(usize, &mut [f32]) + Sync + Send) {
    if out.is_empty() {
        return;
    }
    if work < MIN_PARALLEL_WORK || count() == 1 {
        out.chunks_exact_mut(width).enumerate().for_each(|(row, values)| body(row, values));
    } else {
        run(|| out.par_chunks_exact_mut(width).enumerate().for_each(|(row, values)| body(row, values)));
    }
}

/// What to do with results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// Replace the output.
    Overwrite,
    /// Add to the output.
    Add,
}

impl Store {
    #[inline(always)]
    pub(crate) fn write(self, out: &mut [f32], results: &[f32]) {
        for (out, result) in out.iter_mut().zip(results) {
            match self {
                Self::Overwrite => *out = *result,
                Self::Add => *out += *result,
            }
        }
    }
}

/// An output that several pieces of work fill, each its own elements.
#[derive(Clone, Copy)]
pub(crate) struct SharedOutput {
    values: *mut f32,
    len: usize,
}

// SAFETY: only a pointer is shared; `part` puts the duty of disjointness on its callers.
#[expect(unsafe_code, reason = "columns of a row-major matrix cannot be split into slices")]
unsafe impl Send for SharedOutput {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "columns of a row-major matrix cannot be split into slices")]
unsafe impl Sync for SharedOutput {}

impl SharedOutput {
    pub(crate) fn new(values: &mut [f32]) -> Self {
        Self { values: values.as_mut_ptr(), len: values.len() }
    }

    /// Elements `range` for writing. Panics if they lie outside.
    ///
    /// # Safety
    /// The slice given to `new` is still borrowed, and no other part that lives now overlaps `range`.
    #[expect(unsafe_code, reason = "columns of a row-major matrix cannot be split into slices")]
    #[expect(clippy::mut_from_ref, reason = "the caller vouches for disjointness")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of {} elements", self.len);
        // SAFETY: the range lies inside; the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts_mut(self.values.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_answers_soon_stays_an_ordinary_one_of_its_niceness() {
        std::thread::spawn(|| {
            let niceness = || std::fs::read_to_string("/proc/thread-self/stat").map(|stat| nice_of(&stat));
            let before = niceness().unwrap();
            answer_soon();
            assert_eq!(niceness().unwrap(), before);
        })
        .join()
        .unwrap();
    }

    /// Niceness and policy, fields 19 and 41 of proc_pid_stat(5).
    #[cfg(target_os = "linux")]
    fn nice_of(stat: &str) -> (String, String) {
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[16].to_owned(), fields[38].to_owned())
    }
}
