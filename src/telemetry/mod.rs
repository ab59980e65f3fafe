//! Logs and metrics, and the names they go by.

mod audit_metrics;
mod http_metrics;
pub mod logs;
mod metrics;

pub use audit_metrics::AuditMetrics;
pub use http_metrics::{GuardrailMetrics, HttpMetrics};
pub use metrics::{EngineMetrics, RequestTimings};
