//! A cache that is there: [`CacheFile`], whose header fits and whose tensors are checked as they are copied.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Tensor;
use safetensors::{Dtype, SafeTensors};
use tramontane_kernels::panel_linear::{GROUP, PANEL, PanelFormat, QuantizedFormat};
use xxhash_rust::xxh3::xxh3_64;

use super::{CHECKSUM_KEY, DIGEST_KEY, FORMAT_KEY, LAYOUT_KEY, Refusal, VERSION, VERSION_KEY, checksum, name_of};
use crate::model::checkpoint::error::{CheckpointError, quote};
use crate::model::checkpoint::safetensors_map::{MappedFile, TensorEntry};

/// A file whose header is sound and fits.
pub(super) struct CacheFile {
    file: MappedFile,
    metadata: HashMap<String, String>,
    /// Places in `file.tensors`.
    places: HashMap<String, usize>,
}

impl CacheFile {
    /// Opens the file if it is of this version, this format and weights that are stored in this layout.
    pub(super) fn open(path: &Path, format: QuantizedFormat, layout: &str) -> Result<CacheFile, Refusal> {
        let file = MappedFile::open(path).map_err(|error| match error {
            CheckpointError::Io { source, .. } if source.kind() == ErrorKind::NotFound => Refusal::Absent,
            other => Refusal::Because(other.to_string()),
        })?;
        let (_, header) = SafeTensors::read_metadata(file.contents())
            .map_err(|error| Refusal::Because(format!("its header is unreadable: {error}")))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let expected = [
            (VERSION_KEY, VERSION, "version of the panels"),
            (FORMAT_KEY, &name_of(format), "format"),
            (LAYOUT_KEY, layout, "layout of the stored weights"),
        ];
        for (key, expected, what) in expected {
            let found = metadata.get(key).map_or("none", String::as_str);
            if found != expected {
                return Err(Refusal::Because(format!("its {what} is {}, expected {expected}", quote(found))));
            }
        }
        let places = file.tensors.iter().enumerate().map(|(place, tensor)| (tensor.name.clone(), place)).collect();
        Ok(CacheFile { file, metadata, places })
    }

    /// Digest of the checkpoint that the file was made from.
    pub(super) fn digest(&self) -> &str {
        self.metadata.get(DIGEST_KEY).map_or("", String::as_str)
    }

    /// Copies a tensor into memory of its own, on all threads.
    pub(super) fn read(&self, name: &str, [rows, columns]: [usize; 2], format: PanelFormat) -> Result<Tensor, String> {
        let name_shown = quote(name);
        let place = self.places.get(name).ok_or_else(|| format!("it has no {name_shown}"))?;
        let entry: &TensorEntry = &self.file.tensors[*place];
        let dims = [rows / PANEL, columns / GROUP, format.group_bytes()];
        if entry.dtype != Dtype::U8 || entry.shape != dims {
            return Err(format!("{name_shown} is {} {:?}, expected U8 {dims:?}", entry.dtype, entry.shape));
        }
        let bytes = self.file.bytes(entry);
        let sums: Vec<AtomicU64> = (0..dims[0]).map(|_| AtomicU64::new(0)).collect();
        let tensor = format.from_panels((rows, columns), &|panel, target| {
            target.copy_from_slice(&bytes[panel * target.len()..][..target.len()]);
            // What is in memory now is what will be computed with.
            sums[panel].store(xxh3_64(target), Ordering::Relaxed);
        });
        self.file.release(entry.range.clone());
        let tensor = tensor.map_err(|error| format!("{name_shown}: {error}"))?;
        let found = checksum(sums.into_iter().map(AtomicU64::into_inner));
        let stated = self.metadata.get(&format!("{CHECKSUM_KEY}{name}")).map_or("none", String::as_str);
        if found != stated {
            return Err(format!("{name_shown} is corrupt: its checksum is {found}, expected {}", quote(stated)));
        }
        Ok(tensor)
    }
}
