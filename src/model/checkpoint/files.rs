//! Which files make up a checkpoint. File names come from a fixed list or from an index file; names from an
//! index must be plain names in the same directory, so that a checkpoint can point nowhere else. Symbolic
//! links are followed, because the Hugging Face cache consists of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::{CheckpointError, quote};
use super::json::Section;

/// Largest configuration file that is read, in bytes.
const LARGEST_CONFIG: u64 = 16 << 20;
/// Largest index that is read, in bytes; a thousand tensors take about 100 KiB.
const LARGEST_INDEX: u64 = 64 << 20;
/// Most weight files of one checkpoint.
const MOST_SHARDS: usize = 4096;
/// Beginnings of the names of tokenizer files; SentencePiece ones end in a version, as `tokenizer.model.v3`.
const TOKENIZERS: [&str; 4] = ["tekken.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"];

/// Who named the tensors and the configuration keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `config.json` with `model*.safetensors`.
    HuggingFace,
    /// Mistral's own: `params.json` with `consolidated*.safetensors`.
    Native,
}

/// The files of a checkpoint, none of them opened yet.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) layout: Layout,
    pub(super) config: PathBuf,
    pub(super) weights: Vec<PathBuf>,
    /// Where the index says that each tensor is, as a position in `weights`.
    pub(super) index: Option<Index>,
    pub(super) generation_config: Option<PathBuf>,
    pub(super) tokenizers: Vec<PathBuf>,
}

/// A `*.safetensors.index.json` file.
#[derive(Clone, Debug)]
pub(super) struct Index {
    pub(super) path: PathBuf,
    pub(super) file_of_tensor: BTreeMap<String, usize>,
}

impl Files {
    /// Finds the checkpoint in `dir`. Where both layouts are complete the Hugging Face one is taken: it is
    /// the one whose configuration says the most.
    pub(super) fn find(dir: &Path) -> Result<Files, CheckpointError> {
        let entries = fs::read_dir(dir).map_err(|source| CheckpointError::Io { path: dir.into(), source })?;
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        let has = |name: &str| names.iter().any(|other| other == name);

        let mut found = None;
        for (layout, config, stem) in
            [(Layout::HuggingFace, "config.json", "model"), (Layout::Native, "params.json", "consolidated")]
        {
            if found.is_none() && has(config) {
                found = weight_files(dir, &names, stem)?.map(|weights| (layout, config, weights));
            }
        }
        let Some((layout, config, (weights, index))) = found else {
            let expected = "config.json with model*.safetensors, nor params.json with consolidated*.safetensors,";
            return Err(CheckpointError::NotFound { dir: dir.into(), expected });
        };
        Ok(Files {
            layout,
            config: dir.join(config),
            weights,
            index,
            generation_config: has("generation_config.json").then(|| dir.join("generation_config.json")),
            tokenizers: names
                .iter()
                .filter(|name| TOKENIZERS.iter().any(|start| name.starts_with(start)))
                .map(|name| dir.join(name))
                .collect(),
        })
    }
}

/// Reads and parses a configuration file of bounded size.
pub(super) fn read_config(path: &Path) -> Result<Value, CheckpointError> {
    read_json(path, LARGEST_CONFIG)
}

/// Opens a file after checking that it is one: a directory or a pipe would block or fail later, unnamed.
pub(super) fn open_regular(path: &Path) -> Result<(fs::File, u64), CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.into(), source };
    let metadata = fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(CheckpointError::Corrupt {
            path: path.into(),
            what: "this".into(),
            found: if metadata.is_dir() { "a directory".into() } else { "a special file".into() },
            expected: "a regular file".into(),
        });
    }
    Ok((fs::File::open(path).map_err(io)?, metadata.len()))
}

type Weights = (Vec<PathBuf>, Option<Index>);

/// `stem.safetensors`, or the files of `stem.safetensors.index.json`, or every `stem-*.safetensors`.
fn weight_files(dir: &Path, names: &[String], stem: &str) -> Result<Option<Weights>, CheckpointError> {
    let single = format!("{stem}.safetensors");
    let index = format!("{stem}.safetensors.index.json");
    if names.contains(&single) {
        return Ok(Some((vec![dir.join(single)], None)));
    }
    if names.contains(&index) {
        return read_index(dir, &dir.join(index)).map(Some);
    }
    let prefix = format!("{stem}-");
    let shards: Vec<PathBuf> = names
        .iter()
        .filter(|name| name.starts_with(&prefix) && name.ends_with(".safetensors"))
        .map(|name| dir.join(name))
        .collect();
    Ok((!shards.is_empty()).then_some((shards, None)))
}

fn read_index(dir: &Path, path: &Path) -> Result<Weights, CheckpointError> {
    let value = read_json(path, LARGEST_INDEX)?;
    let root = Section::root(path, &value)?;
    let Some(Value::Object(weight_map)) = root.get("weight_map") else {
        return Err(root.refuse("weight_map", "an object of tensor names and file names"));
    };
    let corrupt = |what: String, found: String, expected: &str| CheckpointError::Corrupt {
        path: path.into(),
        what,
        found,
        expected: expected.into(),
    };
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut file_of_tensor = BTreeMap::new();
    for (tensor, file) in weight_map {
        let name = file.as_str().filter(|name| is_plain_name(name)).ok_or_else(|| {
            let expected = "the name of a .safetensors file in the same directory";
            corrupt(format!("the file of tensor {}", quote(tensor)), super::json::describe(file), expected)
        })?;
        let next = numbers.len();
        file_of_tensor.insert(tensor.clone(), *numbers.entry(name).or_insert(next));
    }
    if numbers.is_empty() || numbers.len() > MOST_SHARDS {
        return Err(corrupt("the number of files".into(), numbers.len().to_string(), "between 1 and 4096"));
    }
    let mut weights = vec![PathBuf::new(); numbers.len()];
    for (name, number) in numbers {
        weights[number] = dir.join(name);
    }
    Ok((weights, Some(Index { path: path.into(), file_of_tensor })))
}

/// No separators, no `..`, no drive letters: what remains names a file in the directory itself.
fn is_plain_name(name: &str) -> bool {
    name.len() <= 255
        && name.ends_with(".safetensors")
        && !name.starts_with('.')
        && !name.contains(['/', '\\', ':', '\0'])
}

fn read_json(path: &Path, limit: u64) -> Result<Value, CheckpointError> {
    let (file, bytes) = open_regular(path)?;
    if bytes > limit {
        return Err(CheckpointError::Corrupt {
            path: path.into(),
            what: "the size".into(),
            found: format!("{bytes} bytes"),
            expected: format!("at most {limit}"),
        });
    }
    let mut text = Vec::new();
    // The limit holds even when the file grows between the two calls.
    file.take(limit).read_to_end(&mut text).map_err(|source| CheckpointError::Io { path: path.into(), source })?;
    serde_json::from_slice(&text).map_err(|source| CheckpointError::Json { path: path.into(), source })
}
