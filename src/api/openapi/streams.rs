//! What streams are made of: the schema of an answer of type `text/event-stream` describes each of its events, as an object
//! of the event's fields, whose `data` is JSON in a string. (OpenAPI 3.1 says nothing of streams; 3.2 writes them like this.)

use serde_json::{Value, json};

use super::schema::{constant, integer, list, object, or_null, reference, text, words};

/// Events and what they carry, by name.
pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    vec![
        ("ChatCompletionChunk", chunk("chat.completion.chunk", chat_choice())),
        ("ChatCompletionEvent", chunk_event("ChatCompletionChunk")),
        ("CompletionChunk", chunk("text_completion", completion_choice())),
        ("CompletionEvent", chunk_event("CompletionChunk")),
        ("ResponseEvent", typed(of_responses())),
        ("ConversationEvent", typed(of_conversations())),
    ]
}

/// JSON in a string.
fn json_text(schema: Value) -> Value {
    json!({ "type": "string", "contentMediaType": "application/json", "contentSchema": schema })
}

/// An event without a name: a chunk, or the error that ends the stream, or what is there behind the last chunk.
fn chunk_event(name: &str) -> Value {
    let data = json!({ "anyOf": [
        constant("[DONE]"),
        json_text(json!({ "anyOf": [reference(name), reference("Error")] })),
    ]});
    // Who reads a stream takes this for the name of an event that has none.
    object(&[("event?", constant("message")), ("data", data)])
}

/// Events that have a name, which their data repeat.
fn typed(kinds: Vec<(&'static str, Vec<(&'static str, Value)>)>) -> Value {
    let event = |(kind, members): (&'static str, Vec<_>)| {
        let data = object(&[&[("type", constant(kind))][..], &members].concat());
        object(&[("event", constant(kind)), ("data", json_text(data))])
    };
    json!({ "anyOf": kinds.into_iter().map(event).collect::<Vec<_>>() })
}

fn chunk(kind: &str, choice: Value) -> Value {
    object(&[
        ("id", text()),
        ("object", constant(kind)),
        ("created", integer()),
        ("model", text()),
        ("system_fingerprint", text()),
        ("choices", list(choice)),
        ("usage?", or_null(reference("Usage"))),
        ("prompt_token_ids?", list(integer())),
    ])
}

fn finish_reason() -> Value {
    or_null(words(&["stop", "length", "tool_calls", "content_filter"]))
}

fn stop_reason() -> Value {
    json!({ "type": ["string", "integer", "null"] })
}

fn chat_choice() -> Value {
    let call = object(&[
        ("index", integer()),
        ("id?", text()),
        ("type?", constant("function")),
        ("function", object(&[("name?", text()), ("arguments", text())])),
    ]);
    let delta = object(&[
        ("role?", constant("assistant")),
        ("content?", json!({ "anyOf": [text(), list(reference("ContentChunk"))] })),
        ("reasoning?", text()),
        ("tool_calls?", list(call)),
    ]);
    object(&[
        ("index", integer()),
        ("delta", delta),
        ("logprobs", or_null(reference("ChatLogprobs"))),
        ("finish_reason", finish_reason()),
        ("stop_reason?", stop_reason()),
        ("token_ids?", list(integer())),
    ])
}

fn completion_choice() -> Value {
    object(&[
        ("index", integer()),
        ("text", text()),
        ("logprobs", or_null(reference("CompletionLogprobs"))),
        ("finish_reason", finish_reason()),
        ("stop_reason?", stop_reason()),
        ("token_ids?", list(integer())),
        ("prompt_token_ids?", list(integer())),
    ])
}

/// OpenAI's events of responses, which are numbered.
fn of_responses() -> Vec<(&'static str, Vec<(&'static str, Value)>)> {
    let number = ("sequence_number", integer());
    let whole = || vec![number.clone(), ("response", reference("Response"))];
    let of_item = || vec![number.clone(), ("output_index", integer()), ("item", reference("Item"))];
    let at = || vec![number.clone(), ("item_id", text()), ("output_index", integer())];
    let in_part = |more: &[(&'static str, Value)]| [&at()[..], &[("content_index", integer())], more].concat();
    let part = json!({ "anyOf": [reference("OutputText"), reference("ReasoningText")] });
    let logprobs = ("logprobs", list(json!({ "type": "object" })));
    let error = [("code", or_null(text())), ("message", text()), ("param", or_null(text()))];
    vec![
        ("response.created", whole()),
        ("response.queued", whole()),
        ("response.in_progress", whole()),
        ("response.output_item.added", of_item()),
        ("response.content_part.added", in_part(&[("part", part.clone())])),
        ("response.reasoning_text.delta", in_part(&[("delta", text())])),
        ("response.reasoning_text.done", in_part(&[("text", text())])),
        ("response.output_text.delta", in_part(&[("delta", text()), logprobs.clone()])),
        ("response.output_text.done", in_part(&[("text", text()), logprobs])),
        ("response.content_part.done", in_part(&[("part", part)])),
        ("response.function_call_arguments.delta", [&at()[..], &[("delta", text())]].concat()),
        ("response.function_call_arguments.done", [&at()[..], &[("name", text()), ("arguments", text())]].concat()),
        ("response.output_item.done", of_item()),
        ("response.completed", whole()),
        ("response.incomplete", whole()),
        ("response.failed", whole()),
        ("error", [&[number.clone()][..], &error].concat()),
    ]
}

/// Mistral's events of conversations.
fn of_conversations() -> Vec<(&'static str, Vec<(&'static str, Value)>)> {
    let time = ("created_at", json!({ "type": "string", "format": "date-time" }));
    let agent = ("agent_id", or_null(text()));
    let output = || vec![time.clone(), ("id", text()), ("output_index", integer())];
    let thinking = object(&[
        ("type", constant("thinking")),
        ("thinking", list(object(&[("type", constant("text")), ("text", text())]))),
    ]);
    let said = [
        ("content_index", integer()),
        ("role", constant("assistant")),
        ("content", json!({ "anyOf": [text(), thinking] })),
        ("model", text()),
        agent.clone(),
    ];
    let called = [("tool_call_id", text()), ("name", text()), ("arguments", text()), ("model", or_null(text())), agent];
    let previous = [("previous_agent_id", text()), ("previous_agent_name", text())];
    let next = [("next_agent_id", text()), ("next_agent_name", text())];
    vec![
        ("conversation.response.started", vec![time.clone(), ("conversation_id", text())]),
        ("message.output.delta", [&output()[..], &said].concat()),
        ("function.call.delta", [&output()[..], &called].concat()),
        ("agent.handoff.started", [&output()[..], &previous].concat()),
        ("agent.handoff.done", [&output()[..], &next].concat()),
        ("conversation.response.done", vec![time, ("usage", reference("ConversationUsage"))]),
        ("conversation.response.error", vec![("message", text()), ("code", integer())]),
    ]
}
