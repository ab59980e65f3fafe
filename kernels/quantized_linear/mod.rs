//! Matrix product with a weight of 8 or 4 bits: `x (n, in)` f32 times the transpose of a quantized `weight (out, in)`.
//!
//! A quantized weight is a tensor of bytes, `(out / 16, in / 32, bytes of a group)`: panels of 16 rows, which are computed
//! together, and groups of 32 columns, which share a scale. A panel is its codes, group after group, and then its
//! scales, group after group, sixteen bf16 each. The codes of a group are in the order in which they are used: four
//! columns of the first row, the same four of the next one; then the next four columns.
//!
//! | format | value of a code | a group has | bits per weight |
//! | --- | --- | --- | --- |
//! | [`QuantizedFormat::Q8`] | `(code - 128) * scale` | 512 bytes, a code each, and 32 of scales | 8.5 |
//! | [`QuantizedFormat::Q4`] | `(code - 8) * scale` | 256 bytes, whose low halves are columns 0..16 and whose high halves are columns 16..32, and 32 of scales | 4.5 |
//!
//! Rows of x are quantized to 8 bits in groups of 32 too: `round(x / scale)` with `scale = max |x| / 127`. Products of
//! codes are added as integers, exactly; each group's sum is then scaled and added in f32, in the order of the groups.

mod cpu;
mod pack;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use candle_core::{DType, Device, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use crate::linear::Store;
use crate::simd::{OUTPUTS, Tier};
use crate::storage::{Element, matrix, operand, with_element};
use crate::threads;

pub(crate) use pack::unpack_rows;

const OP: &str = "quantized_linear";

/// Columns that share a scale.
pub const GROUP: usize = 32;
/// Rows of a panel.
pub const PANEL: usize = OUTPUTS;
/// Bytes of a group's scales.
const SCALE_BYTES: usize = PANEL * 2;

/// How a weight is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuantizedFormat {
    /// 8 bits, symmetric.
    Q8,
    /// 4 bits, symmetric; the scale is the best of some for the sum of squared errors.
    Q4,
}

impl QuantizedFormat {
    /// The format of a quantized weight; `None` of any other tensor.
    pub fn of(weight: &Tensor) -> Option<Self> {
        Self::of_bytes(weight.dtype(), weight.dims())
    }

    pub(crate) fn of_bytes(dtype: DType, dims: &[usize]) -> Option<Self> {
        match (dtype, dims) {
            (DType::U8, &[_, _, bytes]) => [Self::Q8, Self::Q4].into_iter().find(|it| it.group_bytes() == bytes),
            _ => None,
        }
    }

    /// The format of a quantized weight and the shape `[out, in]` that it stands for; `None` of any other tensor.
    pub fn shape_of(weight: &Tensor) -> Option<(Self, [usize; 2])> {
        let format = Self::of(weight)?;
        let (out_features, in_features) = shape(weight.layout()).ok()?;
        Some((format, [out_features, in_features]))
    }

    /// Bytes of a quantized weight `(out, in)` that is not refused.
    pub const fn weight_bytes(self, (out_features, in_features): (usize, usize)) -> usize {
        out_features / PANEL * (in_features / GROUP) * self.group_bytes()
    }

    /// Bits per weight, scales included.
    pub fn bits(self) -> f64 {
        8.0 * self.group_bytes() as f64 / (GROUP * PANEL) as f64
    }

    /// Bytes of a group of a panel.
    pub const fn group_bytes(self) -> usize {
        self.code_bytes() + SCALE_BYTES
    }

    /// Why a weight of this shape cannot be quantized, if it cannot.
    pub fn refuses(self, (out_features, in_features): (usize, usize)) -> Option<String> {
        for (name, found, unit) in [("rows", out_features, PANEL), ("columns", in_features, GROUP)] {
            if !found.is_multiple_of(unit) {
                return Some(format!("{found} {name} are not a multiple of {unit}"));
            }
        }
        None
    }

    /// Quantizes a weight `(out, in)` in f32, bf16 or f16. Fails if [`Self::refuses`] its shape or if it has a value that is
    /// not finite.
    pub fn quantize(self, weight: &Tensor) -> Result<Tensor> {
        let (out_features, in_features) = matrix(OP, "weight", weight)?;
        let (storage, layout) = weight.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("{OP}: the weight is not in the CPU's memory") };
        with_element!(OP, weight.dtype(), T => {
            let weight = operand::<T>(OP, "weight", storage, layout)?;
            self.quantize_rows((out_features, in_features), &|first_row, rows| {
                let stored = &weight[first_row * in_features..][..rows.len()];
                rows.iter_mut().zip(stored).for_each(|(value, stored)| *value = stored.to_f32());
            })
        })
    }

    /// Quantizes a weight whose rows are read when their turn comes: `read` is given the number of a row, and has to fill
    /// `PANEL` rows of `in` values from there on. It is called from several threads. Fails as [`Self::quantize`].
    pub fn quantize_rows(
        self,
        (out_features, in_features): (usize, usize),
        read: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> Result<Tensor> {
        if let Some(reason) = self.refuses((out_features, in_features)) {
            bail!("{OP}: {reason}");
        }
        let dims = (out_features / PANEL, in_features / GROUP, self.group_bytes());
        let panel_bytes = dims.1 * dims.2;
        let len = dims.0 * panel_bytes;
        // Asking first turns a refusal into an error; zeroed memory can only be had or be aborted for.
        if Vec::<u8>::new().try_reserve_exact(len + LINE).is_err() {
            bail!("{OP}: {len} bytes of memory cannot be had");
        }
        // Slack, so that the panels can begin at a line of the cache.
        let mut bytes = vec![0u8; len + LINE];
        let start = bytes.as_ptr().align_offset(LINE).min(LINE);
        if len > 0 {
            let panels = bytes[start..start + len].par_chunks_exact_mut(panel_bytes).enumerate();
            threads::run(|| {
                panels.try_for_each_init(
                    || vec![0.0; PANEL * in_features],
                    |rows, (panel, bytes)| {
                        read(panel * PANEL, rows);
                        pack::panel(self, rows, bytes)
                    },
                )
            })?;
        }
        let all = Tensor::from_vec(bytes, len + LINE, &Device::Cpu)?;
        all.narrow(0, start, len)?.reshape(dims)
    }

    const fn code_bytes(self) -> usize {
        match self {
            Self::Q8 => GROUP * PANEL,
            Self::Q4 => GROUP * PANEL / 2,
        }
    }

    /// The code that stands for zero.
    const fn zero(self) -> i32 {
        match self {
            Self::Q8 => 128,
            Self::Q4 => 8,
        }
    }
}

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// The shape `(out, in)` that a quantized weight stands for.
pub(crate) fn shape(weight: &Layout) -> Result<(usize, usize)> {
    let (panels, groups, _) = weight.shape().dims3()?;
    Ok((panels * PANEL, groups * GROUP))
}

/// `out (rows, out)` from `x (rows, in)` and the bytes of a quantized weight.
pub(crate) fn run(
    format: QuantizedFormat,
    x: &[f32],
    weight: &[u8],
    (rows, out_features, in_features): (usize, usize, usize),
    store: Store,
    out: &mut [f32],
) {
    let product = cpu::Product { format, x, weight, rows, in_features, out_features };
    cpu::run(Tier::best(), &product, store, out);
}
