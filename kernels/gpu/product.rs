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
