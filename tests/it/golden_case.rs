//! Reads a golden case: what was asked of the reference implementation, and what it answered.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use safetensors::{Dtype, SafeTensors};

/// A folder of the golden directory.
pub struct Case {
    pub name: String,
    /// Where the checkpoint lies; `base/` of a case with an adapter.
    pub checkpoint: PathBuf,
    /// The case also has expectations of an adapter.
    pub has_adapter: bool,
    /// `bf16_rms_rel` of the manifest, where there is one.
    pub reference_bf16_rms: Option<f64>,
    path: PathBuf,
}

/// What the reference answered.
pub enum Expected {
    /// Logits and greedy continuations of several prompts.
    Causal(Vec<Prompt>),
    /// Log-probabilities of one sequence.
    Logprobs(Box<Logprobs>),
    /// What texts are pooled to.
    Pooled(Vec<PooledText>),
}

/// One text and what it is pooled to.
pub struct PooledText {
    pub input_ids: Vec<u32>,
    pub reference: Reference,
}

/// Of one text.
pub enum Reference {
    Embedding {
        /// After the final norm, `(input_ids, hidden_size)`.
        hidden: Vec<f32>,
        /// The last of them, of length 1.
        embedding: Vec<f32>,
    },
    Classes {
        scores: Vec<f32>,
        probabilities: Vec<f32>,
    },
}

/// One prompt and its answers.
pub struct Prompt {
    pub input_ids: Vec<u32>,
    /// Row-major `(input_ids, vocab_size)`.
    pub logits: Vec<f32>,
    pub greedy_ids: Vec<u32>,
    /// Largest minus second largest logit of each step.
    pub greedy_gap: Vec<f32>,
}

/// One sequence with natural logarithms of probabilities.
pub struct Logprobs {
    pub input_ids: Vec<u32>,
    /// Per position, the most likely next tokens.
    pub top: Vec<Vec<(u32, f64)>>,
    /// Of each input token after the first, given those before it: log-probability and rank from 1.
    pub prompt: Vec<(f64, usize)>,
    pub greedy_ids: Vec<u32>,
    pub greedy: Vec<f64>,
    pub greedy_top: Vec<Vec<(u32, f64)>>,
}

impl Case {
    /// All cases of a directory, sorted by name. Folders that hold no golden output are left out: sampling
    /// cases are the sampler's.
    pub fn discover(dir: &Path) -> Result<Vec<Case>> {
        let manifest: serde_json::Value = match fs::read(dir.join("manifest.json")) {
            Ok(text) => serde_json::from_slice(&text).context("manifest.json")?,
            Err(_) => serde_json::Value::Null,
        };
        let measured = |name: &str| {
            let cases = manifest["cases"].as_array()?;
            cases.iter().find(|case| case["name"] == name)?["bf16_rms_rel"].as_f64()
        };
        let mut cases = Vec::new();
        for entry in fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
            let path = entry?.path();
            if !path.is_dir() || path.join("sampling.json").exists() {
                continue;
            }
            let name = path.file_name().context("a folder has a name")?.to_string_lossy().into_owned();
            let has_adapter = path.join("adapter").is_dir();
            cases.push(Case {
                checkpoint: if has_adapter { path.join("base") } else { path.clone() },
                has_adapter,
                reference_bf16_rms: measured(&name),
                name,
                path,
            });
        }
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(cases)
    }

    /// Reads `golden.safetensors`.
    pub fn expected(&self) -> Result<Expected> {
        let path = self.path.join("golden.safetensors");
        let bytes = fs::read(&path).with_context(|| format!("{}", path.display()))?;
        let golden = Golden::parse(&bytes)?;
        if golden.0.contains_key("prompt.0.logits") {
            return golden.prompts().map(Expected::Causal);
        }
        if golden.0.contains_key("top_logprobs") {
            return golden.logprobs().map(|logprobs| Expected::Logprobs(Box::new(logprobs)));
        }
        if ["prompt.0.embedding", "prompt.0.class_logits"].iter().any(|name| golden.0.contains_key(*name)) {
            return golden.pooled().map(Expected::Pooled);
        }
        bail!("golden.safetensors holds none of the known kinds of output")
    }
}

/// All tensors as f64, which holds ids, f32 and f64 alike.
struct Golden(HashMap<String, Vec<f64>>);

impl Golden {
    fn parse(bytes: &[u8]) -> Result<Golden> {
        let mut tensors = HashMap::new();
        for (name, view) in SafeTensors::deserialize(bytes)?.iter() {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::I64 => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
                Dtype::F32 => data.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
                Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
                other => bail!("{name} is {other}"),
            };
            tensors.insert(name.to_string(), values);
        }
        Ok(Golden(tensors))
    }

    fn prompts(&self) -> Result<Vec<Prompt>> {
        let numbers = (0..).take_while(|i| self.0.contains_key(&format!("prompt.{i}.input_ids")));
        numbers
            .map(|i| {
                let prompt = Prompt {
                    input_ids: self.ids(&format!("prompt.{i}.input_ids"))?,
                    logits: self.get(&format!("prompt.{i}.logits"))?.iter().map(|value| *value as f32).collect(),
                    greedy_ids: self.ids(&format!("prompt.{i}.greedy_ids"))?,
                    greedy_gap: self.get(&format!("prompt.{i}.greedy_gap"))?.iter().map(|gap| *gap as f32).collect(),
                };
                ensure!(!prompt.input_ids.is_empty() && prompt.greedy_gap.len() == prompt.greedy_ids.len());
                Ok(prompt)
            })
            .collect()
    }

    fn pooled(&self) -> Result<Vec<PooledText>> {
        let floats =
            |name: String| -> Result<Vec<f32>> { Ok(self.get(&name)?.iter().map(|value| *value as f32).collect()) };
        let numbers = (0..).take_while(|i| self.0.contains_key(&format!("prompt.{i}.input_ids")));
        numbers
            .map(|i| {
                let reference = match self.0.contains_key(&format!("prompt.{i}.embedding")) {
                    true => Reference::Embedding {
                        hidden: floats(format!("prompt.{i}.last_hidden"))?,
                        embedding: floats(format!("prompt.{i}.embedding"))?,
                    },
                    false => Reference::Classes {
                        scores: floats(format!("prompt.{i}.class_logits"))?,
                        probabilities: floats(format!("prompt.{i}.class_probs"))?,
                    },
                };
                Ok(PooledText { input_ids: self.ids(&format!("prompt.{i}.input_ids"))?, reference })
            })
            .collect()
    }

    fn logprobs(&self) -> Result<Logprobs> {
        let input_ids = self.ids("input_ids")?;
        let greedy_ids = self.ids("greedy_ids")?;
        let ranks = self.get("prompt_token_ranks")?;
        let prompt = self.get("prompt_token_logprobs")?.iter().zip(ranks).skip(1);
        Ok(Logprobs {
            top: self.top("top_ids", "top_logprobs", input_ids.len())?,
            prompt: prompt.map(|(logprob, rank)| (*logprob, *rank as usize)).collect(),
            greedy: self.get("greedy_logprobs")?.to_vec(),
            greedy_top: self.top("greedy_top_ids", "greedy_top_logprobs", greedy_ids.len())?,
            input_ids,
            greedy_ids,
        })
    }

    fn top(&self, ids: &str, logprobs: &str, positions: usize) -> Result<Vec<Vec<(u32, f64)>>> {
        let ids = self.ids(ids)?;
        ensure!(positions > 0 && ids.len().is_multiple_of(positions), "{} ids at {positions} positions", ids.len());
        let pairs: Vec<(u32, f64)> = ids.into_iter().zip(self.get(logprobs)?.iter().copied()).collect();
        Ok(pairs.chunks(pairs.len() / positions).map(<[_]>::to_vec).collect())
    }

    fn ids(&self, name: &str) -> Result<Vec<u32>> {
        Ok(self.get(name)?.iter().map(|id| *id as u32).collect())
    }

    fn get(&self, name: &str) -> Result<&[f64]> {
        self.0.get(name).map(Vec::as_slice).with_context(|| format!("golden.safetensors lacks {name}"))
    }
}
