//! Vectors as clients ask for them: shortened, of length 1, quantized, as numbers or in base64.
//!
//! Mistral's documentation names the types of `output_dtype` and says that the single bits of `binary` are packed into
//! int8 by the offset binary method; it gives no scale for int8 and uint8. Here, with `m` the largest magnitude of the
//! vector's own values:
//!
//! - `int8`: `round(127 * x / m)`, so angles between vectors stay what they are up to rounding;
//! - `uint8`: `round(127.5 + 127.5 * x / m)`;
//! - `ubinary`: a bit per value, 1 where `x > 0`, eight to a byte with the first in the highest place (numpy's
//!   `packbits`); `binary`: the same minus 128.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

/// Values per byte of the binary types.
pub(super) const BITS: usize = 8;

/// `output_dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueType {
    Float,
    Int8,
    Uint8,
    Binary,
    Ubinary,
}

/// A vector as JSON has it.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Vector {
    Floats(Vec<f32>),
    Signed(Vec<i8>),
    Unsigned(Vec<u8>),
    /// Of little-endian f32, or of bytes.
    Base64(String),
}

impl ValueType {
    /// The type of that name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "float" => Some(Self::Float),
            "int8" => Some(Self::Int8),
            "uint8" => Some(Self::Uint8),
            "binary" => Some(Self::Binary),
            "ubinary" => Some(Self::Ubinary),
            _ => None,
        }
    }

    pub(super) fn is_binary(self) -> bool {
        matches!(self, Self::Binary | Self::Ubinary)
    }

    /// The vector in this type.
    pub(super) fn quantize(self, vector: Vec<f32>) -> Vector {
        let largest = vector.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        // A vector of zeros stays one.
        let relative = |value: &f32| if largest > 0.0 { value / largest } else { 0.0 };
        match self {
            Self::Float => Vector::Floats(vector),
            Self::Int8 => Vector::Signed(vector.iter().map(|value| (127.0 * relative(value)).round() as i8).collect()),
            Self::Uint8 => {
                Vector::Unsigned(vector.iter().map(|value| (127.5 + 127.5 * relative(value)).round() as u8).collect())
            }
            Self::Ubinary => Vector::Unsigned(packed(&vector)),
            Self::Binary => {
                let offset = |byte: u8| byte.wrapping_sub(128).cast_signed();
                Vector::Signed(packed(&vector).into_iter().map(offset).collect())
            }
        }
    }
}

impl Vector {
    /// The same in base64.
    pub(super) fn in_base64(self) -> Self {
        let bytes: Vec<u8> = match self {
            Self::Floats(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::Signed(values) => values.into_iter().map(i8::cast_unsigned).collect(),
            Self::Unsigned(values) => values,
            encoded @ Self::Base64(_) => return encoded,
        };
        Self::Base64(STANDARD.encode(bytes))
    }
}

/// Scales a vector to length 1. One of zeros stays as it is.
pub(super) fn normalize(vector: &mut [f32]) {
    let length = length(vector);
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
}

/// The cosine of the angle between two vectors, 0 if one of them has no direction.
pub(in crate::api) fn cosine(one: &[f32], other: &[f32]) -> f32 {
    let product: f64 = one.iter().zip(other).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    let lengths = length(one) * length(other);
    if lengths > 0.0 { (product / lengths) as f32 } else { 0.0 }
}

fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

fn packed(vector: &[f32]) -> Vec<u8> {
    let byte = |values: &[f32]| {
        values
            .iter()
            .enumerate()
            .fold(0u8, |byte, (place, value)| byte | (u8::from(*value > 0.0) << (BITS - 1 - place)))
    };
    vector.chunks(BITS).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTOR: [f32; 8] = [0.5, -0.25, 0.0, 0.1, 0.3, -0.5, -0.1, 0.2];

    #[test]
    fn types_are_as_documented() {
        let of = |value_type: ValueType| value_type.quantize(VECTOR.to_vec());
        assert_eq!(of(ValueType::Float), Vector::Floats(VECTOR.to_vec()));
        assert_eq!(of(ValueType::Int8), Vector::Signed(vec![127, -64, 0, 25, 76, -127, -25, 51]));
        assert_eq!(of(ValueType::Uint8), Vector::Unsigned(vec![255, 64, 128, 153, 204, 0, 102, 179]));
        assert_eq!(of(ValueType::Ubinary), Vector::Unsigned(vec![0b1001_1001]));
        assert_eq!(of(ValueType::Binary), Vector::Signed(vec![25]));
        assert_eq!(ValueType::Int8.quantize(vec![0.0; 2]), Vector::Signed(vec![0, 0]));
    }

    #[test]
    fn base64_is_little_endian() {
        let encoded = ValueType::Float.quantize(vec![1.0, -2.0]).in_base64();
        assert_eq!(encoded, Vector::Base64("AACAPwAAAMA=".to_owned()));
        assert_eq!(ValueType::Binary.quantize(VECTOR.to_vec()).in_base64(), Vector::Base64("GQ==".to_owned()));
    }

    #[test]
    fn angles_do_not_depend_on_lengths() {
        let mut unit = vec![3.0, 4.0];
        normalize(&mut unit);
        assert_eq!(unit, [0.6, 0.8]);
        assert_eq!(cosine(&[1.0, 0.0], &[5.0, 0.0]), 1.0);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), 0.0);
        assert_eq!(cosine(&[1.0, 1.0], &[-1.0, -1.0]), -1.0);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 1.0]), 0.0);
    }
}
