//! The launches of a step: the decoder's layers as kernels, in the order in which they run.

use std::ops::Range;

use tramontane_kernels::AttentionParams;
use tramontane_kernels::combine_experts::cuda::CombineExperts;
use tramontane_kernels::embedding::cuda::{EmbedTokens, GatherRows};
use tramontane_kernels::expert_linear::cuda::{ExpertEpilogue, ExpertGroups, ExpertLinear, ExpertSizes};
use tramontane_kernels::gpu::{DevicePointer, Float16, Launch};
use tramontane_kernels::linear::cuda::{Epilogue, Family, Linear, NormedLinear};
use tramontane_kernels::paged_attention::cuda::{PagedDecode, PagedKeys, PagedPrefill};
use tramontane_kernels::rms_norm::cuda::RmsNorm;
use tramontane_kernels::rotary_kv_write::cuda::{RotaryHeads, RotaryKvWrite, RotaryTables};
use tramontane_kernels::route_experts::cuda::{GroupByExpert, RouteExperts};
use tramontane_kernels::swiglu::cuda::SwiGlu;

use super::Model;
use super::arena::Arena;
use super::choice::Chooser;
use super::step::{Layout, Selected, Shape};
use super::weights::{GpuExperts, GpuFeedForward, GpuLayer};

/// Rows up to which a norm is computed within the product that it feeds: one launch less, but every block reads the
/// residual, and of more rows fewer blocks fit on a multiprocessor.
const NORMED_ROWS: usize = 1;

/// Makes the launches of steps of one shape.
pub(super) struct Launches<'a> {
    model: &'a Model,
    arena: &'a Arena,
    chooser: &'a Chooser,
    shape: &'a Shape,
    layout: Layout,
}

/// Rows of the residual that the layers go on with: generated tokens, then those of prompts.
#[derive(Clone, Copy)]
struct Rows {
    residual: DevicePointer,
    attended: DevicePointer,
    generated: usize,
    prompt: usize,
}

/// A product without its sizes of rows.
struct Product {
    weight: DevicePointer,
    in_features: usize,
    out_features: usize,
    epilogue: Epilogue,
}

impl<'a> Launches<'a> {
    pub(super) fn new(model: &'a Model, arena: &'a Arena, chooser: &'a Chooser, shape: &'a Shape) -> Self {
        Self { model, arena, chooser, shape, layout: shape.layout() }
    }

    /// From tokens to the residual of the rows whose logits are wanted.
    pub(super) fn layers(&self) -> Vec<Launch> {
        let (arena, shape) = (self.arena, self.shape);
        let mut launches = vec![self.embed()];
        let mut rows = Rows {
            residual: arena.residual,
            attended: arena.attended,
            generated: shape.generated,
            prompt: shape.prompt,
        };
        let last = self.model.weights.layers.len() - 1;
        for (index, layer) in self.model.weights.layers.iter().enumerate() {
            self.project_qkv(layer, rows, &mut launches);
            launches.push(self.rotate_and_write(layer));
            let selected = self.shape.selected.filter(|_| index == last);
            if selected.is_some_and(|selected| selected.generated + selected.prompt == 0) {
                // Nobody wants logits: keys and values are all that the step leaves.
                return launches;
            }
            self.attend(index, layer, &mut launches);
            if let Some(selected) = selected {
                // Beyond its keys and values, the last layer serves the wanted rows only.
                launches.extend(self.select(rows, selected));
                rows = Rows {
                    residual: arena.selected_residual,
                    attended: arena.selected_attended,
                    generated: selected.generated,
                    prompt: selected.prompt,
                };
            }
            let o_proj = Product {
                weight: layer.o_proj,
                in_features: self.model.q_width(),
                out_features: self.model.config.hidden_size,
                epilogue: Epilogue::Add,
            };
            self.product(&o_proj, (rows.attended, rows.residual), rows, &mut launches);
            match &layer.feed_forward {
                GpuFeedForward::Dense { gate_up_proj, down_proj } => {
                    self.feed_forward(layer, (*gate_up_proj, *down_proj), rows, &mut launches);
                }
                GpuFeedForward::Experts(experts) => self.experts(layer, experts, rows, &mut launches),
            }
        }
        launches
    }

    /// The logits of some of the rows that [`Self::layers`] leaves, into the first rows of the arena's, and the choice of
    /// tokens from them, if that is the device's. Nothing if the model has none.
    pub(super) fn head(&self, rows: Range<usize>) -> Vec<Launch> {
        let Some(lm_head) = self.model.weights.lm_head else { return Vec::new() };
        let mut launches = self.logits(lm_head, rows.clone());
        let parameters = self.input(self.layout.choices);
        let of = (rows.start, rows.len());
        launches.extend(self.chooser.launches(self.arena, parameters, of, self.shape.choice));
        launches
    }

    fn logits(&self, lm_head: DevicePointer, rows: Range<usize>) -> Vec<Launch> {
        let config = &self.model.config;
        let residual = self.residual(rows.start);
        let lm_head = Product {
            weight: lm_head,
            in_features: config.hidden_size,
            out_features: config.vocab_size,
            epilogue: Epilogue::StoreF32,
        };
        let mut launches = Vec::new();
        // One way for all rows, that of few: a prompt has but one, unless all of its log-probabilities are wanted.
        let rows = Rows { residual, attended: DevicePointer::NULL, generated: rows.len(), prompt: 0 };
        self.normed_product(self.model.weights.norm, &lm_head, self.arena.logits, rows, &mut launches);
        launches
    }

    /// Where [`Self::layers`] leaves the residual of the wanted row at this place, f32 `(hidden_size)`.
    pub(super) fn residual(&self, place: usize) -> DevicePointer {
        let residual = match self.shape.selected {
            Some(_) => self.arena.selected_residual,
            None => self.arena.residual,
        };
        residual.plus(place * self.model.config.hidden_size * 4)
    }

    fn embed(&self) -> Launch {
        let config = &self.model.config;
        EmbedTokens {
            table: self.model.weights.embed_tokens,
            ids: self.input(self.layout.ids),
            chosen: self.chooser.next(),
            out: self.arena.residual,
            size: config.vocab_size,
            width: config.hidden_size,
            rows: self.shape.rows(),
            dtype: self.model.dtype,
        }
        .launch()
    }

    fn project_qkv(&self, layer: &GpuLayer, rows: Rows, launches: &mut Vec<Launch>) {
        let qkv_proj = Product {
            weight: layer.qkv_proj,
            in_features: self.model.config.hidden_size,
            out_features: self.model.qkv_width(),
            epilogue: Epilogue::Store,
        };
        self.normed_product(layer.input_layernorm, &qkv_proj, self.arena.qkv, rows, launches);
    }

    fn rotate_and_write(&self, layer: &GpuLayer) -> Launch {
        let Model { config, geometry, .. } = self.model;
        let weights = &self.model.weights;
        RotaryKvWrite {
            qkv: self.arena.qkv,
            queries: self.arena.queries,
            cache: layer.cache,
            rows: RotaryTables {
                cos_sin: weights.cos_sin,
                query_scale: weights.query_scale,
                positions: self.input(self.layout.positions),
                slots: self.input(self.layout.slots),
                max_positions: self.model.max_positions,
            },
            heads: RotaryHeads {
                heads: config.attention.num_attention_heads,
                kv_heads: config.attention.num_key_value_heads,
                head_dim: self.model.head_dim,
            },
            n_rows: self.shape.rows(),
            num_slots: geometry.num_blocks * geometry.block_size,
            dtype: self.model.dtype,
        }
        .launch()
    }

    fn attend(&self, index: usize, layer: &GpuLayer, launches: &mut Vec<Launch>) {
        let Shape { generated, prompt, tiles, table_stride, .. } = *self.shape;
        let attention = &self.model.config.attention;
        let heads = attention.num_attention_heads;
        let row_bytes = self.model.q_width() * Float16::BYTES;
        // Of the heads as the model has them, not as they are padded.
        let softmax_scale = (1.0 / (attention.head_dim as f64).sqrt()) as f32;
        let params = AttentionParams { softmax_scale, window: attention.windows[index] };
        let keys = |context_lens: usize, block_tables: usize| PagedKeys {
            cache: layer.cache,
            geometry: self.model.geometry,
            kv_heads: attention.num_key_value_heads,
            head_dim: self.model.head_dim,
            context_lens: self.input(context_lens),
            block_tables: self.input(block_tables),
            table_stride,
            dtype: self.model.dtype,
        };
        let Arena { queries, attended, partials, counters, .. } = *self.arena;
        for first in (0..generated).step_by(PagedDecode::MAX_ROWS) {
            let contexts = self.layout.generated_contexts + first;
            let tables = self.layout.generated_tables + first * table_stride;
            let decode = PagedDecode {
                q: queries.plus(first * row_bytes),
                out: attended.plus(first * row_bytes),
                keys: keys(contexts, tables),
                partials,
                counters,
                n: (generated - first).min(PagedDecode::MAX_ROWS),
                heads,
                max_context: table_stride * self.model.geometry.block_size,
                params,
            };
            launches.push(decode.launch());
        }
        if prompt > 0 {
            let prefill = PagedPrefill {
                q: queries.plus(generated * row_bytes),
                out: attended.plus(generated * row_bytes),
                keys: keys(self.layout.chunk_contexts, self.layout.chunk_tables),
                query_starts: self.input(self.layout.chunk_starts),
                query_lens: self.input(self.layout.chunk_lens),
                tiles: self.input(self.layout.tiles),
                n_tiles: tiles,
                heads,
                params,
            };
            launches.push(prefill.launch());
        }
    }

    /// The wanted rows of what was attended to and of the residual.
    fn select(&self, from: Rows, selected: Selected) -> [Launch; 2] {
        let gather = |x, out, width, element_bytes| {
            let (indices, rows) = (self.input(self.layout.selected), selected.generated + selected.prompt);
            GatherRows { x, indices, out, size: self.shape.rows(), width, rows, element_bytes }.launch()
        };
        let hidden_size = self.model.config.hidden_size;
        [
            gather(from.attended, self.arena.selected_attended, self.model.q_width(), Float16::BYTES),
            gather(from.residual, self.arena.selected_residual, hidden_size, 4),
        ]
    }

    fn feed_forward(
        &self,
        layer: &GpuLayer,
        (gate_up_proj, down_proj): (DevicePointer, DevicePointer),
        rows: Rows,
        launches: &mut Vec<Launch>,
    ) {
        let config = &self.model.config;
        let (hidden_size, width) = (config.hidden_size, config.feed_forward.intermediate_size);
        let gate_up =
            Product { weight: gate_up_proj, in_features: hidden_size, out_features: width, epilogue: Epilogue::SwiGlu };
        let down =
            Product { weight: down_proj, in_features: width, out_features: hidden_size, epilogue: Epilogue::Add };
        let activated = self.arena.activated;
        self.normed_product(layer.post_attention_layernorm, &gate_up, activated, rows, launches);
        self.product(&down, (activated, rows.residual), rows, launches);
    }

    /// As in `moe.rs`. A padded row goes through experts like any other: it is zero, and nobody reads it.
    fn experts(&self, layer: &GpuLayer, experts: &GpuExperts, rows: Rows, launches: &mut Vec<Launch>) {
        let Model { config, dtype, .. } = self.model;
        let (dtype, arena) = (*dtype, &self.arena.experts);
        let (hidden_size, width) = (config.hidden_size, config.feed_forward.intermediate_size);
        let GpuExperts { num_experts, experts_per_token, .. } = *experts;
        let tokens = rows.generated + rows.prompt;
        let router = Product {
            weight: experts.gate,
            in_features: hidden_size,
            out_features: num_experts,
            epilogue: Epilogue::StoreF32,
        };
        launches.push(self.norm(layer.post_attention_layernorm, rows));
        self.product(&router, (self.arena.normed, arena.router_logits), rows, launches);
        let route = RouteExperts {
            logits: arena.router_logits,
            slots: DevicePointer::NULL,
            experts: arena.chosen,
            weights: arena.weights,
            tokens,
            num_experts,
            experts_per_token,
        };
        let group = GroupByExpert {
            experts: arena.chosen,
            rows: arena.rows,
            offsets: arena.offsets,
            assignments: tokens * experts_per_token,
            num_experts,
        };
        let groups = ExpertGroups { rows: arena.rows, offsets: arena.offsets, num_experts, tokens, experts_per_token };
        let gate_up = ExpertLinear {
            x: self.arena.normed,
            weights: experts.gate_up_proj,
            groups,
            out: self.arena.activated,
            sizes: ExpertSizes { depth: hidden_size, width, rows_per_source: experts_per_token },
            epilogue: ExpertEpilogue::SwiGlu,
            dtype,
        };
        let down = ExpertLinear {
            x: self.arena.activated,
            weights: experts.down_proj,
            groups,
            out: arena.outputs,
            sizes: ExpertSizes { depth: width, width: hidden_size, rows_per_source: 1 },
            epilogue: ExpertEpilogue::Plain,
            dtype,
        };
        let combine = CombineExperts {
            residual: rows.residual,
            outputs: arena.outputs,
            weights: arena.weights,
            tokens,
            width: hidden_size,
            experts_per_token,
            dtype,
        };
        launches.extend([route.launch(), group.launch(), gate_up.launch(), down.launch(), combine.launch()]);
    }

    fn norm(&self, weight: DevicePointer, rows: Rows) -> Launch {
        RmsNorm {
            residual: rows.residual,
            weight,
            out: self.arena.normed,
            rows: rows.generated + rows.prompt,
            columns: self.model.config.hidden_size,
            epsilon: self.model.config.rms_norm_eps,
            dtype: self.model.dtype,
        }
        .launch()
    }

    /// A product of the normalised residual.
    fn normed_product(
        &self,
        norm_weight: DevicePointer,
        product: &Product,
        out: DevicePointer,
        rows: Rows,
        launches: &mut Vec<Launch>,
    ) {
        let few = rows.prompt == 0 && rows.generated <= NORMED_ROWS;
        if few && NormedLinear::fits(rows.generated, product.in_features) {
            let linear = self.linear(product, (rows.residual, out), rows.generated);
            let epsilon = self.model.config.rms_norm_eps;
            launches.push(NormedLinear { linear, norm_weight, epsilon }.launch());
        } else {
            launches.push(self.norm(norm_weight, rows));
            self.product(product, (self.arena.normed, out), rows, launches);
        }
    }

    /// A product of rows `x`, to `out`: those of generated tokens one way, those of prompts the other.
    fn product(
        &self,
        product: &Product,
        (x, out): (DevicePointer, DevicePointer),
        rows: Rows,
        launches: &mut Vec<Launch>,
    ) {
        let of_generated = self.linear(product, (x, out), rows.generated);
        if rows.generated > 0 {
            launches.push(of_generated.launch(Family::Streamed(self.arena.workspace)));
        }
        if rows.prompt > 0 {
            let (x, out) = of_generated.after(rows.generated);
            let of_prompt = self.linear(product, (x, out), rows.prompt);
            match product.epilogue {
                Epilogue::SwiGlu if self.model.has_library => launches.extend(self.swiglu_apart(&of_prompt)),
                Epilogue::SwiGlu | Epilogue::Store | Epilogue::StoreF32 | Epilogue::Add => {
                    launches.push(of_prompt.launch(Family::Tiled));
                }
            }
        }
    }

    /// SwiGLU in two launches, of which a library can compute the product.
    fn swiglu_apart(&self, fused: &Linear) -> [Launch; 2] {
        let Linear { out, rows, out_features: columns, dtype, .. } = *fused;
        let gate_up = self.arena.gate_up;
        let product = Linear { out: gate_up, out_features: 2 * columns, epilogue: Epilogue::Store, ..*fused };
        [product.launch(Family::Tiled), SwiGlu { gate_up, out, rows, columns, dtype }.launch()]
    }

    fn linear(&self, product: &Product, (x, out): (DevicePointer, DevicePointer), rows: usize) -> Linear {
        let Product { weight, in_features, out_features, epilogue } = *product;
        Linear { x, weight, out, rows, in_features, out_features, epilogue, dtype: self.model.dtype }
    }

    fn input(&self, word: usize) -> DevicePointer {
        self.arena.inputs.plus(4 * word)
    }
}
