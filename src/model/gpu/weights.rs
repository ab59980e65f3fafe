//! Weights in the memory of a device, packed as its kernels read them.
//!
//! The kernels know some widths of heads. Others are padded to the next: the added dimensions of queries, keys and
//! values are zero and turn by no angle, so that scores and results are those of the heads as they were.

use std::borrow::Cow;

use candle_core::{CpuStorage, DType, Storage, Tensor};
use half::slice::HalfFloatSliceExt;
use tramontane_kernels::gpu::{Device, DeviceError, DevicePointer, Float16};
use tramontane_kernels::paged_attention::cuda::HEAD_DIMS;

use super::pooled::PooledReader;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::rotary::RotaryTable;
use crate::model::validate::{self, Matrices};
use crate::model::weights::{FeedForwardWeights, Head, LayerWeights, SwiGluWeights, WeightSource};
use crate::types::Outputs;

/// What a decoder has in the memory of a device. Names and shapes as in
/// [`Weights`](crate::model::weights::Weights), heads padded.
#[derive(Debug)]
pub(super) struct GpuWeights {
    pub(super) embed_tokens: DevicePointer,
    pub(super) layers: Vec<GpuLayer>,
    pub(super) norm: DevicePointer,
    /// `None` if the model has no logits.
    pub(super) lm_head: Option<DevicePointer>,
    pub(super) pooled: PooledReader,
    /// f32 `(max_positions, head_dim)`: cosines, then sines
    pub(super) cos_sin: DevicePointer,
    /// f32 `(max_positions)`
    pub(super) query_scale: DevicePointer,
}

#[derive(Debug)]
pub(super) struct GpuLayer {
    pub(super) input_layernorm: DevicePointer,
    pub(super) qkv_proj: DevicePointer,
    pub(super) o_proj: DevicePointer,
    pub(super) post_attention_layernorm: DevicePointer,
    pub(super) feed_forward: GpuFeedForward,
    /// Keys and values: `(2, num_blocks, block_size, kv_heads, head_dim)`
    pub(super) cache: DevicePointer,
}

#[derive(Debug)]
pub(super) enum GpuFeedForward {
    Dense { gate_up_proj: DevicePointer, down_proj: DevicePointer },
    Experts(GpuExperts),
}

#[derive(Debug)]
pub(super) struct GpuExperts {
    pub(super) gate: DevicePointer,
    /// `(num_experts, 2 * intermediate_size, hidden_size)`
    pub(super) gate_up_proj: DevicePointer,
    /// `(num_experts, hidden_size, intermediate_size)`
    pub(super) down_proj: DevicePointer,
    pub(super) num_experts: usize,
    pub(super) experts_per_token: usize,
}

/// Puts tensors into the memory of a device.
struct Uploader<'a, D> {
    device: &'a D,
    dtype: Float16,
    heads: HeadPadding,
}

/// Heads that get wider.
#[derive(Clone, Copy)]
struct HeadPadding {
    from: usize,
    to: usize,
}

impl GpuWeights {
    /// Uploads all weights as `dtype`, and allocates a cache of `cache_bytes` per layer.
    pub(super) fn upload<D: Device>(
        device: &D,
        (config, weights): (&Config, &dyn WeightSource),
        rotary: &RotaryTable,
        cache_bytes: usize,
        dtype: Float16,
    ) -> Result<Self, ModelError> {
        validate::number_of_layers(config, weights.num_layers())?;
        let from = config.attention.head_dim;
        let heads = HeadPadding { from, to: device_head_dim(from)? };
        let to = Uploader { device, dtype, heads };
        let table = |name, table: Tensor| {
            validate::table(name, &table, config, Matrices::Rows)?;
            to.matrix(&table)
        };
        let embed_tokens = table("embed_tokens", weights.embed_tokens()?)?;
        let head = match config.tie_word_embeddings {
            true => None,
            false => Some(weights.head()?),
        };
        let (lm_head, classes) = match head {
            None => (Some(embed_tokens), None),
            Some(Head::Logits(lm_head)) => (Some(table("lm_head", lm_head)?), None),
            Some(Head::Classes(classes)) => (None, Some(classes)),
            Some(Head::Nothing) => (None, None),
        };
        classes.iter().try_for_each(|classes| validate::classes(classes, config))?;
        let layer = |index| {
            let layer = weights.layer(index)?;
            validate::layer(config, index, &layer, Matrices::Rows)?;
            to.layer(config, &layer, cache_bytes)
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?;
        let norm = weights.norm()?;
        validate::norm("norm", &norm, config.hidden_size)?;
        Ok(Self {
            embed_tokens,
            layers,
            norm: to.norm(&norm)?,
            pooled: PooledReader { norm, classes, rms_norm_eps: config.rms_norm_eps },
            lm_head,
            cos_sin: to.floats(&heads.of_angles(&rotary.cos_sin))?,
            query_scale: to.floats(&rotary.query_scale)?,
        })
    }

    pub(super) fn outputs(&self) -> Outputs {
        Outputs { logits: self.lm_head.is_some(), pooled_width: Some(self.pooled.width()) }
    }
}

impl<D: Device> Uploader<'_, D> {
    fn layer(&self, config: &Config, weights: &LayerWeights, cache_bytes: usize) -> Result<GpuLayer, ModelError> {
        let feed_forward = match &weights.feed_forward {
            FeedForwardWeights::Dense(SwiGluWeights { gate_up_proj, down_proj }) => {
                GpuFeedForward::Dense { gate_up_proj: self.matrix(gate_up_proj)?, down_proj: self.matrix(down_proj)? }
            }
            FeedForwardWeights::Experts { gate, experts } => {
                let experts_per_token = config.feed_forward.experts.map_or(0, |experts| experts.experts_per_token);
                GpuFeedForward::Experts(GpuExperts {
                    gate: self.matrix(gate)?,
                    gate_up_proj: self.stacked(experts.iter().map(|expert| &expert.gate_up_proj))?,
                    down_proj: self.stacked(experts.iter().map(|expert| &expert.down_proj))?,
                    num_experts: experts.len(),
                    experts_per_token,
                })
            }
        };
        Ok(GpuLayer {
            input_layernorm: self.norm(&weights.input_layernorm)?,
            qkv_proj: self.with_elements(&weights.qkv_proj, |values| {
                self.elements(&self.heads.of_rows(values, config.hidden_size))
            })?,
            o_proj: self.with_elements(&weights.o_proj, |values| self.elements(&self.heads.of_columns(values)))?,
            post_attention_layernorm: self.norm(&weights.post_attention_layernorm)?,
            feed_forward,
            cache: self.device.allocate(cache_bytes)?,
        })
    }

    fn matrix(&self, tensor: &Tensor) -> Result<DevicePointer, ModelError> {
        self.stacked(std::iter::once(tensor))
    }

    /// Matrices of one shape, one after the other.
    fn stacked<'t>(&self, tensors: impl Iterator<Item = &'t Tensor> + Clone) -> Result<DevicePointer, ModelError> {
        let len: usize = tensors.clone().map(Tensor::elem_count).sum();
        let begin = self.device.allocate(len * Float16::BYTES)?;
        let mut end = begin;
        for tensor in tensors {
            end = self.with_elements(tensor, |values| {
                let bytes = bytemuck::cast_slice(values);
                // SAFETY: the allocation holds all of them.
                unsafe { self.device.upload(end, bytes) }?;
                Ok(end.plus(bytes.len()))
            })?;
        }
        Ok(begin)
    }

    fn norm(&self, tensor: &Tensor) -> Result<DevicePointer, ModelError> {
        Ok(self.floats(&tensor.to_vec1::<f32>()?)?)
    }

    fn floats(&self, values: &[f32]) -> Result<DevicePointer, DeviceError> {
        self.bytes(bytemuck::cast_slice(values))
    }

    fn elements(&self, values: &[u16]) -> Result<DevicePointer, DeviceError> {
        self.bytes(bytemuck::cast_slice(values))
    }

    fn bytes(&self, bytes: &[u8]) -> Result<DevicePointer, DeviceError> {
        let pointer = self.device.allocate(bytes.len())?;
        // SAFETY: the allocation is as long as the bytes.
        unsafe { self.device.upload(pointer, bytes) }?;
        Ok(pointer)
    }

    /// Calls `then` with the bits of a tensor's elements, rounded to the device's type: as they lie in the tensor, if
    /// they are of that type.
    fn with_elements<R>(
        &self,
        tensor: &Tensor,
        then: impl FnOnce(&[u16]) -> Result<R, DeviceError>,
    ) -> Result<R, ModelError> {
        let dtype = match self.dtype {
            Float16::Bf16 => DType::BF16,
            Float16::F16 => DType::F16,
        };
        let tensor = tensor.to_dtype(dtype)?.contiguous()?;
        let (storage, layout) = tensor.storage_and_layout();
        let elements: &[u16] = match &*storage {
            Storage::Cpu(CpuStorage::BF16(elements)) => elements.reinterpret_cast(),
            Storage::Cpu(CpuStorage::F16(elements)) => elements.reinterpret_cast(),
            Storage::Cpu(_) | Storage::Cuda(_) | Storage::Metal(_) => {
                return Err(ModelError::InvalidConfig { field: "weights", reason: "must be in the machine's memory" });
            }
        };
        let begin = layout.start_offset();
        Ok(then(&elements[begin..begin + tensor.elem_count()])?)
    }
}

impl HeadPadding {
    /// Where a dimension of a head goes. Rotary embedding turns dimension i with dimension i + half.
    fn place(self, dimension: usize) -> usize {
        let half = self.from / 2;
        if dimension < half { dimension } else { self.to / 2 + dimension - half }
    }

    /// A matrix whose rows are dimensions of heads.
    fn of_rows(self, values: &[u16], columns: usize) -> Cow<'_, [u16]> {
        self.pad(values, columns)
    }

    /// A matrix whose columns are dimensions of heads.
    fn of_columns(self, values: &[u16]) -> Cow<'_, [u16]> {
        self.pad(values, 1)
    }

    /// Heads of `from` groups of `width` values become heads of `to`.
    fn pad(self, values: &[u16], width: usize) -> Cow<'_, [u16]> {
        if self.from == self.to {
            return Cow::Borrowed(values);
        }
        let mut padded = vec![0; values.len() / self.from * self.to];
        for (head, to) in values.chunks(self.from * width).zip(padded.chunks_mut(self.to * width)) {
            for (dimension, group) in head.chunks(width).enumerate() {
                to[self.place(dimension) * width..][..width].copy_from_slice(group);
            }
        }
        Cow::Owned(padded)
    }

    /// Cosines and sines `(n, from)`: cosines of the pairs, then their sines. Added pairs turn by no angle.
    fn of_angles(self, cos_sin: &[f32]) -> Vec<f32> {
        let mut padded = Vec::with_capacity(cos_sin.len() / self.from * self.to);
        for (index, half) in cos_sin.chunks(self.from / 2).enumerate() {
            let added = if index % 2 == 0 { 1.0 } else { 0.0 };
            padded.extend_from_slice(half);
            padded.extend(std::iter::repeat_n(added, (self.to - self.from) / 2));
        }
        padded
    }
}

/// The device's type of weights, or that it has none.
pub(super) fn float16(dtype: DType) -> Result<Float16, ModelError> {
    match dtype {
        DType::BF16 => Ok(Float16::Bf16),
        DType::F16 => Ok(Float16::F16),
        _ => Err(ModelError::InvalidConfig { field: "dtype", reason: "must be bf16 or f16 on a GPU" }),
    }
}

/// The width of heads on the device.
pub(super) fn device_head_dim(head_dim: usize) -> Result<usize, ModelError> {
    let widest = HEAD_DIMS.into_iter().find(|&compiled| compiled >= head_dim);
    widest.ok_or(ModelError::InvalidConfig { field: "head_dim", reason: "is above 128, which no GPU kernel serves" })
}

/// The kernels read rows in vectors of eight elements.
pub(super) fn check_widths(config: &Config) -> Result<(), ModelError> {
    let widths = [("hidden_size", config.hidden_size), ("intermediate_size", config.feed_forward.intermediate_size)];
    if let Some((field, _)) = widths.into_iter().find(|(_, width)| !width.is_multiple_of(8)) {
        return Err(ModelError::InvalidConfig { field, reason: "must be a multiple of 8 on a GPU" });
    }
    // Rows of the router's logits begin at multiples of 16 bytes.
    match config.feed_forward.experts {
        Some(experts) if !experts.num_experts.is_multiple_of(4) => {
            Err(ModelError::InvalidConfig { field: "num_experts", reason: "must be a multiple of 4 on a GPU" })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_padded_half_by_half() {
        let padding = HeadPadding { from: 4, to: 8 };
        assert_eq!(*padding.of_columns(&[1, 2, 3, 4, 5, 6, 7, 8]), [1, 2, 0, 0, 3, 4, 0, 0, 5, 6, 0, 0, 7, 8, 0, 0]);
        assert_eq!(*padding.of_rows(&[1, 2, 3, 4, 5, 6, 7, 8], 2), [1, 2, 3, 4, 0, 0, 0, 0, 5, 6, 7, 8, 0, 0, 0, 0]);
        assert_eq!(padding.of_angles(&[0.5, 0.25, 0.1, 0.2]), [0.5, 0.25, 1.0, 1.0, 0.1, 0.2, 0.0, 0.0]);
    }
}
