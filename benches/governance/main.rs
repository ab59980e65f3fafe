//! What identities, policies, quotas, guardrails, the audit log and TLS cost, with an engine that takes no time.
//! `cargo bench --bench governance`
//!
//! Requests for one token come at a set rate, each at its own moment whether others are answered or not, to servers that
//! differ by one part, in turns. Told are latency, processor time, and what each server can do at most.

#![allow(missing_docs, reason = "a program")]

#[path = "../../tests/it/authority.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod authority;
#[path = "../../tests/it/fixtures.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod fixtures;
mod isolation;
mod model;
mod tls;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, header},
};
use serde_json::json;
use tokio::{runtime::Runtime, task::JoinSet, time::sleep_until};
use tower::ServiceExt;
use tramontane::{
    api::{app, paths},
    governance::{
        Actor, DEFAULT_TENANT, Governance, GuardrailFile, NewKey, Role,
        audit::{Audit, AuditOptions, Evidence, verify},
        quota::{Limits, Quota, Scope},
    },
    telemetry::AuditMetrics,
};
use tramontane_kernels::threads;

const PER_SECOND: u32 = 2000;
const MEASURED: Duration = Duration::from_secs(5);
const ROUNDS: usize = 5;
/// At once, to see what the server can do.
const CLIENTS: usize = 64;

/// Names of the servers that differ by the log alone.
const BEFORE_AUDIT: &str = "key and policies";
const AUDIT: &str = "key, policies and audit";

/// All that detectors know is looked for on the way in and out.
const GUARDRAILS: &str = r#"
[[guardrail]]
name = "all"
stage = "both"
detect = ["all"]
action = "redact"
"#;

/// A server and how it is asked.
struct Served {
    name: &'static str,
    router: Router,
    secret: Option<String>,
}

/// What one run at the set rate came to.
struct Run {
    /// Sorted, in milliseconds.
    latencies: Vec<f64>,
    /// Processor time per request, in microseconds.
    cpu_us: f64,
    /// Requests a second, until the last was answered.
    rate: f64,
}

fn main() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder on a disk");
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime =
        runtime.worker_threads(2).on_thread_start(threads::answer_soon).enable_all().build().expect("threads");
    let log = folder.path().join("audit");
    let options = AuditOptions { on_thread_start: threads::answer_soon, ..AuditOptions::default() };
    let audit = Audit::open(&log, options, AuditMetrics::default()).expect("a log");
    of_parts(folder.path(), &audit, &runtime);
    audit.close();
    let report = verify(&log, &Evidence::default()).expect("intact");
    let files = fs::read_dir(&log).expect("a folder").flatten();
    let bytes: u64 = files.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
    println!("\n{} records, {} bytes per record, all intact", report.records, bytes / report.records);
    let synced = synchronisations(folder.path(), 2 * bytes / report.records);
    let [p50, p99] = [0.5, 0.99].map(|share| quantile(&synced, share));
    println!("the disk: {p50:.3} ms to have two records on it, {p99:.3} at p99\n");
    tls::measure(folder.path(), &runtime);
    isolation::measure(&runtime);
}

fn of_parts(folder: &Path, audit: &Audit, runtime: &Runtime) {
    println!(
        "| server | p50 ms | p99 ms | requests/s of {PER_SECOND} | processor time per request, us | most requests/s |"
    );
    println!("|---|---:|---:|---:|---:|---:|");
    let guardrails = folder.join("guardrails.toml");
    fs::write(&guardrails, GUARDRAILS).expect("it can be written");
    let guardrails = || GuardrailFile::open(&guardrails, paths()).expect("they are right");
    let keys = |name: &str| identified(&folder.join(name));
    let mut added = [Vec::new(), Vec::new()];
    for round in 1..=ROUNDS {
        let mut without_log = [0.0; 2];
        let at = |part: &str| keys(&format!("{part}-{round}"));
        let (identities, secret) = at("keys");
        let (limited, limited_secret) = at("quotas");
        limited.administered_by(&Actor::CommandLine).set_quota(&generous(), 0).expect("a quota");
        let (guarded, guarded_secret) = at("guardrails");
        let (audited, audited_secret) = at("audit");
        let (all, all_secret) = at("all");
        all.administered_by(&Actor::CommandLine).set_quota(&generous(), 0).expect("a quota");
        let servers = [
            ("open", Governance::in_memory().expect("memory"), None),
            (BEFORE_AUDIT, identities, Some(secret)),
            ("these and a quota", limited, Some(limited_secret)),
            ("these and guardrails", guarded.with_guardrails(guardrails()), Some(guarded_secret)),
            (AUDIT, audited.with_audit(audit.clone()), Some(audited_secret)),
            ("all", all.with_guardrails(guardrails()).with_audit(audit.clone()), Some(all_secret)),
        ];
        for (name, governance, secret) in servers {
            let served = Served { name, router: app(model::state(governance)), secret };
            settle();
            let run = runtime.block_on(served.at_rate());
            let most = runtime.block_on(served.at_most());
            let [p50, p99] = [0.5, 0.99].map(|share| quantile(&run.latencies, share));
            match name {
                BEFORE_AUDIT => without_log = [p50, p99],
                AUDIT => {
                    added[0].push(p50 - without_log[0]);
                    added[1].push(p99 - without_log[1]);
                }
                _ => {}
            }
            println!("| {} | {p50:.3} | {p99:.3} | {:.0} | {:.1} | {most:.0} |", served.name, run.rate, run.cpu_us);
        }
    }
    for (what, mut rounds) in ["p50", "p99"].into_iter().zip(added) {
        rounds.sort_by(f64::total_cmp);
        let (least, most) = (rounds[0], rounds[ROUNDS - 1]);
        println!(
            "the audit log adds at {what}: {:.2} ms, by the round {least:.2} to {most:.2}",
            quantile(&rounds, 0.5)
        );
    }
}

/// Has everything on the disk that others have left to be written, as a build does: it would be measured.
fn settle() {
    drop(Command::new("sync").status()); // where there is none, the figures are what they are
}

/// Sorted times, in milliseconds, of writing so many bytes behind a file's end and having them on the disk: what the log cannot
/// take less than. Nothing else is done meanwhile. A record that comes while others are being written waits for two of these.
fn synchronisations(folder: &Path, bytes: u64) -> Vec<f64> {
    let mut file = File::create(folder.join("floor")).expect("a file");
    let record = vec![b'x'; bytes as usize];
    let mut times: Vec<f64> = (0..4000)
        .map(|_| {
            let begun = Instant::now();
            file.write_all(&record).and_then(|()| file.sync_data()).expect("room on the disk");
            let took = begun.elapsed().as_secs_f64() * 1e3;
            thread::sleep(Duration::from_secs(1) / PER_SECOND);
            took
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

/// Identities of a directory, and a key among them.
fn identified(directory: &Path) -> (Governance, String) {
    fs::create_dir_all(directory).expect("a folder");
    let governance = Governance::open(directory).expect("a database");
    let new = NewKey {
        name: "bench".to_owned(),
        tenant: DEFAULT_TENANT.to_owned(),
        roles: [Role::Service].into(),
        attributes: BTreeMap::new(),
        expires_at: None,
    };
    let created = governance.administered_by(&Actor::CommandLine).create_key(&new, 0).expect("a key");
    (governance, created.secret)
}

/// A quota with limits of all kinds that nobody reaches.
fn generous() -> Quota {
    let much = Some(1 << 40);
    let limits = Limits {
        requests_per_minute: much,
        tokens_per_minute: much,
        concurrent_requests: much,
        tokens_per_day: much,
        tokens_per_month: much,
    };
    Quota { scope: Scope { tenant: Some(DEFAULT_TENANT.to_owned()), ..Scope::default() }, limits }
}

impl Served {
    async fn ask(router: Router, secret: Option<String>) {
        let body =
            json!({ "model": "none", "prompt": "The quick brown fox jumps over the lazy dog.", "max_tokens": 1 });
        let mut request = Request::post("/v1/completions").header(header::CONTENT_TYPE, "application/json");
        if let Some(secret) = secret {
            request = request.header(header::AUTHORIZATION, format!("Bearer {secret}"));
        }
        let request = request.body(Body::from(body.to_string())).expect("a valid request");
        let Ok(response) = router.oneshot(request).await;
        assert!(response.status().is_success(), "{}", response.status());
        to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    }

    async fn at_rate(&self) -> Run {
        let count = PER_SECOND * MEASURED.as_secs() as u32;
        let began = Instant::now() + Duration::from_millis(100);
        let cpu_before = cpu_seconds();
        let mut asked = JoinSet::new();
        for number in 0..count {
            let due = began + number * Duration::from_secs(1) / PER_SECOND;
            sleep_until(due.into()).await;
            let (router, secret) = (self.router.clone(), self.secret.clone());
            asked.spawn(async move {
                let begun = Instant::now();
                Self::ask(router, secret).await;
                begun.elapsed().as_secs_f64() * 1e3
            });
        }
        let mut latencies = asked.join_all().await;
        let rate = f64::from(count) / began.elapsed().as_secs_f64();
        latencies.sort_by(f64::total_cmp);
        Run { latencies, cpu_us: (cpu_seconds() - cpu_before) * 1e6 / f64::from(count), rate }
    }

    /// Requests a second that are answered to clients who ask again at once.
    async fn at_most(&self) -> f64 {
        let until = Instant::now() + MEASURED;
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (router, secret) = (self.router.clone(), self.secret.clone());
            clients.spawn(async move {
                let mut count = 0.0;
                while Instant::now() < until {
                    Self::ask(router.clone(), secret.clone()).await;
                    count += 1.0;
                }
                count
            });
        }
        clients.join_all().await.into_iter().sum::<f64>() / MEASURED.as_secs_f64()
    }
}

/// Processor time of all threads so far (Linux; zero elsewhere).
fn cpu_seconds() -> f64 {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = tasks.filter_map(|task| {
        fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}
