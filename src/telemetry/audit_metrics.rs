//! Metrics of the audit log. The main type is [`AuditMetrics`].

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};

/// Upper bounds of what a write may take, in seconds.
const WRITE_SECONDS: [f64; 10] = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0];

/// What the audit log does. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct AuditMetrics {
    records: IntCounterVec,
    bytes: IntCounter,
    failures: IntCounter,
    lost: IntCounter,
    left_out: IntCounter,
    anchor_failures: IntCounter,
    captured: IntCounter,
    captures_lost: IntCounter,
    write_seconds: Histogram,
}

impl Default for AuditMetrics {
    fn default() -> Self {
        let counter = |name: &str, help: &str| IntCounter::new(name, help).expect("a valid metric name");
        let records =
            Opts::new("tramontane:audit_records_total", "Records of the audit log that are on disk, by kind.");
        let write_seconds = HistogramOpts::new(
            "tramontane:audit_write_seconds",
            "Time to write a group of records and have it on disk.",
        )
        .buckets(WRITE_SECONDS.to_vec());
        Self {
            records: IntCounterVec::new(records, &["kind"]).expect("a valid metric name"),
            bytes: counter("tramontane:audit_bytes_total", "Bytes of the audit log that are on disk."),
            failures: counter("tramontane:audit_write_failures_total", "Groups of records that could not be written."),
            lost: counter(
                "tramontane:audit_records_lost_total",
                "Records that were given up because the log cannot be written.",
            ),
            left_out: counter(
                "tramontane:audit_refusals_left_out_total",
                "Refusals without a record of their own because there were too many; the next record counts them.",
            ),
            anchor_failures: counter(
                "tramontane:audit_anchor_failures_total",
                "Checkpoints that did not reach the place that the operator named for them.",
            ),
            captured: counter("tramontane:audit_captured_total", "Inferences whose content was captured."),
            captures_lost: counter(
                "tramontane:audit_captures_lost_total",
                "Inferences whose content was to be captured and could not be.",
            ),
            write_seconds: Histogram::with_opts(write_seconds).expect("valid buckets"),
        }
    }
}

impl AuditMetrics {
    /// Shows them where others are.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.records.clone()))?;
        let counters = [&self.bytes, &self.failures, &self.lost, &self.left_out, &self.anchor_failures];
        counters
            .into_iter()
            .chain([&self.captured, &self.captures_lost])
            .try_for_each(|counter| registry.register(Box::new(counter.clone())))?;
        registry.register(Box::new(self.write_seconds.clone()))
    }

    /// A record of this kind is on disk.
    pub fn written(&self, kind: &str) {
        self.records.with_label_values(&[kind]).inc();
    }

    /// A group of records is on disk.
    pub fn committed(&self, bytes: u64, seconds: f64) {
        self.bytes.inc_by(bytes);
        self.write_seconds.observe(seconds);
    }

    /// A group of records could not be written.
    pub fn failed(&self) {
        self.failures.inc();
    }

    /// A record was given up.
    pub fn lost(&self) {
        self.lost.inc();
    }

    /// A refusal has no record of its own.
    pub fn left_out(&self) {
        self.left_out.inc();
    }

    /// A checkpoint did not reach its anchor.
    pub fn anchor_failed(&self) {
        self.anchor_failures.inc();
    }

    /// Content is on disk.
    pub fn captured(&self) {
        self.captured.inc();
    }

    /// Content was given up.
    pub fn capture_lost(&self) {
        self.captures_lost.inc();
    }
}
