//! The paged cache of keys and values: per layer one tensor ([`tramontane_kernels::kv_cache`]), allocated once. Who
//! owns which block is the engine's business.

use candle_core::{DType, Device, Shape, Tensor};
use half::{bf16, f16, vec::HalfBitsVecExt};
use tramontane_kernels::{KvGeometry, kv_cache::cpu_dims, memory::advise_huge_pages};

use super::ModelError;
use super::config::{AttentionConfig, Config};

/// Size and type of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCacheConfig {
    /// Blocks, shared by all sequences.
    pub num_blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// f32, bf16 or f16.
    pub dtype: DType,
}

impl KvCacheConfig {
    /// Bytes that one cached token takes over all layers.
    pub fn bytes_per_token(config: &Config, dtype: DType) -> usize {
        let attention = &config.attention;
        2 * config.num_hidden_layers * attention.num_key_value_heads * attention.head_dim * dtype.size_in_bytes()
    }

    /// The size of a layer's cache, if it is one.
    pub(super) fn geometry(&self) -> Result<KvGeometry, ModelError> {
        let &Self { num_blocks, block_size, .. } = self;
        if num_blocks == 0 || block_size == 0 {
            return Err(ModelError::InvalidConfig { field: "num_blocks, block_size", reason: "must be above 0" });
        }
        // Slots are u32 in a batch.
        if num_blocks.checked_mul(block_size).is_none_or(|slots| slots > u32::MAX as usize) {
            return Err(ModelError::InvalidConfig { field: "num_blocks", reason: "has more slots than a u32 counts" });
        }
        Ok(KvGeometry { num_blocks, block_size })
    }
}

/// Keys and values of all layers.
#[derive(Debug)]
pub(super) struct KvCache {
    layers: Vec<Tensor>,
    geometry: KvGeometry,
}

impl KvCache {
    /// Allocates zeros: reserved at once, touched as blocks come into use.
    pub(super) fn new(config: &Config, cache: KvCacheConfig) -> Result<Self, ModelError> {
        let geometry = cache.geometry()?;
        let dtype = cache.dtype;
        let bytes = Self::bytes(config, cache);
        // Asking first turns a refusal into an error; zeroed memory can only be had or be aborted for. Memory
        // that is only reserved is never touched.
        Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| ModelError::CacheOutOfMemory { bytes })?;
        let attention = &config.attention;
        let heads = (attention.num_key_value_heads, attention.head_dim);
        let shape = Shape::from(cpu_dims(geometry, heads, dtype));
        let layers = (0..config.num_hidden_layers).map(|_| cells(&shape, dtype, 0)).collect::<Result<_, _>>()?;
        Ok(Self { layers, geometry })
    }

    /// Writes to all of it, so that reads are of memory of its own: what was never written is one page of zeros,
    /// mapped over and over.
    pub(super) fn occupy(&mut self) -> Result<(), ModelError> {
        for layer in &mut self.layers {
            *layer = cells(layer.shape(), layer.dtype(), 1)?;
        }
        Ok(())
    }

    /// Size of all layers, at most `usize::MAX`.
    fn bytes(config: &Config, cache: KvCacheConfig) -> usize {
        let AttentionConfig { num_key_value_heads, head_dim, .. } = config.attention;
        let KvCacheConfig { num_blocks, block_size, dtype } = cache;
        [config.num_hidden_layers, num_blocks, block_size, num_key_value_heads, head_dim, dtype.size_in_bytes()]
            .into_iter()
            .fold(2, usize::saturating_mul)
    }

    /// Keys and values of a layer.
    pub(super) fn layer(&self, index: usize) -> &Tensor {
        &self.layers[index]
    }

    pub(super) fn geometry(&self) -> KvGeometry {
        self.geometry
    }
}

/// Cells whose bits are `bits`. Zeros take no memory until they are written: the standard library asks the system for
/// zeroed pages where the element is a plain number, which `Tensor::zeros` in bf16 and f16 does not.
fn cells(shape: &Shape, dtype: DType, bits: u16) -> Result<Tensor, ModelError> {
    let len = shape.elem_count();
    let halves = || filled(vec![0u16; len], bits);
    let tensor = match dtype {
        DType::F32 => Tensor::from_vec(filled(vec![0f32; len], f32::from_bits(bits.into())), shape, &Device::Cpu),
        DType::BF16 => Tensor::from_vec(halves().reinterpret_into::<bf16>(), shape, &Device::Cpu),
        DType::F16 => Tensor::from_vec(halves().reinterpret_into::<f16>(), shape, &Device::Cpu),
        _ => {
            return Err(ModelError::InvalidConfig {
                field: "dtype",
                reason: "of the KV cache must be f32, bf16 or f16",
            });
        }
    };
    Ok(tensor?)
}

/// Zeros that nobody has written to, overwritten with `value` unless it is zero too.
fn filled<T: Copy + Default + PartialEq>(mut zeros: Vec<T>, value: T) -> Vec<T> {
    advise_huge_pages(&zeros);
    if value != T::default() {
        zeros.fill(value);
    }
    zeros
}
