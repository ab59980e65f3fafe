//! Plain data that several layers exchange: what to compute (`Batch`) and how to choose tokens
//! (`SamplingParams`, `TokenChoice`, `Constraint`), what a text is pooled to (`Pooling`), and where a model comes from (`Provenance`); the time, and bytes in
//! hexadecimal. No behaviour beyond validation, no tensors, no I/O.

mod batch;
mod choice;
mod constraint;
mod hexadecimal;
mod pooling;
mod provenance;
mod sampling;
mod time;

pub use batch::{Batch, BatchSequence};
pub use choice::{Penalties, RowResult, TokenChoice, TokenLogprobs};
pub use constraint::{Constraint, ConstraintError, TokenSet};
pub use hexadecimal::hexadecimal;
pub use pooling::{Activation, Outputs, Pooling, sigmoid};
pub use provenance::{LockedOrigin, Provenance};
pub use sampling::{InvalidSampling, SamplingParams};
pub use time::unix_seconds;
