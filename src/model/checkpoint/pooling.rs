//! What a checkpoint makes of a whole text: an embedding as sentence-transformers' side files say (`modules.json` and
//! what it names), or scores of the classes that `config.json` lists.
//!
//! Invariant: what the side files ask for is done, or the checkpoint is refused: an embedding that is computed otherwise
//! than the model was trained for looks like any other vector.

use std::path::Path;

use super::error::CheckpointError;
use super::files::read_config;
use super::json::Section;
use super::plan::HeadKind;
use crate::types::{Activation, Pooling};

/// The class of a decoder without a head.
pub(super) const EMBEDDER: &str = "MistralModel";
/// The class of a decoder with a table of classes.
pub(super) const CLASSIFIER: &str = "MistralForSequenceClassification";

/// Most classes, far above any released classifier's.
const MOST_CLASSES: usize = 1 << 16;
/// Ways of pooling that `1_Pooling/config.json` switches on one by one.
const POOLING_MODES: &str = "pooling_mode_";
const LAST_TOKEN: &str = "pooling_mode_lasttoken";

/// What the configuration says of the head.
pub(super) enum HeadSettings {
    /// It predicts tokens.
    Logits,
    /// There is none.
    Nothing,
    /// It scores classes.
    Classes { labels: Vec<String>, activation: Activation },
}

impl HeadSettings {
    pub(super) fn kind(&self) -> HeadKind {
        match self {
            Self::Logits => HeadKind::Logits,
            Self::Nothing => HeadKind::Nothing,
            Self::Classes { labels, .. } => HeadKind::Classes(labels.len()),
        }
    }
}

/// The head of an architecture.
pub(super) fn head(root: &Section<'_>, architecture: &str) -> Result<HeadSettings, CheckpointError> {
    match architecture {
        EMBEDDER => Ok(HeadSettings::Nothing),
        CLASSIFIER => {
            let labels = labels(root)?;
            let activation = activation(root, labels.len())?;
            Ok(HeadSettings::Classes { labels, activation })
        }
        _ => Ok(HeadSettings::Logits),
    }
}

/// Brings the head and the side files in `dir` together.
pub(super) fn read(dir: &Path, head: HeadSettings, width: usize) -> Result<Pooling, CheckpointError> {
    match head {
        HeadSettings::Classes { labels, activation } => Ok(Pooling::Classes { labels, activation }),
        HeadSettings::Logits | HeadSettings::Nothing => {
            check_prompts(dir)?;
            let max_seq_length = max_seq_length(dir)?;
            Ok(Pooling::Embedding { width, normalized: is_normalized(dir, width)?, max_seq_length })
        }
    }
}

/// In the order of their numbers. Without `id2label` there are two, as in transformers.
fn labels(root: &Section<'_>) -> Result<Vec<String>, CheckpointError> {
    let stated = root.count("num_labels", 1..=MOST_CLASSES)?;
    let Some(names) = root.section("id2label")? else {
        return Ok((0..stated.unwrap_or(2)).map(|index| format!("LABEL_{index}")).collect());
    };
    let count = names.len();
    if count == 0 || count > MOST_CLASSES || stated.is_some_and(|stated| stated != count) {
        return Err(root.refuse("id2label", "an object with a name per label"));
    }
    let name = |index: usize| {
        let key = index.to_string();
        names.text(&key)?.map(str::to_owned).ok_or_else(|| names.refuse(&key, "a label's name"))
    };
    (0..count).map(name).collect()
}

/// As vLLM chooses it: a single score has nothing that it could exclude.
fn activation(root: &Section<'_>, num_labels: usize) -> Result<Activation, CheckpointError> {
    match root.text("problem_type")? {
        Some("multi_label_classification") => Ok(Activation::Sigmoid),
        Some("regression") => Ok(Activation::Identity),
        Some("single_label_classification") | None if num_labels == 1 => Ok(Activation::Sigmoid),
        Some("single_label_classification") | None => Ok(Activation::Softmax),
        Some(_) => {
            Err(root.refuse("problem_type", "single_label_classification, multi_label_classification or regression"))
        }
    }
}

/// Reads `modules.json`: a list of modules, each of which works on what the one before leaves. A checkpoint without it is
/// no embedding model by trade; vectors of length 1 are what its users expect.
fn is_normalized(dir: &Path, width: usize) -> Result<bool, CheckpointError> {
    let path = dir.join("modules.json");
    if !path.is_file() {
        return Ok(true);
    }
    let value = read_config(&path)?;
    let corrupt = |found: String, expected: &str| CheckpointError::Corrupt {
        path: path.clone(),
        what: "the list of modules".into(),
        found,
        expected: expected.into(),
    };
    let Some(modules) = value.as_array() else {
        return Err(corrupt(super::json::describe(&value), "a list"));
    };
    let mut kinds = Vec::new();
    for module in modules {
        let module = Section::root(&path, module)?;
        let kind = module.text("type")?.ok_or_else(|| module.refuse("type", "the name of a module"))?;
        // Classes have moved between releases; their names have not.
        let kind = kind.rsplit('.').next().unwrap_or_default();
        match kind {
            "Transformer" | "Normalize" => {}
            "Pooling" => check_pooling(dir, &module, width)?,
            _ => return Err(module.refuse("type", "a Transformer, Pooling or Normalize module")),
        }
        kinds.push(kind);
    }
    match kinds.as_slice() {
        ["Transformer", "Pooling"] => Ok(false),
        ["Transformer", "Pooling", "Normalize"] => Ok(true),
        _ => Err(corrupt(kinds.join(", "), "Transformer, Pooling and maybe Normalize")),
    }
}

/// Refuses a prompt that would stand in front of every text: which one fits a text only the client knows.
fn check_prompts(dir: &Path) -> Result<(), CheckpointError> {
    let path = dir.join("config_sentence_transformers.json");
    if !path.is_file() {
        return Ok(());
    }
    let value = read_config(&path)?;
    let root = Section::root(&path, &value)?;
    match root.text("default_prompt_name")? {
        Some(_) => Err(root.refuse("default_prompt_name", "null: prompts are the client's to write")),
        None => Ok(()),
    }
}

/// Reads `sentence_bert_config.json`, which says what a text is before it is embedded: how long it may be, and that it
/// would have to be written in small letters, which is refused.
fn max_seq_length(dir: &Path) -> Result<Option<usize>, CheckpointError> {
    let path = dir.join("sentence_bert_config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let value = read_config(&path)?;
    let root = Section::root(&path, &value)?;
    match root.flag("do_lower_case")? {
        Some(true) => Err(root.refuse("do_lower_case", "false: texts are embedded in the letters that they have")),
        Some(false) | None => root.count("max_seq_length", 1..=usize::MAX),
    }
}

/// Reads the `config.json` in the folder of the module, which must be a plain name within the checkpoint.
fn check_pooling(dir: &Path, module: &Section<'_>, width: usize) -> Result<(), CheckpointError> {
    let folder = module.text("path")?.unwrap_or_default();
    if folder.contains(['/', '\\', ':', '\0']) || folder.starts_with('.') {
        return Err(module.refuse("path", "the name of a folder in the same directory"));
    }
    let path = dir.join(folder).join("config.json");
    let value = read_config(&path)?;
    let root = Section::root(&path, &value)?;
    if root.count("word_embedding_dimension", 1..=usize::MAX)?.is_some_and(|stated| stated != width) {
        return Err(root.refuse("word_embedding_dimension", &format!("the model's hidden_size = {width}")));
    }
    if let Some(mode) = root.text("pooling_mode")? {
        return match mode {
            "lasttoken" => Ok(()),
            _ => Err(root.refuse("pooling_mode", "\"lasttoken\": no other way of pooling is served")),
        };
    }
    for key in root.keys().filter(|key| key.starts_with(POOLING_MODES) && *key != LAST_TOKEN) {
        if root.flag(key)? == Some(true) {
            return Err(root.refuse(key, &format!("false: only {LAST_TOKEN} is served")));
        }
    }
    match root.flag(LAST_TOKEN)? {
        Some(true) => Ok(()),
        Some(false) | None => Err(root.refuse(LAST_TOKEN, "true: no other way of pooling is served")),
    }
}
