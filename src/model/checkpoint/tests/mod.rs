//! Loading as far as it can be checked without a decoder: packed values against values read plainly from the
//! files, and every malformed checkpoint refused.

mod hostile;
mod packed_cache;
mod packing;
mod pooling;
mod settings;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Tensor;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Checkpoint, CheckpointError, Progress};
use crate::model::weights::Head;

/// The total that was announced, what was done, and how often it ended.
#[derive(Default)]
struct Counter([AtomicU64; 3]);

impl Progress for Counter {
    fn start(&self, total_bytes: u64) {
        self.0[0].store(total_bytes, Ordering::Relaxed);
    }
    fn advance(&self, bytes: u64) {
        self.0[1].fetch_add(bytes, Ordering::Relaxed);
    }
    fn finish(&self) {
        self.0[2].fetch_add(1, Ordering::Relaxed);
    }
}

/// A checkpoint of the golden directory.
fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(case)
}

/// A copy of a golden checkpoint, to be damaged.
fn copy_of(case: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(case)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let folder = dir.path().join(path.file_name().unwrap());
            fs::create_dir(&folder).unwrap();
            fs::copy(path.join("config.json"), folder.join("config.json")).unwrap();
        } else if path.file_name().unwrap() != "golden.safetensors" {
            fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    dir
}

/// The table of a head that has one.
fn table(head: &Head) -> &Tensor {
    head.table().expect("the head has a table")
}

/// Changes a JSON file in place.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Opens a copy of a case with a changed `config.json` or `params.json`.
fn open_with(case: &str, change: impl FnOnce(&mut Value)) -> Result<Checkpoint, CheckpointError> {
    let dir = copy_of(case);
    let names = ["config.json", "params.json"].map(|name| dir.path().join(name));
    edit(names.iter().find(|path| path.exists()).unwrap(), change);
    Checkpoint::open(dir.path())
}

/// The message of a refusal, without the directory.
fn refusal(dir: &Path) -> String {
    let error = Checkpoint::open(dir).expect_err("must be refused");
    error.to_string().replace(dir.to_str().unwrap(), "DIR")
}

/// A safetensors file of given header and data.
fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// Header and data of a file, to be changed and put together again.
fn take_apart(path: &Path) -> (BTreeMap<String, Value>, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), bytes[8 + length..].to_vec())
}

/// Adds one tensor to a file.
fn add_tensor(path: &Path, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
    let (mut header, mut data) = take_apart(path);
    let start = data.len();
    data.extend(bytes);
    header.insert(name.into(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}));
    fs::write(path, safetensors(&serde_json::to_string(&header).unwrap(), &data)).unwrap();
}
