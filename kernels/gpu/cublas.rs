//! Products by NVIDIA's cuBLASLt, if its library is on the machine: for prompts, which are bound by arithmetic.
//!
//! The main type is [`Cublas`]. Invariant: a row's result depends neither on how many rows there are nor on its place among
//! them. A kind of product has one algorithm for any number of rows, which does not split sums, and others for few rows
//! where their results are the same to the bit: few rows in large tiles leave most of a GPU without work. What
//! [`Cublas::choose`] cannot show that of, our own kernel computes, and it computes it always.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::Arc;

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::{result as lt, sys};
use cudarc::driver::{DriverError, result, sys as driver};

use super::cuda::Context;
use super::product::{Product, ProductKind, ProductOutput};
use super::{DeviceError, DevicePointer, Float16};
use crate::linear::cuda::{Epilogue, Family, Linear};

/// Bytes that an algorithm may work in: what NVIDIA recommends for Hopper.
const WORKSPACE: usize = Product::LIBRARY_WORKSPACE;
static WORKSPACE_BYTES: u64 = WORKSPACE as u64;
/// `CUBLAS_OP_T` of `cublas_api.h`.
static TRANSPOSED: i32 = 1;
/// The number of rows that the algorithm is chosen for.
const TYPICAL_ROWS: usize = 1024;
/// The most rows of a call, all numbers up to which the library must accept. More are computed in parts.
const MOST_ROWS: usize = Product::LIBRARY_ROWS;
/// Numbers of rows up to which there may be other algorithms.
const FEW_ROWS: [usize; 3] = [128, 256, 512];
/// Parts of as many rows, as (first row, number of rows), that must give them the same bits.
const TRIED_PARTS: [(usize, usize); 9] =
    [(0, 1), (0, 7), (0, 129), (0, 1025), (0, 2047), (1, 1), (3, 64), (130, 257), (1000, 1048)];
/// Every byte of a trial's results before: as f32 a number about as large as they are, to which some are added. An
/// algorithm may begin its sums with it, or end them.
const BEFORE: u8 = 0x40;
/// What operands are aligned to at least.
static ALIGNMENT: u32 = 16;

/// The library, opened.
pub(super) struct Cublas {
    context: Arc<Context>,
    handle: sys::cublasLtHandle_t,
    workspace: driver::CUdeviceptr,
    /// By kind of product; what is refused our own kernel computes.
    algorithms: RefCell<HashMap<ProductKind, Result<Algorithms, Refused>>>,
}

// SAFETY: the library's handle may be used from any thread, by one at a time.
unsafe impl Send for Cublas {}

/// Why the library does not compute a product.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the library: {0}")]
    Library(#[from] CublasError),
    #[error("it needs {0} bytes to work in")]
    Workspace(usize),
    #[error("the driver: {0}")]
    Driver(#[from] DriverError),
    #[error("our own kernel: {0}")]
    Device(#[from] DeviceError),
    #[error("its results are other than our kernel's, or depend on the other rows")]
    Differs,
}

/// Algorithms for up to so many rows each, the fewest first; the last one is for any number.
struct Algorithms(Vec<(usize, sys::cublasLtMatmulAlgo_t)>);

impl Algorithms {
    fn of(&self, rows: usize) -> &sys::cublasLtMatmulAlgo_t {
        let enough = self.0.iter().find(|&&(most, _)| rows <= most).or(self.0.last());
        &enough.expect("there is one for any number of rows").1
    }
}

/// Memory for a trial.
struct Scratch(driver::CUdeviceptr);

impl Scratch {
    fn new(bytes: usize) -> Result<Self, DriverError> {
        // SAFETY: a context is current.
        unsafe { result::malloc_sync(bytes) }.map(Self)
    }

    fn pointer(&self) -> DevicePointer {
        DevicePointer(self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: nobody else has it. A failure means that the device has failed.
        let _ = unsafe { result::free_sync(self.0) };
    }
}

impl Cublas {
    /// True if the library is in the library path.
    pub(super) fn is_present() -> bool {
        // SAFETY: looks for the library, whose own start is all that it runs.
        unsafe { sys::is_culib_present() }
    }

    /// The library, if it is there.
    pub(super) fn open(context: &Arc<Context>) -> Option<Self> {
        if !Self::is_present() {
            return None;
        }
        let handle = lt::create_handle().ok()?;
        // SAFETY: the context is current.
        let workspace = unsafe { result::malloc_sync(WORKSPACE) };
        let Ok(workspace) = workspace else {
            // SAFETY: nobody else has the handle.
            let _ = unsafe { lt::destroy_handle(handle) };
            return None;
        };
        Some(Self { context: Arc::clone(context), handle, workspace, algorithms: RefCell::default() })
    }

    /// Chooses the algorithm of a kind of product, with the weight of one, unless that has been done. Waits for the
    /// device. `launch` runs our own kernel.
    pub(super) fn choose(
        &self,
        product: &Product,
        stream: driver::CUstream,
        launch: &dyn Fn(&super::Launch) -> Result<(), DeviceError>,
    ) {
        if self.algorithms.borrow().contains_key(&product.kind) {
            return;
        }
        let algorithms = self.try_out(product, stream, launch);
        self.algorithms.borrow_mut().insert(product.kind, algorithms);
    }

    /// Puts the product into the stream, if its kind has an algorithm.
    ///
    /// # Safety
    /// The operands are in the memory of the device, as large as they are said to be.
    pub(super) unsafe fn multiply(
        &self,
        product: &Product,
        stream: driver::CUstream,
    ) -> Option<Result<(), DeviceError>> {
        let algorithms = self.algorithms.borrow();
        let algorithms = algorithms.get(&product.kind)?.as_ref().ok()?;
        // SAFETY: the caller's word.
        let done = (0..product.rows).step_by(MOST_ROWS).try_for_each(|first| {
            let part = product.part(first, MOST_ROWS.min(product.rows - first));
            unsafe { self.run(&part, algorithms.of(part.rows), stream) }
        });
        Some(done.map_err(|error| DeviceError::Failed { reason: format!("cuBLASLt: {error}") }))
    }

    /// What became of every kind of product, for the log.
    pub(super) fn report(&self) -> Vec<String> {
        let algorithms = self.algorithms.borrow();
        let line = |(kind, algorithm): (&ProductKind, &Result<_, Refused>)| match algorithm {
            Ok(Algorithms(algorithms)) => format!("{kind}: cuBLASLt, {} algorithms", algorithms.len()),
            Err(refused) => format!("{kind}: our own kernel ({refused})"),
        };
        algorithms.iter().map(line).collect()
    }

    /// The library's suggestion for so many rows among algorithms that do not split sums.
    fn suggest(&self, kind: ProductKind, rows: usize) -> Result<sys::cublasLtMatmulAlgo_t, Refused> {
        let operation = Operation::new(kind, rows)?;
        let preference = lt::create_matmul_pref()?;
        let no_reduction: u32 = 0;
        // SAFETY: attributes are of the types that the library documents; what was created is destroyed.
        let suggested = unsafe {
            (|| {
                use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
                let alignment = (&raw const ALIGNMENT).cast::<c_void>();
                for (attribute, value, size) in [
                    (Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const WORKSPACE_BYTES).cast(), 8),
                    (Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (&raw const no_reduction).cast(), 4),
                    (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment, 4),
                    (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment, 4),
                    (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment, 4),
                    (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment, 4),
                ] {
                    lt::set_matmul_pref_attribute(preference, attribute, value, size)?;
                }
                let Operation { description, weight, x, out, .. } = operation;
                lt::get_matmul_algo_heuristic(self.handle, description, weight, x, out, out, preference)
            })()
        };
        // SAFETY: nobody else has it.
        let _ = unsafe { lt::destroy_matmul_pref(preference) };
        Ok(suggested?.algo)
    }

    /// Asks the library whether the algorithm computes any number of rows up to `most`.
    fn check_every_number(
        &self,
        kind: ProductKind,
        most: usize,
        algorithm: &sys::cublasLtMatmulAlgo_t,
    ) -> Result<(), Refused> {
        for rows in 1..=most {
            let Operation { description, weight, x, out } = &Operation::new(kind, rows)?;
            let mut answer = MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit();
            // SAFETY: the descriptions live; the answer is read only where the library says that it is there.
            let needs = unsafe {
                let algorithm = std::ptr::from_ref(algorithm);
                let answer_at = answer.as_mut_ptr();
                sys::cublasLtMatmulAlgoCheck(self.handle, *description, *weight, *x, *out, *out, algorithm, answer_at)
                    .result()?;
                answer.assume_init().workspaceSize
            };
            if needs > WORKSPACE {
                return Err(Refused::Workspace(needs));
            }
        }
        Ok(())
    }

    /// Computes the product of made-up rows in one go, in parts, and with our own kernel; then with algorithms for few rows.
    fn try_out(
        &self,
        product: &Product,
        stream: driver::CUstream,
        launch: &dyn Fn(&super::Launch) -> Result<(), DeviceError>,
    ) -> Result<Algorithms, Refused> {
        let kind = product.kind;
        let algorithm = self.suggest(kind, TYPICAL_ROWS)?;
        self.check_every_number(kind, MOST_ROWS, &algorithm)?;
        let trial = Trial::new(product, stream)?;
        // SAFETY: the trial has memory for all rows of both operands, and the weight is the caller's.
        let by_library = |algorithm: &_, part: &_| unsafe { self.run(part, algorithm, stream).map_err(Refused::from) };
        let all = trial.run((0, MOST_ROWS), |part| by_library(&algorithm, part))?;
        for part in TRIED_PARTS {
            trial.expect(&all, part, |part| by_library(&algorithm, part))?;
        }
        let by_us = trial.run((0, MOST_ROWS), |part| Ok(launch(&own(part).launch(Family::Tiled))?))?;
        let (found, expected) = (numbers(&all, kind), numbers(&by_us, kind));
        let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        // Sums in another order, rounded to 8 bits at the worst.
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() / 64.0 + largest / 1000.0;
        if !found.iter().zip(&expected).all(near) {
            return Err(Refused::Differs);
        }
        let for_few = |most: usize| {
            let algorithm = self.suggest(kind, most)?;
            self.check_every_number(kind, most, &algorithm)?;
            for first in [0, 1, MOST_ROWS - most] {
                for rows in [1, 7, most / 2 + 1, most - 1, most] {
                    trial.expect(&all, (first, rows), |part| by_library(&algorithm, part))?;
                }
            }
            Ok::<_, Refused>((most, algorithm))
        };
        let few = FEW_ROWS.into_iter().filter_map(|most| for_few(most).ok());
        Ok(Algorithms(few.chain([(MOST_ROWS, algorithm)]).collect()))
    }

    /// # Safety
    /// As of [`Self::multiply`].
    unsafe fn run(
        &self,
        product: &Product,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        stream: driver::CUstream,
    ) -> Result<(), CublasError> {
        let operation = Operation::new(product.kind, product.rows)?;
        let beta: f32 = if product.kind.output == ProductOutput::AddF32 { 1.0 } else { 0.0 };
        let alpha: f32 = 1.0;
        let [weight, x, out] = [product.weight, product.x, product.out].map(|pointer| pointer.0 as *mut c_void);
        // SAFETY: the caller answers for the operands; descriptions live until the call returns.
        unsafe {
            lt::matmul(
                self.handle,
                operation.description,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                weight,
                operation.weight,
                x,
                operation.x,
                out,
                operation.out,
                out,
                operation.out,
                algorithm,
                self.workspace as *mut c_void,
                WORKSPACE,
                stream.cast(),
            )
        }
    }
}

impl Drop for Cublas {
    fn drop(&mut self) {
        let _ = self.context.bind();
        // SAFETY: the stream's work is done, and nobody else has the handle and the workspace.
        unsafe {
            let _ = lt::destroy_handle(self.handle);
            let _ = result::free_sync(self.workspace);
        }
    }
}

/// A product of made-up rows, as many as a call can have.
struct Trial {
    whole: Product,
    out: Scratch,
    stream: driver::CUstream,
    _x: Scratch,
}

impl Trial {
    fn new(product: &Product, stream: driver::CUstream) -> Result<Self, DriverError> {
        let kind = product.kind;
        let x: Vec<u16> = (0..MOST_ROWS * kind.in_features).map(|i| small_number(i, kind.dtype)).collect();
        let (on_device, out) = (Scratch::new(x.len() * 2)?, Scratch::new(MOST_ROWS * row_bytes(kind))?);
        // SAFETY: the memory is as long as what is copied, which lives until the copy is done.
        unsafe {
            result::memcpy_htod_async(on_device.0, &x, stream)?;
            result::stream::synchronize(stream)?;
        }
        let whole = Product { x: on_device.pointer(), out: out.pointer(), rows: MOST_ROWS, ..*product };
        Ok(Self { whole, out, stream, _x: on_device })
    }

    /// Bytes of the results of some rows, of which `compute` puts the product into the stream.
    fn run(
        &self,
        (first, rows): (usize, usize),
        compute: impl Fn(&Product) -> Result<(), Refused>,
    ) -> Result<Vec<u8>, Refused> {
        let part = self.whole.part(first, rows);
        let mut values = vec![0u8; rows * row_bytes(part.kind)];
        // SAFETY: there is memory for the results of all rows.
        unsafe {
            result::memset_d8_async(self.out.0, BEFORE, MOST_ROWS * row_bytes(part.kind), self.stream)?;
            compute(&part)?;
            result::stream::synchronize(self.stream)?;
            result::memcpy_dtoh_sync(&mut values, part.out.0)?;
        }
        Ok(values)
    }

    /// An error unless the results of some rows are what they are in `all`.
    fn expect(
        &self,
        all: &[u8],
        (first, rows): (usize, usize),
        compute: impl Fn(&Product) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let bytes = row_bytes(self.whole.kind);
        let expected = &all[first * bytes..(first + rows) * bytes];
        if self.run((first, rows), compute)? == expected { Ok(()) } else { Err(Refused::Differs) }
    }
}

fn row_bytes(kind: ProductKind) -> usize {
    kind.out_features * kind.output.bytes()
}

/// Descriptions of a product. The library counts columns first, so that a row of ours is a column of its: it computes
/// `out^T (out_features, rows)` of the weight, transposed, and `x^T`.
struct Operation {
    description: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
}

impl Operation {
    fn new(kind: ProductKind, rows: usize) -> Result<Self, CublasError> {
        use sys::cudaDataType_t::{CUDA_R_16BF, CUDA_R_16F, CUDA_R_32F};
        let operand = match kind.dtype {
            Float16::Bf16 => CUDA_R_16BF,
            Float16::F16 => CUDA_R_16F,
        };
        let result = if kind.output == ProductOutput::Rounded { operand } else { CUDA_R_32F };
        let (depth, width) = (kind.in_features, kind.out_features);
        let mut operation = Self {
            description: lt::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, CUDA_R_32F)?,
            weight: std::ptr::null_mut(),
            x: std::ptr::null_mut(),
            out: std::ptr::null_mut(),
        };
        // From here on what exists is destroyed with the value.
        operation.weight = lt::create_matrix_layout(operand, depth as u64, width as u64, depth as i64)?;
        operation.x = lt::create_matrix_layout(operand, depth as u64, rows as u64, depth as i64)?;
        operation.out = lt::create_matrix_layout(result, width as u64, rows as u64, width as i64)?;
        let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: the attribute is of this type.
        unsafe {
            let value = (&raw const TRANSPOSED).cast();
            lt::set_matmul_desc_attribute(operation.description, attribute, value, size_of_val(&TRANSPOSED))?;
        }
        Ok(operation)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: nobody else has them. Their memory is the host's; nothing can be done about a failure.
        unsafe {
            for layout in [self.weight, self.x, self.out].into_iter().filter(|layout| !layout.is_null()) {
                let _ = lt::destroy_matrix_layout(layout);
            }
            let _ = lt::destroy_matmul_desc(self.description);
        }
    }
}

/// The same product for our own kernel.
fn own(product: &Product) -> Linear {
    let Product { x, weight, out, rows, kind } = *product;
    Linear {
        x,
        weight,
        out,
        rows,
        in_features: kind.in_features,
        out_features: kind.out_features,
        epilogue: match kind.output {
            ProductOutput::Rounded => Epilogue::Store,
            ProductOutput::F32 => Epilogue::StoreF32,
            ProductOutput::AddF32 => Epilogue::Add,
        },
        dtype: kind.dtype,
    }
}

/// Between -1 and 1, without a pattern that a wrong stride would meet again.
fn small_number(index: usize, dtype: Float16) -> u16 {
    let value = ((index as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    match dtype {
        Float16::Bf16 => half::bf16::from_f32(value).to_bits(),
        Float16::F16 => half::f16::from_f32(value).to_bits(),
    }
}

fn numbers(bytes: &[u8], kind: ProductKind) -> Vec<f32> {
    let halves = || bytes.as_chunks::<2>().0.iter().map(|&two| u16::from_le_bytes(two));
    match (kind.output, kind.dtype) {
        (ProductOutput::F32 | ProductOutput::AddF32, _) => {
            bytes.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)).collect()
        }
        (ProductOutput::Rounded, Float16::Bf16) => halves().map(|bits| half::bf16::from_bits(bits).to_f32()).collect(),
        (ProductOutput::Rounded, Float16::F16) => halves().map(|bits| half::f16::from_bits(bits).to_f32()).collect(),
    }
}
