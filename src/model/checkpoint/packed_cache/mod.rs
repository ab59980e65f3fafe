//! Quantized weights on disk: a start that finds them there copies them instead of quantizing again.
//!
//! A [`PackedCache`] is one file. [`Checkpoint::load_through`] takes from it what it can, quantizes the rest, and replaces
//! the file unless all came from it. What it returns is, byte for byte, what [`Checkpoint::load`] returns. Three checks
//! see to that, each where it costs no time:
//!
//! 1. Before anything is read, the header: the version of the panels, the format, and the layout of the stored weights,
//!    which is all that quantizing knows beside their values (names, types, places, the order of rotary rows).
//! 2. A checksum of each tensor, over the bytes that have been copied.
//! 3. When all is read, the digest of the checkpoint's files. A server hashes them anyway, on another thread and for as
//!    long as loading from the cache takes or longer, so nobody waits for it twice; sizes and times of files would be known
//!    earlier but miss a file that was exchanged for another with its times kept, and refuse a copy of the same one.
//!
//! Knows nothing of settings; nothing is written but by `load_through`.

mod read;
mod write;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::{Device, Tensor};
use sha2::{Digest, Sha256};
use tramontane_kernels::{PanelFormat, QuantizedFormat};
use xxhash_rust::xxh3::xxh3_64;

use self::read::CacheFile;
use super::error::CheckpointError;
use super::load::Loader;
use super::plan::{Matrix, Plan};
use super::{Checkpoint, ComputeDtype, Progress, WeightTypes, packed_shape};
use crate::model::weights::Weights;
use crate::types::hexadecimal;

/// Raised whenever the same weights would give other bytes, be it by other panels or by another way to quantize.
const VERSION: &str = "1";
/// Keys of the file's metadata.
const VERSION_KEY: &str = "tramontane.panels";
const FORMAT_KEY: &str = "quantize";
const LAYOUT_KEY: &str = "layout";
const DIGEST_KEY: &str = "checkpoint";
/// Begins the keys of the tensors' checksums.
const CHECKSUM_KEY: &str = "xxh3.";

/// Where the quantized weights of one checkpoint are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedCache {
    format: QuantizedFormat,
    path: PathBuf,
}

impl PackedCache {
    /// A file in the checkpoint's own directory. It is not called `.safetensors`, though it is such a file: other software
    /// takes every one of those for a part of the checkpoint.
    pub fn beside(checkpoint: &Path, format: QuantizedFormat) -> Self {
        Self { format, path: checkpoint.join(format!("tramontane.{}.panels", name_of(format))) }
    }

    /// A file in a directory that the caches of other checkpoints may share; it is made when it is written to.
    pub fn in_directory(directory: &Path, checkpoint: &Path, format: QuantizedFormat) -> Self {
        let checkpoint = fs::canonicalize(checkpoint).unwrap_or_else(|_| checkpoint.into());
        let which = xxh3_64(checkpoint.as_os_str().as_encoded_bytes());
        Self { format, path: directory.join(format!("tramontane-{which:016x}.{}.panels", name_of(format))) }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What became of a cache.
#[derive(Debug)]
pub enum CacheOutcome {
    /// All quantized weights came from it.
    Used,
    /// It was written.
    Written {
        /// Size of the file.
        bytes: u64,
        /// Why the file that was there could not be used.
        replaced: Option<String>,
    },
    /// It should have been written.
    NotWritten {
        /// Why it was not.
        error: io::Error,
        /// Why the file that was there could not be used.
        refused: Option<String>,
    },
}

impl Checkpoint {
    /// [`Self::load`] on the CPU, with quantized weights through a cache. `digest` gives [`Self::digest`], and is not asked
    /// before all is read.
    pub fn load_through(
        &self,
        cache: &PackedCache,
        dtype: ComputeDtype,
        progress: &dyn Progress,
        digest: &dyn Fn() -> String,
    ) -> Result<(Weights, CacheOutcome), CheckpointError> {
        let types = WeightTypes { dtype, panels: Some(PanelFormat::Quantized(cache.format)) };
        let layout = layout(&self.plan, types);
        let load = |session: &Session| {
            progress.start(self.plan.stored_bytes());
            let loader =
                Loader { files: &self.files, types, device: &Device::Cpu, progress, packed_cache: Some(session) };
            loader.weights(&self.plan)
        };
        let mut session = Session::new(CacheFile::open(&cache.path, cache.format, &layout));
        let mut weights = load(&session)?;
        let digest = digest();
        if session.file.as_ref().is_some_and(|file| file.digest() != digest) {
            // Both at a time might not fit into memory.
            drop((weights, session));
            session = Session::new(Err(Refusal::Because("it was made from other weights".into())));
            weights = load(&session)?;
        }
        progress.finish();
        Ok((weights, session.finish(cache, layout, digest)))
    }
}

/// Why nothing, or not everything, comes from a cache.
#[derive(Debug)]
enum Refusal {
    /// There is none yet.
    Absent,
    /// It is not what it should be.
    Because(String),
}

/// A cache while weights are loaded through it.
pub(super) struct Session {
    file: Option<CacheFile>,
    /// The first.
    refusal: OnceLock<Refusal>,
    /// What is to be in the file.
    packed: Mutex<Vec<(String, Tensor)>>,
}

impl Session {
    fn new(opened: Result<CacheFile, Refusal>) -> Self {
        let (file, refusal) = match opened {
            Ok(file) => (Some(file), OnceLock::new()),
            Err(refusal) => (None, OnceLock::from(refusal)),
        };
        Self { file, refusal, packed: Mutex::default() }
    }

    /// Matrices stacked in panels, from the file if it has them, else as `pack` makes them.
    pub(super) fn panels(
        &self,
        parts: &[&Matrix],
        format: PanelFormat,
        progress: &dyn Progress,
        pack: &dyn Fn() -> Result<Tensor, CheckpointError>,
    ) -> Result<Tensor, CheckpointError> {
        let name = parts.iter().map(|part| part.name()).collect::<Vec<_>>().join("+");
        let tensor = match self.take(&name, packed_shape(parts), format) {
            Some(tensor) => {
                progress.advance(parts.iter().map(|part| part.stored_bytes()).sum());
                tensor
            }
            None => pack()?,
        };
        self.packed.lock().unwrap_or_else(PoisonError::into_inner).push((name, tensor.clone()));
        Ok(tensor)
    }

    fn take(&self, name: &str, shape: [usize; 2], format: PanelFormat) -> Option<Tensor> {
        let taken = self.file.as_ref()?.read(name, shape, format);
        taken.map_err(|reason| self.refusal.set(Refusal::Because(reason))).ok()
    }

    /// Writes the file if it lacks anything.
    fn finish(self, cache: &PackedCache, layout: String, digest: String) -> CacheOutcome {
        let reason = match self.refusal.into_inner() {
            None => return CacheOutcome::Used,
            Some(Refusal::Absent) => None,
            Some(Refusal::Because(reason)) => Some(reason),
        };
        // Some systems do not replace a file that is mapped.
        drop(self.file);
        let packed = self.packed.into_inner().unwrap_or_else(PoisonError::into_inner);
        let identity = [
            (VERSION_KEY, VERSION.into()),
            (FORMAT_KEY, name_of(cache.format)),
            (LAYOUT_KEY, layout),
            (DIGEST_KEY, digest),
        ];
        match write::write(&cache.path, identity, &packed) {
            Ok(bytes) => CacheOutcome::Written { bytes, replaced: reason },
            Err(error) => CacheOutcome::NotWritten { error, refused: reason },
        }
    }
}

fn name_of(format: QuantizedFormat) -> String {
    format!("{format:?}").to_lowercase()
}

/// What quantizing knows of the stored weights beside their values. It need not be legible, only differ where they do.
fn layout(plan: &Plan, types: WeightTypes) -> String {
    let mut text = String::new();
    for (parts, role) in plan.packed() {
        let panels = types.panels_of(role, packed_shape(&parts));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{panels:?} {parts:?}");
    }
    hexadecimal(&Sha256::digest(text.as_bytes()))
}

/// Of a tensor, from the checksums of its panels: so threads can compute it that each have some.
fn checksum(panels: impl Iterator<Item = u64>) -> String {
    let bytes: Vec<u8> = panels.flat_map(u64::to_le_bytes).collect();
    format!("{:016x}", xxh3_64(&bytes))
}
