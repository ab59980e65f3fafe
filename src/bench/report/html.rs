//! The report as one page that needs nothing else: no script, no font, no request.

use minijinja::{Environment, Value, context, value::Serde};

use super::{
    Report,
    plot::{MS, Marks, Plot, Series, plot},
};
use crate::bench::{
    run::Run,
    sample::Sample,
    summary::{Percentiles, Summary},
};

const TEMPLATE: &str = include_str!("report.html");
/// Points of a curve that stands for more values than that.
const CURVE_POINTS: usize = 400;
/// Requests of a run that are drawn one by one.
const SHOWN_REQUESTS: usize = 2000;

/// The page. `runs` are those that the report's figures were made from.
pub fn html(report: &Report, runs: &[Run]) -> String {
    let mut environment = Environment::new();
    environment.add_filter("ms", |value: f64| format!("{value:.1}"));
    environment.add_filter("rate", |value: f64| format!("{value:.2}"));
    environment.add_template("report.html", TEMPLATE).expect("the template is tested");
    let page = environment.get_template("report.html").expect("it was just added");
    let plots: Vec<Value> = plots(report, runs).iter().map(|it| Value::from_safe_string(plot(it))).collect();
    let json = report.json();
    let context = context! { report => Value::from(Serde(report)), started => report.started(), plots, json };
    page.render(context).expect("the template is tested")
}

fn plots(report: &Report, runs: &[Run]) -> Vec<Plot> {
    let mut plots = Vec::new();
    if report.runs.iter().filter(|run| run.target_requests_per_s.is_some()).count() > 1 {
        plots.extend(over_rates(&report.runs));
    }
    plots.push(cumulative("Time to first token", runs, |sample| sample.ttft_s.into_iter().collect()));
    plots.push(cumulative("Time between tokens", runs, |sample| {
        sample.gaps_s.iter().map(|gap| f64::from(*gap)).collect()
    }));
    plots.push(cumulative("End to end", runs, |sample| vec![sample.end_s]));
    plots.push(over_time(runs));
    plots
}

/// What a sweep is for: latency and throughput against the rate that was asked of the server. Closed loops ask for
/// none and are in the tables alone.
fn over_rates(summaries: &[Summary]) -> Vec<Plot> {
    let curve = |name: &str, of: &dyn Fn(&Summary) -> f64| Series {
        name: name.to_owned(),
        points: summaries.iter().filter_map(|summary| Some((summary.target_requests_per_s?, of(summary)))).collect(),
    };
    let latency = |title, of: fn(&Summary) -> &Percentiles| Plot {
        title,
        axes: ["requests per second", MS],
        marks: Marks::Lines,
        series: vec![
            curve("p50", &|summary| of(summary).p50),
            curve("p90", &|summary| of(summary).p90),
            curve("p99", &|summary| of(summary).p99),
        ],
    };
    vec![
        latency("Time to first token by rate", |summary| &summary.latencies.ttft_ms),
        latency("Time between tokens by rate", |summary| &summary.latencies.itl_ms),
        Plot {
            title: "Throughput by rate",
            axes: ["requests per second", "output tokens per second"],
            marks: Marks::Lines,
            series: vec![curve("output", &|summary| summary.rates.output_tokens_per_s)],
        },
    ]
}

/// Share of values up to each value, a curve per run.
fn cumulative(title: &'static str, runs: &[Run], of: impl Fn(&Sample) -> Vec<f64>) -> Plot {
    let series = runs.iter().map(|run| {
        let mut values: Vec<f64> = run.answered().flat_map(&of).map(|seconds| seconds * 1e3).collect();
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let shown = count.min(CURVE_POINTS);
        let rank = |point: usize| ((point + 1) * count).div_ceil(shown) - 1;
        let points = (0..shown).map(|point| (values[rank(point)], (rank(point) + 1) as f64 / count as f64)).collect();
        Series { name: run.profile.to_string(), points }
    });
    Plot { title, axes: [MS, "share of values up to this"], marks: Marks::Lines, series: series.collect() }
}

/// Does it get slower the longer it goes on? Of many requests the slowest of each stretch is shown.
fn over_time(runs: &[Run]) -> Plot {
    let series = runs.iter().map(|run| {
        let points: Vec<(f64, f64)> =
            run.answered().filter_map(|sample| Some((sample.due_s, sample.ttft_s? * 1e3))).collect();
        let stretches = points.chunks(points.len().div_ceil(SHOWN_REQUESTS).max(1));
        let slowest = |stretch: &[(f64, f64)]| stretch.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
        Series { name: run.profile.to_string(), points: stretches.filter_map(slowest).collect() }
    });
    Plot {
        title: "Time to first token over the run",
        axes: ["seconds from the beginning", MS],
        marks: Marks::Points,
        series: series.collect(),
    }
}
