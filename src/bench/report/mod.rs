//! What a benchmark says: the same figures as JSON for machines, CSV with a row per request, a table for the
//! terminal and a page of HTML with plots. Main type: [`Report`].

mod csv;
mod html;
mod plot;
mod table;

use std::time::SystemTime;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::{calibration::Calibration, summary::Summary};

pub use csv::csv;
pub use html::html;
pub use table::table;

/// Changes when a field changes its meaning.
const FORMAT: &str = "tramontane.bench.serve/1";

/// All that is to be known of a benchmark.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    format: &'static str,
    /// RFC 3339, UTC.
    #[serde(serialize_with = "rfc3339")]
    pub started_at: SystemTime,
    /// Who measured.
    pub client: ClientDescription,
    /// What was measured.
    pub target: TargetDescription,
    /// Under which load.
    pub load: LoadDescription,
    /// How the server counts tokens.
    pub calibration: Calibration,
    /// What came of it.
    pub runs: Vec<Summary>,
}

/// Who measured.
#[derive(Clone, Debug, Serialize)]
pub struct ClientDescription {
    /// Version of this program.
    pub tramontane: &'static str,
    /// Operating system.
    pub os: &'static str,
    /// Instruction set.
    pub arch: &'static str,
    /// Threads that the machine runs at a time.
    pub cpus: usize,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct TargetDescription {
    /// As given.
    pub url: String,
    /// Path of the API.
    pub endpoint: &'static str,
    /// The model asked for.
    pub model: String,
}

/// The load as it was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct LoadDescription {
    /// The profile as given.
    pub profile: String,
    /// Tokens of prompts: a distribution, or a trace's name.
    pub input: String,
    /// Tokens of answers.
    pub output: String,
    /// Share of each prompt that all have in common.
    pub shared_prefix: f64,
    /// Requests of each run at most.
    pub requests: Option<u64>,
    /// Seconds of each run at most.
    pub duration_s: Option<f64>,
    /// Requests before each benchmark that do not count.
    pub warmup: u64,
    /// Most requests under way in an open loop.
    pub max_in_flight: u32,
    /// Seconds after which a request has failed.
    pub timeout_s: f64,
    /// For texts, lengths and times.
    pub seed: u64,
    /// Further fields of every request.
    pub extra_body: Map<String, Value>,
}

impl Report {
    /// All parts together, with who measured.
    pub fn new(
        started_at: SystemTime,
        target: TargetDescription,
        load: LoadDescription,
        calibration: Calibration,
        runs: Vec<Summary>,
    ) -> Self {
        Self { format: FORMAT, started_at, client: ClientDescription::this(), target, load, calibration, runs }
    }

    /// The report for machines, indented.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report is plain data") + "\n"
    }

    fn started(&self) -> String {
        humantime::format_rfc3339_seconds(self.started_at).to_string()
    }
}

impl ClientDescription {
    /// This program on this machine.
    pub fn this() -> Self {
        Self {
            tramontane: env!("CARGO_PKG_VERSION"),
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
        }
    }
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_seconds(*time))
}
