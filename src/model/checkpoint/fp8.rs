//! FP8 (E4M3) weights: every release multiplies the stored value by a scale, whatever the scale is called.
//! The shape of the scale tensor says how far one scale reaches. [`QuantizedMatrix`] is for a path that
//! multiplies in FP8: the stored bytes and scales instead of the dequantised weights.

use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use float8::F8E4M3;
use safetensors::Dtype;

use super::tensors::Stored;

/// The value of each of the 256 codes.
pub(super) static VALUES: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|code| F8E4M3::from_bits(code as u8).to_f32()));

/// How far one scale reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleLayout {
    /// One scale for the matrix: `[]` or `[1]`.
    Tensor,
    /// One scale per row: `[rows, 1]` or `[rows]`.
    Channel,
    /// One scale per block: `[ceil(rows / block.0), ceil(columns / block.1)]`; the last blocks may be partial.
    Block {
        /// Rows per block.
        rows: usize,
        /// Columns per block.
        columns: usize,
    },
}

/// A matrix as it is stored in FP8.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedMatrix<'a> {
    /// Name of the stored weight.
    pub name: &'a str,
    /// `[out_features, in_features]`
    pub shape: [usize; 2],
    /// E4M3 codes, row-major in the order of the file, `(out_features, in_features)`.
    pub codes: &'a [u8],
    /// How far each of `weight_scales` reaches.
    pub layout: ScaleLayout,
    /// Factors of the codes' values, in the order of the file, none negative.
    pub weight_scales: Vec<f32>,
    /// Fixed scale of the layer's input, if the checkpoint has one.
    pub activation_scale: Option<f32>,
    /// Width of a head whose rows the file stores as interleaved pairs `(0, 1), (2, 3), ..`, where the decoder
    /// has the first of all pairs before the second.
    pub interleaved_head_dim: Option<usize>,
}

/// The scales of a quantised matrix, not read yet.
#[derive(Clone, Debug)]
pub(super) struct Quantization {
    /// How far each element of `weight_scale` reaches.
    pub(super) layout: ScaleLayout,
    pub(super) weight_scale: Stored,
    /// Fixed scale of the layer's input, if the checkpoint has one.
    pub(super) activation_scale: Option<Stored>,
}

impl ScaleLayout {
    /// The layout that a scale of this shape has for a matrix of `rows` by `columns`, if any.
    pub(super) fn of(scale: &[usize], [rows, columns]: [usize; 2], block: [usize; 2]) -> Option<ScaleLayout> {
        let blocks = [rows.div_ceil(block[0]), columns.div_ceil(block[1])];
        match scale {
            [] | [1] => Some(ScaleLayout::Tensor),
            [only] if *only == rows => Some(ScaleLayout::Channel),
            [first, 1] if *first == rows => Some(ScaleLayout::Channel),
            shape if *shape == blocks => Some(ScaleLayout::Block { rows: block[0], columns: block[1] }),
            _ => None,
        }
    }

    /// Where the scales of a row lie in the scale tensor, and how many columns each reaches.
    pub(super) fn row(self, row: usize, columns: usize) -> (Range<usize>, usize) {
        match self {
            ScaleLayout::Tensor => (0..1, columns.max(1)),
            ScaleLayout::Channel => (row..row + 1, columns.max(1)),
            ScaleLayout::Block { rows, columns: width } => {
                let blocks = columns.div_ceil(width);
                let first = row / rows * blocks;
                (first..first + blocks, width)
            }
        }
    }
}

impl fmt::Display for ScaleLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScaleLayout::Tensor => f.write_str("per tensor"),
            ScaleLayout::Channel => f.write_str("per channel"),
            ScaleLayout::Block { rows, columns } => write!(f, "per block of {rows}x{columns}"),
        }
    }
}

/// Types in which scales are stored.
pub(super) fn is_scale_type(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}
