//! Logs and metrics, and the names they go by.

pub mod logs;
mod metrics;

pub use metrics::{EngineMetrics, HttpMetrics, RequestTimings};
