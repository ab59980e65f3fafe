//! How loading is shown: a bar on a terminal, a log line every so often otherwise.

use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{model::checkpoint::Progress, telemetry::logs::LogStyle};

/// Log lines of one task, about.
const STEPS: u64 = 5;
/// Tasks below this size are over before a line about them is read.
const SMALL_BYTES: u64 = 1 << 30;

/// One task over so many bytes.
pub(super) enum TaskProgress {
    /// For people.
    Bar(ProgressBar),
    /// For machines.
    Lines { task: &'static str, total: AtomicU64, done: AtomicU64 },
}

impl TaskProgress {
    pub(super) fn new(task: &'static str, style: LogStyle) -> Self {
        match style {
            LogStyle::Human => {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                Self::Bar(bar.with_style(bar_style()).with_message(task))
            }
            LogStyle::Json => Self::Lines { task, total: AtomicU64::new(0), done: AtomicU64::new(0) },
        }
    }
}

/// The bar of any task that moves bytes.
pub(super) fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} ({eta})")
        .expect("the template is valid")
}

impl Progress for TaskProgress {
    fn start(&self, total_bytes: u64) {
        match self {
            Self::Bar(bar) => {
                bar.set_length(total_bytes);
                bar.set_position(0);
            }
            Self::Lines { total, done, .. } => {
                total.store(total_bytes, Ordering::Relaxed);
                done.store(0, Ordering::Relaxed);
            }
        }
    }

    fn advance(&self, bytes: u64) {
        match self {
            Self::Bar(bar) => bar.inc(bytes),
            Self::Lines { task, total, done } => {
                let total = total.load(Ordering::Relaxed);
                let before = done.fetch_add(bytes, Ordering::Relaxed);
                let step = |done: u64| done.saturating_mul(STEPS) / total.max(1);
                if total >= SMALL_BYTES && step(before) != step(before + bytes) {
                    tracing::info!(task, bytes = before + bytes, total, "loading");
                }
            }
        }
    }

    fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
