//! Where each weight of the decoder is stored: the configuration and the tensors' headers brought together,
//! every name found, every shape and type checked. Building a [`Plan`] reads no tensor data, so a checkpoint
//! that does not fit is refused in milliseconds.

use safetensors::Dtype;

use super::error::CheckpointError;
use super::fp8::{self, Quantization, ScaleLayout};
use super::names::{ACTIVATION_SCALES, Naming, Part, WEIGHT_SCALES};
use super::quantization::QuantizationConfig;
use super::tensors::{Inventory, Skipped, Stored};
use crate::model::config::Config;

const FLOATS: [Dtype; 3] = [Dtype::BF16, Dtype::F16, Dtype::F32];
const WEIGHTS: [Dtype; 4] = [Dtype::BF16, Dtype::F16, Dtype::F32, Dtype::F8_E4M3];

/// The stored form of all weights.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) embed_tokens: Matrix,
    pub(super) layers: Vec<LayerPlan>,
    pub(super) norm: Stored,
    pub(super) head: HeadPlan,
    pub(super) skipped: Skipped,
}

/// What the configuration says follows the final norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadKind {
    /// Logits of the next token.
    Logits,
    /// Scores of so many classes.
    Classes(usize),
    /// Nothing.
    Nothing,
}

/// The stored form of what follows the final norm.
#[derive(Debug)]
pub(super) enum HeadPlan {
    /// The embedding is used.
    Tied,
    Logits(Matrix),
    Classes(Matrix),
    Nothing,
}

/// The stored form of a layer.
#[derive(Debug)]
pub(super) struct LayerPlan {
    pub(super) input_layernorm: Stored,
    pub(super) q_proj: Matrix,
    pub(super) k_proj: Matrix,
    pub(super) v_proj: Matrix,
    pub(super) o_proj: Matrix,
    pub(super) post_attention_layernorm: Stored,
    pub(super) feed_forward: FeedForwardPlan,
}

/// The stored form of a layer's feed-forward part.
#[derive(Debug)]
pub(super) enum FeedForwardPlan {
    Dense(Box<SwiGluPlan>),
    Experts { gate: Box<Matrix>, experts: Vec<SwiGluPlan> },
}

/// The stored form of a SwiGLU block.
#[derive(Debug)]
pub(super) struct SwiGluPlan {
    pub(super) gate_proj: Matrix,
    pub(super) up_proj: Matrix,
    pub(super) down_proj: Matrix,
}

/// What a matrix of the decoder is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Rows of tokens, of which a step reads a few.
    Embedding,
    /// The logits, and where it is tied the rows of tokens too.
    Head,
    /// A product within a layer.
    Projection,
    /// Chooses experts.
    Router,
    /// Scores of classes.
    Classes,
}

/// The stored form of a matrix.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    pub(super) weight: Stored,
    /// Output features.
    pub(super) rows: usize,
    /// Input features.
    pub(super) columns: usize,
    /// Scales, where the weight is FP8.
    pub(super) quantization: Option<Quantization>,
    /// Width of a head whose rows are stored as interleaved pairs.
    pub(super) interleaved_head_dim: Option<usize>,
}

impl Plan {
    /// Finds and checks everything that `config` requires.
    pub(super) fn new(
        (config, head): (&Config, HeadKind),
        naming: Naming,
        quantization: QuantizationConfig,
        inventory: Inventory<'_>,
    ) -> Result<Plan, CheckpointError> {
        Planner { config, head, naming, quantization, inventory }.plan()
    }

    /// All matrices, in the order in which they are loaded.
    pub(super) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(|layer| {
            let attention = [&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj];
            let (router, blocks) = match &layer.feed_forward {
                FeedForwardPlan::Dense(block) => (None, std::slice::from_ref(&**block)),
                FeedForwardPlan::Experts { gate, experts } => (Some(&**gate), experts.as_slice()),
            };
            let blocks = blocks.iter().flat_map(|block| [&block.gate_proj, &block.up_proj, &block.down_proj]);
            attention.into_iter().chain(router).chain(blocks)
        });
        std::iter::once(&self.embed_tokens).chain(layers).chain(self.head.matrix())
    }

    /// The matrices that the decoder has, stacked as it has them, and what each is for.
    pub(super) fn packed(&self) -> Vec<(Vec<&Matrix>, Role)> {
        let mut packed = vec![(vec![&self.embed_tokens], self.embedding_role())];
        match &self.head {
            HeadPlan::Logits(lm_head) => packed.push((vec![lm_head], Role::Head)),
            HeadPlan::Classes(score) => packed.push((vec![score], Role::Classes)),
            HeadPlan::Tied | HeadPlan::Nothing => {}
        }
        for layer in &self.layers {
            let mut project = |parts| packed.push((parts, Role::Projection));
            project(vec![&layer.q_proj, &layer.k_proj, &layer.v_proj]);
            project(vec![&layer.o_proj]);
            match &layer.feed_forward {
                FeedForwardPlan::Dense(block) => packed.extend(block.packed()),
                FeedForwardPlan::Experts { gate, experts } => {
                    packed.push((vec![&**gate], Role::Router));
                    packed.extend(experts.iter().flat_map(SwiGluPlan::packed));
                }
            }
        }
        packed
    }

    /// A tied embedding is the head too.
    pub(super) fn embedding_role(&self) -> Role {
        match self.head {
            HeadPlan::Tied => Role::Head,
            HeadPlan::Logits(_) | HeadPlan::Classes(_) | HeadPlan::Nothing => Role::Embedding,
        }
    }

    /// All norms.
    pub(super) fn norms(&self) -> impl Iterator<Item = &Stored> {
        let layers = self.layers.iter().flat_map(|layer| [&layer.input_layernorm, &layer.post_attention_layernorm]);
        layers.chain([&self.norm])
    }

    /// Bytes that loading reads.
    pub(super) fn stored_bytes(&self) -> u64 {
        let matrices: u64 = self.matrices().map(|matrix| matrix.stored_bytes()).sum();
        matrices + self.norms().map(|norm| norm.entry.n_bytes() as u64).sum::<u64>()
    }
}

impl HeadPlan {
    /// What is stored of it alone.
    fn matrix(&self) -> Option<&Matrix> {
        match self {
            HeadPlan::Logits(matrix) | HeadPlan::Classes(matrix) => Some(matrix),
            HeadPlan::Tied | HeadPlan::Nothing => None,
        }
    }
}

impl SwiGluPlan {
    fn packed(&self) -> [(Vec<&Matrix>, Role); 2] {
        let of = |parts| (parts, Role::Projection);
        [of(vec![&self.gate_proj, &self.up_proj]), of(vec![&self.down_proj])]
    }
}

impl Matrix {
    /// Name of the stored weight.
    pub(super) fn name(&self) -> &str {
        &self.weight.entry.name
    }

    /// `[out_features, in_features]`
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// The row of the stored matrix that holds a row of the loaded one. Native rotary rows are pairs
    /// `(0, 1), (2, 3), ..` of a head; loaded, the first of all pairs come before the second.
    pub(super) fn stored_row(&self, row: usize) -> usize {
        let Some(head_dim) = self.interleaved_head_dim else { return row };
        let (head, within) = (row / head_dim, row % head_dim);
        let half = head_dim / 2;
        head * head_dim + 2 * (within % half) + within / half
    }

    /// Bytes that loading it reads.
    pub(super) fn stored_bytes(&self) -> u64 {
        let scale = self.quantization.as_ref().map_or(0, |scales| scales.weight_scale.entry.n_bytes());
        (self.weight.entry.n_bytes() + scale) as u64
    }
}

struct Planner<'a> {
    config: &'a Config,
    head: HeadKind,
    naming: Naming,
    quantization: QuantizationConfig,
    inventory: Inventory<'a>,
}

impl Planner<'_> {
    fn plan(mut self) -> Result<Plan, CheckpointError> {
        let Config { vocab_size, hidden_size, num_hidden_layers, tie_word_embeddings, .. } = *self.config;
        let vocabulary = [vocab_size, hidden_size];
        let name = format!("{}.weight", self.naming.embed_tokens());
        let embedding = self.inventory.require(&name, &vocabulary, &FLOATS)?;
        let embed_tokens = Matrix {
            weight: embedding,
            rows: vocab_size,
            columns: hidden_size,
            quantization: None,
            interleaved_head_dim: None,
        };
        let layers = (0..num_hidden_layers).map(|layer| self.layer(layer)).collect::<Result<Vec<_>, _>>()?;
        let norm = self.norm(&self.naming.norm())?;
        let head = match self.head {
            HeadKind::Logits => self.lm_head(vocabulary, tie_word_embeddings)?,
            HeadKind::Classes(classes) => HeadPlan::Classes(self.classes([classes, hidden_size])?),
            HeadKind::Nothing => HeadPlan::Nothing,
        };
        let skipped = self.inventory.finish()?;
        Ok(Plan { embed_tokens, layers, norm, head, skipped })
    }

    /// A head in the file wins over a configuration that calls the embeddings tied, as in transformers.
    fn lm_head(&mut self, shape: [usize; 2], tie_word_embeddings: bool) -> Result<HeadPlan, CheckpointError> {
        let name = self.naming.lm_head();
        if tie_word_embeddings && !self.inventory.contains(&format!("{name}.weight")) {
            return Ok(HeadPlan::Tied);
        }
        self.matrix(&name, shape).map(HeadPlan::Logits)
    }

    fn classes(&mut self, [rows, columns]: [usize; 2]) -> Result<Matrix, CheckpointError> {
        let name = format!("{}.weight", self.naming.score());
        let weight = self.inventory.require(&name, &[rows, columns], &FLOATS)?;
        Ok(Matrix { weight, rows, columns, quantization: None, interleaved_head_dim: None })
    }

    fn layer(&mut self, layer: usize) -> Result<LayerPlan, CheckpointError> {
        let attention = &self.config.attention;
        let hidden_size = self.config.hidden_size;
        let queries = attention.num_attention_heads * attention.head_dim;
        let keys = attention.num_key_value_heads * attention.head_dim;
        let naming = self.naming;
        Ok(LayerPlan {
            input_layernorm: self.norm(&naming.part(layer, Part::InputNorm))?,
            q_proj: self.rotary_matrix(&naming.part(layer, Part::Query), [queries, hidden_size])?,
            k_proj: self.rotary_matrix(&naming.part(layer, Part::Key), [keys, hidden_size])?,
            v_proj: self.matrix(&naming.part(layer, Part::Value), [keys, hidden_size])?,
            o_proj: self.matrix(&naming.part(layer, Part::Output), [hidden_size, queries])?,
            post_attention_layernorm: self.norm(&naming.part(layer, Part::PostAttentionNorm))?,
            feed_forward: self.feed_forward(layer)?,
        })
    }

    fn feed_forward(&mut self, layer: usize) -> Result<FeedForwardPlan, CheckpointError> {
        let Some(experts) = self.config.feed_forward.experts else {
            let block = self.swiglu(layer, [Part::Gate, Part::Up, Part::Down])?;
            return Ok(FeedForwardPlan::Dense(Box::new(block)));
        };
        let gate = self.naming.part(layer, Part::Router);
        Ok(FeedForwardPlan::Experts {
            gate: Box::new(self.matrix(&gate, [experts.num_experts, self.config.hidden_size])?),
            experts: (0..experts.num_experts)
                .map(|e| self.swiglu(layer, [Part::ExpertGate(e), Part::ExpertUp(e), Part::ExpertDown(e)]))
                .collect::<Result<Vec<_>, _>>()?,
        })
    }

    fn swiglu(&mut self, layer: usize, [gate, up, down]: [Part; 3]) -> Result<SwiGluPlan, CheckpointError> {
        let (hidden_size, width) = (self.config.hidden_size, self.config.feed_forward.intermediate_size);
        let naming = self.naming;
        Ok(SwiGluPlan {
            gate_proj: self.matrix(&naming.part(layer, gate), [width, hidden_size])?,
            up_proj: self.matrix(&naming.part(layer, up), [width, hidden_size])?,
            down_proj: self.matrix(&naming.part(layer, down), [hidden_size, width])?,
        })
    }

    fn norm(&mut self, module: &str) -> Result<Stored, CheckpointError> {
        self.inventory.require(&format!("{module}.weight"), &[self.config.hidden_size], &FLOATS)
    }

    fn rotary_matrix(&mut self, module: &str, shape: [usize; 2]) -> Result<Matrix, CheckpointError> {
        let interleaved = self.naming.interleaves_rotary_rows();
        let interleaved_head_dim = interleaved.then_some(self.config.attention.head_dim);
        Ok(Matrix { interleaved_head_dim, ..self.matrix(module, shape)? })
    }

    fn matrix(&mut self, module: &str, shape: [usize; 2]) -> Result<Matrix, CheckpointError> {
        let weight = self.inventory.require(&format!("{module}.weight"), &shape, &WEIGHTS)?;
        let quantization = match weight.entry.dtype {
            Dtype::F8_E4M3 => Some(self.scales(module, shape)?),
            _ => None,
        };
        let [rows, columns] = shape;
        Ok(Matrix { weight, rows, columns, quantization, interleaved_head_dim: None })
    }

    fn scales(&mut self, module: &str, shape: [usize; 2]) -> Result<Quantization, CheckpointError> {
        let names = WEIGHT_SCALES.map(|suffix| format!("{module}.{suffix}"));
        let name = names.iter().find(|name| self.inventory.contains(name)).unwrap_or(&names[0]);
        let block = self.quantization.block;
        let expected = format!(
            "BF16, F16 or F32 with one scale ([] or [1]), one per row ([{}, 1]) or one per block ([{}, {}])",
            shape[0],
            shape[0].div_ceil(block[0]),
            shape[1].div_ceil(block[1]),
        );
        let Some(weight_scale) = self.inventory.take(name) else {
            // The absence is reported with the name that transformers would use.
            return Err(self.inventory.require(name, &[], &FLOATS).expect_err("the tensor is absent"));
        };
        let layout = ScaleLayout::of(&weight_scale.entry.shape, shape, block)
            .filter(|_| fp8::is_scale_type(weight_scale.entry.dtype))
            .ok_or_else(|| self.inventory.refuse(&weight_scale, &expected))?;
        let activation_scale =
            ACTIVATION_SCALES.iter().find_map(|suffix| self.inventory.take(&format!("{module}.{suffix}")));
        if let Some(scale) = &activation_scale
            && !(fp8::is_scale_type(scale.entry.dtype) && matches!(scale.entry.shape.as_slice(), [] | [1]))
        {
            return Err(self.inventory.refuse(scale, "BF16, F16 or F32 with one scale ([] or [1])"));
        }
        Ok(Quantization { layout, weight_scale, activation_scale })
    }
}
