//! Memory of the host that a GPU reads and writes directly, and that knows when the GPU is done with it.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{DriverError, result, sys};
use rayon::prelude::*;

use super::cuda::Context;

/// Bytes that a thread copies at a time: weights are more than one thread can keep up with, what a step uploads is less.
const COPIED_AT_ONCE: usize = 1 << 20;

/// A piece of pinned memory. Invariant: while `busy`, the GPU may read or write it, and its event tells the end.
pub(super) struct Pinned {
    context: Arc<Context>,
    memory: *mut u8,
    len: usize,
    /// Recorded after the last copy.
    done: sys::CUevent,
    busy: Cell<bool>,
}

// SAFETY: memory and event are the piece's own, and the driver's handles may be used from any thread.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Memory of `len` bytes, above 0. The context is current.
    pub(super) fn new(context: &Arc<Context>, len: usize) -> Result<Self, DriverError> {
        let done = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        // SAFETY: the context is current; what is not freed here is freed when the piece is dropped.
        let memory = unsafe {
            result::malloc_host(len, 0).or_else(|error| {
                result::event::destroy(done)?;
                Err(error)
            })?
        };
        Ok(Self { context: Arc::clone(context), memory: memory.cast(), len, done, busy: Cell::new(false) })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Waits until the GPU is done with it.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        if self.busy.replace(false) {
            // SAFETY: the event is the piece's own.
            unsafe { result::event::synchronize(self.done) }?;
        }
        Ok(())
    }

    /// Puts a copy of its first bytes to the device at `to` into the stream, once they are `bytes`.
    ///
    /// # Safety
    /// The device has as many bytes at `to`; the stream lives.
    pub(super) unsafe fn upload(
        &self,
        to: sys::CUdeviceptr,
        bytes: &[u8],
        stream: sys::CUstream,
    ) -> Result<(), DriverError> {
        assert!(bytes.len() <= self.len, "{} bytes for a piece of {}", bytes.len(), self.len);
        self.wait()?;
        // SAFETY: the memory is long enough, and nobody else reads or writes it now.
        unsafe {
            let staged = std::slice::from_raw_parts_mut(self.memory, bytes.len());
            copy(bytes, staged);
            result::memcpy_htod_async(to, staged, stream)?;
        }
        self.end_of_copy(stream)
    }

    /// Puts a copy of `len` bytes from the device into the stream; [`Pinned::read`] has them.
    ///
    /// # Safety
    /// The device has as many bytes at `from`; the stream lives.
    pub(super) unsafe fn begin_readback(
        &self,
        from: sys::CUdeviceptr,
        len: usize,
        stream: sys::CUstream,
    ) -> Result<(), DriverError> {
        assert!(len <= self.len, "{len} bytes for a piece of {}", self.len);
        self.wait()?;
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the memory is long enough, and nobody else reads or writes it now.
        unsafe {
            let staged = std::slice::from_raw_parts_mut(self.memory, len);
            result::memcpy_dtoh_async(staged, from, stream)?;
        }
        self.end_of_copy(stream)
    }

    /// Notes where in the stream the copy ends.
    fn end_of_copy(&self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: event and stream live.
        let noted = unsafe { result::event::record(self.done, stream) };
        match noted {
            Ok(()) => self.busy.set(true),
            // SAFETY: as above. The event tells of an older copy, so the stream itself is waited for.
            Err(_) => unsafe { result::stream::synchronize(stream) }?,
        }
        noted
    }

    /// Waits for a readback, then copies its first bytes.
    pub(super) fn read(&self, bytes: &mut [u8]) -> Result<(), DriverError> {
        assert!(bytes.len() <= self.len, "{} bytes of a piece of {}", bytes.len(), self.len);
        self.wait()?;
        // SAFETY: the memory is long enough, and the GPU is done with it.
        unsafe { std::ptr::copy_nonoverlapping(self.memory, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }
}

// Where the device has failed, there is nothing that could be done about memory that stays.
impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.context.bind();
        let _ = self.wait();
        // SAFETY: memory and event are the piece's own, and the GPU is done with them.
        unsafe {
            let _ = result::free_host(self.memory.cast::<c_void>());
            let _ = result::event::destroy(self.done);
        }
    }
}

fn copy(from: &[u8], to: &mut [u8]) {
    if from.len() <= COPIED_AT_ONCE {
        to.copy_from_slice(from);
        return;
    }
    let parts = to.par_chunks_mut(COPIED_AT_ONCE).zip(from.par_chunks(COPIED_AT_ONCE));
    parts.for_each(|(to, from)| to.copy_from_slice(from));
}
