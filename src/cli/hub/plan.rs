//! Which files of a repository a checkpoint needs. Weights exist in up to two layouts, Hugging Face's and
//! Mistral's own ("native", `consolidated*`), of which one is enough; pickles are never fetched.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Result, bail, ensure};
use serde::Deserialize;

use super::digest::Digest;

/// The layout of weights to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Weights {
    /// Hugging Face's where there is one, else native.
    HuggingFace,
    /// Native only.
    Native,
}

/// What to fetch.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Plan {
    /// The commit that the revision stands for.
    pub(in crate::cli) commit: String,
    /// The files, small ones first.
    pub(in crate::cli) files: Vec<RemoteFile>,
}

/// A file of the repository's top folder.
#[derive(Clone, Debug)]
pub(in crate::cli) struct RemoteFile {
    pub(in crate::cli) name: String,
    pub(in crate::cli) size: u64,
    pub(in crate::cli) digest: Digest,
}

/// The hub's answer to `GET /api/models/<id>/revision/<revision>?blobs=true`.
#[derive(Debug, Deserialize)]
pub(in crate::cli) struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    blob_id: Option<String>,
    size: Option<u64>,
    lfs: Option<LargeFile>,
}

#[derive(Debug, Deserialize)]
struct LargeFile {
    sha256: String,
    size: u64,
}

const METADATA: [&str; 17] = [
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "README.md",
    "SYSTEM_PROMPT.txt",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "params.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tekken.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

impl Plan {
    /// Chooses among the listed files. Every chosen one has a size and a digest.
    pub(in crate::cli) fn new(listing: Listing, weights: Weights) -> Result<Plan> {
        ensure!(is_hex(&listing.sha), "the hub's listing names no commit");
        let names: Vec<&str> = listing.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
        let layout = match (weights, names.iter().any(|name| is_hugging_face_weights(name))) {
            (Weights::HuggingFace, true) => is_hugging_face_weights,
            (Weights::Native, _) | (Weights::HuggingFace, false) => is_native_weights,
        };
        ensure!(names.iter().any(|name| layout(name)), "the repository has no safetensors weights");
        let wanted = |name: &str| layout(name) || METADATA.contains(&name) || name.starts_with("tokenizer.model");
        let mut files = Vec::new();
        for sibling in listing.siblings.into_iter().filter(|sibling| wanted(&sibling.rfilename)) {
            files.extend(sibling.into_file()?);
        }
        files.sort_by(|a, b| (a.size, &a.name).cmp(&(b.size, &b.name)));
        Ok(Plan { commit: listing.sha, files })
    }
}

impl Sibling {
    /// `None` for an empty file: there is nothing to fetch.
    fn into_file(self) -> Result<Option<RemoteFile>> {
        let name = self.rfilename;
        ensure!(!name.contains(['/', '\\']), "{name}: not a file of the top folder");
        let (size, digest) = match (self.lfs, self.size, self.blob_id) {
            (Some(large), _, _) => (large.size, Digest::Sha256(large.sha256)),
            (None, Some(size), Some(id)) => (size, Digest::GitBlob(id)),
            (None, _, _) => bail!("{name}: the hub states no digest"),
        };
        ensure!(is_hex(digest.hex()), "{name}: the hub states no digest");
        Ok((size > 0).then_some(RemoteFile { name, size, digest }))
    }
}

/// Has a configuration and every weight file that its index names.
pub(in crate::cli) fn is_complete(snapshot: &Path) -> bool {
    let has = |name: &str| snapshot.join(name).is_file();
    let has_all = |index: &str| shards(&snapshot.join(index)).is_some_and(|shards| shards.iter().all(|name| has(name)));
    let hugging_face = has("model.safetensors") || has_all("model.safetensors.index.json");
    let native = has("consolidated.safetensors") || has_all("consolidated.safetensors.index.json");
    (has("config.json") && hugging_face) || (has("params.json") && native)
}

/// The files that a safetensors index names.
fn shards(index: &Path) -> Option<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(&std::fs::read(index).ok()?).ok()?;
    Some(index.weight_map.into_values().collect())
}

fn is_hugging_face_weights(name: &str) -> bool {
    is_weights(name, "model")
}

fn is_native_weights(name: &str) -> bool {
    is_weights(name, "consolidated")
}

/// `<stem>.safetensors`, `<stem>-00001-of-00003.safetensors`, `<stem>.safetensors.index.json`.
fn is_weights(name: &str, stem: &str) -> bool {
    let Some(rest) = name.strip_prefix(stem) else { return false };
    let numbers = rest.strip_prefix('-').and_then(|rest| rest.strip_suffix(".safetensors")?.split_once("-of-"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    rest == ".safetensors"
        || rest == ".safetensors.index.json"
        || numbers.is_some_and(|(shard, shards)| is_number(shard) && is_number(shards))
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(names: &[&str], weights: Weights) -> Result<Vec<String>> {
        let siblings = names.iter().map(|name| Sibling {
            rfilename: (*name).into(),
            blob_id: Some("ab".into()),
            size: Some(1),
            lfs: None,
        });
        let listing = Listing { sha: "0a".into(), siblings: siblings.collect() };
        Ok(Plan::new(listing, weights)?.files.into_iter().map(|file| file.name).collect())
    }

    const BOTH: [&str; 9] = [
        "config.json",
        "consolidated.safetensors",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "params.json",
        "pytorch_model.bin",
        "tokenizer.model.v3",
        "original/consolidated.00.pth",
    ];

    #[test]
    fn one_layout_and_no_pickles() {
        let expected = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "params.json",
            "tokenizer.model.v3",
        ];
        assert_eq!(plan(&BOTH, Weights::HuggingFace).unwrap(), expected);
        let expected = ["config.json", "consolidated.safetensors", "params.json", "tokenizer.model.v3"];
        assert_eq!(plan(&BOTH, Weights::Native).unwrap(), expected);
        let native = ["consolidated.safetensors", "params.json"];
        assert_eq!(plan(&native, Weights::HuggingFace).unwrap(), native);
        assert!(plan(&["config.json", "pytorch_model.bin"], Weights::HuggingFace).is_err());
        assert!(plan(&["config.json", "model.safetensors"], Weights::Native).is_err());
    }

    #[test]
    fn no_digest_no_download() {
        let sibling = |blob_id: Option<&str>| Sibling {
            rfilename: "model.safetensors".into(),
            blob_id: blob_id.map(str::to_owned),
            size: Some(1),
            lfs: None,
        };
        for blob_id in [None, Some(""), Some("../x")] {
            let listing = Listing { sha: "0a".into(), siblings: vec![sibling(blob_id)] };
            assert!(Plan::new(listing, Weights::HuggingFace).is_err(), "{blob_id:?}");
        }
    }

    #[test]
    fn completeness() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(root.path().join(name), text).unwrap();
        write("config.json", "{}");
        assert!(!is_complete(root.path()));
        write(
            "model.safetensors.index.json",
            r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#,
        );
        write("model-1.safetensors", "");
        assert!(!is_complete(root.path()));
        write("model-2.safetensors", "");
        assert!(is_complete(root.path()));
    }
}
