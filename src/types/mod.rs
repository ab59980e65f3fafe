//! Plain data that several layers exchange: what to compute (`Batch`) and how to choose tokens
//! (`SamplingParams`, `TokenChoice`, `Constraint`). No behaviour beyond validation, no tensors, no I/O.

mod batch;
mod choice;
mod constraint;
mod sampling;

pub use batch::{Batch, BatchSequence};
pub use choice::{Penalties, RowResult, TokenChoice, TokenLogprobs};
pub use constraint::{Constraint, ConstraintError, TokenSet};
pub use sampling::{InvalidSampling, SamplingParams};
