//! Where the time of a forward pass goes. Main type: [`OpTimes`]. A pass that nobody times is compiled without a clock.

use std::time::{Duration, Instant};

/// A part of a forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// From a batch to tables and rotations.
    Prepare,
    /// Rows of the embedding.
    Embedding,
    /// All RMSNorms.
    Norm,
    /// Queries, keys and values, their rotation, and writing keys and values to the cache.
    QkvProj,
    /// Attention to the cache.
    Attention,
    /// Output projection, added to the residual.
    OProj,
    /// SwiGLU with its projections, or the experts.
    FeedForward,
    /// Logits.
    LmHead,
}

/// Time per part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpTimes([Duration; Op::ALL.len()]);

/// Times what it runs, or does not.
pub(super) trait OpClock: Send {
    fn time<T>(&mut self, op: Op, run: impl FnOnce() -> T) -> T;
}

/// For passes that nobody times.
pub(super) struct NoClock;

impl Op {
    /// In the order in which they run.
    pub const ALL: [Self; 8] = [
        Self::Prepare,
        Self::Embedding,
        Self::Norm,
        Self::QkvProj,
        Self::Attention,
        Self::OProj,
        Self::FeedForward,
        Self::LmHead,
    ];

    /// As in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Embedding => "embedding",
            Self::Norm => "norm",
            Self::QkvProj => "qkv_proj",
            Self::Attention => "attention",
            Self::OProj => "o_proj",
            Self::FeedForward => "feed_forward",
            Self::LmHead => "lm_head",
        }
    }
}

impl OpTimes {
    /// Time of one part.
    pub fn of(&self, op: Op) -> Duration {
        self.0[op as usize]
    }

    /// Of all parts; nothing if the model does not tell.
    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }
}

impl OpClock for OpTimes {
    fn time<T>(&mut self, op: Op, run: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = run();
        self.0[op as usize] += started.elapsed();
        result
    }
}

impl OpClock for NoClock {
    #[inline(always)]
    fn time<T>(&mut self, _op: Op, run: impl FnOnce() -> T) -> T {
        run()
    }
}
