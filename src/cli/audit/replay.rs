//! `tramontane audit replay`: runs a recorded request again, with what was captured of it, and compares the tokens.
//!
//! The model is asked directly, by token ids, so that nothing of today's formats or guardrails has a part in it. A seed means
//! the same tokens under any load, so other tokens mean another model, another program, or another kind of machine. Invariant:
//! what is compared is what the log has hashes of, and where there is nothing to compare nothing is said to be equal.

mod recorded;

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use self::recorded::Recorded;
use crate::{
    api::ServedModel,
    cli::{error::UsageError, loading, locate::Network},
    config::{Args, Config, EngineArgs, ModelArgs},
    engine::{FinishReason, Request, StopRules, Task, Update},
    governance::audit::{
        Content, Evidence, Kind,
        query::{self, Query, Record},
        verify,
    },
    telemetry::logs::LogStyle,
    types::{SamplingParams, WrittenForm},
};

#[derive(Debug, clap::Args)]
pub(super) struct ReplayArgs {
    /// Id of the request, or number of the record with which it began
    id: String,
    /// The model that answered; settings of how it computes must be those of the server
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// What is captured of the parameters.
#[derive(Deserialize)]
struct Captured {
    seed: i64,
    max_tokens: usize,
    temperature: f32,
    top_p: f32,
    top_k: u32,
    min_p: f32,
    #[serde(default = "one")]
    typical_p: f32,
    #[serde(default = "one")]
    repetition_penalty: f32,
    #[serde(default)]
    presence_penalty: f32,
    #[serde(default)]
    frequency_penalty: f32,
    logit_bias: Vec<(u32, f32)>,
    bad_words: Vec<Vec<u32>>,
    allowed_token_ids: Option<Vec<u32>>,
    #[serde(default)]
    min_tokens: usize,
    stop_token_ids: Vec<u32>,
    #[serde(default)]
    ignore_eos: bool,
    #[serde(default)]
    has_form: bool,
    form: Option<WrittenForm>,
}

fn one() -> f32 {
    1.0
}

impl ReplayArgs {
    pub(super) fn settings(&self) -> Args {
        Args { model: self.model.clone(), engine: self.engine.clone(), ..Args::default() }
    }

    pub(super) fn run(&self, directory: &Path, json: bool, config: &Config, style: LogStyle) -> Result<()> {
        // What is compared is believed as far as the log is.
        verify(directory, &Evidence::default())?;
        let begun = self.begun(directory)?;
        let content = Recorded::of(directory, &begun)?.content()?;
        let parameters = content.parameters.as_ref().map_or("null", |parameters| parameters.text());
        let captured: Captured = serde_json::from_str(parameters)
            .map_err(|error| anyhow!("record {}: its captured parameters cannot be read: {error}", begun.seq))?;
        if captured.has_form && captured.form.is_none() {
            bail!("record {}: its answer had a form that cannot be written, so it cannot be run again", begun.seq);
        }
        let model = loading::prepare(config, Network::Allowed, style)?.load(style)?;
        check_model(&begun, &model)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let compared = runtime.block_on(compare(&model, &content, &captured))?;
        let differs = compared.iter().position(|choice| choice.first_difference.is_some());
        if json {
            let choices: Vec<Value> = compared.iter().map(Compared::to_json).collect();
            let told = json!({ "record": begun.seq, "equal": differs.is_none(), "choices": choices });
            crate::cli::print(&format!("{told:#}\n"))?;
        } else {
            compared.iter().try_for_each(|choice| crate::cli::print(&choice.to_line()))?;
        }
        match differs {
            None => Ok(()),
            Some(choice) => bail!("record {}: the tokens of choice {choice} are not the recorded ones", begun.seq),
        }
    }

    fn begun(&self, directory: &Path) -> Result<Record> {
        let query = Query { id: Some(self.id.clone()), kinds: vec![Kind::Begun], ..Query::default() };
        let (mut found, _) = query::find(directory, &query, 2)?;
        match (found.pop(), found.pop()) {
            (None, _) => Err(UsageError(format!("no inference was recorded of {:?}", self.id)).into()),
            (Some(begun), None) => Ok(begun),
            (Some(_), Some(first)) => {
                let (id, seq) = (&self.id, first.seq);
                let several = format!(
                    "{id:?} asked the model several times: say which by the number of its record, such as {seq}"
                );
                Err(UsageError(several).into())
            }
        }
    }
}

/// Is it the model that answered?
fn check_model(begun: &Record, model: &ServedModel) -> Result<()> {
    let recorded = |name: &str| begun.members.get("model").and_then(|model| model.get(name)?.as_str());
    for (name, recorded, now) in [
        ("weights", recorded("weights"), Some(model.digest.as_str())),
        ("tokenizer", recorded("tokenizer"), model.codec.digest()),
    ] {
        if recorded != now {
            let (seq, now) = (begun.seq, now.unwrap_or("none"));
            bail!(
                "record {seq}: the digest of its {name} is {}, that of this model is {now}",
                recorded.unwrap_or("none")
            );
        }
    }
    Ok(())
}

/// One answer, run again.
struct Compared {
    choice: usize,
    recorded: usize,
    /// Number of the first token that is another, the first is 0.
    first_difference: Option<usize>,
}

impl Compared {
    fn to_json(&self) -> Value {
        json!({
            "choice": self.choice,
            "tokens": self.recorded,
            "equal": self.first_difference.is_none(),
            "first_difference": self.first_difference,
        })
    }

    fn to_line(&self) -> String {
        let Self { choice, recorded, .. } = self;
        match self.first_difference {
            None => format!("choice {choice}: all {recorded} tokens are equal\n"),
            Some(at) => format!("choice {choice}: token {at} of {recorded} is another\n"),
        }
    }
}

async fn compare(model: &ServedModel, content: &Content, captured: &Captured) -> Result<Vec<Compared>> {
    let prompt = content.prompts.first().context("no prompt was captured")?;
    let constraint = captured.form.as_ref();
    let end_ids = &model.defaults.eos_token_ids;
    let constraint = constraint.map(|form| model.codec.constraint_again(form, end_ids)).transpose()?;
    let mut compared = Vec::new();
    for (choice, recorded) in content.answers.iter().enumerate() {
        let request = Request { constraint: constraint.clone(), ..request(model, prompt, captured, choice) };
        let again = run(model, request, recorded.len()).await?;
        let differs = recorded.iter().zip(&again).position(|(one, other)| one != other);
        let is_shorter = (again.len() < recorded.len()).then_some(again.len());
        compared.push(Compared { choice, recorded: recorded.len(), first_difference: differs.or(is_shorter) });
    }
    Ok(compared)
}

fn request(model: &ServedModel, prompt: &[u32], captured: &Captured, choice: usize) -> Request {
    Request {
        task: Task::Generate,
        prompt_ids: prompt.to_vec(),
        sampling: SamplingParams {
            temperature: captured.temperature,
            top_k: captured.top_k,
            top_p: captured.top_p,
            min_p: captured.min_p,
            typical_p: captured.typical_p,
            repetition_penalty: captured.repetition_penalty,
            presence_penalty: captured.presence_penalty,
            frequency_penalty: captured.frequency_penalty,
            logit_bias: captured.logit_bias.clone(),
            allowed_token_ids: captured.allowed_token_ids.clone(),
            bad_words: captured.bad_words.clone(),
            seed: Some(captured.seed.cast_unsigned().wrapping_add(choice as u64)),
        },
        stop: StopRules {
            max_tokens: captured.max_tokens,
            min_tokens: captured.min_tokens,
            eos_token_ids: model.defaults.eos_token_ids.clone(),
            stop_token_ids: captured.stop_token_ids.clone(),
            ignore_eos: captured.ignore_eos,
        },
        ..Request::default()
    }
}

/// As many tokens as were recorded, or fewer if it ends before: what ended the answer then may have been its text.
async fn run(model: &ServedModel, request: Request, most: usize) -> Result<Vec<u32>> {
    let mut tokens = Vec::new();
    let mut updates = model.engine.submit(request)?;
    while tokens.len() < most {
        match updates.next().await.context("the engine has stopped")? {
            Update::Token { id, .. } => tokens.push(id),
            Update::Started { .. } | Update::PromptLogprobs(_) | Update::Values(_) => {}
            Update::Finished(FinishReason::Failed(message) | FinishReason::NoAnswer(message)) => bail!(message),
            Update::Finished(_) => break,
        }
    }
    Ok(tokens)
}
