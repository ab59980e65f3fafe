//! The CUDA kernels, compiled for the CPU: what a GPU would compute, testable without one.
//!
//! The one function is [`launch`]; `emulation.h` says what is emulated and what is not. Knows nothing of the
//! kernels' parameters.
#![allow(unsafe_code, reason = "calls compiled kernels")]

use std::ffi::{CString, c_char, c_int, c_uint, c_void};

unsafe extern "C" {
    fn emulation_launch(
        name: *const c_char,
        grid: *const c_uint,
        block: *const c_uint,
        shared_bytes: usize,
        arguments: *mut *mut c_void,
        order: c_int,
        overlaps: c_int,
    ) -> c_int;
}

/// True if the threads of a block are threads of the operating system, which run in no order.
pub const WITH_THREADS: bool = option_env!("TRAMONTANE_EMULATION_SANITIZER").is_some();

/// The order in which blocks run, and the threads of a block between two barriers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By index.
    #[default]
    Forward,
    /// By index, from the last.
    Reverse,
    /// At random, the same in every run.
    Shuffled,
}

/// Why a kernel was not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotLaunched {
    /// No `cuda.cu` registers a kernel of this name.
    UnknownKernel,
    /// A block is not a multiple of 32 threads.
    PartialWarp,
    /// It ran, but some thread did not wait for the launches before it, although it may begin before they end.
    NotWaited,
}

/// Runs a kernel to its end. One that `overlaps` has to wait for the launches before it, in every thread.
///
/// # Safety
/// `arguments` points to the kernel's parameters, in their order and of their types, and every pointer among them to
/// memory that the kernel may read and write as it does.
pub unsafe fn launch(
    kernel: &str,
    (grid, block): ([u32; 3], [u32; 3]),
    shared_bytes: usize,
    arguments: &mut [*mut c_void],
    order: Order,
    overlaps: bool,
) -> Result<(), NotLaunched> {
    let Ok(name) = CString::new(kernel) else { return Err(NotLaunched::UnknownKernel) };
    // SAFETY: the caller answers for the arguments; the rest lives across the call.
    let status = unsafe {
        let arguments = arguments.as_mut_ptr();
        let (grid, block) = (grid.as_ptr(), block.as_ptr());
        emulation_launch(name.as_ptr(), grid, block, shared_bytes, arguments, order as c_int, overlaps.into())
    };
    match status {
        0 => Ok(()),
        1 => Err(NotLaunched::UnknownKernel),
        2 => Err(NotLaunched::PartialWarp),
        _ => Err(NotLaunched::NotWaited),
    }
}
