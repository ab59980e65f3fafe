//! A product as a vendor's library can compute it in place of our own kernel.

use super::{DevicePointer, Float16};

/// `x (rows, in_features)` times the transpose of `weight (out_features, in_features)`, both of type `dtype`, sums in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// The left operand.
    pub x: DevicePointer,
    /// The right one.
    pub weight: DevicePointer,
    /// `(rows, out_features)`
    pub out: DevicePointer,
    /// Above 0.
    pub rows: usize,
    /// Sizes and types.
    pub kind: ProductKind,
}

/// What products have in common that must be computed alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProductKind {
    /// Length of the sums.
    pub in_features: usize,
    /// Rows of the weight.
    pub out_features: usize,
    /// What becomes of the sums.
    pub output: ProductOutput,
    /// Of x and weight.
    pub dtype: Float16,
}

impl Product {
    /// Bytes that a library may work in: what NVIDIA recommends for Hopper.
    pub const LIBRARY_WORKSPACE: usize = 32 << 20;
    /// The most rows that a library computes in one call.
    pub const LIBRARY_ROWS: usize = 2048;

    /// The product of `rows` rows from `first` on.
    pub fn part(&self, first: usize, rows: usize) -> Self {
        let ProductKind { in_features, out_features, output, .. } = self.kind;
        let (x, out) = (in_features * Float16::BYTES, out_features * output.bytes());
        Self { x: self.x.plus(first * x), out: self.out.plus(first * out), rows, ..*self }
    }
}

impl ProductKind {
    /// Bytes of a device's memory that a library takes for itself, and for a moment when it is tried out on the kind.
    pub fn library_bytes(&self) -> usize {
        let row = self.in_features * Float16::BYTES + self.out_features * self.output.bytes();
        Product::LIBRARY_WORKSPACE + Product::LIBRARY_ROWS * row
    }
}

impl std::fmt::Display for ProductKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { in_features, out_features, output, dtype } = self;
        write!(f, "{out_features} x {in_features} {dtype:?}, {output:?}")
    }
}

impl ProductOutput {
    /// Size of a result.
    pub fn bytes(self) -> usize {
        match self {
            Self::Rounded => Float16::BYTES,
            Self::F32 | Self::AddF32 => 4,
        }
    }
}

/// What becomes of the sums of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProductOutput {
    /// Rounded to the type of the operands.
    Rounded,
    /// Stored as f32.
    F32,
    /// Added to the f32 that is there.
    AddF32,
}
