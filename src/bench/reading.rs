//! An answer while it comes in. Main type: [`Reading`], which makes a [`Sample`] of a stream of either API.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::{
    client::{Times, chain},
    plan::Planned,
    run::Watcher,
    sample::{Failure, Sample, Tokens},
    sse::EventLines,
};

/// A body that has not ended so long after its last event loses its connection.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// An answer that is being read.
pub(super) struct Reading<'a> {
    due: Instant,
    /// When the last piece of text came.
    last: Option<Instant>,
    /// When the answer was complete.
    end: Option<Instant>,
    sample: Sample,
    watcher: &'a dyn Watcher,
}

/// One event of the stream, of either API. Servers leave out or set to null what they do not have.
#[derive(Deserialize)]
struct Event {
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    text: Option<Text>,
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<Text>,
    reasoning: Option<Text>,
    reasoning_content: Option<Text>,
}

/// A text, or the chunks that Mistral's API has for content of several kinds.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Chunks(Vec<IgnoredAny>),
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u32>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(planned: &Planned, times: Times, sent: Instant, watcher: &'a dyn Watcher) -> Self {
        let due = times.due.unwrap_or(sent);
        let asked = Tokens { input: planned.input_tokens.unwrap_or(0), output: planned.output_tokens, cached: 0 };
        let sample = Sample {
            index: planned.index,
            due_s: (due - times.started).as_secs_f64(),
            send_lag_s: (sent - due).as_secs_f64(),
            ttft_s: None,
            end_s: 0.0,
            gaps_s: Vec::new(),
            asked,
            counted: Tokens::default(),
            has_usage: false,
            failure: None,
        };
        Self { due, last: None, end: None, sample, watcher }
    }

    /// Reads the body up to its end; says why it is no answer.
    pub(super) async fn read(&mut self, mut body: Incoming) -> Result<(), String> {
        let mut lines = EventLines::default();
        let mut complete = false;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| format!("the stream broke: {}", chain(&error)));
            let now = Instant::now();
            let frame = match frame {
                Ok(frame) => frame,
                Err(_) if complete => return Ok(()),
                Err(problem) => return Err(problem),
            };
            let Some(piece) = frame.data_ref() else { continue };
            lines.push(piece).map_err(|error| error.to_string())?;
            while let Some(data) = lines.next_data() {
                if &data[..] == b"[DONE]" {
                    self.end.get_or_insert(now);
                    // The connection is of use for further requests once its body has ended.
                    let _ = tokio::time::timeout(ENDS_WITHIN, async { while body.frame().await.is_some() {} }).await;
                    return Ok(());
                }
                complete |= self.event(&data, now)?;
            }
        }
        if complete { Ok(()) } else { Err("the stream ended before the answer did".to_owned()) }
    }

    /// Does this event end the answer?
    fn event(&mut self, data: &[u8], now: Instant) -> Result<bool, String> {
        let event: Event =
            serde_json::from_slice(data).map_err(|error| format!("an event is not what the API says: {error}"))?;
        if let Some(error) = event.error {
            return Err(format!("the server reports {error}"));
        }
        let choices = event.choices.unwrap_or_default();
        if choices.iter().any(Choice::has_text) {
            self.piece(now);
        }
        if let Some(usage) = event.usage {
            let cached = usage.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0);
            let (input, output) = (usage.prompt_tokens.unwrap_or(0), usage.completion_tokens.unwrap_or(0));
            self.sample.counted = Tokens { input, output, cached };
            self.sample.has_usage = usage.prompt_tokens.is_some() && usage.completion_tokens.is_some();
        }
        let ends = choices.iter().any(|choice| choice.finish_reason.as_ref().is_some_and(|reason| !reason.is_empty()));
        if ends {
            self.end.get_or_insert(now);
        }
        Ok(ends)
    }

    fn piece(&mut self, now: Instant) {
        match self.last {
            None => self.sample.ttft_s = Some((now - self.due).as_secs_f64()),
            Some(last) => self.sample.gaps_s.push((now - last).as_secs_f32()),
        }
        self.last = Some(now);
        self.watcher.pieces(1);
    }

    pub(super) fn finish(mut self, failure: Option<Failure>) -> Sample {
        let pieces = self.sample.gaps_s.len() + usize::from(self.sample.ttft_s.is_some());
        if !self.sample.has_usage {
            self.sample.counted.output = pieces as u32;
        }
        let end = self.end.filter(|_| failure.is_none()).unwrap_or_else(Instant::now);
        self.sample.end_s = (end - self.due).as_secs_f64();
        self.sample.failure = failure;
        self.sample
    }
}

impl Choice {
    fn has_text(&self) -> bool {
        let delta = self.delta.as_ref();
        let texts = [
            self.text.as_ref(),
            delta.and_then(|delta| delta.content.as_ref()),
            delta.and_then(|delta| delta.reasoning.as_ref()),
            delta.and_then(|delta| delta.reasoning_content.as_ref()),
        ];
        texts.into_iter().flatten().any(|text| match text {
            Text::Plain(text) => !text.is_empty(),
            Text::Chunks(chunks) => !chunks.is_empty(),
        })
    }
}
