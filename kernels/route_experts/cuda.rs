//! The launches of `cuda.cu`: which experts a token goes to, then which assignments an expert has. An assignment is a
//! pair of token and rank, with number `token * k + rank`.

use crate::gpu::{DevicePointer, Launch};

const ROUTE_THREADS: usize = 128;
const TOKENS_PER_BLOCK: usize = ROUTE_THREADS / 32;
const GROUP_THREADS: u32 = 512;
/// A lane of a warp keeps a bit for each of its experts.
const MAX_EXPERTS: usize = 1024;
/// A lane of a warp per rank.
const MAX_EXPERTS_PER_TOKEN: usize = 32;

/// Operands of the choice.
#[derive(Clone, Copy, Debug)]
pub struct RouteExperts {
    /// f32 `(tokens, num_experts)`
    pub logits: DevicePointer,
    /// u32 `(tokens)`: where each token's keys and values go, `u32::MAX` for a padded row, which then has no expert:
    /// `u32::MAX` with weight 0 in all ranks. [`DevicePointer::NULL`] if there is no padding.
    pub slots: DevicePointer,
    /// u32 `(tokens, experts_per_token)`, best first.
    pub experts: DevicePointer,
    /// f32 `(tokens, experts_per_token)`, which add up to 1 for each token.
    pub weights: DevicePointer,
    /// Padded ones among them, above 0.
    pub tokens: usize,
    /// At most 1024.
    pub num_experts: usize,
    /// At most 32, and no more than there are.
    pub experts_per_token: usize,
}

impl RouteExperts {
    /// A warp per token.
    pub fn launch(&self) -> Launch {
        let Self { tokens, num_experts, experts_per_token, .. } = *self;
        assert!(num_experts <= MAX_EXPERTS, "{num_experts} experts, at most {MAX_EXPERTS}");
        let most = num_experts.min(MAX_EXPERTS_PER_TOKEN);
        assert!(
            (1..=most).contains(&experts_per_token),
            "{experts_per_token} of {num_experts} experts, at most {most}"
        );
        let blocks = tokens.div_ceil(TOKENS_PER_BLOCK) as u32;
        Launch::new("route_experts", [blocks, 1, 1], ROUTE_THREADS as u32, 0)
            .pointer(self.logits)
            .pointer(self.slots)
            .pointer(self.experts)
            .pointer(self.weights)
            .int(tokens)
            .int(num_experts)
            .int(experts_per_token)
    }
}

/// Operands of the grouping.
#[derive(Clone, Copy, Debug)]
pub struct GroupByExpert {
    /// u32 `(assignments)`: the expert of each; one from `num_experts` on counts as none.
    pub experts: DevicePointer,
    /// u32 `(assignments)`: assignments in the order of their experts, and in their own order within an expert. The
    /// places that are left over, for there may be assignments without expert, are not written.
    pub rows: DevicePointer,
    /// u32 `(num_experts + 1)`: where each expert's begin in `rows`, and where the last one's end.
    pub offsets: DevicePointer,
    /// Tokens times experts per token.
    pub assignments: usize,
    /// Above 0.
    pub num_experts: usize,
}

impl GroupByExpert {
    /// A block per expert.
    pub fn launch(&self) -> Launch {
        Launch::new("group_by_expert", [self.num_experts as u32, 1, 1], GROUP_THREADS, 0)
            .pointer(self.experts)
            .pointer(self.rows)
            .pointer(self.offsets)
            .int(self.assignments)
    }
}
