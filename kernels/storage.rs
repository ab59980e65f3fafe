//! Typed, checked access to candle's CPU storage.

use candle_core::{CpuStorage, DType, Error, Layout, Result, Tensor, bail};
use half::{bf16, f16};

/// How an [`Element`] lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ElementKind {
    F32,
    Bf16,
    F16,
}

/// A type of weights and of the KV cache.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    const KIND: ElementKind;
    fn to_f32(self) -> f32;
    /// To nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    fn of(storage: &CpuStorage) -> Option<&[Self]>;
    fn of_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
    /// The same elements, if they are bf16.
    fn as_bf16(values: &[Self]) -> Option<&[bf16]>;
}

macro_rules! element {
    ($type:ty, $kind:ident, $variant:ident, $value:ident => $widen:expr, $narrow:expr, $as_bf16:expr) => {
        impl Element for $type {
            const KIND: ElementKind = ElementKind::$kind;
            #[inline(always)]
            fn to_f32(self) -> f32 {
                let $value = self;
                $widen
            }
            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                let $value = value;
                $narrow
            }
            fn of(storage: &CpuStorage) -> Option<&[Self]> {
                if let CpuStorage::$variant(values) = storage { Some(values) } else { None }
            }
            fn of_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                if let CpuStorage::$variant(values) = storage { Some(values) } else { None }
            }
            fn as_bf16(values: &[Self]) -> Option<&[bf16]> {
                $as_bf16(values)
            }
        }
    };
}

element!(f32, F32, F32, value => value, value, |_| None);
// Not `half`'s conversions, whose treatment of NaN keeps loops from being vectorised.
element!(bf16, Bf16, BF16, value => f32::from_bits(u32::from(value.to_bits()) << 16), narrow_bf16(value), Some);
element!(f16, F16, F16, value => value.to_f32(), f16::from_f32(value), |_| None);

/// Rounds to nearest, ties to even; NaN stays a quiet NaN.
#[inline(always)]
fn narrow_bf16(value: f32) -> bf16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    let quiet_nan = (bits >> 16) | 0x40;
    bf16::from_bits(if value.is_nan() { quiet_nan } else { rounded } as u16)
}

/// Calls `$run` with `$T` bound to the element type of `$dtype`.
macro_rules! with_element {
    ($op:expr, $dtype:expr, $T:ident => $run:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $T = f32;
                $run
            }
            candle_core::DType::BF16 => {
                type $T = half::bf16;
                $run
            }
            candle_core::DType::F16 => {
                type $T = half::f16;
                $run
            }
            other => Err(candle_core::Error::Msg(format!("{}: {other:?} is not f32, bf16 or f16", $op))),
        }
    };
}
pub(crate) use with_element;

/// The elements of a contiguous operand.
pub(crate) fn operand<'a, T: Element>(
    op: &str,
    name: &str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(not_contiguous(op, name, layout));
    };
    match T::of(storage) {
        Some(values) => Ok(&values[start..end]),
        None => bail!("{op}: {name} is {:?}, expected {:?}", storage_dtype(storage), T::KIND),
    }
}

/// The bytes of a contiguous operand of type u8.
pub(crate) fn bytes<'a>(op: &str, name: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [u8]> {
    match (storage, layout.contiguous_offsets()) {
        (_, None) => Err(not_contiguous(op, name, layout)),
        (CpuStorage::U8(values), Some((start, end))) => Ok(&values[start..end]),
        (other, _) => bail!("{op}: {name} is {:?}, expected U8", storage_dtype(other)),
    }
}

/// The elements of a contiguous operand, to be overwritten.
pub(crate) fn operand_mut<'a, T: Element>(
    op: &str,
    name: &str,
    storage: &'a mut CpuStorage,
    layout: &Layout,
) -> Result<&'a mut [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(not_contiguous(op, name, layout));
    };
    let dtype = storage_dtype(storage);
    match T::of_mut(storage) {
        Some(values) => Ok(&mut values[start..end]),
        None => bail!("{op}: {name} is {dtype:?}, expected {:?}", T::KIND),
    }
}

/// Dimensions of a matrix, or an error that names it.
pub(crate) fn matrix(op: &str, name: &str, tensor: &Tensor) -> Result<(usize, usize)> {
    match tensor.dims() {
        &[rows, columns] => Ok((rows, columns)),
        other => bail!("{op}: {name} has shape {other:?}, expected a matrix"),
    }
}

/// Refuses activations of another type than f32.
pub(crate) fn expect_f32(op: &str, name: &str, tensor: &Tensor) -> Result<()> {
    if tensor.dtype() != DType::F32 {
        bail!("{op}: {name} is {:?}, expected F32", tensor.dtype());
    }
    Ok(())
}

/// Refuses a tensor of another shape.
pub(crate) fn expect_shape(op: &str, name: &str, tensor: &Tensor, expected: &[usize]) -> Result<()> {
    if tensor.dims() != expected {
        bail!("{op}: {name} has shape {:?}, expected {expected:?}", tensor.dims());
    }
    Ok(())
}

fn storage_dtype(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

fn not_contiguous(op: &str, name: &str, layout: &Layout) -> Error {
    Error::Msg(format!("{op}: {name} with shape {:?} is not contiguous", layout.dims()))
}
