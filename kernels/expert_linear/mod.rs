//! Matrix products of all experts of a layer in one launch: each expert takes the rows that the router gave it.
//!
//! `out[i] = x[i / rows_per_source] * weights[expert of i]^T` for assignments `i` of tokens to experts, as they are, or
//! with the gate of SwiGLU (arXiv 2002.05202) applied. Only devices have this operator: on the CPU the model calls
//! `linear` for each expert.

pub mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod reference;
