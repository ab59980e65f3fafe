//! Plain data that several layers exchange: what to compute (`Batch`) and how to choose tokens
//! (`SamplingParams`, `TokenChoice`, `Constraint`), what a text is pooled to (`Pooling`), and where a model comes from (`Provenance`); the time, bytes in
//! hexadecimal, and how a file is overwritten. No other behaviour beyond validation, no tensors, no other I/O.

mod batch;
mod choice;
mod constraint;
mod hexadecimal;
mod overwrite;
mod pooling;
mod provenance;
mod sampling;
mod time;

pub use batch::{Batch, BatchSequence};
pub use choice::{Penalties, RowResult, TokenChoice, TokenLogprobs};
pub use constraint::{Constraint, ConstraintError, TokenSet, WrittenForm};
pub use hexadecimal::hexadecimal;
pub use overwrite::overwrite;
pub use pooling::{Activation, Outputs, Pooling, sigmoid};
pub use provenance::{LockedOrigin, Provenance};
pub use sampling::{InvalidSampling, SamplingParams};
pub use time::unix_seconds;
