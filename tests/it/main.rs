//! The one integration-test binary.
mod api;
mod fixtures;
mod vectors;
