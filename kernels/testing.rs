//! What the operators' tests share: the tolerance table, a comparison that tells where it failed, and
//! reproducible random values.
#![expect(unsafe_code, reason = "device memory is addressed by number")]

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use tramontane_kernel_emulation::WITH_THREADS;

use crate::gpu::{Device as _, DevicePointer, Emulated, Float16, Launch, Order};

/// Types that weights and caches come in.
pub(crate) const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Largest difference allowed, relative to the norm of the reference (`performance` tests compare on the
/// same rounded inputs, so only the arithmetic differs).
pub(crate) fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-5,
        // Inputs are rounded before both sides see them; arithmetic and outputs stay f32.
        DType::BF16 | DType::F16 => 1e-5,
        other => panic!("no tolerance for {other:?}"),
    }
}

/// Error allowed of f32 sums, relative to the root mean square of what they should be. Tensor cores cut off what they add
/// where f32 rounds: an H100 was off by 1.005e-5 in a sum of 1608 products.
pub(crate) fn sum_tolerance() -> f64 {
    if on_gpu() { 3e-5 } else { 1e-5 }
}

/// Panics with op, shape, index, both values and the largest difference unless every element lies within
/// `tolerance` of the reference, relative to its root mean square (or to 1e-30 where that is nothing).
pub(crate) fn assert_close(op: &str, shape: &[usize], found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{op} {shape:?}: number of elements");
    let mean_square = expected.iter().map(|v| v * v).sum::<f64>() / expected.len().max(1) as f64;
    let scale = mean_square.sqrt().max(1e-30);
    let difference = |i: usize| (f64::from(found[i]) - expected[i]).abs();
    let worst = (0..found.len()).max_by(|&a, &b| difference(a).total_cmp(&difference(b)));
    if let Some(worst) = worst.filter(|&i| difference(i) > tolerance * scale || difference(i).is_nan()) {
        panic!(
            "{op} {shape:?}: element {worst} is {} but should be {}: difference {:e}, allowed {:e}",
            found[worst],
            expected[worst],
            difference(worst),
            tolerance * scale
        );
    }
}

/// Panics unless every element is as near to the reference as `roundings` to the nearest `dtype` can leave it, beside
/// an error of f32 sums. Unlike [`assert_close`] it is as strict with elements far below the root mean square.
pub(crate) fn assert_rounded(
    op: &str,
    shape: &[usize],
    found: &[f32],
    expected: &[f64],
    (dtype, roundings): (Float16, f64),
) {
    assert_eq!(found.len(), expected.len(), "{op} {shape:?}: number of elements");
    // Half a unit in the last place: of the smallest normal mantissa, and of a subnormal number.
    let (relative, absolute) = match dtype {
        Float16::Bf16 => (2f64.powi(-8), 2f64.powi(-134)),
        Float16::F16 => (2f64.powi(-11), 2f64.powi(-25)),
    };
    let mean_square = expected.iter().map(|v| v * v).sum::<f64>() / expected.len().max(1) as f64;
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let allowed = roundings * (relative * expected.abs() + absolute) + sum_tolerance() * mean_square.sqrt();
        let difference = (f64::from(found) - expected).abs();
        assert!(
            difference <= allowed,
            "{op} {shape:?}: element {i} is {found} but should be {expected}: difference {difference:e}, allowed {allowed:e}"
        );
    }
}

/// Panics with the first element that differs in any bit.
pub(crate) fn assert_same_bits(op: &str, shape: &[usize], found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{op} {shape:?}: number of elements");
    if let Some(i) = (0..found.len()).find(|&i| found[i].to_bits() != expected[i].to_bits()) {
        panic!("{op} {shape:?}: element {i} is {:e} here and {:e} there", found[i], expected[i]);
    }
}

/// Uniform values in `-magnitude..magnitude`: the same in every run, unless `TRAMONTANE_TEST_SEED` is a number that gives
/// a run its own.
pub(crate) fn random(seed: u64, len: usize, magnitude: f32) -> Vec<f32> {
    let of_run = std::env::var("TRAMONTANE_TEST_SEED").map_or(0, |text| text.parse().expect("a number"));
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ of_run);
    (0..len).map(|_| rng.random_range(-1.0f32..1.0) * magnitude).collect()
}

/// A tensor of `values` rounded to `dtype`.
pub(crate) fn tensor(values: &[f32], shape: &[usize], dtype: DType) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// All elements, widened.
pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Panics unless pools of 1, 2 and 5 threads compute the same bits.
pub(crate) fn assert_same_in_any_pool(op: &str, shape: &[usize], compute: impl Fn() -> Vec<f32> + Sync) {
    let in_pool_of = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            assert_eq!(crate::threads::count(), threads);
            compute()
        })
    };
    let alone = in_pool_of(1);
    for threads in [2, 5] {
        assert_same_bits(&format!("{op} with {threads} threads"), shape, &in_pool_of(threads), &alone);
    }
}

/// A device for tests of CUDA kernels: emulated, so that they run everywhere. In a build with the feature `cuda`,
/// `TRAMONTANE_TEST_DEVICE=cuda` makes it a GPU.
pub(crate) enum OnDevice {
    Emulated(Emulated),
    #[cfg(feature = "cuda")]
    Cuda(crate::gpu::cuda::Cuda),
}

/// Runs `check` with every order of threads: a kernel that lacks a barrier differs between them. A GPU has its own.
pub(crate) fn each_device(check: impl Fn(&OnDevice)) {
    let orders = [Order::Forward, Order::Reverse, Order::Shuffled];
    for &order in if WITH_THREADS || on_gpu() { &orders[..1] } else { &orders } {
        check(&OnDevice::open(order));
    }
}

fn on_gpu() -> bool {
    match std::env::var("TRAMONTANE_TEST_DEVICE") {
        Ok(device) if device == "cuda" && cfg!(feature = "cuda") => true,
        Ok(other) => panic!("TRAMONTANE_TEST_DEVICE={other}: only cuda can be asked for, with the feature cuda"),
        Err(_) => false,
    }
}

/// Calls the device's method, whichever it is.
macro_rules! on_device {
    ($on:expr, $device:ident => $call:expr) => {
        match $on {
            OnDevice::Emulated($device) => $call,
            #[cfg(feature = "cuda")]
            OnDevice::Cuda($device) => $call,
        }
    };
}

impl OnDevice {
    fn open(order: Order) -> Self {
        #[cfg(feature = "cuda")]
        if on_gpu() {
            return Self::Cuda(crate::gpu::cuda::Cuda::open(0).unwrap());
        }
        Self::Emulated(Emulated::new(order))
    }

    /// A device whose threads run in one order, for tests that are too long for all of them.
    pub(crate) fn forward() -> Self {
        Self::open(Order::Forward)
    }

    /// Memory that holds `bytes`.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> DevicePointer {
        on_device!(self, device => {
            let pointer = device.allocate(bytes.len()).unwrap();
            // SAFETY: the allocation is as long as the bytes.
            unsafe { device.upload(pointer, bytes) }.unwrap();
            pointer
        })
    }

    pub(crate) fn f32(&self, values: &[f32]) -> DevicePointer {
        self.bytes(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }

    pub(crate) fn u32(&self, values: &[u32]) -> DevicePointer {
        self.bytes(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }

    /// `values` rounded to `dtype`.
    pub(crate) fn rounded(&self, dtype: Float16, values: &[f32]) -> DevicePointer {
        let round = |&value| match dtype {
            Float16::Bf16 => bf16::from_f32(value).to_le_bytes(),
            Float16::F16 => f16::from_f32(value).to_le_bytes(),
        };
        self.bytes(&values.iter().flat_map(round).collect::<Vec<_>>())
    }

    /// `len` NaNs of `dtype`: what a kernel does not write shows.
    pub(crate) fn poisoned(&self, dtype: Float16, len: usize) -> DevicePointer {
        self.rounded(dtype, &vec![f32::NAN; len])
    }

    /// `len` NaNs of f32.
    pub(crate) fn poisoned_f32(&self, len: usize) -> DevicePointer {
        self.f32(&vec![f32::NAN; len])
    }

    /// Runs a kernel on memory of this device.
    pub(crate) fn run(&self, launch: &Launch) {
        // SAFETY: tests hand over memory of this device, of the sizes that the operator states.
        on_device!(self, device => unsafe { device.launch(launch) }.unwrap());
    }

    pub(crate) fn read_f32(&self, from: DevicePointer, len: usize) -> Vec<f32> {
        self.words(from, len).into_iter().map(f32::from_bits).collect()
    }

    pub(crate) fn read_u32(&self, from: DevicePointer, len: usize) -> Vec<u32> {
        self.words(from, len)
    }

    /// `len` values of `dtype`, widened.
    pub(crate) fn read(&self, from: DevicePointer, dtype: Float16, len: usize) -> Vec<f32> {
        let widen = |pair: &[u8]| match dtype {
            Float16::Bf16 => bf16::from_le_bytes([pair[0], pair[1]]).to_f32(),
            Float16::F16 => f16::from_le_bytes([pair[0], pair[1]]).to_f32(),
        };
        self.download(from, 2 * len).chunks_exact(2).map(widen).collect()
    }

    /// Tolerance for results that are rounded to `dtype` at the end: a unit in the last place of values up to some
    /// times the root mean square.
    pub(crate) fn rounding(&self, dtype: Float16) -> f64 {
        match dtype {
            Float16::Bf16 => 1.6e-2,
            Float16::F16 => 2e-3,
        }
    }

    fn words(&self, from: DevicePointer, len: usize) -> Vec<u32> {
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        self.download(from, 4 * len).chunks_exact(4).map(word).collect()
    }

    fn download(&self, from: DevicePointer, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // SAFETY: tests read what they have allocated.
        on_device!(self, device => unsafe { device.download(from, &mut bytes) }.unwrap());
        bytes
    }
}
