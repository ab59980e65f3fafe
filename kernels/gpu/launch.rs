//! A kernel with its grid and its arguments.

use super::product::Product;

/// Address of memory on a device. Never looked into by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevicePointer(pub u64);

impl DevicePointer {
    /// No memory: what a kernel takes for an operand that it does not have.
    pub const NULL: Self = Self(0);

    /// The address `bytes` further on.
    pub fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// One launch of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// The same as a product, which a vendor's library may compute instead.
    pub product: Option<Product>,
    /// Whether it may begin before the launch in front of it has ended.
    pub overlaps: bool,
    /// The values of the parameters, each in the low bytes of its slot.
    arguments: Vec<u64>,
}

impl Launch {
    /// A launch whose parameters are still to be added, in the order of the kernel's.
    pub fn new(kernel: &'static str, grid: [u32; 3], threads: u32, shared_bytes: u32) -> Self {
        Self { kernel, grid, threads, shared_bytes, product: None, overlaps: false, arguments: Vec::new() }
    }

    /// Allows a library to compute the product instead.
    pub fn or(self, product: Product) -> Self {
        Self { product: Some(product), ..self }
    }

    /// Allows it to begin before the launch in front of it has ended: the kernel itself waits for that
    /// (`wait_for_earlier_launches` in `gpu.cuh`).
    pub fn overlapping(self) -> Self {
        Self { overlaps: true, ..self }
    }

    /// Adds a pointer.
    pub fn pointer(mut self, pointer: DevicePointer) -> Self {
        self.arguments.push(pointer.0);
        self
    }

    /// Adds an `int`. Sizes of a batch and of a model are far below its limit.
    pub fn int(mut self, value: usize) -> Self {
        let value = i32::try_from(value).expect("a size below 2^31");
        self.arguments.push(u64::from(value.cast_unsigned()));
        self
    }

    /// Adds a `float`.
    pub fn float(mut self, value: f32) -> Self {
        self.arguments.push(u64::from(value.to_bits()));
        self
    }

    /// Pointers to the values, as `cuLaunchKernel` takes them. Valid as long as `self` is neither moved nor changed.
    pub fn argument_pointers(&mut self) -> Vec<*mut std::ffi::c_void> {
        self.arguments.iter_mut().map(|slot| std::ptr::from_mut(slot).cast()).collect()
    }
}
