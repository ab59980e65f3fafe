"""The unmodified `mistralai` package against the server: every answer must fit its models, every error its classes."""

import asyncio
import json

import pytest
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, SDKError
from mistralai.client.models import AssistantMessage, BaseModelCard, ToolMessage, UserMessage

MODEL = "tiny"
DOCUMENT = {"type": "document_url", "document_url": "https://example.org"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def client(server_url):
    return Mistral(api_key="none", server_url=server_url)


def user(text):
    return [{"role": "user", "content": text}]


def test_chat(client):
    answer = client.chat.complete(model=MODEL, messages=user("Hello!"), temperature=0, max_tokens=20)
    assert answer.object == "chat.completion" and answer.model == MODEL
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_messages_of_its_own_types(client):
    messages = [UserMessage(content="Hello!"), AssistantMessage(content="Hello! How can I help?"), UserMessage(content="Thanks.")]
    assert client.chat.complete(model=MODEL, messages=messages, max_tokens=8).choices[0].message.content


def test_stream(client):
    request = {"model": MODEL, "messages": user("Hello!"), "temperature": 0, "max_tokens": 20}
    whole = client.chat.complete(**request)
    with client.chat.stream(**request) as stream:
        chunks = [event.data for event in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_async(server_url):
    async def both():
        async with Mistral(api_key="none", server_url=server_url) as client:
            request = {"model": MODEL, "messages": user("Hello!"), "temperature": 0, "max_tokens": 20}
            whole = await client.chat.complete_async(**request)
            streamed = ""
            async for event in await client.chat.stream_async(**request):
                streamed += event.data.choices[0].delta.content or ""
            return whole.choices[0].message.content, streamed

    whole, streamed = asyncio.run(both())
    assert whole == streamed


def test_prefix(client):
    prefix = "Hello! How"
    messages = [*user("Hello!"), {"role": "assistant", "content": prefix, "prefix": True}]
    request = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 8}
    content = client.chat.complete(**request).choices[0].message.content
    assert content.startswith(prefix) and len(content) > len(prefix)
    with client.chat.stream(**request) as stream:
        assert "".join(event.data.choices[0].delta.content or "" for event in stream) == content


def test_random_seed(client):
    def sample(seed):
        return client.chat.complete(
            model=MODEL, messages=user("Hello!"), temperature=1.5, max_tokens=20, random_seed=seed
        ).choices[0].message.content

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in range(8)}) > 1


def test_fields_of_mistral(client):
    request = {"model": MODEL, "messages": user("Hello!"), "temperature": 0, "max_tokens": 20}
    plain = client.chat.complete(**request)
    safe = client.chat.complete(**request, safe_prompt=True)
    assert safe.usage.prompt_tokens > plain.usage.prompt_tokens + 20
    text = plain.choices[0].message.content
    predicted = client.chat.complete(
        **request,
        prediction={"type": "content", "content": text},
        metadata={"tenant": "a"},
        prompt_cache_key="a",
        n=2,
        service_tier="auto",
    )
    assert [choice.message.content for choice in predicted.choices] == [text, text]


def test_log_probabilities(client):
    answer = client.chat.complete(
        model=MODEL,
        messages=user("Hello!"),
        max_tokens=4,
        logprobs=True,
        top_logprobs=2,
        prompt_logprobs=True,
        top_prompt_logprobs=1,
    )
    choice = answer.choices[0]
    assert len(choice.logprobs.content) <= 4 and len(choice.logprobs.content[0].top_logprobs) == 2
    assert len(choice.prompt_logprobs.content) == answer.usage.prompt_tokens - 1


def test_the_longest_sequence_ends_an_answer(client):
    answer = client.chat.complete(model=MODEL, messages=user("Hello!"), min_tokens=480, temperature=1)
    assert answer.choices[0].finish_reason in ("model_length", "stop")


def test_tools(client):
    request = {"model": MODEL, "tools": [TOOL], "temperature": 0, "max_tokens": 60}
    messages = user("What is the weather in Paris?")
    answer = client.chat.complete(**request, messages=messages)
    calls = answer.choices[0].message.tool_calls
    with client.chat.stream(**request, messages=messages) as stream:
        chunks = [event.data for event in stream]
    streamed = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert calls, "the tiny model was trained to call this"
    assert answer.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "tool_calls"
    assert [(call.index, call.function) for call in calls] == [(call.index, call.function) for call in streamed]
    assert calls[0].function.name == "get_weather" and list(json.loads(calls[0].function.arguments)) == ["city"]
    result = ToolMessage(content='{"sky": "clear"}', tool_call_id=calls[0].id, name="get_weather")
    rest = client.chat.complete(**request, messages=[*messages, answer.choices[0].message, result])
    assert rest.choices[0].message.content or rest.choices[0].message.tool_calls


def test_fill_in_the_middle(client):
    request = {"model": MODEL, "prompt": "Hello, my", "suffix": "is Anna.", "max_tokens": 8, "random_seed": 1}
    answer = client.fim.complete(**request)
    assert answer.object == "chat.completion" and answer.usage.completion_tokens <= 8
    with client.fim.stream(**request) as stream:
        streamed = "".join(event.data.choices[0].delta.content or "" for event in stream)
    assert streamed == answer.choices[0].message.content


def test_models(client):
    cards = client.models.list().data
    assert [type(card) for card in cards] == [BaseModelCard]
    card = client.models.retrieve(model_id=MODEL)
    assert card == cards[0]
    assert card.id == MODEL and card.max_context_length == 512
    capabilities = card.capabilities
    assert capabilities.completion_chat and capabilities.function_calling and capabilities.completion_fim
    assert not (capabilities.vision or capabilities.audio or capabilities.fine_tuning or capabilities.reasoning)


def test_a_wrong_field_is_a_validation_error(client):
    with pytest.raises(HTTPValidationError) as caught:
        client.chat.complete(model=MODEL, messages=user("Hello!"), temperature=9)
    assert caught.value.status_code == 422
    assert caught.value.data.detail[0].loc == ["body", "temperature"]
    with pytest.raises(HTTPValidationError) as caught:
        client.chat.stream(model=MODEL, messages=user("Hello!"), prompt_mode="reasoning")
    assert caught.value.data.detail[0].loc == ["body", "prompt_mode"]
    with pytest.raises(HTTPValidationError):
        client.fim.complete(model=MODEL, prompt="a", min_tokens=9, max_tokens=8)


@pytest.mark.parametrize(
    ("status", "code", "ask"),
    [
        (404, "model_not_found", lambda it: it.chat.complete(model="other", messages=user("Hello!"))),
        (404, "model_not_found", lambda it: it.models.retrieve(model_id="other")),
        (400, "context_length_exceeded", lambda it: it.chat.complete(model=MODEL, messages=user("Hello!" * 999))),
        (
            400,
            "invalid_message_order",
            lambda it: it.chat.complete(model=MODEL, messages=[*user("a"), {"role": "assistant", "content": "b"}]),
        ),
        (501, "not_served", lambda it: it.models.delete(model_id=MODEL)),
        (501, "not_served", lambda it: it.ocr.process(model=MODEL, document=DOCUMENT)),
    ],
)
def test_other_errors_are_sdk_errors(client, status, code, ask):
    with pytest.raises(SDKError) as caught:
        ask(client)
    assert caught.value.status_code == status
    assert f'"code":"{code}"' in caught.value.body
