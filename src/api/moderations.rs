//! `POST /v1/moderations`, OpenAI's and Mistral's, and Mistral's `POST /v1/chat/moderations`: which categories of a policy
//! a text falls into, in the judgement of the served model.
//!
//! A classification head whose labels are names of categories gives their scores ([`Judge::Head`]). Any model that chats
//! is asked, a short question per category ([`judge`]); the categories and their words are ours (`policy`). Neither is
//! OpenAI's nor Mistral's own classifier, which docs/api.md says.

mod judge;
mod policy;
mod request;

use std::sync::Arc;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use self::{
    policy::{Category, MISTRAL, OPENAI},
    request::ModerationCall,
};
use super::{
    body::{BodyText, JsonText},
    dialect::{Dialect, Refusal},
    error::ApiError,
    guard::RequestGuard,
    pooling::{Answers, Question, compute},
    request::{Work, off_thread, set_request_id},
    state::ServedModel,
};
use crate::types::{Activation, Pooling};

/// A score above this says that a text falls into a category.
const THRESHOLD: f32 = 0.5;

/// What judges.
enum Judge {
    /// A classification head.
    Head {
        /// A label's number for each category that has one.
        labels: Vec<Option<usize>>,
        /// What makes scores of what the model pools a text to.
        activation: Activation,
    },
    /// The model is asked.
    Model(judge::Answers),
}

/// Judges texts.
pub(super) async fn create(work: Work, JsonText(text): JsonText) -> Result<Response, Refusal> {
    let dialect = work.dialect.unwrap_or(Dialect::OpenAi);
    respond(work, text, ModerationCall::of_texts).await.map_err(|error| dialect.refuse(error))
}

/// Judges the last message of conversations.
pub(super) async fn create_for_chats(work: Work, JsonText(text): JsonText) -> Result<Response, Refusal> {
    respond(work, text, ModerationCall::of_chats).await.map_err(|error| Dialect::Mistral.refuse(error))
}

/// Can this model judge at all?
pub(super) fn can_judge(model: &ServedModel) -> bool {
    Judge::of(model, OPENAI).is_ok() || Judge::of(model, MISTRAL).is_ok()
}

type Parse = fn(&str, &ServedModel, &RequestGuard) -> Result<ModerationCall, ApiError>;

async fn respond(work: Work, text: BodyText, parse: Parse) -> Result<Response, ApiError> {
    let Work { state, model, in_flight: _in_flight, request_id, terms, share, dialect, caller: _ } = work;
    let dialect = dialect.unwrap_or(Dialect::OpenAi);
    let categories = match dialect {
        Dialect::OpenAi => OPENAI,
        Dialect::Mistral => MISTRAL,
    };
    // Every text is written into a prompt per category.
    let cost = text.len().saturating_mul(categories.len());
    let (model_name, mut scheduling, judge, rounds) = {
        let (model, guard) = (Arc::clone(&model), terms.guard);
        let questions = move || {
            let call = parse(&text, &model, &guard)?;
            let judge = Judge::of(&model, categories)?;
            let rounds = judge.questions(&call, categories, &model)?;
            Ok::<_, ApiError>((call.model_name, call.scheduling, judge, rounds))
        };
        off_thread(&state, cost, questions).await?
    };
    scheduling.deadline = Some(terms.deadline);
    share.apply(&mut scheduling);
    let mut values = Vec::new();
    for questions in &rounds {
        let Answers { values: of_round, .. } = compute(&model, &scheduling, questions).await?;
        values.push(of_round);
    }
    let results: Vec<Value> =
        judge.scores(&values, categories.len()).iter().map(|scores| result(dialect, categories, scores)).collect();
    let body = json!({ "id": format!("modr-{request_id}"), "model": model_name, "results": results });
    let mut response = Json(body).into_response();
    set_request_id(&mut response, &request_id);
    Ok(response)
}

impl Judge {
    fn of(model: &ServedModel, categories: &[Category]) -> Result<Self, ApiError> {
        let refuse = |message: &str| Err(ApiError::invalid("model", message));
        match &model.pooling {
            Pooling::Classes { activation: Activation::Identity, .. } => {
                refuse("This model's head is a regression: its scores are not the probabilities of categories.")
            }
            Pooling::Classes { labels, activation } => {
                let label_of = |category: &Category| labels.iter().position(|label| category.is_named(label));
                let labels: Vec<Option<usize>> = categories.iter().map(label_of).collect();
                if labels.iter().all(Option::is_none) {
                    return refuse("None of this model's labels is the name of a category of moderation.");
                }
                Ok(Self::Head { labels, activation: *activation })
            }
            Pooling::Embedding { .. } if !model.engine.outputs().logits => {
                refuse("This model only embeds texts: it cannot judge them.")
            }
            Pooling::Embedding { .. } => judge::Answers::of(&model.codec).map(Self::Model),
        }
    }

    /// Rounds of questions; a round begins when the one before has been answered.
    fn questions(
        &self,
        call: &ModerationCall,
        categories: &[Category],
        model: &ServedModel,
    ) -> Result<Vec<Vec<Question>>, ApiError> {
        match self {
            Self::Head { .. } => {
                Ok(vec![call.texts.iter().map(|text| text.to_classify(model)).collect::<Result<_, _>>()?])
            }
            Self::Model(answers) => answers.questions(&call.texts, categories, model),
        }
    }

    /// Per text a score per category.
    fn scores(&self, rounds: &[Vec<Vec<f32>>], n_categories: usize) -> Vec<Vec<f32>> {
        match self {
            Self::Head { labels, activation } => {
                let of_text = |values: &Vec<f32>| {
                    let scores = activation.apply(values);
                    let of_label = |label: &Option<usize>| label.map_or(0.0, |label| scores[label]);
                    labels.iter().map(of_label).collect()
                };
                rounds.iter().flatten().map(of_text).collect()
            }
            Self::Model(answers) => answers.scores(rounds, n_categories),
        }
    }
}

fn result(dialect: Dialect, categories: &[Category], scores: &[f32]) -> Value {
    let map = |of: &dyn Fn(f32) -> Value| -> Map<String, Value> {
        categories.iter().zip(scores).map(|(category, &score)| (category.name.to_owned(), of(score))).collect()
    };
    let (found, all) = (map(&|score| (score > THRESHOLD).into()), map(&|score| score.into()));
    match dialect {
        Dialect::Mistral => json!({ "categories": found, "category_scores": all }),
        Dialect::OpenAi => json!({
            "flagged": scores.iter().any(|&score| score > THRESHOLD),
            "categories": found,
            "category_scores": all,
            "category_applied_input_types": map(&|_| json!(["text"])),
        }),
    }
}
