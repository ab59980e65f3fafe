//! How well texts go together: `POST /score` and `POST /rerank`, as vLLM has them, and their names under `/v1` and `/v2`.
//!
//! Main type: [`Pairs`]. A model that embeds scores a pair by the cosine of its two embeddings, each of which is computed
//! once however many pairs have the text. A classification head with one label scores the pair as one text: the first,
//! with the tokens around it that the checkpoint's tokenizer writes, then the second with its own, as Llama's tokenizers
//! join pairs. The head's activation turns that into a number from 0 to 1, unless it is a regression.

mod rerank;
mod score;

use std::sync::Arc;

use super::{
    answer::UsageCounter,
    embeddings::cosine,
    error::ApiError,
    params::Scheduling,
    pooling::{Answers, Question, compute},
    state::ServedModel,
    texts::{TextOptions, check_fits},
};
use crate::{
    engine::Task,
    types::{Activation, Pooling},
};

pub(super) use self::{rerank::rerank, score::score};

/// Most texts of one request that are compared with others.
const MAX_DOCUMENTS: usize = 1024;

/// A text, and where the request has it.
#[derive(Debug)]
struct Text {
    path: String,
    text: String,
}

/// Pairs of texts, in the order of their scores.
#[derive(Debug)]
struct Pairs {
    questions: Vec<Question>,
    reading: Reading,
}

#[derive(Debug)]
enum Reading {
    /// Each pair is two of the questions.
    Cosine(Vec<[usize; 2]>),
    /// Each question is a pair.
    Head(Activation),
}

impl Pairs {
    /// Pairs of one of `queries` with one of `documents`: as many of both, or one query for all documents.
    fn new(queries: &[Text], documents: &[Text], options: &TextOptions, model: &ServedModel) -> Result<Self, ApiError> {
        let encode = |texts: &[Text]| -> Result<Vec<Vec<u32>>, ApiError> {
            texts.iter().map(|text| options.encode(&text.text, &text.path, model)).collect()
        };
        let query_of = |document: usize| if queries.len() == 1 { 0 } else { document };
        let (first, second) = (encode(queries)?, encode(documents)?);
        match &model.pooling {
            Pooling::Embedding { .. } => {
                let pairs = (0..documents.len()).map(|index| [query_of(index), queries.len() + index]).collect();
                let questions = first.into_iter().chain(second).map(Question::pool).collect();
                Ok(Self { questions, reading: Reading::Cosine(pairs) })
            }
            Pooling::Classes { labels, activation } if labels.len() == 1 => {
                // One query can have a thousand documents: it is kept once.
                let first: Vec<Arc<[u32]>> = first.into_iter().map(Arc::from).collect();
                let pair = |(index, second): (usize, Vec<u32>)| {
                    let question = Question::of(Arc::clone(&first[query_of(index)]), second, Task::Pool);
                    check_fits(question.len(), &documents[index].path, model).map(|()| question)
                };
                let questions = second.into_iter().enumerate().map(pair).collect::<Result<_, _>>()?;
                Ok(Self { questions, reading: Reading::Head(*activation) })
            }
            Pooling::Classes { labels, .. } => {
                let message = format!(
                    "This model tells {} classes apart: only one class is a score of how well two texts go together.",
                    labels.len(),
                );
                Err(ApiError::invalid("model", message))
            }
        }
    }

    async fn scores(&self, model: &ServedModel, scheduling: &Scheduling) -> Result<(Vec<f32>, UsageCounter), ApiError> {
        let Answers { values, usage } = compute(model, scheduling, &self.questions).await?;
        let scores = match &self.reading {
            Reading::Cosine(pairs) => pairs.iter().map(|&[one, other]| cosine(&values[one], &values[other])).collect(),
            Reading::Head(activation) => values.iter().flat_map(|scores| activation.apply(scores)).collect(),
        };
        Ok((scores, usage))
    }
}
