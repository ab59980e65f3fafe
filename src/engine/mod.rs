//! Requests to tokens: one owner thread runs `step()` over a paged KV cache; everyone else holds an
//! [`EngineHandle`] and sends events. Knows tokens, blocks and batches, not text and not HTTP.
//!
//! `places` limit who may wait; [`scheduler`] and [`blocks`] decide over integers, [`batch`] lays a decision out for the model,
//! [`draft`] guesses tokens ahead, [`sampler`] chooses them, `constrained` knows
//! which may come where an answer has a form; `engine` owns them all and is the only place with mutable state.

pub mod batch;
pub mod blocks;
mod config;
mod constrained;
pub mod draft;
#[expect(clippy::module_inception, reason = "the owner thread is the engine; the folder is the layer")]
mod engine;
mod event;
mod forward;
mod handle;
mod in_flight;
mod outcome;
mod places;
mod request;
pub mod sampler;
pub mod scheduler;
pub mod sequence;
mod status;

pub use config::{EngineConfig, SpeculationMode};
pub use event::Inspection;
pub use handle::{EngineHandle, RequestStream, SubmitError};
pub use places::{Places, TakenPlace};
pub use request::{FinishReason, Request, StopRules, Task, Update};
pub use sequence::Precedence;
pub use status::{Health, Snapshot};

pub use crate::types::TokenLogprobs;
