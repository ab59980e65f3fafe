//! Measuring servers as their clients see them: a load generator for any server with OpenAI's completions,
//! reports, and a server without a model against which the generator itself is measured. Main types:
//! [`Load`], what to do, and [`Run`], what came of it. Invariant: in an open-loop run every latency counts
//! from the moment at which the request was due, so that a slow server cannot hide its queue by slowing the
//! client down. [`engine`] and [`accuracy`] measure this engine's model without a server; all else sees servers through HTTP alone.

pub mod accuracy;
mod arrivals;
mod calibration;
mod client;
pub mod engine;
mod lengths;
mod null_server;
mod overhead;
mod plan;
mod prompts;
mod reading;
pub mod report;
mod run;
mod sample;
mod sse;
mod summary;
mod sweep;
#[cfg(test)]
mod tests;
mod trace;

pub use arrivals::{Profile, RATES};
pub use calibration::Calibration;
pub use client::{ClientError, Endpoint, Target, TargetConfig, Times};
pub use lengths::{Lengths, LengthsError};
pub use null_server::{NullServer, Pace};
pub use overhead::{Overhead, OverheadConfig, measure_overhead};
pub use plan::{Plan, Planned, Source};
pub use prompts::Prompts;
pub use run::{Load, Run, Until, Unwatched, Watcher};
pub use sample::{Failure, FailureKind, Sample};
pub use summary::{FailureCount, Goodput, Latencies, Percentiles, Rates, Slo, Summary};
pub use sweep::{RateTimes, Sweep, sweep};
pub use trace::{Trace, TraceError, TraceRow};
