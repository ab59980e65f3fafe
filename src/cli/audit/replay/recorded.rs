//! What was captured of an inference, held against what the log says of it.
//!
//! Main type: [`Recorded`]. The log is chained and signed, the files beside it are not: they are believed as far as they have the
//! keyed hashes that its records have. Knows nothing of models.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::governance::audit::{
    ANSWER_HASH, Content, ContentName, Contents, Kind, PARAMETERS_HASH, PROMPT_HASH, TextHasher,
    query::{self, Query, Record},
};

/// The records of an inference, with what was captured of it.
pub(super) struct Recorded<'r> {
    begun: &'r Record,
    ended: Record,
    content: Content,
    hasher: TextHasher,
}

impl<'r> Recorded<'r> {
    /// Fails if something of it is not there.
    pub(super) fn of(directory: &Path, begun: &'r Record) -> Result<Self> {
        let seq = begun.seq;
        if begun.members.get("task") != Some(&json!("generate")) {
            bail!("record {seq}: nothing was generated, so there are no tokens to compare");
        }
        let name = begun.members.get("content").and_then(Value::as_str);
        let name = name.with_context(|| format!("record {seq}: its content was not captured (audit_capture)"))?;
        let content = Contents::of(directory).read(name).map_err(|error| {
            anyhow!("record {seq}: its captured content {name} cannot be read, so it is not what was written: {error}")
        })?;
        let content = content.with_context(|| {
            format!(
                "record {seq}: its captured content {name} is not there: it was deleted, its time is over, or a crash \
                 came first"
            )
        })?;
        let hasher = TextHasher::of_directory(directory)?;
        let hasher = hasher.with_context(|| format!("record {seq}: the log's hash.key is not there"))?;
        let hasher = hasher.of_tenant(ContentName::parse(name)?.place());
        let ended = Query { id: Some(seq.to_string()), kinds: vec![Kind::Ended], ..Query::default() };
        let ended = query::find(directory, &ended, 1)?.0.pop();
        let ended = ended.with_context(|| format!("record {seq}: no record says how it ended"))?;
        Ok(Self { begun, ended, content, hasher })
    }

    /// What was captured, if it is what the records say and there is something to compare.
    pub(super) fn content(self) -> Result<Content> {
        let seq = self.begun.seq;
        let Content { prompts, parameters, answers } = &self.content;
        let parameters = parameters.as_ref().map_or("", |parameters| parameters.text());
        self.is_recorded("prompt", self.tokens_hash(PROMPT_HASH, prompts), "prompt_hash")?;
        self.is_recorded("parameters", self.hasher.hash(PARAMETERS_HASH, parameters.as_bytes()), "parameters_hash")?;
        let choices = self.ended.members.get("choices").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if choices.len() != answers.len() {
            let (recorded, captured) = (choices.len(), answers.len());
            bail!("record {seq}: {captured} answers are captured, and {recorded} were recorded: the file was changed");
        }
        for (index, (choice, answer)) in choices.iter().zip(answers).enumerate() {
            if choice["hash"].as_str() != Some(&self.tokens_hash(ANSWER_HASH, std::slice::from_ref(answer))) {
                bail!(
                    "record {seq}: the captured answer {index} is not the recorded one, by its keyed hash: it was changed"
                );
            }
        }
        if answers.iter().all(Vec::is_empty) {
            bail!("record {seq}: no token was generated, so there is nothing to compare");
        }
        Ok(self.content)
    }

    fn is_recorded(&self, what: &str, hash: String, member: &str) -> Result<()> {
        match self.begun.members.get(member).and_then(Value::as_str) {
            Some(recorded) if recorded == hash => Ok(()),
            Some(_) => {
                let seq = self.begun.seq;
                bail!("record {seq}: the captured {what} is not the recorded one, by its keyed hash: it was changed")
            }
            None => bail!("record {}: it has no {member} to hold what was captured against", self.begun.seq),
        }
    }

    fn tokens_hash(&self, sort: &str, texts: &[Vec<u32>]) -> String {
        let mut hash = self.hasher.begin(sort);
        texts.iter().for_each(|text| hash.tokens(text));
        hash.finish()
    }
}
