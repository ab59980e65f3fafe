//! Kernels on a device: what a launch is, and what a device has to be able to do.
//!
//! Each operator's `cuda.rs` turns its operands into a [`Launch`], a plain value; a [`Device`] runs it. There are
//! two: the CPU that emulates a GPU, for tests, and CUDA. Both take the same launches, so grids, strides, tables and
//! tails are tested where there is no GPU. Invariant: a launch names memory of the device that runs it.
#![expect(unsafe_code, reason = "device memory is addressed by number")]

#[cfg(feature = "cuda")]
mod cublas;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "cuda")]
mod discovery;
#[cfg(any(test, feature = "emulation"))]
mod emulated;
mod launch;
#[cfg(feature = "cuda")]
mod pinned;
mod product;

#[cfg(any(test, feature = "emulation"))]
pub use emulated::Emulated;
#[cfg(any(test, feature = "emulation"))]
pub use tramontane_kernel_emulation::Order;

pub use launch::{DevicePointer, Launch};
pub use product::{Product, ProductKind, ProductOutput};

/// A 16-bit type of weights, activations and cached keys and values on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float16 {
    /// bfloat16
    Bf16,
    /// IEEE 754 binary16
    F16,
}

impl Float16 {
    /// Size of an element.
    pub const BYTES: usize = 2;

    /// The one of two kernels that is compiled for this type.
    pub fn pick(self, bf16: &'static str, f16: &'static str) -> &'static str {
        match self {
            Self::Bf16 => bf16,
            Self::F16 => f16,
        }
    }
}

/// Why a device did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No memory for an allocation.
    #[error("the device has no {bytes} bytes of memory left")]
    OutOfMemory {
        /// Bytes that were asked for.
        bytes: usize,
    },
    /// The device has no kernel of this name, or cannot run it with this grid.
    #[error("kernel {kernel} cannot be launched: {reason}")]
    Launch {
        /// Its name.
        kernel: &'static str,
        /// What the device says.
        reason: String,
    },
    /// The device failed, perhaps in an earlier launch.
    #[error("the device failed: {reason}")]
    Failed {
        /// What the driver says.
        reason: String,
    },
}

/// What grids and blocks are cut to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Blocks that run at the same time, one on each.
    pub multiprocessors: usize,
    /// The most dynamic shared memory of a block, in bytes.
    pub block_shared_bytes: usize,
}

impl Capacity {
    /// That of an H100 and an H200.
    pub const HOPPER: Self = Self { multiprocessors: 132, block_shared_bytes: 227 << 10 };
}

/// Memory, copies and launches, all in the order in which they are asked for.
pub trait Device {
    /// Recorded launches.
    type Graph: Send + std::fmt::Debug;
    /// A copy to the host that has begun.
    type Readback: Send + std::fmt::Debug;

    /// What the device has room for.
    fn capacity(&self) -> Capacity;

    /// True if products that a [`Launch`] has may be computed by a vendor's library.
    fn has_library(&self) -> bool;

    /// Which products the library computes, and which not, of those that have come up: lines for a log.
    fn library_report(&self) -> Vec<String> {
        Vec::new()
    }

    /// Zeroed memory, aligned to 256 bytes, that lives as long as the device.
    fn allocate(&self, bytes: usize) -> Result<DevicePointer, DeviceError>;

    /// Copies `bytes` to the device.
    ///
    /// # Safety
    /// `to` begins an allocation, or a part of one, of at least as many bytes.
    unsafe fn upload(&self, to: DevicePointer, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Waits for everything before, then copies from the device.
    ///
    /// # Safety
    /// `from` begins an allocation, or a part of one, of at least as many bytes.
    unsafe fn download(&self, from: DevicePointer, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Begins a copy from the device, after everything before, without waiting for it.
    ///
    /// # Safety
    /// As of [`Self::download`].
    unsafe fn begin_readback(&self, from: DevicePointer, bytes: usize) -> Result<Self::Readback, DeviceError>;

    /// Waits for a copy that has begun, not for what was asked for after it.
    fn end_readback(&self, readback: Self::Readback) -> Result<Vec<u8>, DeviceError>;

    /// Runs a kernel.
    ///
    /// # Safety
    /// Every pointer among the arguments is to memory that the kernel may read and write as it does.
    unsafe fn launch(&self, launch: &Launch) -> Result<(), DeviceError>;

    /// Records launches for [`Self::replay`], without running them.
    ///
    /// # Safety
    /// As of [`Self::launch`], at every replay.
    unsafe fn record(&self, launches: &[Launch]) -> Result<Self::Graph, DeviceError>;

    /// Runs recorded launches in their order.
    ///
    /// # Safety
    /// As of [`Self::launch`], for each of them.
    unsafe fn replay(&self, graph: &Self::Graph) -> Result<(), DeviceError>;
}
