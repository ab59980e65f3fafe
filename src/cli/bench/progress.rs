//! How a running load is shown: a line that changes on a terminal, a log line every so often otherwise. A thread
//! of its own draws: whoever measures must not wait for a terminal.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    bench::{Load, Sample, Watcher},
    telemetry::logs::LogStyle,
};

const BETWEEN_LINES: Duration = Duration::from_secs(10);
const BETWEEN_DRAWINGS: Duration = Duration::from_millis(200);

/// Shows one run until it is dropped.
pub(super) struct LoadProgress {
    counts: Arc<Counts>,
    /// Dropped to end the thread.
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    pieces: AtomicU64,
    last_ttft_us: AtomicU64,
}

/// Draws on its own thread.
struct Drawing {
    profile: String,
    started: Instant,
    counts: Arc<Counts>,
    /// Nothing where logs are for machines.
    bar: Option<ProgressBar>,
}

impl LoadProgress {
    pub(super) fn new(name: &str, load: &Load, style: LogStyle) -> Self {
        let profile = format!("{name}{}", load.profile);
        let counts = Arc::<Counts>::default();
        let bar = match style {
            LogStyle::Json => None,
            LogStyle::Human => Some(bar(load).with_prefix(profile.clone())),
        };
        let drawing = Drawing { profile, started: Instant::now(), counts: counts.clone(), bar };
        let (end, ended) = mpsc::channel();
        let thread = std::thread::spawn(move || drawing.run(&ended));
        Self { counts, end: Some(end), thread: Some(thread) }
    }
}

impl Watcher for LoadProgress {
    fn sent(&self) {
        self.counts.sent.fetch_add(1, Relaxed);
    }

    fn pieces(&self, count: u64) {
        self.counts.pieces.fetch_add(count, Relaxed);
    }

    fn done(&self, sample: &Sample) {
        self.counts.done.fetch_add(1, Relaxed);
        self.counts.failed.fetch_add(u64::from(sample.failure.is_some()), Relaxed);
        if let Some(ttft_s) = sample.ttft_s {
            self.counts.last_ttft_us.store((ttft_s * 1e6) as u64, Relaxed);
        }
    }
}

impl Drop for LoadProgress {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A thread that could not draw is no reason to lose what was measured.
            let _ = thread.join();
        }
    }
}

impl Drawing {
    fn run(&self, ended: &mpsc::Receiver<()>) {
        let between = if self.bar.is_some() { BETWEEN_DRAWINGS } else { BETWEEN_LINES };
        while ended.recv_timeout(between) == Err(RecvTimeoutError::Timeout) {
            self.draw();
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn draw(&self) {
        let Counts { sent, done, failed, pieces, last_ttft_us } = &*self.counts;
        let (done, failed) = (done.load(Relaxed), failed.load(Relaxed));
        let in_flight = sent.load(Relaxed).saturating_sub(done);
        let tokens_per_s = pieces.load(Relaxed) as f64 / self.started.elapsed().as_secs_f64();
        let ttft_ms = last_ttft_us.load(Relaxed) as f64 / 1e3;
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(format!(
                    "{in_flight} in flight, {failed} failed, {tokens_per_s:.0} tokens/s, last TTFT {ttft_ms:.0} ms"
                ));
            }
            None => {
                let profile = &self.profile;
                tracing::info!(profile, done, in_flight, failed, tokens_per_s, ttft_ms, "measuring");
            }
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
