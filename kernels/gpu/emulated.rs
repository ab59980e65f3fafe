//! The device that is none: kernels compiled for the CPU, on memory of the host.

use std::cell::RefCell;

use tramontane_kernel_emulation::{self as emulation, NotLaunched, Order};

use super::{Capacity, Device, DeviceError, DevicePointer, Launch};

/// A GPU that the CPU stands in for.
#[derive(Debug, Default)]
pub struct Emulated {
    order: Order,
    with_library: bool,
    allocations: RefCell<Vec<Box<[Line]>>>,
}

/// What allocations are aligned to.
#[derive(Clone, Copy, Debug)]
#[repr(align(256))]
struct Line(#[expect(dead_code, reason = "kernels read and write it")] [u8; 256]);

impl Emulated {
    /// A device that runs the threads of a block in `order`.
    pub fn new(order: Order) -> Self {
        Self { order, ..Self::default() }
    }

    /// A device that says it has a library, whose part our own kernels take: for the launches around it.
    pub fn with_library() -> Self {
        Self { with_library: true, ..Self::default() }
    }
}

impl Device for Emulated {
    type Graph = Vec<Launch>;
    type Readback = Vec<u8>;

    fn capacity(&self) -> Capacity {
        Capacity::HOPPER
    }

    fn has_library(&self) -> bool {
        self.with_library
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePointer, DeviceError> {
        let lines = vec![Line([0; 256]); bytes.div_ceil(256).max(1)].into_boxed_slice();
        let address = lines.as_ptr().expose_provenance() as u64;
        self.allocations.borrow_mut().push(lines);
        Ok(DevicePointer(address))
    }

    unsafe fn upload(&self, to: DevicePointer, bytes: &[u8]) -> Result<(), DeviceError> {
        let to = std::ptr::with_exposed_provenance_mut::<u8>(to.0 as usize);
        // SAFETY: the caller says that the memory is there, and it is no part of `bytes`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    unsafe fn download(&self, from: DevicePointer, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let from = std::ptr::with_exposed_provenance::<u8>(from.0 as usize);
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn begin_readback(&self, from: DevicePointer, bytes: usize) -> Result<Self::Readback, DeviceError> {
        let mut read = vec![0; bytes];
        // SAFETY: the caller's word.
        unsafe { self.download(from, &mut read) }?;
        Ok(read)
    }

    fn end_readback(&self, readback: Self::Readback) -> Result<Vec<u8>, DeviceError> {
        Ok(readback)
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        let mut launch = launch.clone();
        let (grid, block, shared_bytes) = (launch.grid, [launch.threads, 1, 1], launch.shared_bytes as usize);
        let kernel = launch.kernel;
        // SAFETY: the operator's `cuda.rs` lists the parameters as its `cuda.cu` declares them, and the caller
        // answers for what they point to.
        let done = unsafe {
            let arguments = &mut launch.argument_pointers();
            emulation::launch(kernel, (grid, block), shared_bytes, arguments, self.order, launch.overlaps)
        };
        done.map_err(|error| DeviceError::Launch {
            kernel,
            reason: match error {
                NotLaunched::UnknownKernel => "there is no such kernel".to_owned(),
                NotLaunched::NotWaited => "it does not wait for the launches before it".to_owned(),
                NotLaunched::PartialWarp => format!("{} threads are not a multiple of 32", launch.threads),
            },
        })
    }

    unsafe fn record(&self, launches: &[Launch]) -> Result<Self::Graph, DeviceError> {
        Ok(launches.to_vec())
    }

    unsafe fn replay(&self, graph: &Self::Graph) -> Result<(), DeviceError> {
        for launch in graph {
            // SAFETY: the caller answers for it as for a launch.
            unsafe { self.launch(launch) }?;
        }
        Ok(())
    }
}
