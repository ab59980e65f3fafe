//! Tekken: Mistral's byte-level BPE, read from `tekken.json`.
//!
//! Main type: [`Tekken`]. The file has a configuration, the vocabulary in order of rank (each token
//! as base64), and the control tokens. A token's id is its rank plus the number of control tokens,
//! which have the first ids. Source: `mistral_common/tokens/tokenizers/tekken.py`.
//!
//! Invariants: every single byte is a token, so any text can be encoded; ranks equal positions; and
//! nothing is allocated by a number that the file states, only by what the file contains.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use super::Piece;
use super::bpe;
use super::pattern::Pattern;
use crate::prompt::error::PromptError;
use crate::prompt::template::SettingsRules;
use crate::prompt::version::TokenizerVersion;

/// The vocabulary starts with the single bytes.
const N_BYTES: usize = 256;

/// The control tokens of files that list none (v3 and v7), in order of id.
const BUILT_IN_CONTROLS: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

/// A parsed `tekken.json`: the vocabulary, and everything else as a small header.
///
/// Files of different versions share their vocabulary; [`TekkenFile::with_header`] makes another
/// version without parsing the vocabulary again.
#[derive(Debug, Clone)]
pub struct TekkenFile {
    vocabulary: Arc<Vocabulary>,
    header: serde_json::Value,
    name: String,
}

/// A tekken tokenizer.
#[derive(Debug)]
pub(crate) struct Tekken {
    vocabulary: Arc<Vocabulary>,
    pattern: Pattern,
    version: TokenizerVersion,
    /// How many entries of the vocabulary count.
    n_tokens: u32,
    n_controls: u32,
    control_names: HashMap<u32, String>,
    control_ids: HashMap<String, u32>,
    settings: Option<SettingsRules>,
}

#[derive(Debug)]
struct Vocabulary {
    tokens: Vec<Box<[u8]>>,
    ranks: HashMap<Box<[u8]>, u32>,
}

#[derive(Deserialize)]
struct RawFile<'a> {
    config: serde_json::Value,
    #[serde(borrow)]
    vocab: Vec<RawToken<'a>>,
    special_tokens: Option<serde_json::Value>,
    model_settings_builder: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct RawToken<'a> {
    rank: u64,
    #[serde(borrow)]
    token_bytes: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Header {
    config: Config,
    special_tokens: Option<Vec<SpecialToken>>,
    model_settings_builder: Option<SettingsRules>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    default_vocab_size: u32,
    default_num_special_tokens: u32,
    version: String,
}

#[derive(Deserialize)]
struct SpecialToken {
    rank: u32,
    token_str: String,
}

impl TekkenFile {
    /// Parses the bytes of a `tekken.json`; `name` is what errors call the file.
    pub fn parse(bytes: &[u8], name: &str) -> Result<TekkenFile, PromptError> {
        let raw: RawFile<'_> =
            serde_json::from_slice(bytes).map_err(|error| PromptError::file(name, error.to_string()))?;
        let vocabulary = Vocabulary::new(&raw.vocab).map_err(|reason| PromptError::file(name, reason))?;
        let header = serde_json::json!({
            "config": raw.config,
            "special_tokens": raw.special_tokens,
            "model_settings_builder": raw.model_settings_builder,
        });
        Ok(TekkenFile { vocabulary: Arc::new(vocabulary), header, name: name.to_owned() })
    }

    /// `config`, `special_tokens` and `model_settings_builder` of the file.
    pub fn header(&self) -> &serde_json::Value {
        &self.header
    }

    /// What errors call the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same vocabulary under another header.
    pub fn with_header(&self, header: serde_json::Value) -> TekkenFile {
        TekkenFile { vocabulary: Arc::clone(&self.vocabulary), header, name: self.name.clone() }
    }
}

impl Tekken {
    pub(crate) fn new(file: &TekkenFile) -> Result<Tekken, PromptError> {
        let refuse = |reason: String| PromptError::file(&file.name, reason);
        let header = Header::deserialize(&file.header).map_err(|error| refuse(error.to_string()))?;
        let version: TokenizerVersion =
            header.config.version.parse().map_err(|error| refuse(format!("config.version: {error}")))?;
        let n_controls = header.config.default_num_special_tokens;
        let n_tokens = count_tokens(&header.config, file.vocabulary.tokens.len()).map_err(&refuse)?;
        let names = control_names(header.special_tokens, version, n_controls).map_err(&refuse)?;
        let control_ids: HashMap<String, u32> = names.iter().map(|(id, name)| (name.clone(), *id)).collect();
        if control_ids.len() < names.len() {
            return Err(refuse("special_tokens: two of them have the same token_str".to_owned()));
        }
        let pattern =
            Pattern::new(&header.config.pattern).map_err(|error| refuse(format!("config.pattern: {error}")))?;
        Ok(Tekken {
            vocabulary: Arc::clone(&file.vocabulary),
            pattern,
            version,
            n_tokens,
            n_controls,
            control_names: names,
            control_ids,
            settings: header.model_settings_builder,
        })
    }

    pub(crate) fn version(&self) -> TokenizerVersion {
        self.version
    }

    pub(crate) fn settings_rules(&self) -> Option<&SettingsRules> {
        self.settings.as_ref()
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.n_controls as usize + self.n_tokens as usize
    }

    pub(crate) fn control_id(&self, name: &str) -> Option<u32> {
        self.control_ids.get(name).copied()
    }

    pub(crate) fn is_control(&self, id: u32) -> bool {
        id < self.n_controls
    }

    pub(crate) fn control_tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        self.control_ids.iter().map(|(name, id)| (name.as_str(), *id))
    }

    pub(crate) fn piece(&self, id: u32) -> Piece<'_> {
        let Some(rank) = id.checked_sub(self.n_controls) else {
            return Piece::Control(match self.control_names.get(&id) {
                Some(name) => Cow::Borrowed(name),
                None => Cow::Owned(format!("<SPECIAL_{id}>")),
            });
        };
        if rank >= self.n_tokens {
            return Piece::Nothing;
        }
        Piece::Bytes(&self.vocabulary.tokens[rank as usize])
    }

    pub(crate) fn encode_text_into(&self, text: &str, ids: &mut Vec<u32>) {
        self.pattern.split(text, |piece| self.encode_piece(piece.as_bytes(), ids));
    }

    fn encode_piece(&self, piece: &[u8], ids: &mut Vec<u32>) {
        if let Some(rank) = self.rank(piece) {
            ids.push(rank + self.n_controls);
            return;
        }
        bpe::merge(
            piece,
            1..=piece.len(),
            |bytes| self.rank(bytes).map(Reverse),
            |bytes| {
                let rank = self.rank(bytes).expect("single bytes are tokens, and so is what merged");
                ids.push(rank + self.n_controls);
            },
        );
    }

    fn rank(&self, bytes: &[u8]) -> Option<u32> {
        self.vocabulary.ranks.get(bytes).copied().filter(|rank| *rank < self.n_tokens)
    }
}

impl Vocabulary {
    fn new(raw: &[RawToken<'_>]) -> Result<Vocabulary, String> {
        let mut tokens: Vec<Box<[u8]>> = Vec::with_capacity(raw.len());
        let mut ranks = HashMap::with_capacity(raw.len());
        for (position, token) in raw.iter().enumerate() {
            if token.rank != position as u64 {
                return Err(format!("vocab[{position}]: rank is {}, expected {position}", token.rank));
            }
            let bytes = BASE64
                .decode(token.token_bytes.as_bytes())
                .map_err(|error| format!("vocab[{position}].token_bytes: {error}"))?
                .into_boxed_slice();
            if bytes.is_empty() {
                return Err(format!("vocab[{position}].token_bytes: empty"));
            }
            if position < N_BYTES && *bytes != [position as u8] {
                return Err(format!("vocab[{position}]: expected the single byte {position}"));
            }
            let rank = u32::try_from(position).map_err(|_| "vocab: too many tokens".to_owned())?;
            if let Some(earlier) = ranks.insert(bytes.clone(), rank) {
                return Err(format!("vocab[{position}]: the same bytes as vocab[{earlier}]"));
            }
            tokens.push(bytes);
        }
        Ok(Vocabulary { tokens, ranks })
    }
}

/// How many entries of the vocabulary count: what the stated sizes leave for them.
fn count_tokens(config: &Config, n_entries: usize) -> Result<u32, String> {
    let (size, controls) = (config.default_vocab_size, config.default_num_special_tokens);
    let Some(n_tokens) = size.checked_sub(controls) else {
        return Err(format!("config: default_vocab_size {size} is less than default_num_special_tokens {controls}"));
    };
    if n_tokens as usize > n_entries {
        return Err(format!("config: default_vocab_size {size} needs {n_tokens} vocab entries, found {n_entries}"));
    }
    if (n_tokens as usize) < N_BYTES {
        return Err(format!("config: only {n_tokens} tokens, expected at least the {N_BYTES} single bytes"));
    }
    Ok(n_tokens)
}

fn control_names(
    listed: Option<Vec<SpecialToken>>,
    version: TokenizerVersion,
    n_controls: u32,
) -> Result<HashMap<u32, String>, String> {
    let listed = match listed {
        Some(listed) => listed,
        None if version <= TokenizerVersion::V7 => {
            let named = |(rank, name): (u32, &str)| SpecialToken { rank, token_str: name.to_owned() };
            (0..).zip(BUILT_IN_CONTROLS).map(named).collect()
        }
        None => return Err(format!("no special_tokens, which a file of version {version} must list")),
    };
    let mut names = HashMap::with_capacity(listed.len());
    for (index, token) in listed.into_iter().enumerate() {
        if token.rank >= n_controls {
            return Err(format!("special_tokens[{index}]: rank {} is not below {n_controls}", token.rank));
        }
        if let Some(other) = names.insert(token.rank, token.token_str) {
            return Err(format!("special_tokens[{index}]: rank {} is taken by {other:?}", token.rank));
        }
    }
    Ok(names)
}
