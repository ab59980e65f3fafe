//! What is in a checkpoint, for an operator to look at before serving it, and the digest that says that it
//! is the same one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::files::Layout;
use super::plan::Plan;
use super::safetensors_map::MappedFile;
use super::tensors::Skipped;
use crate::types::hexadecimal;

/// Bytes that are hashed at a time; progress is reported in these steps.
const HASH_STEP: usize = 4 << 20;

/// The contents of a checkpoint.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Class name in the Hugging Face layout, or a description of the native model.
    pub architecture: String,
    /// Who named the tensors.
    pub layout: Layout,
    /// Weights of the text decoder; tied embeddings count once, scales and skipped tensors do not.
    pub parameters: u64,
    /// How many of them are in matrices, which are held in the compute dtype. Norms are held in f32.
    pub matrix_parameters: u64,
    /// The decoder's tensors by stored type.
    pub dtypes: Vec<DtypeCount>,
    /// Stored size of what is loaded.
    pub stored_bytes: u64,
    /// Tensors of other parts, such as vision.
    pub skipped: Skipped,
    /// How weights are quantised, if they are.
    pub quantization: Option<String>,
    /// Weight files.
    pub files: Vec<FileSummary>,
    /// Tokenizer files that lie beside the weights, sorted by name; not opened here.
    pub tokenizers: Vec<PathBuf>,
}

/// The tensors of one stored type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DtypeCount {
    /// Name in safetensors, such as `BF16`.
    pub dtype: String,
    /// Tensors of that type.
    pub tensors: usize,
    /// Their elements.
    pub elements: u64,
    /// Their stored size.
    pub bytes: u64,
}

/// One weight file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSummary {
    /// Name within the checkpoint.
    pub name: String,
    /// Size on disk.
    pub bytes: u64,
}

/// SHA-256 of weight files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashes {
    files: Vec<HashedFile>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashedFile {
    /// Name within the checkpoint.
    pub name: String,
    /// Size on disk.
    pub bytes: u64,
    /// In lower-case hexadecimal.
    pub sha256: String,
}

/// What the plan says about the tensors: `(parameters, in matrices, by type)`.
pub(super) fn count(plan: &Plan) -> (u64, u64, Vec<DtypeCount>) {
    let mut by_type: BTreeMap<String, DtypeCount> = BTreeMap::new();
    let (mut parameters, mut in_matrices) = (0, 0);
    let matrices = plan.matrices().map(|matrix| (&matrix.weight, true));
    for (stored, is_matrix) in matrices.chain(plan.norms().map(|norm| (norm, false))) {
        let elements = stored.entry.shape.iter().product::<usize>() as u64;
        let dtype = stored.entry.dtype.to_string();
        let empty = DtypeCount { dtype: dtype.clone(), tensors: 0, elements: 0, bytes: 0 };
        let count = by_type.entry(dtype).or_insert(empty);
        count.tensors += 1;
        count.elements += elements;
        count.bytes += stored.entry.n_bytes() as u64;
        parameters += elements;
        in_matrices += if is_matrix { elements } else { 0 };
    }
    (parameters, in_matrices, by_type.into_values().collect())
}

/// One line on the quantisation: format, reach of the scales, activations.
pub(super) fn describe_quantization(plan: &Plan) -> Option<String> {
    let quantized: Vec<_> = plan.matrices().filter_map(|matrix| matrix.quantization.as_ref()).collect();
    let total = plan.matrices().count();
    let mut layouts: Vec<String> = quantized.iter().map(|scales| scales.layout.to_string()).collect();
    layouts.sort();
    layouts.dedup();
    let with_input_scales = quantized.iter().filter(|scales| scales.activation_scale.is_some()).count();
    let activations = if with_input_scales == 0 { "dynamic" } else { "static" };
    (!quantized.is_empty()).then(|| {
        let scales = layouts.join(" and ");
        format!("fp8 e4m3, scales {scales}, {activations} activations, {} of {total} matrices", quantized.len())
    })
}

/// Name and size of each file.
pub(super) fn files(files: &[MappedFile]) -> Vec<FileSummary> {
    files.iter().map(|file| FileSummary { name: name(&file.path), bytes: file.contents().len() as u64 }).collect()
}

impl Hashes {
    /// Of all of them, in lower-case hexadecimal. Of one file it is that file's digest, as `sha256sum` prints and as model
    /// hubs list it; of several, that of the list `sha256sum` would print of them, sorted by name.
    pub fn digest(&self) -> String {
        if let [file] = self.files.as_slice() {
            return file.sha256.clone();
        }
        let listing: String =
            self.files.iter().map(|HashedFile { name, sha256, .. }| format!("{sha256}  {name}\n")).collect();
        hexadecimal(&Sha256::digest(listing.as_bytes()))
    }

    /// Each of them, sorted by name.
    pub fn files(&self) -> &[HashedFile] {
        &self.files
    }
}

/// Hashes files in parallel.
pub(super) fn hashes(files: &[MappedFile], advance: &(dyn Fn(u64) + Sync)) -> Hashes {
    let mut files: Vec<HashedFile> = files
        .par_iter()
        .map(|file| {
            let mut hash = Sha256::new();
            for (index, step) in file.contents().chunks(HASH_STEP).enumerate() {
                hash.update(step);
                advance(step.len() as u64);
                let start = index * HASH_STEP;
                file.release(start..start + step.len());
            }
            let bytes = file.contents().len() as u64;
            HashedFile { name: name(&file.path), bytes, sha256: hexadecimal(&hash.finalize()) }
        })
        .collect();
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Hashes { files }
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
