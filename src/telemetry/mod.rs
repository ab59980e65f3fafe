//! Logs and metrics, and the names they go by.

mod metrics;

pub use metrics::{EngineMetrics, HttpMetrics, RequestTimings};
