//! A row per request, after RFC 4180.

use std::fmt::Write;

use crate::bench::run::Run;

const HEADER: &str = "run,profile,request,due_s,send_lag_ms,ttft_ms,tpot_ms,e2e_ms,asked_input_tokens,\
                      asked_output_tokens,input_tokens,cached_tokens,output_tokens,failure,message";

/// All requests of all runs; runs count from 1. A time that there is not, is empty.
pub fn csv(runs: &[Run]) -> String {
    let mut text = format!("{HEADER}\r\n");
    for (number, run) in (1..).zip(runs) {
        for sample in &run.samples {
            let (asked, counted) = (sample.asked, sample.counted);
            let (kind, message) = sample.failure.as_ref().map_or(("", ""), |f| (f.kind.name(), f.message.as_str()));
            let row = write!(
                text,
                "{number},{},{},{:.6},{:.3},{},{},{:.3},{},{},{},{},{},{kind},{}\r\n",
                quoted(&run.profile.to_string()),
                sample.index,
                sample.due_s,
                sample.send_lag_s * 1e3,
                optional_ms(sample.ttft_s),
                optional_ms(sample.tpot_s()),
                sample.end_s * 1e3,
                asked.input,
                asked.output,
                counted.input,
                counted.cached,
                counted.output,
                quoted(message),
            );
            row.expect("a string takes everything");
        }
    }
    text
}

fn optional_ms(seconds: Option<f64>) -> String {
    seconds.map_or_else(String::new, |seconds| format!("{:.3}", seconds * 1e3))
}

fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}
