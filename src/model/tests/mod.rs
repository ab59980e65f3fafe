//! The decoder against a plain f64 forward pass, and its promises about batches.

mod contract;
mod invariance;
mod parity;
mod random;
mod reference;
