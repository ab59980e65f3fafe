//! Matrix product with a weight in panels: `x (n, in)` f32 times the transpose of `weight (out, in)` gives `(n, out)`
//! f32.
//!
//! Such a weight is a tensor of bytes, `(out / 16, in / 32, bytes of a group)`: panels of 16 rows, which are computed
//! together, a row a lane, so that no sum is spread over lanes; and groups of 32 columns. What is in a group comes in
//! the order in which it is used: two or four columns of the first row, the same columns of the next one; then the next
//! columns.
//!
//! | format | columns together | value | a group has | bits per weight |
//! | --- | --- | --- | --- | --- |
//! | [`PanelFormat::Bf16`] | 2 | bf16 | 1,024 bytes | 16 |
//! | [`QuantizedFormat::Q8`] | 4 | `(code - 128) * scale` | 512 bytes, a code each, and 32 of scales | 8.5 |
//! | [`QuantizedFormat::Q4`] | 4 | `(code - 8) * scale` | 256 bytes, whose low halves are columns 0..16 and whose high halves are columns 16..32, and 32 of scales | 4.5 |
//!
//! The scales of a quantized panel, sixteen bf16 per group, come after all of its codes.
//!
//! Beside bf16, rows of x are rounded to bf16; products are added in f32, pair by pair in the order of the columns.
//! Beside codes they are quantized to 8 bits in groups of 32: `round(x / scale)` with `scale = max |x| / 127`. Products
//! of codes are added as integers, exactly; each group's sum is then scaled and added in f32, in the order of the
//! groups.

mod cpu;
mod pack;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor, bail};
use half::bf16;
use rayon::prelude::*;

use crate::memory::advise_huge_pages;
use crate::simd::OUTPUTS;
use crate::storage::{Element, bytes as operand_bytes, matrix, operand, with_element};
use crate::threads;

pub(crate) use cpu::{Product, run};
pub(crate) use pack::unpack_rows;

const OP: &str = "panel_linear";

/// Columns of a group; codes of a group share a scale.
pub const GROUP: usize = 32;
/// Rows of a panel.
pub const PANEL: usize = OUTPUTS;
/// Bytes of a group's scales.
const SCALE_BYTES: usize = PANEL * 2;

/// What a weight in panels is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PanelFormat {
    /// Its values, rounded to bf16.
    Bf16,
    /// Codes, which stand for its values nearly.
    Quantized(QuantizedFormat),
}

/// How a weight is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuantizedFormat {
    /// 8 bits, symmetric.
    Q8,
    /// 4 bits, symmetric; the scale is the best of some for the sum of squared errors.
    Q4,
}

impl QuantizedFormat {
    /// Quantizes a weight `(out, in)` whose rows are read when their turn comes, as [`PanelFormat::pack_bf16`] does.
    /// Fails if [`PanelFormat::refuses`] its shape or if it has a value that is not finite.
    pub fn quantize(self, shape: (usize, usize), read: &(dyn Fn(usize, &mut [f32]) + Sync)) -> Result<Tensor> {
        PanelFormat::Quantized(self).pack_panels(shape, 0.0, |first_row, rows, bytes| {
            read(first_row, rows);
            pack::quantized_panel(self, rows, bytes)
        })
    }

    /// Bytes of a group's codes.
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

impl PanelFormat {
    /// Codes of 8 bits.
    pub const Q8: Self = Self::Quantized(QuantizedFormat::Q8);
    /// Codes of 4 bits.
    pub const Q4: Self = Self::Quantized(QuantizedFormat::Q4);

    /// The format of a weight in panels and the shape `[out, in]` that it stands for; `None` of any other tensor.
    pub fn of(weight: &Tensor) -> Option<(Self, [usize; 2])> {
        Self::of_bytes(weight.dtype(), weight.dims())
    }

    fn of_bytes(dtype: DType, dims: &[usize]) -> Option<(Self, [usize; 2])> {
        let (DType::U8, &[panels, groups, bytes]) = (dtype, dims) else { return None };
        let format = [Self::Bf16, Self::Q8, Self::Q4].into_iter().find(|format| format.group_bytes() == bytes)?;
        Some((format, [panels * PANEL, groups * GROUP]))
    }

    /// Bytes of a weight `(out, in)` that is not refused.
    pub const fn weight_bytes(self, (out_features, in_features): (usize, usize)) -> usize {
        out_features / PANEL * (in_features / GROUP) * self.group_bytes()
    }

    /// Bits per weight, scales included.
    pub fn bits(self) -> f64 {
        8.0 * self.group_bytes() as f64 / (GROUP * PANEL) as f64
    }

    /// Bytes of a group of a panel.
    pub const fn group_bytes(self) -> usize {
        match self {
            Self::Bf16 => 2 * GROUP * PANEL,
            Self::Quantized(format) => format.code_bytes() + SCALE_BYTES,
        }
    }

    /// Why a weight of this shape cannot be put into panels, if it cannot.
    pub fn refuses(self, (out_features, in_features): (usize, usize)) -> Option<String> {
        for (name, found, unit) in [("rows", out_features, PANEL), ("columns", in_features, GROUP)] {
            if !found.is_multiple_of(unit) {
                return Some(format!("{found} {name} are not a multiple of {unit}"));
            }
        }
        None
    }

    /// Puts a weight `(out, in)` in f32, bf16 or f16 into panels. Fails if [`Self::refuses`] its shape, or if it is to
    /// be quantized and has a value that is not finite.
    pub fn pack(self, weight: &Tensor) -> Result<Tensor> {
        let (out_features, in_features) = matrix(OP, "weight", weight)?;
        let (storage, layout) = weight.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("{OP}: the weight is not in the CPU's memory") };
        with_element!(OP, weight.dtype(), T => {
            let weight = operand::<T>(OP, "weight", storage, layout)?;
            let stored = |first_row: usize, len: usize| weight[first_row * in_features..][..len].iter();
            match self {
                Self::Bf16 => Self::pack_bf16((out_features, in_features), &|first_row, rows| {
                    let stored = stored(first_row, rows.len());
                    rows.iter_mut().zip(stored).for_each(|(value, stored)| *value = Element::from_f32(stored.to_f32()));
                }),
                Self::Quantized(format) => format.quantize((out_features, in_features), &|first_row, rows| {
                    let stored = stored(first_row, rows.len());
                    rows.iter_mut().zip(stored).for_each(|(value, stored)| *value = stored.to_f32());
                }),
            }
        })
    }

    /// The same of a weight in bf16 whose rows are read when their turn comes: `read` is given the number of a row, and
    /// has to fill `PANEL` rows of `in` values from there on. It is called from several threads.
    pub fn pack_bf16(shape: (usize, usize), read: &(dyn Fn(usize, &mut [bf16]) + Sync)) -> Result<Tensor> {
        Self::Bf16.pack_panels(shape, bf16::ZERO, |first_row, rows, bytes| {
            read(first_row, rows);
            pack::bf16_panel(rows, bytes);
            Ok(())
        })
    }

    /// A weight `(out, in)` that was in panels of this format before: `read` is given the number of a panel and its bytes to
    /// fill, which are zeros. It is called from several threads.
    pub fn from_panels(self, shape: (usize, usize), read: &(dyn Fn(usize, &mut [u8]) + Sync)) -> Result<Tensor> {
        self.pack_panels(shape, (), |first_row, _, bytes| {
            read(first_row / PANEL, bytes);
            Ok(())
        })
    }

    /// `pack` fills the bytes of a panel, which are zeros; it is given the number of its first row and room for its rows.
    fn pack_panels<T: Copy + Send + Sync>(
        self,
        (out_features, in_features): (usize, usize),
        zero: T,
        pack: impl Fn(usize, &mut [T], &mut [u8]) -> Result<()> + Sync,
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
        advise_huge_pages(&bytes);
        let start = bytes.as_ptr().align_offset(LINE).min(LINE);
        if len > 0 {
            let panels = bytes[start..start + len].par_chunks_exact_mut(panel_bytes).enumerate();
            threads::run(|| {
                panels.try_for_each_init(
                    || vec![zero; PANEL * in_features],
                    |rows, (panel, bytes)| pack(panel * PANEL, rows, bytes),
                )
            })?;
        }
        let all = Tensor::from_vec(bytes, len + LINE, &Device::Cpu)?;
        all.narrow(0, start, len)?.reshape(dims)
    }
}

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// The shape `(out, in)` of a weight, in panels or not.
pub(crate) fn weight_shape(op: &str, name: &str, dtype: DType, layout: &Layout) -> Result<(usize, usize)> {
    match (PanelFormat::of_bytes(dtype, layout.dims()), layout.dims()) {
        (Some((_, [rows, columns])), _) | (None, &[rows, columns]) => Ok((rows, columns)),
        (None, other) => bail!("{op}: {name} has shape {other:?}, expected a matrix"),
    }
}

/// The format and the bytes of a weight, if it is in panels.
pub(crate) fn panels<'a>(
    op: &str,
    name: &str,
    (storage, layout): (&'a CpuStorage, &Layout),
) -> Result<Option<(PanelFormat, &'a [u8])>> {
    match PanelFormat::of_bytes(storage.dtype(), layout.dims()) {
        Some((format, _)) => Ok(Some((format, operand_bytes(op, name, storage, layout)?))),
        None => Ok(None),
    }
}
