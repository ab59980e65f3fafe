//! The tokenizer files of `tests/data/tokenizers`, opened once for all tests.
//!
//! Files may be stored plain or compressed (`name.gz`). The tekken versions are one file under
//! several headers, so its vocabulary is parsed once.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tramontane::prompt::{Codec, TekkenFile, TokenizerVersion};

/// Where the vectors and the tokenizers are.
pub struct Data {
    pub vectors: PathBuf,
    pub tokenizers: PathBuf,
}

/// All tokenizers of `index.json`, by name.
pub type Codecs = HashMap<String, Codec>;

impl Data {
    /// The data of this repository.
    pub fn of_repository() -> Data {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        Data { vectors: data.join("vectors"), tokenizers: data.join("tokenizers") }
    }

    /// The vectors in `TRAMONTANE_VECTORS_DIR` if it is set. Their tokenizers are in the folder
    /// `tokenizers` beside or inside that directory, else the repository's.
    pub fn from_environment() -> Data {
        let own = Data::of_repository();
        let Some(vectors) = std::env::var_os("TRAMONTANE_VECTORS_DIR").map(PathBuf::from) else {
            return own;
        };
        let beside = vectors.parent().map(|parent| parent.join("tokenizers"));
        let tokenizers = [Some(vectors.join("tokenizers")), beside]
            .into_iter()
            .flatten()
            .find(|folder| folder.join("index.json").is_file())
            .unwrap_or(own.tokenizers);
        Data { vectors, tokenizers }
    }

    pub fn tokenizer_file(&self, name: &str) -> Vec<u8> {
        read(&self.tokenizers.join(name))
    }

    pub fn codecs(&self) -> Codecs {
        let index: serde_json::Value = serde_json::from_slice(&self.tokenizer_file("index.json")).expect("index.json");
        let mut tekken_files: HashMap<String, TekkenFile> = HashMap::new();
        let mut codecs = Codecs::new();
        for (name, entry) in index.as_object().expect("index.json is an object") {
            let file = entry["file"].as_str().expect("file");
            let version: TokenizerVersion = entry["version"].as_str().expect("version").parse().expect("known version");
            let codec = if entry["kind"] == "sentencepiece" {
                Codec::from_sentencepiece(&self.tokenizer_file(file), version, file)
            } else {
                let base = tekken_files.entry(file.to_owned()).or_insert_with(|| {
                    TekkenFile::parse(&self.tokenizer_file(file), file).expect("a valid tekken file")
                });
                let mut header = base.header().clone();
                if let Some(overlay) = entry["overlay"].as_str() {
                    let patch = serde_json::from_slice(&self.tokenizer_file(overlay)).expect("an overlay is JSON");
                    merge_patch(&mut header, &patch);
                }
                Codec::from_tekken(&base.with_header(header), None)
            };
            let codec = codec.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(codec.version(), Some(version), "{name}");
            codecs.insert(name.clone(), codec);
        }
        codecs
    }
}

/// A tokenizer of this repository.
pub fn codec(name: &str) -> &'static Codec {
    static CODECS: OnceLock<Codecs> = OnceLock::new();
    let codecs = CODECS.get_or_init(|| Data::of_repository().codecs());
    codecs.get(name).unwrap_or_else(|| panic!("no tokenizer {name}"))
}

/// The Hugging Face form of `v3-spm`.
pub fn huggingface_bytes() -> Vec<u8> {
    Data::of_repository().tokenizer_file("hf-v3/tokenizer.json")
}

/// Reads a file, or its compressed form if only that is there.
pub fn read(path: &Path) -> Vec<u8> {
    if let Ok(bytes) = std::fs::read(path) {
        return bytes;
    }
    let compressed = PathBuf::from(format!("{}.gz", path.display()));
    let bytes = std::fs::read(&compressed).unwrap_or_else(|error| panic!("{}: {error}", compressed.display()));
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).expect("valid gzip");
    plain
}

/// RFC 7396.
fn merge_patch(target: &mut serde_json::Value, patch: &serde_json::Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = serde_json::json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().expect("an object by now").remove(key);
        } else {
            merge_patch(&mut target[key], value);
        }
    }
}
