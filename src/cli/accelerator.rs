//! Which device computes: the CPU, or an NVIDIA GPU in a build that has its kernels. Decided before anything is read.

use anyhow::{Result, bail};

use super::machine::Memory;
use crate::config::{ContextLength, DeviceChoice, EngineLimits};
use crate::model::config::Config;
use crate::model::gpu::{self, GpuLimits};
#[cfg(feature = "cuda")]
use tramontane_kernels::gpu::cuda::{self, Properties, Unusable};

/// A device that is there.
#[derive(Clone, Debug)]
pub(super) enum Accelerator {
    /// This machine's processor.
    Cpu,
    /// A GPU.
    #[cfg(feature = "cuda")]
    Cuda {
        /// Its number.
        ordinal: usize,
        /// What it is.
        properties: Properties,
    },
}

/// The device that was asked for; with `auto` the first GPU if there is a driver for one, else the CPU.
pub(super) fn choose(choice: DeviceChoice) -> Result<Accelerator> {
    match choice {
        DeviceChoice::Cpu => Ok(Accelerator::Cpu),
        #[cfg(feature = "cuda")]
        DeviceChoice::Auto => match cuda::properties(0) {
            Err(Unusable::NoDriver | Unusable::NoDevice { .. }) => Ok(Accelerator::Cpu),
            found => open(0, found),
        },
        #[cfg(feature = "cuda")]
        DeviceChoice::Cuda(ordinal) => open(ordinal, cuda::properties(ordinal)),
        #[cfg(not(feature = "cuda"))]
        DeviceChoice::Auto => Ok(Accelerator::Cpu),
        #[cfg(not(feature = "cuda"))]
        DeviceChoice::Cuda(_) => {
            bail!("device = {choice:?}: this program was built without CUDA; build it with --features cuda")
        }
    }
}

#[cfg(feature = "cuda")]
fn open(ordinal: usize, found: Result<Properties, Unusable>) -> Result<Accelerator> {
    match found {
        Ok(properties) => Ok(Accelerator::Cuda { ordinal, properties }),
        Err(error) => bail!("device = cuda:{ordinal}: {error}; --device cpu serves without it"),
    }
}

impl Accelerator {
    /// True for a GPU, whose kernels know 16-bit types alone.
    pub(super) fn is_gpu(&self) -> bool {
        !matches!(self, Self::Cpu)
    }

    /// For logs.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Cpu => "cpu",
            #[cfg(feature = "cuda")]
            Self::Cuda { properties, .. } => &properties.name,
        }
    }

    /// Whether NVIDIA's library computes products of prompts; `None` for the CPU.
    pub(super) fn cublas_lt(&self) -> Option<&'static str> {
        match self {
            Self::Cpu => None,
            #[cfg(feature = "cuda")]
            Self::Cuda { .. } if cuda::has_cublas_lt() => Some("found"),
            #[cfg(feature = "cuda")]
            Self::Cuda { .. } => Some("not found: prompts are slower"),
        }
    }

    /// Memory of the GPU; `None` for the CPU, which has the machine's.
    pub(super) fn memory(&self) -> Option<Memory> {
        match self {
            Self::Cpu => None,
            #[cfg(feature = "cuda")]
            Self::Cuda { properties, .. } => Some(Memory {
                total: crate::config::ByteSize::new(properties.total_memory),
                available: crate::config::ByteSize::new(properties.free_memory),
            }),
        }
    }
}

/// How much a step computes at most on a GPU.
pub(super) fn gpu_limits(limits: &EngineLimits) -> GpuLimits {
    GpuLimits { max_tokens: limits.max_batched_tokens, max_sequences: limits.max_running }
}

/// Bytes on a GPU beside weights and cache, and bytes of keys and values per token.
pub(super) fn gpu_needs(config: &Config, limits: &EngineLimits) -> Result<(u64, u64)> {
    let positions = match limits.max_model_len {
        ContextLength::Auto => config.max_position_embeddings,
        ContextLength::Tokens(tokens) => tokens.min(config.max_position_embeddings),
    };
    let working = gpu::working_bytes(config, gpu_limits(limits), limits.block_size, positions)?;
    Ok((working as u64, gpu::kv_bytes_per_token(config)? as u64))
}
