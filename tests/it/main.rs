//! The one integration-test binary.

mod cli;
mod fixtures;
mod golden;
mod golden_case;
mod golden_run;
mod tidy;
mod vectors;
