//! The memory of a step's activations, allocated once for the largest step there can be.

use tramontane_kernels::gpu::{Device, DeviceError, DevicePointer, Float16};
use tramontane_kernels::linear::cuda::Workspace;
use tramontane_kernels::paged_attention::cuda::{PagedDecode, PagedPrefill};

use super::step::{Choice, Selected, Shape, padded_rows};
use super::{GpuLimits, Model};
use crate::model::config::Config;

/// Where everything lies. T is the most rows of a step.
#[derive(Debug)]
pub(super) struct Arena {
    pub(super) limits: GpuLimits,
    /// u32, the words of a step
    pub(super) inputs: DevicePointer,
    /// f32 `(T, hidden_size)`
    pub(super) residual: DevicePointer,
    /// f32 `(T, hidden_size)`: the residual of the rows whose logits are wanted
    pub(super) selected_residual: DevicePointer,
    /// 16 bits `(T, hidden_size)`: the residual, normalised
    pub(super) normed: DevicePointer,
    /// 16 bits `(T, qkv_width)`
    pub(super) qkv: DevicePointer,
    /// 16 bits `(T, q_width)`
    pub(super) queries: DevicePointer,
    /// 16 bits `(T, q_width)`
    pub(super) attended: DevicePointer,
    /// 16 bits `(T, q_width)`: that of the rows whose logits are wanted
    pub(super) selected_attended: DevicePointer,
    /// 16 bits `(T, intermediate_size)`, with experts `(T * experts_per_token, intermediate_size)`
    pub(super) activated: DevicePointer,
    /// 16 bits `(T, 2 * intermediate_size)`, where a library computes products of prompts and there are no experts
    pub(super) gate_up: DevicePointer,
    pub(super) experts: ExpertsArena,
    /// f32, for [`PagedDecode`]
    pub(super) partials: DevicePointer,
    /// u32, for [`PagedDecode`]
    pub(super) counters: DevicePointer,
    /// For products of generated tokens.
    pub(super) workspace: Workspace,
    /// f32 `(LOGIT_ROWS, vocab_size)`
    pub(super) logits: DevicePointer,
}

/// What a mixture of experts needs; nothing where there is none.
#[derive(Debug)]
pub(super) struct ExpertsArena {
    /// f32 `(T, num_experts)`
    pub(super) router_logits: DevicePointer,
    /// u32 `(T, experts_per_token)`
    pub(super) chosen: DevicePointer,
    /// f32 `(T, experts_per_token)`
    pub(super) weights: DevicePointer,
    /// u32 `(T * experts_per_token)`
    pub(super) rows: DevicePointer,
    /// u32 `(num_experts + 1)`
    pub(super) offsets: DevicePointer,
    /// 16 bits `(T * experts_per_token, hidden_size)`
    pub(super) outputs: DevicePointer,
}

impl Arena {
    /// Rows of logits that are there at once.
    pub(super) const LOGIT_ROWS: usize = 256;

    pub(super) fn new(device: &impl Device, model: &Model, limits: GpuLimits) -> Result<Self, DeviceError> {
        let sizes = Sizes::new(&model.config, model.head_dim, limits, model.geometry.block_size, model.max_positions);
        // Each on its own, so that a memory checker sees where one ends.
        let next = |bytes: usize| device.allocate(bytes);
        Ok(Self {
            limits,
            inputs: next(sizes.inputs)?,
            residual: next(sizes.residual)?,
            selected_residual: next(sizes.residual)?,
            normed: next(sizes.normed)?,
            qkv: next(sizes.qkv)?,
            queries: next(sizes.queries)?,
            attended: next(sizes.queries)?,
            selected_attended: next(sizes.queries)?,
            activated: next(sizes.activated)?,
            gate_up: if model.has_library { next(sizes.gate_up)? } else { DevicePointer::NULL },
            experts: ExpertsArena {
                router_logits: next(sizes.router_logits)?,
                chosen: next(sizes.assignments)?,
                weights: next(sizes.assignments)?,
                rows: next(sizes.assignments)?,
                offsets: next(sizes.offsets)?,
                outputs: next(sizes.expert_outputs)?,
            },
            partials: next(sizes.partials)?,
            counters: next(sizes.counters)?,
            workspace: Workspace {
                partials: next(sizes.product_partials)?,
                counters: next(sizes.product_counters)?,
                capacity: device.capacity(),
            },
            logits: next(sizes.logits)?,
        })
    }
}

/// Bytes of the arena on a device that has a library.
pub(super) fn bytes(
    config: &Config,
    head_dim: usize,
    limits: GpuLimits,
    block_size: usize,
    max_positions: usize,
) -> usize {
    Sizes::new(config, head_dim, limits, block_size, max_positions).total()
}

/// Bytes of each part.
struct Sizes {
    inputs: usize,
    residual: usize,
    normed: usize,
    qkv: usize,
    queries: usize,
    activated: usize,
    gate_up: usize,
    router_logits: usize,
    assignments: usize,
    offsets: usize,
    expert_outputs: usize,
    partials: usize,
    counters: usize,
    product_partials: usize,
    product_counters: usize,
    logits: usize,
}

impl Sizes {
    fn new(config: &Config, head_dim: usize, limits: GpuLimits, block_size: usize, max_positions: usize) -> Self {
        let attention = &config.attention;
        let (heads, kv_heads) = (attention.num_attention_heads, attention.num_key_value_heads);
        let rows = padded_rows(limits.max_tokens);
        let (experts, per_token) = match config.feed_forward.experts {
            Some(experts) => (experts.num_experts, experts.experts_per_token),
            None => (0, 0),
        };
        let assignments = rows * per_token;
        let table_stride = max_positions.div_ceil(block_size).next_power_of_two();
        let decode_rows = rows.min(PagedDecode::MAX_ROWS);
        Self {
            inputs: inputs(limits, heads / kv_heads, rows, table_stride),
            residual: rows * config.hidden_size * 4,
            normed: rows * config.hidden_size * Float16::BYTES,
            qkv: rows * (heads + 2 * kv_heads) * head_dim * Float16::BYTES,
            queries: rows * heads * head_dim * Float16::BYTES,
            activated: assignments.max(rows) * config.feed_forward.intermediate_size * Float16::BYTES,
            gate_up: match config.feed_forward.experts {
                None => rows * 2 * config.feed_forward.intermediate_size * Float16::BYTES,
                Some(_) => 0,
            },
            router_logits: rows * experts * 4,
            assignments: assignments * 4,
            offsets: (experts + 1) * 4,
            expert_outputs: assignments * config.hidden_size * Float16::BYTES,
            partials: PagedDecode::most_partials(decode_rows, heads, head_dim) * 4,
            counters: PagedDecode::most_counters(decode_rows, heads, kv_heads) * 4,
            product_partials: Workspace::partials_len(rows) * 4,
            product_counters: Workspace::counters_len(rows) * 4,
            logits: Arena::LOGIT_ROWS * config.vocab_size * 4,
        }
    }

    fn total(&self) -> usize {
        let twice = [self.residual, self.queries, self.assignments].map(padded);
        let once = [
            self.inputs,
            self.normed,
            self.qkv,
            self.activated,
            self.gate_up,
            self.router_logits,
            self.offsets,
            self.expert_outputs,
            self.partials,
            self.counters,
            self.product_partials,
            self.product_counters,
            self.logits,
        ];
        let third = padded(self.queries) + padded(self.assignments);
        2 * twice.iter().sum::<usize>() + third + once.map(padded).iter().sum::<usize>()
    }
}

/// Devices allocate multiples of 256 bytes.
pub(super) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(256)
}

/// Bytes of the largest step's words.
fn inputs(limits: GpuLimits, group: usize, rows: usize, table_stride: usize) -> usize {
    let tiles = rows.div_ceil(PagedPrefill::queries_per_tile(group)) + limits.max_sequences;
    let selected = Some(Selected { generated: rows, prompt: 0 });
    // All rows may be generated tokens, each with its table, or belong to prompts.
    let chunks = limits.max_sequences;
    let choice = Choice::DeviceWithLogprobs;
    let largest = Shape { generated: rows, prompt: rows, chunks, tiles, table_stride, selected, choice };
    largest.layout().len * 4
}
