"""The unmodified `mistralai` package against the server: every answer must fit its models, every error its classes."""

import asyncio
import json
import time

import pytest
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, SDKError
from mistralai.client.models import AssistantMessage, BaseModelCard, ToolMessage, UserMessage
from prompts import CITIES, MODEL, PERSON, PROMPTS, RESULTS, TOOL, Person, user

N_LINES = 200
DOCUMENT = {"type": "document_url", "document_url": "https://example.org"}


@pytest.fixture(scope="module")
def client(server_url):
    return Mistral(api_key="none", server_url=server_url)


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


def test_parallel_calls_and_their_results(client):
    request = {"model": MODEL, "tools": [TOOL], "temperature": 0, "max_tokens": 100}
    messages = user(PROMPTS["two_cities"])
    choice = client.chat.complete(**request, messages=messages).choices[0]
    calls = choice.message.tool_calls
    with client.chat.stream(**request, messages=messages) as stream:
        chunks = [event.data for event in stream]
    streamed = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert choice.finish_reason == chunks[-1].choices[0].finish_reason == "tool_calls"
    assert [(call.index, call.function) for call in calls] == [(call.index, call.function) for call in streamed]
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": city} for city in CITIES]
    results = [
        ToolMessage(content=result, tool_call_id=call.id, name=call.function.name)
        for call, result in zip(calls, RESULTS, strict=True)
    ]
    rest = client.chat.complete(**request, messages=[*messages, choice.message, *results])
    assert rest.choices[0].message.content.startswith(PROMPTS["said_of_results"])


@pytest.mark.parametrize("choice", ["any", "required", {"type": "function", "function": {"name": "get_weather"}}])
def test_demanded_calls(client, choice):
    request = {"model": MODEL, "tools": [TOOL], "temperature": 0, "max_tokens": 100, "tool_choice": choice}
    calls = client.chat.complete(**request, messages=user("Hello!")).choices[0].message.tool_calls
    assert {call.function.name for call in calls} == {"get_weather"}


def test_an_answer_as_a_pydantic_type(client):
    request = {"model": MODEL, "messages": user(PROMPTS["extraction"]), "temperature": 0, "max_tokens": 60}
    assert client.chat.parse(**request, response_format=Person).choices[0].message.parsed == PERSON
    with client.chat.parse_stream(**request, response_format=Person) as stream:
        content = "".join(event.data.choices[0].delta.content or "" for event in stream)
    assert Person.model_validate_json(content) == PERSON


def test_fill_in_the_middle(client):
    request = {"model": MODEL, "prompt": "Hello, my", "suffix": "is Anna.", "max_tokens": 8, "random_seed": 1}
    answer = client.fim.complete(**request)
    assert answer.object == "chat.completion" and answer.usage.completion_tokens <= 8
    with client.fim.stream(**request) as stream:
        streamed = "".join(event.data.choices[0].delta.content or "" for event in stream)
    assert streamed == answer.choices[0].message.content


def test_a_batch_from_a_file(client):
    body = {"messages": user("Hello!"), "temperature": 0, "max_tokens": 4}
    lines = [json.dumps({"custom_id": f"line {i}", "body": body}) for i in range(N_LINES)]
    content = "\n".join(lines).encode()
    file = client.files.upload(file={"file_name": "lines.jsonl", "content": content}, purpose="batch")
    assert file.id in [each.id for each in client.files.list().data]
    assert client.files.retrieve(file_id=file.id).size_bytes == len(content)
    job = client.batch.jobs.create(
        input_files=[file.id], model=MODEL, endpoint="/v1/chat/completions", metadata={"run": "1"}
    )
    job = ended(client, job)
    assert job.status == "SUCCESS" and job.metadata == {"run": "1"}
    assert (job.total_requests, job.succeeded_requests, job.failed_requests) == (N_LINES, N_LINES, 0)
    output = client.files.download(file_id=job.output_file).read().decode()
    answers = [json.loads(line) for line in output.splitlines()]
    assert [answer["custom_id"] for answer in answers] == [f"line {i}" for i in range(N_LINES)]
    assert all(answer["response"]["body"]["choices"][0]["message"]["content"] for answer in answers)
    assert job.id in [each.id for each in client.batch.jobs.list().data]
    assert client.files.delete(file_id=file.id).deleted
    with pytest.raises(SDKError):
        client.files.retrieve(file_id=file.id)


def test_a_batch_of_its_own_requests(client):
    body = {"prompt": "Hello, my", "suffix": "is Anna.", "max_tokens": 4}
    requests = [{"custom_id": f"line {i}", "body": body} for i in range(3)]
    job = ended(client, client.batch.jobs.create(requests=requests, model=MODEL, endpoint="/v1/fim/completions"))
    assert (job.status, job.succeeded_requests) == ("SUCCESS", 3)


def ended(client, job):
    deadline = time.monotonic() + 120
    while job.status in ("QUEUED", "RUNNING") and time.monotonic() < deadline:
        time.sleep(0.1)
        job = client.batch.jobs.get(job_id=job.id)
    return job


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
