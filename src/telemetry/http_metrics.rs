//! Metrics of the HTTP server, which exist before a model is loaded. The main type is [`HttpMetrics`].

use prometheus::{IntCounterVec, Opts, Registry};

use super::metrics::render;

/// Requests that the HTTP server answered.
#[derive(Debug)]
pub struct HttpMetrics {
    registry: Registry,
    requests: IntCounterVec,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        let opts = Opts::new("tramontane:http_requests_total", "HTTP requests answered, by route and status.");
        let registry = Registry::new();
        let requests = IntCounterVec::new(opts, &["route", "status"]).expect("a valid metric name");
        registry.register(Box::new(requests.clone())).expect("the registry is empty");
        Self { registry, requests }
    }
}

impl HttpMetrics {
    /// The head of a response was made. `route` is a path template of the router, never a client's path.
    pub fn answered(&self, route: &str, status: u16) {
        self.requests.with_label_values(&[route, &status.to_string()]).inc();
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        render(&self.registry)
    }
}
