//! Logs and metrics, and the names they go by.

mod http_metrics;
pub mod logs;
mod metrics;

pub use http_metrics::{GuardrailMetrics, HttpMetrics};
pub use metrics::{EngineMetrics, RequestTimings};
