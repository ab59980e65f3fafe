//! From rows of a weight to a panel, and back.

#![expect(unsafe_code, reason = "plain loops inside target-feature functions")]

use candle_core::{Result, bail};
use half::bf16;

use super::{GROUP, OP, PANEL, QuantizedFormat, SCALE_BYTES};
use crate::simd::{Kernel, Tier, Vector, dispatch};
use crate::storage::Element;

/// Factors on a scale among which the one with the least error is taken, of equal ones the first.
const SCALES_TRIED: [f32; 9] = [1.0, 0.96, 0.92, 0.88, 0.84, 0.80, 1.04, 1.08, 1.12];

/// Quantizes `rows (PANEL, in)` to the bytes of a panel, which are zeros.
pub(super) fn panel(format: QuantizedFormat, rows: &[f32], bytes: &mut [u8]) -> Result<()> {
    if let Some(value) = rows.iter().find(|value| !value.is_finite()) {
        bail!("{OP}: a weight is {value}, which cannot be quantized");
    }
    // SAFETY: the kernel has no pointers.
    unsafe { dispatch(Tier::best(), Pack { format, rows, bytes }) };
    Ok(())
}

/// A panel; plain loops, which the compiler turns into vectors of the tier.
struct Pack<'a> {
    format: QuantizedFormat,
    rows: &'a [f32],
    bytes: &'a mut [u8],
}

impl Kernel for Pack<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { format, rows, bytes } = self;
        let in_features = rows.len() / PANEL;
        let (codes, scales) = bytes.split_at_mut(in_features / GROUP * format.code_bytes());
        let groups = codes.chunks_exact_mut(format.code_bytes()).zip(scales.chunks_exact_mut(SCALE_BYTES));
        for (group, (codes, scales)) in groups.enumerate() {
            for (row, scale_bytes) in scales.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let values = &rows[row * in_features..][..in_features].as_chunks::<GROUP>().0[group];
                let (scale, of_row) = quantize(format, values);
                *scale_bytes = scale.to_le_bytes();
                for (column, code) in of_row.into_iter().enumerate() {
                    let (at, shift) = place(format, row, column);
                    codes[at] |= code << shift;
                }
            }
        }
    }
}

/// Rows of a quantized weight, as its codes have them: `(rows.len(), in_features)`.
pub(crate) fn unpack_rows(format: QuantizedFormat, weight: &[u8], in_features: usize, rows: &[u32]) -> Vec<f32> {
    let mut out = vec![0.0; rows.len() * in_features];
    for (&row, out) in rows.iter().zip(out.chunks_exact_mut(in_features.max(1))) {
        unpack_row(format, weight, in_features, row as usize, out);
    }
    out
}

fn unpack_row(format: QuantizedFormat, weight: &[u8], in_features: usize, row: usize, out: &mut [f32]) {
    let groups = in_features / GROUP;
    let panel = &weight[row / PANEL * groups * format.group_bytes()..][..groups * format.group_bytes()];
    let (codes, scales) = panel.split_at(groups * format.code_bytes());
    let groups = codes.chunks_exact(format.code_bytes()).zip(scales.chunks_exact(SCALE_BYTES));
    for ((codes, scales), out) in groups.zip(out.chunks_exact_mut(GROUP)) {
        let scale = scales.as_chunks::<2>().0[row % PANEL];
        let scale = Element::to_f32(bf16::from_le_bytes(scale));
        for (column, value) in out.iter_mut().enumerate() {
            let (at, shift) = place(format, row % PANEL, column);
            let code = match format {
                QuantizedFormat::Q8 => codes[at],
                QuantizedFormat::Q4 => codes[at] >> shift & 15,
            };
            *value = (i32::from(code) - format.zero()) as f32 * scale;
        }
    }
}

/// The byte of a code in its group, and how far it is shifted there.
#[inline(always)]
fn place(format: QuantizedFormat, row: usize, column: usize) -> (usize, u32) {
    let within = |column: usize| column / 4 * PANEL * 4 + row * 4 + column % 4;
    match format {
        QuantizedFormat::Q8 => (within(column), 0),
        QuantizedFormat::Q4 => (within(column % (GROUP / 2)), if column < GROUP / 2 { 0 } else { 4 }),
    }
}

/// Scale and codes of a group of a row.
#[inline(always)]
fn quantize(format: QuantizedFormat, values: &[f32; GROUP]) -> (bf16, [u8; GROUP]) {
    let mut largest = 0.0f32;
    for value in values {
        largest = if value.abs() > largest.abs() { *value } else { largest };
    }
    match format {
        // No value is beyond the last code: the scale is rounded up.
        QuantizedFormat::Q8 => {
            let scale = round_up(largest.abs() / 127.0);
            (scale, codes(format, values, scale))
        }
        // Eight codes are below zero and seven above, so the largest value is put below.
        QuantizedFormat::Q4 => {
            let (mut best, mut least) = ((bf16::ZERO, [8; GROUP]), f32::INFINITY);
            for factor in SCALES_TRIED {
                let scale = <bf16 as Element>::from_f32(largest / -8.0 * factor);
                let codes = codes(format, values, scale);
                let error = error(format, values, (scale, &codes), largest);
                if error < least {
                    (best, least) = ((scale, codes), error);
                }
            }
            best
        }
    }
}

/// The nearest codes.
#[inline(always)]
fn codes(format: QuantizedFormat, values: &[f32; GROUP], scale: bf16) -> [u8; GROUP] {
    let scale = Element::to_f32(scale);
    // 8 bits are kept symmetric.
    let (least, most) = match format {
        QuantizedFormat::Q8 => (-127.0, 127.0),
        QuantizedFormat::Q4 => (-8.0, 7.0),
    };
    let mut codes = [format.zero() as u8; GROUP];
    if scale != 0.0 {
        for (code, value) in codes.iter_mut().zip(values) {
            *code = ((value / scale).round_ties_even().clamp(least, most) as i32 + format.zero()) as u8;
        }
    }
    codes
}

/// Sum of squared errors in units of the largest value, which numbers of any size leave within f32.
#[inline(always)]
fn error(format: QuantizedFormat, values: &[f32; GROUP], (scale, codes): (bf16, &[u8; GROUP]), largest: f32) -> f32 {
    let (scale, mut sum) = (Element::to_f32(scale), 0.0);
    for (code, wanted) in codes.iter().zip(values) {
        let found = (i32::from(*code) - format.zero()) as f32 * scale;
        let part = if largest == 0.0 { 0.0 } else { (found - wanted) / largest };
        sum += part * part;
    }
    sum
}

/// The least bf16 that is no less than a number that is not negative.
fn round_up(value: f32) -> bf16 {
    bf16::from_bits((value.to_bits().div_ceil(1 << 16)) as u16)
}
