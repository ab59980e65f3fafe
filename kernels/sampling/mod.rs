//! The choice of the next tokens on a device.
//!
//! For rows of logits and the parameters of each, the same stages in the same order as the engine's own sampler:
//! masks, biases, penalties, temperature, `min_p`, `top_k`, `top_p`; then the id at a uniform number of the cumulative
//! weight, ids in ascending order. It chooses the same tokens: scores and weights are the same bits, and sums differ
//! in the last places of an f64. A chosen token is written where the next step reads its input, so that the host need
//! not be waited for.
//!
//! Not on the device: `typical_p`. Rows that ask for it are the host's. There is no CPU path, since the engine's sampler
//! is one.
//!
//! Invariant: what is chosen for a row does not depend on which other rows are in the batch.

pub mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod reference;
