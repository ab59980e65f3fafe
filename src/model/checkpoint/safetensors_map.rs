//! Memory-mapped safetensors files. [`MappedFile::open`] accepts a file only if its header is sound: the
//! header lies within the file, every tensor's bytes lie within the data and match its type and shape, and
//! the tensors tile the data without gap or overlap. Afterwards [`MappedFile::bytes`] cannot fail.
//!
//! Format: <https://huggingface.co/docs/safetensors>. The header is parsed here rather than by the
//! `safetensors` crate because that one keeps the last of two tensors of one name, and because its errors do
//! not say which tensor is wrong.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;
use safetensors::Dtype;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{CheckpointError, quote};
use super::files::open_regular;

/// Longest header that is parsed, in bytes: the limit of the `safetensors` crate.
const LONGEST_HEADER: u64 = 100_000_000;
/// Most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 8;

/// A safetensors file whose header has been checked.
#[derive(Debug)]
pub(super) struct MappedFile {
    pub(super) path: PathBuf,
    pub(super) tensors: Vec<TensorEntry>,
    map: Mmap,
}

/// One tensor of a file.
#[derive(Clone, Debug)]
pub(super) struct TensorEntry {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Position in the file, in bytes.
    pub(super) range: Range<usize>,
}

impl TensorEntry {
    /// Stored size.
    pub(super) fn n_bytes(&self) -> usize {
        self.range.len()
    }
}

impl MappedFile {
    /// Maps the file and checks its header; tensor data is not touched.
    pub(super) fn open(path: &Path) -> Result<MappedFile, CheckpointError> {
        let (file, file_bytes) = open_regular(path)?;
        let corrupt = |what: &str, found: String, expected: String| CheckpointError::Corrupt {
            path: path.into(),
            what: what.into(),
            found,
            expected,
        };
        if file_bytes < 8 {
            return Err(corrupt("the size", format!("{file_bytes} bytes"), "at least 8".into()));
        }
        #[expect(unsafe_code, reason = "mapping a file is unsafe because others may change it meanwhile")]
        // SAFETY: the map is read-only and only ever viewed as bytes, for which every value is valid.
        // A writer that changes the file in place can change what is read, and one that truncates it can end
        // the process with SIGBUS; checkpoints are documented as not to be modified while they are served.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| CheckpointError::Io { path: path.into(), source })?;

        let Some((length, rest)) = map.split_first_chunk::<8>() else {
            return Err(corrupt("the size", format!("{} bytes", map.len()), "at least 8".into()));
        };
        let header_bytes = u64::from_le_bytes(*length);
        let limit = LONGEST_HEADER.min(rest.len() as u64);
        if header_bytes > limit {
            return Err(corrupt("the header length", header_bytes.to_string(), format!("at most {limit}")));
        }
        let (header, data) = rest.split_at(header_bytes as usize); // at most `rest.len()`
        let header = std::str::from_utf8(header)
            .map_err(|error| corrupt("the header", error.to_string(), "UTF-8 text".into()))?;
        let entries: Header = serde_json::from_str(header)
            .map_err(|error| corrupt("the header", unreadable(&error), "an object of tensors".into()))?;
        let tensors = check_entries(path, entries, 8 + header_bytes as usize, data.len())?;
        Ok(MappedFile { path: path.into(), tensors, map })
    }

    /// The stored bytes of one of this file's tensors.
    pub(super) fn bytes(&self, tensor: &TensorEntry) -> &[u8] {
        &self.map[tensor.range.clone()]
    }

    /// Lets the system take back the memory that a part of the file came into when it was read: whoever has copied it
    /// would else hold it twice. It can be read again.
    pub(super) fn release(&self, part: Range<usize>) {
        #[cfg(unix)]
        {
            #[expect(unsafe_code, reason = "advice that would lose what was written to private memory")]
            // SAFETY: the map is of a file and never written to, so its pages come back as they were.
            let released =
                unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, part.start, part.len()) };
            // Advice that is refused leaves the memory where it is.
            let _ = released;
        }
        #[cfg(not(unix))]
        let _ = part;
    }

    /// The whole file.
    pub(super) fn contents(&self) -> &[u8] {
        &self.map
    }
}

/// Types, shapes and offsets of all tensors, in the order of their bytes.
fn check_entries(
    path: &Path,
    header: Header,
    start: usize,
    n_data: usize,
) -> Result<Vec<TensorEntry>, CheckpointError> {
    let mut tensors = Vec::with_capacity(header.0.len());
    for (name, raw) in header.0 {
        let refuse = |found: String, expected: &str| CheckpointError::Tensor {
            path: path.into(),
            name: quote(&name),
            found,
            expected: expected.into(),
        };
        let entry: RawEntry = serde_json::from_str(raw.get())
            .map_err(|error| refuse(unreadable(&error), "an object of dtype, shape and data_offsets in range"))?;
        let dtype = parse_dtype(&entry.dtype)
            .ok_or_else(|| refuse(format!("of type \"{}\"", quote(&entry.dtype)), "a safetensors type"))?;
        let [begin, end] = entry.data_offsets;
        if begin > end || end > n_data {
            return Err(refuse(format!("at bytes {begin}..{end}"), &format!("a range within 0..{n_data}")));
        }
        let bytes = n_bytes(dtype, &entry.shape.0);
        if bytes != Some(end - begin) {
            let found = format!("{dtype} {:?} in {} bytes", entry.shape.0, end - begin);
            let expected = bytes.map_or_else(|| "fewer elements".into(), |bytes| format!("{bytes} bytes"));
            return Err(refuse(found, &expected));
        }
        tensors.push(TensorEntry { name, dtype, shape: entry.shape.0, range: start + begin..start + end });
    }
    tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    let mut position = start;
    for tensor in &tensors {
        if tensor.range.start != position {
            return Err(CheckpointError::Tensor {
                path: path.into(),
                name: quote(&tensor.name),
                found: format!("at byte {}", tensor.range.start - start),
                expected: format!("byte {}, where the tensor before it ends", position - start),
            });
        }
        position = tensor.range.end;
    }
    if position != start + n_data {
        return Err(CheckpointError::Corrupt {
            path: path.into(),
            what: "the data after the header".into(),
            found: format!("{n_data} bytes"),
            expected: format!("{}, the sum of all tensors", position - start),
        });
    }
    Ok(tensors)
}

fn unreadable(error: &serde_json::Error) -> String {
    format!("unreadable ({})", quote(&error.to_string()))
}

/// Size of a tensor; `None` on overflow, or if it does not end on a byte.
fn n_bytes(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
    let bits = elements.checked_mul(dtype.bitsize())?;
    (bits % 8 == 0).then_some(bits / 8)
}

fn parse_dtype(name: &str) -> Option<Dtype> {
    let name = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(name);
    Dtype::deserialize(name).ok()
}

/// Names and unparsed entries, each name once.
struct Header<'a>(HashMap<String, &'a RawValue>);

#[derive(serde::Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Shape,
    data_offsets: [usize; 2],
}

/// At most [`MOST_DIMENSIONS`] sizes, so that the list cannot grow with the header.
struct Shape(Vec<usize>);

impl<'de: 'a, 'a> Deserialize<'de> for Header<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = HashMap<String, &'de RawValue>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = HashMap::new();
                while let Some((name, entry)) = map.next_entry::<String, &'de RawValue>()? {
                    if name == "__metadata__" {
                        continue;
                    }
                    if entries.contains_key(&name) {
                        return Err(A::Error::custom(format!("tensor {} appears twice", quote(&name))));
                    }
                    entries.insert(name, entry);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Entries).map(Header)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Vec<usize>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MOST_DIMENSIONS} sizes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = list.next_element()? {
                    if sizes.len() == MOST_DIMENSIONS {
                        return Err(A::Error::invalid_length(MOST_DIMENSIONS + 1, &self));
                    }
                    sizes.push(size);
                }
                Ok(sizes)
            }
        }
        deserializer.deserialize_seq(Sizes).map(Shape)
    }
}
