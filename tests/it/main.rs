//! The one integration-test binary.
mod fixtures;
mod prompt;
mod vectors;
