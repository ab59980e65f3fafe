//! The one integration-test binary.

mod golden;
mod golden_case;
mod golden_mistakes;
mod golden_run;
