//! The report on a terminal.

use super::Report;
use crate::bench::summary::{Latencies, Percentiles, Summary};

/// A few lines about the benchmark, a table of rates and one of latencies with a row per run.
pub fn table(report: &Report) -> String {
    let target = &report.target;
    let mut text = format!("{} {} model {}, seed {}\n", target.url, target.endpoint, target.model, report.load.seed);
    if !report.calibration.measured {
        text += "the server does not count tokens: lengths of prompts are a guess, answers are counted by pieces\n";
    }
    text += "\n";
    text += &aligned(&rates(&report.runs));
    text += "\n";
    text += &aligned(&latencies(&report.runs));
    for summary in &report.runs {
        for (kind, failure) in &summary.failures {
            let (count, example) = (failure.count, &failure.example);
            text += &format!("\n{count} of {}: {kind}, such as: {example}\n", summary.profile);
        }
    }
    text
}

fn rates(runs: &[Summary]) -> Vec<Vec<String>> {
    let head =
        ["profile", "done", "failed", "seconds", "req/s", "in tok/s", "cached", "out tok/s", "in flight", "goodput/s"];
    let row = |summary: &Summary| {
        vec![
            summary.profile.clone(),
            summary.completed.to_string(),
            summary.failed_requests().to_string(),
            format!("{:.1}", summary.duration_s),
            format!("{:.2}", summary.rates.requests_per_s),
            format!("{:.1}", summary.rates.input_tokens_per_s),
            format!("{:.0} %", 100.0 * summary.tokens.cached as f64 / summary.tokens.input.max(1) as f64),
            format!("{:.1}", summary.rates.output_tokens_per_s),
            format!("{:.1} / {}", summary.in_flight.mean, summary.in_flight.peak),
            summary
                .goodput
                .map_or("-".to_owned(), |good| format!("{:.2} ({:.0} %)", good.requests_per_s, good.share * 100.0)),
        ]
    };
    rows(&head, runs.iter().map(row))
}

fn latencies(runs: &[Summary]) -> Vec<Vec<String>> {
    let head = ["ms: p50 / p90 / p99", "TTFT", "ITL", "TPOT", "end to end", "send lag p99"];
    let row = |summary: &Summary| {
        let three = |p: &Percentiles| format!("{} / {} / {}", short(p.p50), short(p.p90), short(p.p99));
        let Latencies { ttft_ms, itl_ms, tpot_ms, e2e_ms, send_lag_ms } = &summary.latencies;
        vec![
            summary.profile.clone(),
            three(ttft_ms),
            three(itl_ms),
            three(tpot_ms),
            three(e2e_ms),
            short(send_lag_ms.p99),
        ]
    };
    rows(&head, runs.iter().map(row))
}

/// Three digits or so.
fn short(ms: f64) -> String {
    let decimals = if ms < 10.0 { 2 } else { usize::from(ms < 100.0) };
    format!("{ms:.decimals$}")
}

fn rows(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<Vec<String>> {
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    std::iter::once(head).chain(rows).collect()
}

/// The first column to the left, numbers to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..columns).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}
