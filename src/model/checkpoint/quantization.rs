//! Which quantisation a configuration declares. Only FP8 (E4M3) weights are served; every other method is
//! refused by name before a tensor is looked at. What the tensors hold is checked in `fp8`.

use super::error::{CheckpointError, Subject, quote};
use super::json::Section;

const SERVED: &str = "fp8 (e4m3), compressed-tensors float-quantized with 8 bits, and native fp8_e4m3";

/// The part of the declaration that the tensors do not show themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QuantizationConfig {
    /// Rows and columns that share a scale, where scales are per block.
    pub(super) block: [usize; 2],
}

impl QuantizationConfig {
    /// Blocks of 128 x 128 where nothing else is said, as in vLLM.
    pub(super) const DEFAULT: QuantizationConfig = QuantizationConfig { block: [128, 128] };

    /// `quantization_config` of `config.json`.
    pub(super) fn parse(section: &Section<'_>) -> Result<QuantizationConfig, CheckpointError> {
        match section.text("quant_method")? {
            Some("fp8") => Self::parse_fp8(section),
            Some("compressed-tensors") => Self::parse_compressed_tensors(section),
            Some(other) => Err(unserved(section, other)),
            None => Err(section.refuse("quant_method", "a string")),
        }
    }

    /// `quantization` of `params.json`.
    pub(super) fn parse_native(section: &Section<'_>) -> Result<QuantizationConfig, CheckpointError> {
        if section.get("config_groups").is_some() {
            return Self::parse_compressed_tensors(section);
        }
        match section.text("qformat_weight")? {
            Some("fp8_e4m3") => {}
            Some(other) => return Err(unserved(section, other)),
            None => return Err(section.refuse("qformat_weight", "\"fp8_e4m3\"")),
        }
        match section.text("qscheme_act")? {
            Some("TENSOR" | "NO_SCALES") | None => Ok(Self::DEFAULT),
            Some(other) => Err(unserved(section, other)),
        }
    }

    fn parse_fp8(section: &Section<'_>) -> Result<QuantizationConfig, CheckpointError> {
        if let Some(format) = section.text("fmt")?
            && format != "e4m3"
        {
            return Err(unserved(section, format));
        }
        Ok(QuantizationConfig { block: block(section, "weight_block_size")?.unwrap_or(Self::DEFAULT.block) })
    }

    fn parse_compressed_tensors(section: &Section<'_>) -> Result<QuantizationConfig, CheckpointError> {
        match section.text("format")? {
            Some("float-quantized" | "naive-quantized") => {}
            Some(other) => return Err(unserved(section, other)),
            None => return Err(section.refuse("format", "\"float-quantized\"")),
        }
        let groups = section.section("config_groups")?;
        let groups = groups.ok_or_else(|| section.refuse("config_groups", "an object of groups"))?;
        let mut config = Self::DEFAULT;
        for group in groups.sections() {
            let weights = group.section("weights")?.ok_or_else(|| group.refuse("weights", "an object"))?;
            if weights.text("type")? != Some("float") {
                return Err(weights.refuse("type", "\"float\""));
            }
            if weights.count("num_bits", 1..=64)? != Some(8) {
                return Err(weights.refuse("num_bits", "8"));
            }
            if let Some(block) = block(&weights, "block_structure")? {
                config.block = block;
            }
        }
        Ok(config)
    }
}

/// Two sizes; `None` where the key is absent.
fn block(section: &Section<'_>, key: &str) -> Result<Option<[usize; 2]>, CheckpointError> {
    let Some(sizes) = section.list(key)? else { return Ok(None) };
    let size = |value: &serde_json::Value| {
        value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=1 << 20).contains(n))
    };
    match sizes {
        [rows, columns] => match (size(rows), size(columns)) {
            (Some(rows), Some(columns)) => Ok(Some([rows, columns])),
            _ => Err(section.refuse(key, "two sizes from 1 to 1048576")),
        },
        _ => Err(section.refuse(key, "two sizes")),
    }
}

fn unserved(section: &Section<'_>, found: &str) -> CheckpointError {
    CheckpointError::Unsupported {
        path: section.path().into(),
        subject: Subject::Quantization,
        found: quote(found),
        served: SERVED,
    }
}
