//! Fused operators of the Mistral decoder, one folder each.
//!
//! An operator is defined by its `reference.rs`; `cpu.rs` is the fast path that the tests hold against it,
//! and `mod.rs` is the public function over candle tensors: it checks shapes and types, then applies a
//! candle custom operation, so that a `cuda.cu` or `metal.metal` beside it only has to fill in that
//! operation's device method.
//!
//! Conventions: activations are f32, row-major and contiguous; weights and the KV cache are f32, bf16 or
//! f16. Invariants of every operator: what it computes for one row does not depend, bit for bit, on which
//! other rows are there, on the number of threads, or on where a sequence's KV blocks lie.

pub mod combine_experts;
pub mod embedding;
pub mod expert_linear;
pub mod gpu;
pub mod kv_cache;
pub mod linear;
pub mod machine;
pub mod memory;
pub mod paged_attention;
mod paged_batch;
pub mod panel_linear;
pub mod rms_norm;
pub mod rotary_kv_write;
pub mod route_experts;
pub mod sampling;
mod simd;
mod storage;
pub mod swiglu;
pub mod threads;

#[cfg(test)]
mod testing;

pub use combine_experts::combine_experts;
pub use embedding::embedding;
pub use linear::{linear, linear_add};
pub use paged_attention::{AttentionParams, paged_attention};
pub use paged_batch::{KvGeometry, PagedBatch, PagedBatchError, PagedSequence};
pub use panel_linear::{PanelFormat, QuantizedFormat};
pub use rms_norm::rms_norm;
pub use rotary_kv_write::{RotaryRows, rotary_kv_write};
pub use route_experts::{ExpertRoutes, route_experts};
pub use swiglu::swiglu;

/// Name of the instruction set that the CPU kernels use on this machine: `avx512_bf16`, `avx512_vnni`, `avx512` or
/// `avx2`; `neon_bf16`, `neon_dotprod` or `neon`; `portable` on other processors.
pub fn instruction_set() -> &'static str {
    simd::Tier::best().name()
}
