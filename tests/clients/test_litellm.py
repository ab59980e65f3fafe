"""The unmodified `litellm` package against the server, by each of its providers that can be told an address."""

import json
import os
import time

import pytest
from prompts import CITIES, MODEL, PERSON, PROMPTS, RESULTS, TOOL, Person, user

# Else it asks the internet what models cost.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm  # noqa: E402

N_LINES = 200


@pytest.fixture(params=["openai", "mistral", "hosted_vllm"])
def settings(server_url, request):
    provider = request.param
    return {
        "model": f"{provider}/{MODEL}",
        "api_base": f"{server_url}/v1",
        "api_key": "none",
        "temperature": 0,
        "max_tokens": 100,
        "max_retries": 0,
    }


def test_completion_and_stream(settings):
    whole = litellm.completion(messages=user("Hello!"), **settings)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(litellm.completion(messages=user("Hello!"), stream=True, **settings))
    assert len(chunks) > 3
    assert litellm.stream_chunk_builder(chunks).choices[0].message.content == whole.choices[0].message.content != ""


def test_async(settings, run):
    async def ask():
        whole = await litellm.acompletion(messages=user("Hello!"), **settings)
        stream = await litellm.acompletion(messages=user("Hello!"), stream=True, **settings)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return whole.choices[0].message.content, "".join(pieces)

    whole, streamed = run(ask())
    assert whole == streamed != ""


def test_parallel_calls_and_their_results(settings):
    request = settings | {"tools": [TOOL]}
    messages = user(PROMPTS["two_cities"])
    message = litellm.completion(messages=messages, **request).choices[0].message
    assert [json.loads(call.function.arguments) for call in message.tool_calls] == [{"city": city} for city in CITIES]
    streamed = litellm.stream_chunk_builder(list(litellm.completion(messages=messages, stream=True, **request)))
    assert [call.function for call in streamed.choices[0].message.tool_calls] == [call.function for call in message.tool_calls]
    results = [
        {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": result}
        for call, result in zip(message.tool_calls, RESULTS, strict=True)
    ]
    rest = litellm.completion(messages=[*messages, message, *results], **request)
    assert rest.choices[0].message.content.startswith(PROMPTS["said_of_results"])


def test_structured_output(settings):
    answer = litellm.completion(messages=user(PROMPTS["extraction"]), response_format=Person, **settings)
    assert Person.model_validate_json(answer.choices[0].message.content) == PERSON


def test_completions(server_url):
    request = {"api_base": f"{server_url}/v1", "api_key": "none", "max_tokens": 8, "temperature": 0}
    answer = litellm.text_completion("Hello, my", f"text-completion-openai/{MODEL}", **request)
    assert answer.choices[0].text and answer.usage.completion_tokens <= 8


def test_fill_in_the_middle(server_url):
    request = {
        "model": f"text-completion-codestral/{MODEL}",
        "api_base": f"{server_url}/v1/fim/completions",
        "api_key": "none",
        "prompt": "Hello, my",
        "suffix": "is Anna.",
        "max_tokens": 8,
        "temperature": 0,
    }
    whole = litellm.text_completion(**request).choices[0].text
    pieces = [chunk.choices[0].text or "" for chunk in litellm.text_completion(**request, stream=True)]
    assert whole == "".join(pieces) != ""


def test_models(server_url):
    asked = {"check_provider_endpoint": True, "custom_llm_provider": "openai", "api_base": f"{server_url}/v1"}
    assert litellm.get_valid_models(**asked, api_key="none") == [MODEL]


def test_a_batch_from_a_file(server_url):
    settings = {"custom_llm_provider": "openai", "api_base": f"{server_url}/v1", "api_key": "none"}
    body = {"model": MODEL, "messages": user("Hello!"), "max_tokens": 4}
    lines = [json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/chat/completions", "body": body}) for i in range(N_LINES)]
    file = litellm.create_file(file=("lines.jsonl", "\n".join(lines).encode()), purpose="batch", **settings)
    request = {"completion_window": "24h", "endpoint": "/v1/chat/completions", "input_file_id": file.id}
    batch = litellm.create_batch(**request, **settings)
    deadline = time.monotonic() + 120
    while batch.status in ("validating", "in_progress", "finalizing") and time.monotonic() < deadline:
        time.sleep(0.1)
        batch = litellm.retrieve_batch(batch_id=batch.id, **settings)
    assert batch.status == "completed" and batch.request_counts.completed == N_LINES
    answers = litellm.file_content(file_id=batch.output_file_id, **settings).text.splitlines()
    assert [json.loads(answer)["custom_id"] for answer in answers] == [str(i) for i in range(N_LINES)]
    assert litellm.file_delete(file_id=file.id, **settings).deleted
