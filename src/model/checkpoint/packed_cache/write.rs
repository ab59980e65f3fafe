//! Writes a cache beside its name and lets it appear there when it is complete and on disk. Whoever has the old file mapped
//! keeps it; of several who write at once each has a file of its own, and the last one stays.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use candle_core::{CpuStorage, Storage, Tensor};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::{CHECKSUM_KEY, checksum};

/// Ends the names of files that are not complete.
const PART: &str = ".part";
/// Tensors begin at a multiple of so many bytes.
const ALIGNMENT: usize = 64;

/// Writes tensors of panels with their checksums and `identity` as metadata; returns the size of the file.
pub(super) fn write(path: &Path, identity: [(&str, String); 4], packed: &[(String, Tensor)]) -> io::Result<u64> {
    let mut metadata: HashMap<String, String> = identity.map(|(key, value)| (key.to_string(), value)).into();
    let mut tensors = Vec::with_capacity(packed.len());
    let mut end = 0;
    for (name, tensor) in packed {
        let sums: Vec<u64> = with_bytes(tensor, |bytes| {
            bytes.par_chunks_exact((bytes.len() / tensor.dims()[0]).max(1)).map(xxh3_64).collect()
        });
        metadata.insert(format!("{CHECKSUM_KEY}{name}"), checksum(sums.into_iter()));
        let start = end;
        end += tensor.elem_count();
        let info = TensorInfo { dtype: Dtype::U8, shape: tensor.dims().to_vec(), data_offsets: (start, end) };
        tensors.push((name.clone(), info));
    }
    let header = Metadata::new(Some(metadata), tensors).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&header)?;
    header.resize((8 + header.len()).next_multiple_of(ALIGNMENT) - 8, b' ');
    let mut part = Part::create(path)?;
    part.file.write_all(&(header.len() as u64).to_le_bytes())?;
    part.file.write_all(&header)?;
    for (_, tensor) in packed {
        with_bytes(tensor, |bytes| part.file.write_all(bytes))?;
    }
    part.become_whole(path)?;
    Ok((8 + header.len() + end) as u64)
}

/// A file that is not complete; goes with its owner.
struct Part {
    path: PathBuf,
    file: File,
    whole: bool,
}

impl Part {
    /// A new file in the directory of `path`, which is made if it is missing.
    fn create(path: &Path) -> io::Result<Part> {
        let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        make_directory(directory)?;
        remove_leftovers(path, directory);
        let mut own = path.as_os_str().to_owned();
        own.push(format!(".{}{PART}", Uuid::new_v4().simple()));
        let own = PathBuf::from(own);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        // Weights may be confidential.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let part = Part { file: options.open(&own)?, path: own, whole: false };
        // Says that somebody writes it. Where files cannot be locked, leftovers stay.
        let _ = part.file.try_lock();
        Ok(part)
    }

    fn become_whole(mut self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, path)?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.whole {
            // What cannot be removed now is a leftover.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn make_directory(directory: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

/// Removes parts of this file that nobody writes any more: a process that was killed could not.
fn remove_leftovers(path: &Path, directory: &Path) {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let other = entry.file_name();
        let id = other.to_str().and_then(|other| other.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(PART));
        if id.is_some_and(|id| Uuid::try_parse(id).is_ok())
            && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The bytes of a tensor in panels.
fn with_bytes<R>(tensor: &Tensor, work: impl FnOnce(&[u8]) -> R) -> R {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::U8(bytes)), Some((start, end))) => work(&bytes[start..end]),
        _ => unreachable!("panels lie in the CPU's memory as bytes without gaps"),
    }
}
