//! Tramontane serves open-weight Mistral models on the customer's own hardware.
//!
//! The modules form layers that import in one direction only:
//! `cli -> api -> engine -> model -> kernels -> candle`. `prompt` and `store` stand beside that spine:
//! `api` uses them, and they know nothing of the others; `provenance`, which `cli` asks what a model's files must be, neither; `bench` measures servers from outside. Every layer may use
//! `types`, `config` and `telemetry`.
//! `ARCHITECTURE.md` is the map with its invariants.

pub mod api;
pub mod bench;
pub mod cli;
pub mod config;
pub mod engine;
pub mod governance;
pub mod model;
pub mod prompt;
pub mod provenance;
pub mod store;
pub mod telemetry;
pub mod types;
