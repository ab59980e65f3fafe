//! The one integration-test binary.

mod golden;
mod golden_case;
mod golden_run;
mod fixtures;
mod vectors;
