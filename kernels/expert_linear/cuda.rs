//! The launch of `cuda.cu`.

use crate::gpu::{DevicePointer, Float16, Launch};

/// Bytes of a row in a stage of shared memory.
const STAGE_ROW_BYTES: usize = 128;

/// Operands of the experts' products on a device. Rows with no expert are not written.
#[derive(Clone, Copy, Debug)]
pub struct ExpertLinear {
    /// Of type `dtype`, `(assignments / rows_per_source, depth)`
    pub x: DevicePointer,
    /// Of type `dtype`, `(num_experts, width, depth)`, or `(num_experts, 2 * width, depth)` with SwiGLU, gates first.
    pub weights: DevicePointer,
    /// Which expert has which assignments.
    pub groups: ExpertGroups,
    /// Of type `dtype`, `(assignments, width)`, by number of assignment.
    pub out: DevicePointer,
    /// Sizes of the product.
    pub sizes: ExpertSizes,
    /// What becomes of the products.
    pub epilogue: ExpertEpilogue,
    /// Of `x`, weights and result.
    pub dtype: Float16,
}

/// The result of [`crate::route_experts::cuda::GroupByExpert`].
#[derive(Clone, Copy, Debug)]
pub struct ExpertGroups {
    /// u32 `(tokens * experts_per_token)`: assignments in the order of their experts.
    pub rows: DevicePointer,
    /// u32 `(num_experts + 1)`: where each expert's begin.
    pub offsets: DevicePointer,
    /// Of the layer.
    pub num_experts: usize,
    /// Tokens, padded ones among them. No expert may have more rows: a token goes to different experts.
    pub tokens: usize,
    /// Assignments of a token.
    pub experts_per_token: usize,
}

/// Sizes of an expert's product.
#[derive(Clone, Copy, Debug)]
pub struct ExpertSizes {
    /// Elements of a row of `x`, a multiple of 8.
    pub depth: usize,
    /// Elements of a row of the result, a multiple of 8.
    pub width: usize,
    /// Assignments that share a row of `x`: the experts per token where `x` has a row per token, 1 where it has one per
    /// assignment.
    pub rows_per_source: usize,
}

/// What becomes of the products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertEpilogue {
    /// They are the result.
    Plain,
    /// `silu(gate) * up`
    SwiGlu,
}

impl ExpertLinear {
    /// A block per tile of rows and tile of features, for as many tiles as there can be, however the router chooses.
    pub fn launch(&self) -> Launch {
        let ExpertSizes { depth, width, rows_per_source } = self.sizes;
        assert!(depth > 0 && depth.is_multiple_of(8), "rows of {depth} elements are not whole vectors of 8");
        assert!(width.is_multiple_of(8), "results of {width} elements are not whole vectors of 8");
        assert!(rows_per_source > 0, "no assignments share a row");
        let tile = Tile::best(&self.groups);
        let features = match self.epilogue {
            ExpertEpilogue::Plain => tile.features,
            ExpertEpilogue::SwiGlu => tile.features / 2,
        };
        let grid = [self.groups.most_tiles(tile.rows) as u32, width.div_ceil(features) as u32, 1];
        Launch::new(tile.kernel(self.epilogue, self.dtype), grid, tile.threads, tile.shared_bytes())
            .pointer(self.x)
            .pointer(self.weights)
            .pointer(self.groups.rows)
            .pointer(self.groups.offsets)
            .pointer(self.out)
            .int(self.groups.num_experts)
            .int(depth)
            .int(width)
            .int(rows_per_source)
    }
}

impl ExpertGroups {
    /// The number of tiles of `rows` rows that experts can have together, with every choice of experts.
    fn most_tiles(&self, rows: usize) -> usize {
        let assignments = self.tokens * self.experts_per_token;
        let experts = self.num_experts.min(assignments);
        if self.tokens <= rows {
            return experts;
        }
        // Each expert's last tile has at least one row, its other tiles are full.
        (assignments + experts * (rows - 1)) / rows
    }
}

/// One of the tiles of `cuda.cu`.
#[derive(Clone, Copy, Debug)]
struct Tile {
    features: usize,
    rows: usize,
    stages: usize,
    threads: u32,
}

const ROWS_8: Tile = Tile { features: 64, rows: 8, stages: 8, threads: 128 };
const ROWS_16: Tile = Tile { features: 64, rows: 16, stages: 7, threads: 128 };
const ROWS_32: Tile = Tile { features: 64, rows: 32, stages: 6, threads: 128 };
const ROWS_64: Tile = Tile { features: 64, rows: 64, stages: 4, threads: 128 };
const ROWS_128: Tile = Tile { features: 128, rows: 128, stages: 3, threads: 256 };

impl Tile {
    /// Up to 64 tokens, the smallest with room for every expert's rows, so that weights are read once. Beyond that, by
    /// the rows that experts have on average. Results do not depend on the choice.
    fn best(groups: &ExpertGroups) -> Self {
        match groups.tokens {
            0..=8 => ROWS_8,
            9..=16 => ROWS_16,
            17..=32 => ROWS_32,
            33..=64 => ROWS_64,
            tokens if tokens * groups.experts_per_token <= 64 * groups.num_experts => ROWS_64,
            _ => ROWS_128,
        }
    }

    fn shared_bytes(self) -> u32 {
        ((self.features + self.rows) * STAGE_ROW_BYTES * self.stages) as u32
    }

    fn kernel(self, epilogue: ExpertEpilogue, dtype: Float16) -> &'static str {
        use ExpertEpilogue::{Plain, SwiGlu};
        match (epilogue, self.rows) {
            (Plain, 8) => dtype.pick("expert_linear_8_bf16", "expert_linear_8_f16"),
            (Plain, 16) => dtype.pick("expert_linear_16_bf16", "expert_linear_16_f16"),
            (Plain, 32) => dtype.pick("expert_linear_32_bf16", "expert_linear_32_f16"),
            (Plain, 64) => dtype.pick("expert_linear_64_bf16", "expert_linear_64_f16"),
            (Plain, _) => dtype.pick("expert_linear_128_bf16", "expert_linear_128_f16"),
            (SwiGlu, 8) => dtype.pick("expert_swiglu_8_bf16", "expert_swiglu_8_f16"),
            (SwiGlu, 16) => dtype.pick("expert_swiglu_16_bf16", "expert_swiglu_16_f16"),
            (SwiGlu, 32) => dtype.pick("expert_swiglu_32_bf16", "expert_swiglu_32_f16"),
            (SwiGlu, 64) => dtype.pick("expert_swiglu_64_bf16", "expert_swiglu_64_f16"),
            (SwiGlu, _) => dtype.pick("expert_swiglu_128_bf16", "expert_swiglu_128_f16"),
        }
    }
}
