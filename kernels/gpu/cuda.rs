//! An NVIDIA GPU through the driver's interface. The driver's library is looked for when a device is opened, so the
//! same binary runs on hosts without one.
//!
//! One stream, in whose order everything happens; memory is freed with the device. What a step uploads and reads back
//! goes through pinned memory, piece by piece, so that the host waits for the GPU only where it wants a result, or where
//! it is several uploads ahead.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::Arc;

use cudarc::driver::{DriverError, result, sys};

use super::cublas::Cublas;
use super::discovery::{capacity, describe, failed, find};
use super::pinned::Pinned;
use super::{Capacity, Device, DeviceError, DevicePointer, Launch};

pub use super::discovery::{Properties, Unusable, properties};

/// The kernels, compiled for every architecture: one image per operator. Written by the build script.
mod images {
    include!(concat!(env!("OUT_DIR"), "/images.rs"));
}

/// Pieces of pinned memory that uploads take in turn. A step has a few uploads, and two steps are on their way.
const STAGING_PIECES: usize = 8;
/// Bytes of a piece. What is larger goes in parts.
const STAGING: usize = 8 << 20;
/// From which on kernels wait for the launches before theirs (`__CUDA_ARCH__` in `gpu.cuh`).
const OVERLAPPING_CAPABILITY: (i32, i32) = (9, 0);
/// Dynamic shared memory that a kernel has without asking.
const PLAIN_SHARED: u32 = 48 << 10;

/// A GPU, opened.
pub struct Cuda {
    context: Arc<Context>,
    capacity: Capacity,
    stream: sys::CUstream,
    functions: RefCell<HashMap<&'static str, Function>>,
    cublas: Option<Cublas>,
    /// Whether a launch can begin before the one in front has ended: from Hopper on, as the kernels are compiled.
    can_overlap: bool,
    /// [`STAGING_PIECES`] of [`STAGING`] bytes
    staging: Vec<Pinned>,
    /// The piece whose turn it is.
    next_piece: Cell<usize>,
    /// Pieces that no readback has at the moment.
    readbacks: RefCell<Vec<Pinned>>,
}

/// A copy to the host that has begun.
pub struct CudaReadback {
    pinned: Pinned,
    bytes: usize,
}

/// The GPU's primary context, with everything that lives in it.
pub(super) struct Context {
    device: sys::CUdevice,
    handle: sys::CUcontext,
    modules: Vec<sys::CUmodule>,
    /// Of all modules, by name.
    kernels: HashMap<String, sys::CUfunction>,
    allocations: std::sync::Mutex<Vec<sys::CUdeviceptr>>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory that it may have.
    shared_bytes: u32,
}

/// Recorded launches.
pub struct CudaGraph {
    context: Arc<Context>,
    executable: sys::CUgraphExec,
}

// SAFETY: the driver's handles may be used from any thread; every call makes the context current first, and a `Cuda` is
// used by one thread at a time, for it is not `Sync`.
unsafe impl Send for Cuda {}
// SAFETY: as above.
unsafe impl Send for CudaGraph {}
// SAFETY: as above; what changes is behind a lock.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// True if cuBLASLt, which computes products of prompts, is in the library path.
pub fn has_cublas_lt() -> bool {
    Cublas::is_present()
}

impl Cuda {
    /// Opens GPU `ordinal`, counted from 0, and loads the kernels.
    pub fn open(ordinal: usize) -> Result<Self, Unusable> {
        let can_overlap = properties(ordinal)?.capability >= OVERLAPPING_CAPABILITY;
        let mut context = Context::retain(find(ordinal)?)?;
        for image in images::IMAGES {
            // SAFETY: the image is a fat binary that nvcc wrote; the context is current.
            let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(failed)?;
            context.modules.push(module);
            context.kernels.extend(kernels_of(module).map_err(failed)?);
        }
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed)?;
        let context = Arc::new(context);
        let staging = (0..STAGING_PIECES).map(|_| Pinned::new(&context, STAGING)).collect::<Result<_, _>>();
        Ok(Self {
            staging: staging.map_err(failed)?,
            next_piece: Cell::new(0),
            readbacks: RefCell::default(),
            functions: RefCell::default(),
            cublas: Cublas::open(&context),
            can_overlap,
            capacity: capacity(context.device).map_err(failed)?,
            context,
            stream,
        })
    }

    fn next_piece(&self) -> &Pinned {
        let index = self.next_piece.get();
        self.next_piece.set((index + 1) % STAGING_PIECES);
        &self.staging[index]
    }

    /// The kernel, allowed to have so much dynamic shared memory.
    fn function(&self, kernel: &'static str, shared_bytes: u32) -> Result<sys::CUfunction, DeviceError> {
        let mut functions = self.functions.borrow_mut();
        let function = match functions.get(kernel) {
            Some(&function) => function,
            None => self.find_function(kernel)?,
        };
        let allowed = function.shared_bytes.max(shared_bytes);
        if allowed > function.shared_bytes {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to a module that lives as long as the context.
            unsafe { result::function::set_function_attribute(function.handle, attribute, allowed as i32) }
                .map_err(|error| not_launched(kernel, &error))?;
        }
        functions.insert(kernel, Function { shared_bytes: allowed, ..function });
        Ok(function.handle)
    }

    fn find_function(&self, kernel: &'static str) -> Result<Function, DeviceError> {
        let Some(&handle) = self.context.kernels.get(kernel) else {
            return Err(DeviceError::Launch { kernel, reason: "there is no such kernel".to_owned() });
        };
        // The driver loads a kernel when it is first needed, which must not be in the middle of a recording.
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS;
        // SAFETY: the function belongs to a module that lives as long as the context.
        unsafe { result::function::get_function_attribute(handle, attribute) }
            .map_err(|error| not_launched(kernel, &error))?;
        Ok(Function { handle, shared_bytes: PLAIN_SHARED })
    }

    fn choose_algorithm(&self, launch: &Launch) {
        if let (Some(cublas), Some(product)) = (&self.cublas, &launch.product) {
            cublas.choose(product, self.stream, &|launch| self.enqueue_kernel(launch));
        }
    }

    fn enqueue(&self, launch: &Launch) -> Result<(), DeviceError> {
        let by_library = match (&self.cublas, &launch.product) {
            // SAFETY: whoever launches answers for the operands.
            (Some(cublas), Some(product)) => unsafe { cublas.multiply(product, self.stream) },
            _ => None,
        };
        by_library.unwrap_or_else(|| self.enqueue_kernel(launch))
    }

    fn enqueue_kernel(&self, launch: &Launch) -> Result<(), DeviceError> {
        let function = self.function(launch.kernel, launch.shared_bytes)?;
        let mut launch = launch.clone();
        let (grid, threads, shared_bytes, kernel) = (launch.grid, launch.threads, launch.shared_bytes, launch.kernel);
        let [x, y, z] = grid;
        let overlaps = launch.overlaps && self.can_overlap;
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: overlaps.into() },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared_bytes,
            hStream: self.stream,
            attrs: &raw mut attribute,
            numAttrs: overlaps.into(),
        };
        // SAFETY: whoever launches answers for the arguments, which the operator's `cuda.rs` lists as its `cuda.cu`
        // declares them. What is pointed to lives until the call returns.
        unsafe {
            let mut arguments = launch.argument_pointers();
            sys::cuLaunchKernelEx(&raw const config, function, arguments.as_mut_ptr(), std::ptr::null_mut()).result()
        }
        .map_err(|error| not_launched(kernel, &error))
    }
}

impl Device for Cuda {
    type Graph = CudaGraph;
    type Readback = CudaReadback;

    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn has_library(&self) -> bool {
        self.cublas.is_some()
    }

    fn library_report(&self) -> Vec<String> {
        self.cublas.as_ref().map(Cublas::report).unwrap_or_default()
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePointer, DeviceError> {
        self.context.bind()?;
        let bytes = bytes.max(1);
        // SAFETY: the memory is zeroed in the stream's order, and freed with the context.
        unsafe {
            let pointer = result::malloc_sync(bytes).map_err(|error| match error.0 {
                sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::OutOfMemory { bytes },
                _ => device_failed(error),
            })?;
            self.context.allocations.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(pointer);
            result::memset_d8_async(pointer, 0, bytes, self.stream).map_err(device_failed)?;
            Ok(DevicePointer(pointer))
        }
    }

    unsafe fn upload(&self, to: DevicePointer, bytes: &[u8]) -> Result<(), DeviceError> {
        self.context.bind()?;
        let mut to = to;
        for part in bytes.chunks(STAGING) {
            // SAFETY: the caller answers for `to`.
            unsafe { self.next_piece().upload(to.0, part, self.stream) }.map_err(device_failed)?;
            to = to.plus(part.len());
        }
        Ok(())
    }

    unsafe fn download(&self, from: DevicePointer, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.context.bind()?;
        let mut from = from;
        for part in bytes.chunks_mut(STAGING) {
            let piece = self.next_piece();
            // SAFETY: the caller answers for `from`.
            unsafe { piece.begin_readback(from.0, part.len(), self.stream) }.map_err(device_failed)?;
            piece.read(part).map_err(device_failed)?;
            from = from.plus(part.len());
        }
        Ok(())
    }

    unsafe fn begin_readback(&self, from: DevicePointer, bytes: usize) -> Result<Self::Readback, DeviceError> {
        self.context.bind()?;
        let mut free = self.readbacks.borrow_mut();
        let pinned = match free.iter().position(|pinned| pinned.len() >= bytes) {
            Some(index) => free.swap_remove(index),
            // More than asked for, so that the next steps find it large enough.
            None => Pinned::new(&self.context, bytes.max(1).next_power_of_two()).map_err(device_failed)?,
        };
        // SAFETY: the caller answers for `from`.
        unsafe { pinned.begin_readback(from.0, bytes, self.stream) }.map_err(device_failed)?;
        Ok(CudaReadback { pinned, bytes })
    }

    fn end_readback(&self, readback: Self::Readback) -> Result<Vec<u8>, DeviceError> {
        self.context.bind()?;
        let mut bytes = vec![0; readback.bytes];
        readback.pinned.read(&mut bytes).map_err(device_failed)?;
        self.readbacks.borrow_mut().push(readback.pinned);
        Ok(bytes)
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        self.context.bind()?;
        self.choose_algorithm(launch);
        self.enqueue(launch)
    }

    unsafe fn record(&self, launches: &[Launch]) -> Result<Self::Graph, DeviceError> {
        self.context.bind()?;
        for launch in launches {
            // Loads the kernel, and tries the library out: a capture allows launches only.
            self.function(launch.kernel, launch.shared_bytes)?;
            self.choose_algorithm(launch);
        }
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is ours; a capture that has begun ends here, whatever fails.
        unsafe {
            result::stream::begin_capture(self.stream, mode).map_err(device_failed)?;
            let enqueued = launches.iter().try_for_each(|launch| self.enqueue(launch));
            let graph = result::stream::end_capture(self.stream).map_err(device_failed)?;
            let executable = match enqueued {
                Ok(()) => {
                    let flags = sys::CUgraphInstantiate_flags(0);
                    result::graph::instantiate(graph, flags).map_err(device_failed)
                }
                Err(error) => Err(error),
            };
            // The executable has what it needs of it.
            result::graph::destroy(graph).map_err(device_failed)?;
            Ok(CudaGraph { context: Arc::clone(&self.context), executable: executable? })
        }
    }

    unsafe fn replay(&self, graph: &Self::Graph) -> Result<(), DeviceError> {
        self.context.bind()?;
        // SAFETY: the graph lives, and the caller answers for its launches.
        unsafe { result::graph::launch(graph.executable, self.stream) }.map_err(device_failed)
    }
}

impl Context {
    /// The device's primary context, current on this thread.
    pub(super) fn retain(device: sys::CUdevice) -> Result<Self, Unusable> {
        // SAFETY: the device was found.
        let handle = unsafe { result::primary_ctx::retain(device) }.map_err(failed)?;
        let context = Self {
            device,
            handle,
            modules: Vec::new(),
            kernels: HashMap::new(),
            allocations: std::sync::Mutex::default(),
        };
        // SAFETY: the context is retained.
        unsafe { result::ctx::set_current(handle) }.map_err(failed)?;
        Ok(context)
    }

    pub(super) fn bind(&self) -> Result<(), DeviceError> {
        // SAFETY: the context is retained.
        unsafe { result::ctx::set_current(self.handle) }.map_err(device_failed)
    }
}

// Freeing fails only where the device has failed, and then there is nothing left to free.
impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: nobody has the context, its modules or its memory any more.
        unsafe {
            let _ = result::ctx::set_current(self.handle);
            let _ = result::ctx::synchronize();
            for &pointer in &*self.allocations.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) {
                let _ = result::free_sync(pointer);
            }
            for &module in &self.modules {
                let _ = result::module::unload(module);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // SAFETY: the stream is ours, and done when it is destroyed.
        unsafe {
            let _ = result::ctx::set_current(self.context.handle);
            let _ = result::stream::synchronize(self.stream);
            let _ = result::stream::destroy(self.stream);
        }
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: the graph is ours.
        unsafe {
            let _ = result::ctx::set_current(self.context.handle);
            let _ = result::graph::exec_destroy(self.executable);
        }
    }
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cuda").field("device", &self.context.device).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for CudaReadback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaReadback").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for CudaGraph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaGraph").finish_non_exhaustive()
    }
}

/// The kernels of a module that is loaded, by name.
fn kernels_of(module: sys::CUmodule) -> Result<Vec<(String, sys::CUfunction)>, DriverError> {
    let mut count = 0;
    // SAFETY: the module is loaded; there is room for as many functions as it has, whose names live as long as it does.
    unsafe {
        sys::cuModuleGetFunctionCount(&raw mut count, module).result()?;
        let mut functions = vec![std::ptr::null_mut(); count as usize];
        sys::cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, module).result()?;
        functions
            .into_iter()
            .map(|function| {
                let mut name = std::ptr::null();
                sys::cuFuncGetName(&raw mut name, function).result()?;
                Ok((CStr::from_ptr(name).to_string_lossy().into_owned(), function))
            })
            .collect()
    }
}

fn device_failed(error: DriverError) -> DeviceError {
    DeviceError::Failed { reason: describe(&error) }
}

fn not_launched(kernel: &'static str, error: &DriverError) -> DeviceError {
    DeviceError::Launch { kernel, reason: describe(error) }
}
