//! From rows of a weight to a panel, and back.

#![expect(unsafe_code, reason = "plain loops inside target-feature functions")]

use candle_core::{Result, bail};
use half::bf16;

use super::{GROUP, OP, PANEL, PanelFormat, QuantizedFormat, SCALE_BYTES};
use crate::simd::{Kernel, Tier, Vector, dispatch};
use crate::storage::Element;

/// Factors on a scale among which the one with the least error is taken, of equal ones the first.
const SCALES_TRIED: [f32; 9] = [1.0, 0.96, 0.92, 0.88, 0.84, 0.80, 1.04, 1.08, 1.12];

/// Copies `rows (PANEL, in)` to the bytes of a panel.
pub(super) fn bf16_panel(rows: &[bf16], bytes: &mut [u8]) {
    // SAFETY: the kernel has no pointers.
    unsafe { dispatch(Tier::best(), Interleave { rows, bytes }) };
}

/// Quantizes `rows (PANEL, in)` to the bytes of a panel, which are zeros.
pub(super) fn quantized_panel(format: QuantizedFormat, rows: &[f32], bytes: &mut [u8]) -> Result<()> {
    if let Some(value) = rows.iter().find(|value| !value.is_finite()) {
        bail!("{OP}: a weight is {value}, which cannot be quantized");
    }
    // SAFETY: the kernel has no pointers.
    unsafe { dispatch(Tier::best(), Pack { format, rows, bytes }) };
    Ok(())
}

/// A panel of bf16; plain loops, which the compiler unrolls.
struct Interleave<'a> {
    rows: &'a [bf16],
    bytes: &'a mut [u8],
}

impl Kernel for Interleave<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let in_features = self.rows.len() / PANEL;
        for (group, bytes) in self.bytes.as_chunks_mut::<{ PanelFormat::Bf16.group_bytes() }>().0.iter_mut().enumerate()
        {
            let pairs = bytes.as_chunks_mut::<4>().0;
            for row in 0..PANEL {
                let values = &self.rows[row * in_features..][..in_features].as_chunks::<GROUP>().0[group];
                for (pair, [first, second]) in values.as_chunks::<2>().0.iter().enumerate() {
                    let [a, b] = first.to_le_bytes();
                    let [c, d] = second.to_le_bytes();
                    pairs[pair * PANEL + row] = [a, b, c, d];
                }
            }
        }
    }
}

/// A panel of codes; plain loops too.
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

/// Rows of a weight in panels, as its bytes have them: `(rows.len(), in_features)`.
pub(crate) fn unpack_rows(format: PanelFormat, weight: &[u8], in_features: usize, rows: &[u32]) -> Vec<f32> {
    let mut out = vec![0.0; rows.len() * in_features];
    for (&row, out) in rows.iter().zip(out.chunks_exact_mut(in_features.max(1))) {
        match format {
            PanelFormat::Bf16 => unpack_bf16(weight, in_features, row as usize, out),
            PanelFormat::Quantized(format) => unpack_codes(format, weight, in_features, row as usize, out),
        }
    }
    out
}

fn unpack_bf16(weight: &[u8], in_features: usize, row: usize, out: &mut [f32]) {
    let panel = &weight[row / PANEL * PANEL * in_features * 2..][..PANEL * in_features * 2];
    for (values, pairs) in out.as_chunks_mut::<2>().0.iter_mut().zip(panel.chunks_exact(4 * PANEL)) {
        let pair = pairs.as_chunks::<2>().0[2 * (row % PANEL)..][..2].iter();
        values.iter_mut().zip(pair).for_each(|(value, bytes)| *value = Element::to_f32(bf16::from_le_bytes(*bytes)));
    }
}

fn unpack_codes(format: QuantizedFormat, weight: &[u8], in_features: usize, row: usize, out: &mut [f32]) {
    let group_bytes = PanelFormat::Quantized(format).group_bytes();
    let groups = in_features / GROUP;
    let panel = &weight[row / PANEL * groups * group_bytes..][..groups * group_bytes];
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

/// Numbers of a group that are worked on side by side, in lanes of whatever width.
const LANES: usize = 16;

/// Scale and codes of a group of a row.
#[inline(always)]
fn quantize(format: QuantizedFormat, values: &[f32; GROUP]) -> (bf16, [u8; GROUP]) {
    let largest = largest(values);
    let scale = match format {
        // No value is beyond the last code: the scale is rounded up.
        QuantizedFormat::Q8 => round_up(largest.abs() / 127.0),
        // Eight codes are below zero and seven above, so the largest value is put below.
        QuantizedFormat::Q4 => {
            let (mut best, mut least) = (bf16::ZERO, f32::INFINITY);
            for factor in SCALES_TRIED {
                let scale = <bf16 as Element>::from_f32(largest / -8.0 * factor);
                let error = error(values, scale, largest);
                if error < least {
                    (best, least) = (scale, error);
                }
            }
            best
        }
    };
    let mut codes = [0; GROUP];
    for (code, level) in codes.iter_mut().zip(levels(format, values, scale)) {
        *code = (level as i32 + format.zero()) as u8;
    }
    (scale, codes)
}

/// The value of the largest size, the greater one of two that differ in their sign.
#[inline(always)]
fn largest(values: &[f32; GROUP]) -> f32 {
    let (mut high, mut low) = ([0.0f32; LANES], [0.0f32; LANES]);
    for values in values.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            high[lane] = if values[lane] > high[lane] { values[lane] } else { high[lane] };
            low[lane] = if values[lane] < low[lane] { values[lane] } else { low[lane] };
        }
    }
    let (high, low) = (high.into_iter().fold(0.0f32, f32::max), low.into_iter().fold(0.0f32, f32::min));
    if high >= -low { high } else { low }
}

/// Multiples of the scale that are nearest to the values.
#[inline(always)]
fn levels(format: QuantizedFormat, values: &[f32; GROUP], scale: bf16) -> [f32; GROUP] {
    let scale = Element::to_f32(scale);
    // 8 bits are kept symmetric.
    let (least, most) = match format {
        QuantizedFormat::Q8 => (-127.0, 127.0),
        QuantizedFormat::Q4 => (-8.0, 7.0),
    };
    let mut levels = [0.0; GROUP];
    if scale != 0.0 {
        for (level, value) in levels.iter_mut().zip(values) {
            *level = (value / scale).round_ties_even().clamp(least, most);
        }
    }
    levels
}

/// Sum of squared errors of 4 bits in units of the largest value, which numbers of any size leave within f32.
#[inline(always)]
fn error(values: &[f32; GROUP], scale: bf16, largest: f32) -> f32 {
    if largest == 0.0 {
        return 0.0;
    }
    let levels = levels(QuantizedFormat::Q4, values, scale);
    let scale = Element::to_f32(scale);
    let mut sums = [0.0; LANES];
    for (levels, values) in levels.as_chunks::<LANES>().0.iter().zip(values.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            let part = (levels[lane] * scale - values[lane]) / largest;
            sums[lane] += part * part;
        }
    }
    sums.into_iter().sum()
}

/// The least bf16 that is no less than a number that is not negative.
fn round_up(value: f32) -> bf16 {
    bf16::from_bits((value.to_bits().div_ceil(1 << 16)) as u16)
}
