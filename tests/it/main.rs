//! The one integration-test binary.

mod engine_faults;
mod engine_generation;
mod engine_mix;
mod engine_mock;
mod engine_scheduler;
mod golden_sampling;
