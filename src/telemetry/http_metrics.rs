//! Metrics of the HTTP server, which exist before a model is loaded. The main type is [`HttpMetrics`].

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use super::{AuditMetrics, metrics::render};

/// Requests that the HTTP server answered.
#[derive(Debug)]
pub struct HttpMetrics {
    registry: Registry,
    requests: IntCounterVec,
    guardrails: GuardrailMetrics,
    handshakes_failed: IntCounter,
    quota_refusals: IntCounterVec,
}

/// What guardrails found. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct GuardrailMetrics {
    findings: IntCounterVec,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        let opts = Opts::new("tramontane:http_requests_total", "HTTP requests answered, by route and status.");
        let registry = Registry::new();
        let requests = IntCounterVec::new(opts, &["route", "status"]).expect("a valid metric name");
        registry.register(Box::new(requests.clone())).expect("the registry is empty");
        let opts = Opts::new("tramontane:guardrail_findings_total", "What guardrails found, in requests and answers.");
        let findings = IntCounterVec::new(opts, &["guardrail", "detector", "action", "stage"]);
        let guardrails = GuardrailMetrics { findings: findings.expect("a valid metric name") };
        registry.register(Box::new(guardrails.findings.clone())).expect("another name");
        let handshakes_failed =
            IntCounter::new("tramontane:tls_handshakes_failed_total", "Connections that never began to speak TLS.");
        let handshakes_failed = handshakes_failed.expect("a valid metric name");
        registry.register(Box::new(handshakes_failed.clone())).expect("another name");
        let opts = Opts::new("tramontane:quota_refusals_total", "Requests that a quota refused, by limit.");
        let quota_refusals = IntCounterVec::new(opts, &["limit"]).expect("a valid metric name");
        registry.register(Box::new(quota_refusals.clone())).expect("another name");
        Self { registry, requests, guardrails, handshakes_failed, quota_refusals }
    }
}

impl GuardrailMetrics {
    /// Something was found. All four are names of the operator's file or of ours, never a client's text.
    pub fn found(&self, guardrail: &str, detector: &str, action: &str, stage: &str) {
        self.findings.with_label_values(&[guardrail, detector, action, stage]).inc();
    }
}

impl HttpMetrics {
    /// The head of a response was made. `route` is a path template of the router, never a client's path.
    pub fn answered(&self, route: &str, status: u16) {
        self.requests.with_label_values(&[route, &status.to_string()]).inc();
    }

    /// A connection ended before it spoke TLS.
    pub fn handshake_failed(&self) {
        self.handshakes_failed.inc();
    }

    /// A quota's limit of this kind refused a request.
    pub fn quota_refused(&self, limit: &str) {
        self.quota_refusals.with_label_values(&[limit]).inc();
    }

    /// Shows those of the audit log as well; only once.
    pub fn show_audit(&self, audit: &AuditMetrics) {
        if let Err(error) = audit.register(&self.registry) {
            tracing::warn!(%error, "metrics of the audit log are not shown");
        }
    }

    /// Where findings of guardrails are counted.
    pub fn guardrails(&self) -> &GuardrailMetrics {
        &self.guardrails
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        render(&self.registry)
    }
}
