//! A checkpoint directory becomes a [`Config`] and [`Weights`]. Every oddity of the two layouts (Hugging Face
//! and Mistral's native one), of tensor names, rotary row order and FP8 scales ends here.
//!
//! [`Checkpoint::open`] checks everything that can be checked without reading weights: the configuration's
//! values, each file's header, and that the tensors the configuration requires are there, in the shape and
//! type it requires, and no others. It allocates in proportion to the files' headers, never by a number read
//! from a file. [`Checkpoint::load`] then only converts.
//!
//! Decisions: where a directory holds both layouts the Hugging Face one is loaded. A tensor that is neither
//! part of the decoder nor of a knowingly skipped part (`names`) is refused, because a model with parts
//! that are not computed answers wrongly. A `lm_head` in the file wins over `tie_word_embeddings`.

mod bounds;
mod error;
mod files;
mod fp8;
mod generation;
mod hf_config;
mod json;
mod load;
mod names;
mod native_config;
mod packed_cache;
mod plan;
mod pooling;
mod quantization;
mod safetensors_map;
mod summary;
mod tensors;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use candle_core::Device;
use rayon::prelude::*;
use safetensors::Dtype;
use tramontane_kernels::PanelFormat;

pub use error::{CheckpointError, Subject};
pub use files::Layout;
pub use fp8::{QuantizedMatrix, ScaleLayout};
pub use generation::GenerationDefaults;
pub use packed_cache::{CacheOutcome, PackedCache};
pub use summary::{DtypeCount, FileSummary, HashedFile, Hashes, Summary};
pub use tensors::Skipped;

use self::files::Files;
use self::json::Section;
use self::load::{Loader, Parts};
use self::names::Naming;
use self::plan::{HeadPlan, Matrix, Plan, Role};
use self::quantization::QuantizationConfig;
use self::safetensors_map::MappedFile;
use self::tensors::Inventory;
use crate::model::config::Config;
use crate::model::weights::{WeightSource, Weights};
use crate::types::Pooling;

/// An opened checkpoint: its metadata is checked, its files are mapped, no weights have been read.
/// The files must not be modified while it lives.
#[derive(Debug)]
pub struct Checkpoint {
    layout: Layout,
    architecture: String,
    config: Config,
    generation_defaults: GenerationDefaults,
    pooling: Pooling,
    tokenizers: Vec<PathBuf>,
    files: Vec<MappedFile>,
    plan: Plan,
}

/// The type in which matrices are held and multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComputeDtype {
    /// Exact for every stored type.
    F32,
    /// What most checkpoints are stored in.
    Bf16,
    /// For devices without bf16.
    F16,
}

/// How matrices are held: row by row in a compute dtype, or in panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightTypes {
    /// Of what is not in panels, and of keys and values.
    pub dtype: ComputeDtype,
    /// What projections are put into. The matrix of the logits is not cut below 8 bits, with the embedding if it is
    /// tied to it; an embedding of its own, of which a step reads a few rows, and what chooses experts stay in rows.
    pub panels: Option<PanelFormat>,
}

impl fmt::Display for WeightTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dtype = format!("{:?}", self.dtype).to_lowercase();
        match self.panels {
            Some(PanelFormat::Quantized(format)) => write!(f, "{dtype} and {}", format!("{format:?}").to_lowercase()),
            Some(PanelFormat::Bf16) | None => f.write_str(&dtype),
        }
    }
}

/// Nothing is quantized; the CPU has bf16 in panels.
impl From<ComputeDtype> for WeightTypes {
    fn from(dtype: ComputeDtype) -> Self {
        let panels = match dtype {
            ComputeDtype::Bf16 => Some(PanelFormat::Bf16),
            ComputeDtype::F32 | ComputeDtype::F16 => None,
        };
        Self { dtype, panels }
    }
}

impl WeightTypes {
    /// Of the matrix of the logits.
    pub fn head_panels(self) -> Option<PanelFormat> {
        match self.panels {
            Some(PanelFormat::Quantized(_)) => Some(PanelFormat::Q8),
            Some(PanelFormat::Bf16) | None => self.panels,
        }
    }

    /// What a matrix is put into: bf16 that does not fill whole panels stays in rows.
    fn panels_of(self, role: Role, [rows, columns]: [usize; 2]) -> Option<PanelFormat> {
        let panels = match role {
            Role::Projection => self.panels,
            Role::Head => self.head_panels(),
            Role::Embedding | Role::Router | Role::Classes => None,
        };
        panels.filter(|panels| *panels != PanelFormat::Bf16 || panels.refuses((rows, columns)).is_none())
    }
}

/// Follows loading or hashing, from several threads at once.
pub trait Progress: Sync {
    /// Work begins on so many bytes, or begins anew.
    fn start(&self, total_bytes: u64);
    /// So many more are done.
    fn advance(&self, bytes: u64);
    /// All are done. Not called after an error.
    fn finish(&self);
}

/// Progress that nobody watches.
#[derive(Clone, Copy, Debug)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn start(&self, _total_bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
}

impl Checkpoint {
    /// Opens the checkpoint in `dir` and checks all of its metadata.
    pub fn open(dir: &Path) -> Result<Checkpoint, CheckpointError> {
        let found = Files::find(dir)?;
        let value = files::read_config(&found.config)?;
        let root = Section::root(&found.config, &value)?;
        let parsed = match found.layout {
            Layout::HuggingFace => hf_config::parse(&root)?,
            Layout::Native => native_config::parse(&root)?,
        };
        let mut config = parsed.config;
        let generation_defaults = match &found.generation_config {
            Some(path) => {
                let value = files::read_config(path)?;
                let root = Section::root(path, &value)?;
                GenerationDefaults::parse(&root, parsed.eos_token_ids, config.vocab_size)?
            }
            None => GenerationDefaults { eos_token_ids: parsed.eos_token_ids, ..GenerationDefaults::default() },
        };
        let files = found.weights.par_iter().map(|path| MappedFile::open(path)).collect::<Result<Vec<_>, _>>()?;
        let inventory = Inventory::new(dir, &files, found.index.as_ref())?;
        let naming = Naming::detect(found.layout, |name| inventory.contains(name));
        let quantization = parsed.quantization.unwrap_or(QuantizationConfig::DEFAULT);
        let plan = Plan::new((&config, parsed.head.kind()), naming, quantization, inventory)?;
        config.tie_word_embeddings = matches!(plan.head, HeadPlan::Tied);
        let pooling = pooling::read(dir, parsed.head, config.hidden_size)?;
        Ok(Checkpoint {
            layout: found.layout,
            architecture: parsed.architecture,
            config,
            generation_defaults,
            pooling,
            tokenizers: found.tokenizers,
            files,
            plan,
        })
    }

    /// The decoder's shape. `tie_word_embeddings` says whether the head is the embedding in these files.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Recommended sampling, and the tokens that end a sequence.
    pub fn generation_defaults(&self) -> &GenerationDefaults {
        &self.generation_defaults
    }

    /// What it makes of a whole text.
    pub fn pooling(&self) -> &Pooling {
        &self.pooling
    }

    /// False if it only pools.
    pub fn generates(&self) -> bool {
        matches!(self.plan.head, HeadPlan::Tied | HeadPlan::Logits(_))
    }

    /// The dtype to compute in when none is asked for: that of the stored embedding, so bf16 for bf16 and
    /// FP8 checkpoints.
    pub fn default_dtype(&self) -> ComputeDtype {
        match self.plan.embed_tokens.weight.entry.dtype {
            Dtype::F32 => ComputeDtype::F32,
            Dtype::F16 => ComputeDtype::F16,
            _ => ComputeDtype::Bf16,
        }
    }

    /// What is in the files.
    pub fn summary(&self) -> Summary {
        let (parameters, matrix_parameters, dtypes) = summary::count(&self.plan);
        Summary {
            architecture: self.architecture.clone(),
            layout: self.layout,
            parameters,
            matrix_parameters,
            dtypes,
            stored_bytes: self.plan.stored_bytes(),
            skipped: self.plan.skipped,
            quantization: summary::describe_quantization(&self.plan),
            files: summary::files(&self.files),
            tokenizers: self.tokenizers.clone(),
        }
    }

    /// SHA-256 of the weight files, in hexadecimal. Of a single file it equals what `sha256sum` prints; of
    /// several it is the SHA-256 of what `sha256sum` prints of them in the order of their names.
    pub fn digest(&self, progress: &dyn Progress) -> String {
        self.hashes(progress).digest()
    }

    /// The same with that of each file.
    pub fn hashes(&self, progress: &dyn Progress) -> Hashes {
        progress.start(self.files.iter().map(|file| file.contents().len() as u64).sum());
        let hashes = summary::hashes(&self.files, &|bytes| progress.advance(bytes));
        progress.finish();
        hashes
    }

    /// The matrices that are stored in FP8, for a path that multiplies them as such. Reads the scales only.
    pub fn quantized_matrices(&self) -> impl Iterator<Item = Result<QuantizedMatrix<'_>, CheckpointError>> {
        let stored = self.plan.matrices().filter_map(|matrix| Some((matrix, matrix.quantization.as_ref()?)));
        stored.map(|(matrix, quantization)| load::quantized(&self.files, matrix, quantization))
    }

    /// Memory for the weights, in bytes.
    pub fn weight_bytes(&self, types: impl Into<WeightTypes>) -> u64 {
        let types = types.into();
        let bytes = |(parts, role): (Vec<&Matrix>, Role)| {
            let [rows, columns] = packed_shape(&parts);
            match types.panels_of(role, [rows, columns]) {
                Some(format) => format.weight_bytes((rows, columns)) as u64,
                None => (rows * columns * types.dtype.size_in_bytes()) as u64,
            }
        };
        let matrices: u64 = self.plan.packed().into_iter().map(bytes).sum();
        let (parameters, in_matrices, _) = summary::count(&self.plan);
        matrices + (parameters - in_matrices) * size_of::<f32>() as u64
    }

    /// Refuses to quantize what cannot be, by its name.
    pub fn check_types(&self, types: WeightTypes) -> Result<(), CheckpointError> {
        for (parts, role) in self.plan.packed() {
            let [rows, columns] = packed_shape(&parts);
            let Some(format) = types.panels_of(role, [rows, columns]) else { continue };
            if let Some(reason) = format.refuses((rows, columns)) {
                return Err(CheckpointError::Tensor {
                    path: self.files[parts[0].weight.file].path.clone(),
                    name: error::quote(parts[0].name()),
                    found: format!("[{rows}, {columns}] in all"),
                    expected: format!("a shape that can be quantized to {} bits: {reason}", format.bits().floor()),
                });
            }
        }
        Ok(())
    }

    /// Weights that are read, converted and packed when they are asked for, in rows. The final norm is taken to be the
    /// last.
    pub fn source<'a>(&'a self, dtype: ComputeDtype, progress: &'a dyn Progress) -> impl WeightSource + 'a {
        progress.start(self.plan.stored_bytes());
        let types = WeightTypes { dtype, panels: None };
        let loader = Loader { files: &self.files, types, device: &Device::Cpu, progress, packed_cache: None };
        Parts { loader, plan: &self.plan }
    }

    /// Reads, converts and packs all weights. Quantized ones are for the CPU.
    pub fn load(
        &self,
        types: impl Into<WeightTypes>,
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<Weights, CheckpointError> {
        progress.start(self.plan.stored_bytes());
        let loader = Loader { files: &self.files, types: types.into(), device, progress, packed_cache: None };
        let weights = loader.weights(&self.plan)?;
        progress.finish();
        Ok(weights)
    }
}

/// Of matrices that are stacked.
fn packed_shape(parts: &[&Matrix]) -> [usize; 2] {
    [parts.iter().map(|part| part.rows).sum(), parts[0].columns]
}

impl ComputeDtype {
    /// Size of one value.
    pub fn size_in_bytes(self) -> usize {
        match self {
            ComputeDtype::F32 => 4,
            ComputeDtype::Bf16 | ComputeDtype::F16 => 2,
        }
    }
}
