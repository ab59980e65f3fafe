//! How a running load is shown: a line that changes on a terminal, a log line every so often otherwise.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    bench::{Load, Sample, Watcher},
    telemetry::logs::LogStyle,
};

const BETWEEN_LINES: Duration = Duration::from_secs(10);
const REDRAWN: Duration = Duration::from_millis(200);

/// Shows one run.
pub(super) struct LoadProgress {
    /// Nothing where logs are for machines.
    bar: Option<ProgressBar>,
    profile: String,
    started: Instant,
    counts: Mutex<Counts>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    sent: u64,
    done: u64,
    failed: u64,
    tokens: u64,
    last_ttft_s: f64,
    shown: Option<Instant>,
}

impl LoadProgress {
    pub(super) fn new(name: &str, load: &Load, style: LogStyle) -> Self {
        let profile = format!("{name}{}", load.profile);
        let bar = match style {
            LogStyle::Json => None,
            LogStyle::Human => Some(bar(load).with_prefix(profile.clone())),
        };
        Self { bar, profile, started: Instant::now(), counts: Mutex::default() }
    }

    /// To be called within the lock, so that lines come in order.
    fn show(&self, counts: &mut Counts) {
        let between = if self.bar.is_some() { REDRAWN } else { BETWEEN_LINES };
        if counts.shown.unwrap_or(self.started).elapsed() < between {
            return;
        }
        counts.shown = Some(Instant::now());
        let tokens_per_s = counts.tokens as f64 / self.started.elapsed().as_secs_f64();
        let (in_flight, ttft_ms) = (counts.sent - counts.done, counts.last_ttft_s * 1e3);
        match &self.bar {
            Some(bar) => bar.set_message(format!(
                "{in_flight} in flight, {} failed, {tokens_per_s:.0} tokens/s, last TTFT {ttft_ms:.0} ms",
                counts.failed
            )),
            None => tracing::info!(
                profile = self.profile,
                done = counts.done,
                in_flight,
                failed = counts.failed,
                tokens_per_s,
                ttft_ms,
                "measuring"
            ),
        }
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        change(&mut counts);
        self.show(&mut counts);
    }
}

impl Watcher for LoadProgress {
    fn sent(&self) {
        self.count(|counts| counts.sent += 1);
    }

    fn done(&self, sample: &Sample) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
        self.count(|counts| {
            counts.done += 1;
            counts.failed += u64::from(sample.failure.is_some());
            counts.tokens += u64::from(sample.counted.output);
            counts.last_ttft_s = sample.ttft_s.unwrap_or(counts.last_ttft_s);
        });
    }
}

impl Drop for LoadProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// By the number of requests if it is known.
fn bar(load: &Load) -> ProgressBar {
    let (template, bar) = match load.until.requests {
        Some(requests) => ("{prefix} [{bar:24}] {pos}/{len} {msg}", ProgressBar::new(requests)),
        None => ("{prefix} {elapsed} {pos} answered, {msg}", ProgressBar::no_length()),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr());
    bar.with_style(ProgressStyle::with_template(template).expect("the template is valid"))
}
