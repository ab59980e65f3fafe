//! Weights out of the mapped files: rows are converted to the compute dtype straight into the packed tensor
//! that the kernels read, so that beside the finished weights only one tensor is ever in the making. All
//! threads work on one tensor at a time; the operating system reads ahead in the mapping.

use candle_core::{DType, Device, Tensor, WithDType};
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use tramontane_kernels::{PanelFormat, memory::advise_huge_pages};

use super::error::{CheckpointError, quote};
use super::fp8::{self, Quantization, QuantizedMatrix};
use super::packed_cache::Session;
use super::plan::{FeedForwardPlan, HeadPlan, LayerPlan, Matrix, Plan, Role, SwiGluPlan};
use super::safetensors_map::MappedFile;
use super::tensors::Stored;
use super::{ComputeDtype, Progress, WeightTypes, packed_shape};
use crate::model::ModelError;
use crate::model::weights::{FeedForwardWeights, Head, LayerWeights, SwiGluWeights, WeightSource, Weights};

/// Elements that one task converts, about.
const TASK_ELEMENTS: usize = 1 << 18;

/// Where weights come from and where they go.
pub(super) struct Loader<'a> {
    pub(super) files: &'a [MappedFile],
    pub(super) types: WeightTypes,
    pub(super) device: &'a Device,
    pub(super) progress: &'a dyn Progress,
    /// Where matrices in panels may come from instead.
    pub(super) packed_cache: Option<&'a Session>,
}

impl Loader<'_> {
    /// Loads everything.
    pub(super) fn weights(&self, plan: &Plan) -> Result<Weights, CheckpointError> {
        let embed_tokens = self.matrix(&[&plan.embed_tokens], plan.embedding_role())?;
        let layers = plan.layers.iter().map(|layer| self.layer(layer)).collect::<Result<Vec<_>, _>>()?;
        let norm = self.norm(&plan.norm)?;
        let head = self.head(plan)?.unwrap_or_else(|| Head::Logits(embed_tokens.clone()));
        Ok(Weights { embed_tokens, layers, norm, head })
    }

    /// `None` if it is the embedding.
    fn head(&self, plan: &Plan) -> Result<Option<Head>, CheckpointError> {
        Ok(match &plan.head {
            HeadPlan::Tied => None,
            HeadPlan::Logits(lm_head) => Some(Head::Logits(self.matrix(&[lm_head], Role::Head)?)),
            HeadPlan::Classes(score) => Some(Head::Classes(self.matrix(&[score], Role::Classes)?)),
            HeadPlan::Nothing => Some(Head::Nothing),
        })
    }

    fn layer(&self, layer: &LayerPlan) -> Result<LayerWeights, CheckpointError> {
        Ok(LayerWeights {
            input_layernorm: self.norm(&layer.input_layernorm)?,
            qkv_proj: self.matrix(&[&layer.q_proj, &layer.k_proj, &layer.v_proj], Role::Projection)?,
            o_proj: self.matrix(&[&layer.o_proj], Role::Projection)?,
            post_attention_layernorm: self.norm(&layer.post_attention_layernorm)?,
            feed_forward: match &layer.feed_forward {
                FeedForwardPlan::Dense(block) => FeedForwardWeights::Dense(self.swiglu(block)?),
                FeedForwardPlan::Experts { gate, experts } => FeedForwardWeights::Experts {
                    gate: self.matrix(&[gate], Role::Router)?,
                    experts: experts.iter().map(|expert| self.swiglu(expert)).collect::<Result<Vec<_>, _>>()?,
                },
            },
        })
    }

    fn swiglu(&self, block: &SwiGluPlan) -> Result<SwiGluWeights, CheckpointError> {
        Ok(SwiGluWeights {
            gate_up_proj: self.matrix(&[&block.gate_proj, &block.up_proj], Role::Projection)?,
            down_proj: self.matrix(&[&block.down_proj], Role::Projection)?,
        })
    }

    /// Norm weights are f32 whatever the compute dtype.
    fn norm(&self, stored: &Stored) -> Result<Tensor, CheckpointError> {
        let values = read_floats(self.files, stored)?;
        let n_values = values.len();
        self.progress.advance(stored.entry.n_bytes() as u64);
        Tensor::from_vec(values, n_values, self.device)
            .map_err(|source| CheckpointError::Device { name: quote(&stored.entry.name), source })
    }

    /// Matrices of the same width stacked into one, `(sum of rows, columns)`, in the type of its role.
    fn matrix(&self, parts: &[&Matrix], role: Role) -> Result<Tensor, CheckpointError> {
        let matrix = match (self.types.panels_of(role, packed_shape(parts)), self.types.dtype) {
            (Some(format), _) => self.panels(parts, format),
            (None, ComputeDtype::F32) => self.pack::<f32>(parts),
            (None, ComputeDtype::Bf16) => self.pack::<bf16>(parts),
            (None, ComputeDtype::F16) => self.pack::<f16>(parts),
        }?;
        for part in parts {
            self.files[part.weight.file].release(part.weight.entry.range.clone());
        }
        Ok(matrix)
    }

    fn panels(&self, parts: &[&Matrix], format: PanelFormat) -> Result<Tensor, CheckpointError> {
        let pack = || self.pack_panels(parts, format);
        self.packed_cache.map_or_else(pack, |cache| cache.panels(parts, format, self.progress, &pack))
    }

    /// Straight from the stored values, panel by panel.
    fn pack_panels(&self, parts: &[&Matrix], format: PanelFormat) -> Result<Tensor, CheckpointError> {
        let readers = parts.iter().map(|part| self.reader(part)).collect::<Result<Vec<_>, _>>()?;
        let [rows, columns] = packed_shape(parts);
        let packed = match format {
            PanelFormat::Bf16 => PanelFormat::pack_bf16((rows, columns), &|first, panel: &mut [bf16]| {
                self.read_rows(&readers, first, panel);
            }),
            PanelFormat::Quantized(format) => format.quantize((rows, columns), &|first, panel: &mut [f32]| {
                self.read_rows(&readers, first, panel);
            }),
        };
        packed.map_err(|source| CheckpointError::Device { name: quote(parts[0].name()), source })
    }

    /// Rows of stacked matrices, from row `first` of the stack on.
    fn read_rows<T: Element>(&self, readers: &[Reader<'_>], first: usize, target: &mut [T]) {
        for (within, values) in target.chunks_exact_mut(readers[0].matrix.columns).enumerate() {
            let mut row = first + within;
            let of_row = readers.iter().find(|reader| {
                let is_here = row < reader.matrix.rows;
                row -= if is_here { 0 } else { reader.matrix.rows };
                is_here
            });
            let reader = of_row.expect("the parts have all rows");
            reader.read(row, values);
            self.progress.advance(reader.row_bytes as u64);
        }
    }

    fn pack<T: Element>(&self, parts: &[&Matrix]) -> Result<Tensor, CheckpointError> {
        let columns = parts[0].columns;
        let rows: usize = parts.iter().map(|part| part.rows).sum();
        // The product cannot overflow: each part's is the number of elements that a file holds.
        let mut values = zeros::<T>(parts[0].name(), rows * columns)?;
        let mut rest = values.as_mut_slice();
        for part in parts {
            let (own, others) = rest.split_at_mut(part.rows * columns);
            self.fill(part, own)?;
            rest = others;
        }
        Tensor::from_vec(values, (rows, columns), self.device)
            .map_err(|source| CheckpointError::Device { name: quote(parts[0].name()), source })
    }

    /// Converts one stored matrix into its rows of a packed one.
    fn fill<T: Element>(&self, matrix: &Matrix, target: &mut [T]) -> Result<(), CheckpointError> {
        let reader = self.reader(matrix)?;
        let task_rows = (TASK_ELEMENTS / matrix.columns).max(1);
        target.par_chunks_mut(task_rows * matrix.columns).enumerate().for_each(|(task, rows)| {
            for (within, row) in rows.chunks_exact_mut(matrix.columns).enumerate() {
                reader.read(task * task_rows + within, row);
            }
            self.progress.advance((rows.len() / matrix.columns * reader.row_bytes) as u64);
        });
        Ok(())
    }

    /// Reads the scales, if there are any.
    fn reader<'m>(&'m self, matrix: &'m Matrix) -> Result<Reader<'m>, CheckpointError> {
        let stored = &matrix.weight;
        let bytes = self.files[stored.file].bytes(&stored.entry);
        let scales = match &matrix.quantization {
            Some(quantization) => read_scales(self.files, &quantization.weight_scale)?,
            None => Vec::new(),
        };
        let scale_bytes = matrix.quantization.as_ref().map_or(0, |scales| scales.weight_scale.entry.n_bytes());
        self.progress.advance(scale_bytes as u64);
        Ok(Reader { matrix, bytes, row_bytes: bytes.len() / matrix.rows, scales })
    }
}

/// A stored matrix, row by row.
struct Reader<'a> {
    matrix: &'a Matrix,
    bytes: &'a [u8],
    row_bytes: usize,
    /// Of FP8.
    scales: Vec<f32>,
}

impl Reader<'_> {
    /// Row `row` of the loaded matrix, converted.
    fn read<T: Element>(&self, row: usize, target: &mut [T]) {
        let stored_row = self.matrix.stored_row(row);
        let source = &self.bytes[stored_row * self.row_bytes..][..self.row_bytes];
        match &self.matrix.quantization {
            None => convert(self.matrix.weight.entry.dtype, source, target),
            Some(quantization) => {
                let (range, width) = quantization.layout.row(stored_row, self.matrix.columns);
                dequantize(source, &self.scales[range], width, target);
            }
        }
    }
}

/// Weights that are loaded when they are asked for.
pub(super) struct Parts<'a> {
    pub(super) loader: Loader<'a>,
    pub(super) plan: &'a Plan,
}

impl WeightSource for Parts<'_> {
    fn embed_tokens(&self) -> Result<Tensor, ModelError> {
        Ok(self.loader.matrix(&[&self.plan.embed_tokens], self.plan.embedding_role())?)
    }

    fn num_layers(&self) -> usize {
        self.plan.layers.len()
    }

    fn layer(&self, index: usize) -> Result<LayerWeights, ModelError> {
        Ok(self.loader.layer(&self.plan.layers[index])?)
    }

    fn norm(&self) -> Result<Tensor, ModelError> {
        let norm = self.loader.norm(&self.plan.norm)?;
        self.loader.progress.finish();
        Ok(norm)
    }

    fn head(&self) -> Result<Head, ModelError> {
        match self.loader.head(self.plan)? {
            Some(head) => Ok(head),
            None => Ok(Head::Logits(self.loader.matrix(&[&self.plan.embed_tokens], Role::Head)?)),
        }
    }
}

impl From<CheckpointError> for ModelError {
    fn from(error: CheckpointError) -> Self {
        Self::Weights(Box::new(error))
    }
}

/// A matrix as it is stored; only its scales are read.
pub(super) fn quantized<'a>(
    files: &'a [MappedFile],
    matrix: &'a Matrix,
    quantization: &Quantization,
) -> Result<QuantizedMatrix<'a>, CheckpointError> {
    let activation_scale = match &quantization.activation_scale {
        Some(stored) => read_scales(files, stored)?.first().copied(),
        None => None,
    };
    Ok(QuantizedMatrix {
        name: matrix.name(),
        shape: matrix.shape(),
        codes: files[matrix.weight.file].bytes(&matrix.weight.entry),
        layout: quantization.layout,
        weight_scales: read_scales(files, &quantization.weight_scale)?,
        activation_scale,
        interleaved_head_dim: matrix.interleaved_head_dim,
    })
}

/// A scale that is not a positive number would turn a matrix into nonsense without a trace.
fn read_scales(files: &[MappedFile], stored: &Stored) -> Result<Vec<f32>, CheckpointError> {
    let scales = read_floats(files, stored)?;
    if let Some(scale) = scales.iter().find(|scale| !(scale.is_finite() && **scale >= 0.0)) {
        return Err(CheckpointError::Tensor {
            path: files[stored.file].path.clone(),
            name: quote(&stored.entry.name),
            found: format!("{scale} somewhere"),
            expected: "finite scales, none negative".into(),
        });
    }
    Ok(scales)
}

fn read_floats(files: &[MappedFile], stored: &Stored) -> Result<Vec<f32>, CheckpointError> {
    let n_values = stored.entry.shape.iter().product();
    let mut values = zeros::<f32>(&stored.entry.name, n_values)?;
    convert(stored.entry.dtype, files[stored.file].bytes(&stored.entry), &mut values);
    Ok(values)
}

/// A compute dtype.
trait Element: WithDType + Copy {
    /// Zeros that the operating system has yet to provide, so that the threads that fill them touch them first.
    fn zeros(n_values: usize) -> Vec<Self>;
    fn from_single(value: f32) -> Self;
    /// Copies values that are stored as such; false if they are not.
    fn copy(dtype: Dtype, source: &[u8], row: &mut [Self]) -> bool;
}

impl Element for f32 {
    fn zeros(n_values: usize) -> Vec<f32> {
        vec![0.0; n_values]
    }
    fn from_single(value: f32) -> f32 {
        value
    }
    fn copy(dtype: Dtype, source: &[u8], row: &mut [f32]) -> bool {
        let stored = dtype == Dtype::F32;
        if stored {
            each::<4, f32>(source, row, f32::from_le_bytes);
        }
        stored
    }
}

impl Element for bf16 {
    fn zeros(n_values: usize) -> Vec<bf16> {
        vec![0u16; n_values].reinterpret_into()
    }
    fn from_single(value: f32) -> bf16 {
        bf16::from_f32(value)
    }
    fn copy(dtype: Dtype, source: &[u8], row: &mut [bf16]) -> bool {
        let stored = dtype == Dtype::BF16;
        if stored {
            each::<2, bf16>(source, row, bf16::from_le_bytes);
        }
        stored
    }
}

impl Element for f16 {
    fn zeros(n_values: usize) -> Vec<f16> {
        vec![0u16; n_values].reinterpret_into()
    }
    fn from_single(value: f32) -> f16 {
        f16::from_f32(value)
    }
    fn copy(dtype: Dtype, source: &[u8], row: &mut [f16]) -> bool {
        let stored = dtype == Dtype::F16;
        if stored {
            each::<2, f16>(source, row, f16::from_le_bytes);
        }
        stored
    }
}

/// Little-endian values of a stored type, rounded to the compute dtype.
fn convert<T: Element>(dtype: Dtype, source: &[u8], row: &mut [T]) {
    if T::copy(dtype, source, row) {
        return;
    }
    match dtype {
        Dtype::F32 => each::<4, T>(source, row, |bytes| T::from_single(f32::from_le_bytes(bytes))),
        Dtype::BF16 => each::<2, T>(source, row, |bytes| T::from_single(bf16::from_le_bytes(bytes).to_f32())),
        Dtype::F16 => each::<2, T>(source, row, |bytes| T::from_single(f16::from_le_bytes(bytes).to_f32())),
        other => unreachable!("the plan admits no {other} without scales"),
    }
}

/// `code value * scale` in f32, each scale reaching `width` columns.
fn dequantize<T: Element>(source: &[u8], scales: &[f32], width: usize, row: &mut [T]) {
    let table = &*fp8::VALUES;
    for ((source, row), scale) in source.chunks(width).zip(row.chunks_mut(width)).zip(scales) {
        for (code, value) in source.iter().zip(row) {
            *value = T::from_single(table[usize::from(*code)] * scale);
        }
    }
}

fn each<const N: usize, T>(source: &[u8], row: &mut [T], read: impl Fn([u8; N]) -> T) {
    for (bytes, value) in source.as_chunks::<N>().0.iter().zip(row) {
        *value = read(*bytes);
    }
}

/// Memory for a tensor whose bytes are in a file, so that its size is no mere claim.
fn zeros<T: Element>(name: &str, n_values: usize) -> Result<Vec<T>, CheckpointError> {
    // Asking first turns a refusal into an error; zeroed memory can only be had or be aborted for.
    Vec::<T>::new().try_reserve_exact(n_values).map_err(|_| CheckpointError::OutOfMemory {
        name: quote(name),
        bytes: n_values.saturating_mul(size_of::<T>()),
    })?;
    let values = T::zeros(n_values);
    advise_huge_pages(&values);
    Ok(values)
}

impl ComputeDtype {
    /// The tensor library's name for it.
    pub fn dtype(self) -> DType {
        match self {
            ComputeDtype::F32 => DType::F32,
            ComputeDtype::Bf16 => DType::BF16,
            ComputeDtype::F16 => DType::F16,
        }
    }
}
