"""The unmodified `openai` package against the server: responses and conversations."""

import time

import openai
import pydantic
import pytest

MODEL = "tiny"
PATIENCE_S = 60
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Answer(pydantic.BaseModel):
    is_yes: bool


@pytest.fixture(scope="module")
def client(server_url):
    return openai.OpenAI(api_key="none", base_url=f"{server_url}/v1", max_retries=0)


def ask(client, **more):
    request = {"model": MODEL, "input": "Hello!", "temperature": 0, "max_output_tokens": 20}
    return client.responses.create(**{**request, **more})


def valid(model):
    """What pydantic makes of an answer if it is strict; the client itself accepts anything."""
    type(model).model_validate(model.to_dict(mode="json"))
    return model


def test_create(client):
    response = valid(ask(client, instructions="Be brief.", metadata={"a": "b"}))
    assert response.output_text and response.status in ("completed", "incomplete")
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    kept = valid(client.responses.retrieve(response.id))
    assert (kept.output_text, kept.metadata) == (response.output_text, {"a": "b"})
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_stream(client):
    whole = ask(client)
    events = list(ask(client, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[1].type) == ("response.created", "response.in_progress")
    for event in events:
        valid(event)
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text == events[-1].response.output_text


def test_stream_helper(client):
    with client.responses.stream(model=MODEL, input="Hello!", temperature=0, max_output_tokens=400) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert stream.get_final_response().output_text == "".join(texts)


def test_parse(client):
    response = client.responses.parse(model=MODEL, input="Yes?", text_format=Answer, temperature=0)
    assert isinstance(response.output_parsed, Answer)
    with client.responses.stream(model=MODEL, input="Yes?", text_format=Answer, temperature=0) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Answer)


def test_continuation(client):
    first = ask(client)
    second = valid(ask(client, input="And you?", previous_response_id=first.id))
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    at_once = ask(
        client,
        input=[{"role": "user", "content": "Hello!"}, *first.output, {"role": "user", "content": "And you?"}],
        store=False,
    )
    assert at_once.output_text == second.output_text
    assert at_once.usage.input_tokens == second.usage.input_tokens
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, previous_response_id=at_once.id)
    assert caught.value.param == "previous_response_id"


def test_function_call_round(client):
    request = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False, "max_output_tokens": 100}
    first = valid(ask(client, input="What is the weather in Paris?", **request))
    call = first.output[-1]
    assert call.type == "function_call" and call.name == "get_weather"
    streamed = list(ask(client, input="What is the weather in Paris?", **request, stream=True))
    deltas = [event.delta for event in streamed if event.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"sky": "clear"}'}
    second = valid(ask(client, input=[result], tools=[TOOL], previous_response_id=first.id))
    assert second.output


def test_log_probabilities(client):
    response = valid(ask(client, include=["message.output_text.logprobs"], top_logprobs=2))
    logprobs = response.output[0].content[0].logprobs
    assert len(logprobs[0].top_logprobs) == 2 and all(token.logprob <= 0 for token in logprobs)


def test_background(client):
    response = valid(ask(client, background=True))
    deadline = time.monotonic() + PATIENCE_S
    while response.status in ("queued", "in_progress"):
        assert time.monotonic() < deadline, response
        time.sleep(0.05)
        response = valid(client.responses.retrieve(response.id))
    assert response.output_text == ask(client).output_text


def test_background_stream(client):
    events = [valid(event) for event in ask(client, background=True, stream=True)]
    assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    final = events[-1].response
    assert final.background and final.output_text == ask(client).output_text
    resumed = list(client.responses.retrieve(final.id, stream=True, starting_after=4))
    assert resumed == events[5:]
    with client.responses.stream(response_id=final.id, starting_after=4) as stream:
        assert [event.sequence_number for event in stream] == [event.sequence_number for event in events[5:]]


def test_background_stream_is_left_and_resumed(client):
    texts, deltas = [], 0
    with ask(client, background=True, stream=True, max_output_tokens=100) as stream:
        for event in stream:
            if event.type == "response.created":
                response_id = event.response.id
            if event.type == "response.output_text.delta":
                texts.append(event.delta)
                deltas += 1
            seen = event.sequence_number
            if deltas == 3:
                break
    for event in client.responses.retrieve(response_id, stream=True, starting_after=seen):
        seen += 1
        assert event.sequence_number == seen
        if event.type == "response.output_text.delta":
            texts.append(event.delta)
    assert event.type in ("response.completed", "response.incomplete")
    assert "".join(texts) == event.response.output_text == client.responses.retrieve(response_id).output_text


def test_background_stream_is_cancelled(client):
    # As long as the longest sequence, so that it is still being answered.
    stream = ask(client, background=True, stream=True, max_output_tokens=400)
    created = next(stream)
    assert client.responses.cancel(created.response.id).status == "cancelled"
    last = [valid(event) for event in stream][-1]
    assert (last.type, last.response.status) == ("response.failed", "cancelled")


def test_only_streams_in_the_background_are_resumed(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.retrieve(ask(client).id, stream=True)
    assert caught.value.param == "stream"


def test_cancel(client):
    # As long as the longest sequence, so that it is still being answered.
    response = ask(client, background=True, max_output_tokens=400)
    cancelled = valid(client.responses.cancel(response.id))
    assert cancelled.status == "cancelled"
    assert client.responses.retrieve(response.id).status == "cancelled"


def test_input_items(client):
    items = [{"role": "user", "content": text} for text in ("one", "two", "three")]
    response = ask(client, input=items)
    listed = [valid(item) for item in client.responses.input_items.list(response.id, order="asc", limit=2)]
    assert [item.content[0].text for item in listed] == ["one", "two", "three"]
    assert client.responses.input_tokens.count(model=MODEL, input=items).input_tokens == response.usage.input_tokens


def test_conversations(client):
    conversation = valid(client.conversations.create(metadata={"a": "b"}, items=[{"role": "user", "content": "one"}]))
    ask(client, input="two", conversation=conversation.id)
    ask(client, input="three", conversation={"id": conversation.id})
    items = [valid(item) for item in client.conversations.items.list(conversation.id, order="asc", limit=2)]
    said = [item.content[0].text for item in items if item.role == "user"]
    assert said == ["one", "two", "three"] and len(items) == 5
    added = client.conversations.items.create(conversation.id, items=[{"role": "user", "content": "four"}])
    item = client.conversations.items.retrieve(added.data[0].id, conversation_id=conversation.id)
    assert item.content[0].text == "four"
    client.conversations.items.delete(item.id, conversation_id=conversation.id)
    assert client.conversations.update(conversation.id, metadata={"c": "d"}).metadata == {"c": "d"}
    assert client.conversations.retrieve(conversation.id).metadata == {"c": "d"}
    assert client.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(conversation.id)


@pytest.mark.parametrize(
    ("param", "more"),
    [
        ("tools[0].type", {"tools": [{"type": "web_search"}]}),
        ("input[0].content[0].type", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}),
        ("include[0]", {"include": ["reasoning.encrypted_content"]}),
        ("conversation", {"conversation": "conv_x"}),
        ("prompt", {"prompt": {"id": "pmpt_1"}}),
    ],
)
def test_errors(client, param, more):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **more)
    assert caught.value.param == param
