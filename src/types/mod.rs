//! Plain data that several layers exchange: what to compute (`Batch`) and how to choose tokens
//! (`SamplingParams`). No behaviour beyond validation, no tensors, no I/O.

mod batch;
mod sampling;

pub use batch::{Batch, BatchSequence};
pub use sampling::{InvalidSampling, SamplingParams};
