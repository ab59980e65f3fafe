//! The one integration-test binary.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod api;
mod authority;
mod cli;
mod engine_background;
mod engine_fairness;
mod engine_faults;
mod engine_generation;
mod engine_mix;
mod engine_mock;
mod engine_scheduler;
mod engine_speculation;
mod engine_turns;
mod fixtures;
mod golden;
mod golden_case;
mod golden_mistakes;
mod golden_pooling;
mod golden_run;
mod golden_sampling;
mod prompt;
mod tidy;
mod vectors;
