"""The unmodified `openai` package against the server. Which errors it raises is in test_errors.py."""

import asyncio
import json
import time

import openai
import pytest
from prompts import CITIES, MODEL, PERSON, PROMPTS, RESULTS, TOOL, Person, user
from pydantic import BaseModel

N_LINES = 200


@pytest.fixture(scope="module")
def client(server_url):
    return openai.OpenAI(api_key="none", base_url=f"{server_url}/v1", max_retries=0)


def test_chat(client):
    answer = client.chat.completions.create(model=MODEL, messages=user("Hello!"), temperature=0, max_tokens=20)
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_stream(client):
    request = {"model": MODEL, "messages": user("Hello!"), "temperature": 0, "max_tokens": 20}
    whole = client.chat.completions.create(**request)
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == whole.usage.total_tokens
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert streamed == whole.choices[0].message.content


def test_async(server_url):
    async def ask():
        async with openai.AsyncOpenAI(api_key="none", base_url=f"{server_url}/v1") as client:
            answer = await client.chat.completions.create(model=MODEL, messages=user("Hello!"), max_tokens=8)
            return answer.choices[0].message.content

    assert asyncio.run(ask())


def test_async_stream(server_url):
    async def ask():
        async with openai.AsyncOpenAI(api_key="none", base_url=f"{server_url}/v1") as client:
            request = {"model": MODEL, "messages": user("Hello!"), "temperature": 0, "max_tokens": 20}
            whole, stream = await asyncio.gather(
                client.chat.completions.create(**request), client.chat.completions.create(**request, stream=True)
            )
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content, "".join(pieces)

    whole, streamed = asyncio.run(ask())
    assert whole == streamed != ""


def test_parallel_calls_and_their_results(client):
    request = {"model": MODEL, "tools": [TOOL], "temperature": 0, "max_tokens": 100}
    messages = user(PROMPTS["two_cities"])
    choice = client.chat.completions.create(**request, messages=messages).choices[0]
    calls = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and len({call.id for call in calls}) == 2
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": city} for city in CITIES]
    with client.chat.completions.stream(**request, messages=messages) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert [call.function.arguments for call in streamed] == [call.function.arguments for call in calls]
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": result}
        for call, result in zip(calls, RESULTS, strict=True)
    ]
    rest = client.chat.completions.create(**request, messages=[*messages, choice.message, *results])
    assert rest.choices[0].message.content.startswith(PROMPTS["said_of_results"])


def test_one_call_where_parallel_ones_are_not_wanted(client):
    request = {"model": MODEL, "tools": [TOOL], "temperature": 0, "max_tokens": 100, "parallel_tool_calls": False}
    answer = client.chat.completions.create(**request, messages=user(PROMPTS["two_cities"]))
    assert len(answer.choices[0].message.tool_calls) == 1


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_demanded_calls(client, choice):
    request = {"model": MODEL, "tools": [TOOL], "temperature": 0, "max_tokens": 100, "tool_choice": choice}
    calls = client.chat.completions.create(**request, messages=user("Hello!")).choices[0].message.tool_calls
    assert {call.function.name for call in calls} == {"get_weather"}


def test_an_answer_as_a_pydantic_type(client):
    request = {"model": MODEL, "messages": user(PROMPTS["extraction"]), "temperature": 0, "max_tokens": 60}
    whole = client.chat.completions.parse(**request, response_format=Person)
    assert whole.choices[0].message.parsed == PERSON
    with client.chat.completions.stream(**request, response_format=Person) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == PERSON


def test_arguments_as_a_pydantic_type(client):
    class GetWeather(BaseModel):
        city: str

    tool = openai.pydantic_function_tool(GetWeather, name="get_weather", description="Get the weather in a city")
    request = {"model": MODEL, "tools": [tool], "temperature": 0, "max_tokens": 60}
    answer = client.chat.completions.parse(**request, messages=user(PROMPTS["one_city"]))
    assert answer.choices[0].message.tool_calls[0].function.parsed_arguments == GetWeather(city=PROMPTS["city"])


def test_log_probabilities_and_choices(client):
    request = {"model": MODEL, "messages": user("Hello!"), "max_tokens": 4, "temperature": 1, "seed": 7}
    answer = client.chat.completions.create(**request, n=3, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(len(token.top_logprobs) == 2 for choice in answer.choices for token in choice.logprobs.content)


def test_fields_of_mistral_do_not_change_the_form(client):
    extra = {"random_seed": 7, "safe_prompt": True}
    answer = client.chat.completions.create(model=MODEL, messages=user("Hello!"), max_tokens=8, extra_body=extra)
    assert isinstance(answer.choices[0].message.content, str)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=user("Hello!"), temperature=9, extra_body=extra)
    assert caught.value.param == "temperature"


def test_completions_with_a_suffix(client):
    answer = client.completions.create(model=MODEL, prompt="Hello, my", suffix="is Anna.", max_tokens=8)
    assert answer.object == "text_completion" and answer.usage.completion_tokens <= 8


def test_a_batch_from_a_file(client):
    body = {"model": MODEL, "messages": user("Hello!"), "temperature": 0, "max_tokens": 4}
    line = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    lines = [json.dumps({"custom_id": f"line {i}", **line}) for i in range(N_LINES - 1)]
    lines.append(json.dumps({"custom_id": "wrong", **line, "body": {**body, "temperature": 9}}))
    file = client.files.create(file=("lines.jsonl", "\n".join(lines).encode()), purpose="batch")
    assert file.id in [each.id for each in client.files.list(purpose="batch")]
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"run": "1"}
    )
    deadline = time.monotonic() + 120
    while batch.status in ("validating", "in_progress", "finalizing") and time.monotonic() < deadline:
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed" and batch.metadata == {"run": "1"}
    assert dict(batch.request_counts) == {"total": N_LINES, "completed": N_LINES - 1, "failed": 1}
    assert batch.id in [each.id for each in client.batches.list()]
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == [f"line {i}" for i in range(N_LINES - 1)]
    contents = {answer["response"]["body"]["choices"][0]["message"]["content"] for answer in answers}
    assert len(contents) == 1 and contents != {""}
    (error,) = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
    assert error["custom_id"] == "wrong" and error["response"]["status_code"] == 400
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_models(client):
    assert [card.id for card in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "tramontane"


@pytest.mark.parametrize(
    ("error", "code", "ask"),
    [
        (openai.BadRequestError, None, lambda it: it.chat.completions.create(model=MODEL, messages=[])),
        (openai.NotFoundError, "model_not_found", lambda it: it.models.retrieve("other")),
        (openai.InternalServerError, "not_served", lambda it: it.images.generate(prompt="a")),
        (openai.InternalServerError, "not_served", lambda it: it.fine_tuning.jobs.list()),
        (openai.InternalServerError, "not_served", lambda it: it.vector_stores.list()),
        (openai.InternalServerError, "not_served", lambda it: it.models.delete(MODEL)),
    ],
)
def test_errors(client, error, code, ask):
    with pytest.raises(error) as caught:
        ask(client)
    assert caught.value.code == code


def test_what_is_not_served_is_not_tried_again(server_url):
    client = openai.OpenAI(api_key="none", base_url=f"{server_url}/v1", max_retries=5)
    with pytest.raises(openai.InternalServerError) as caught:
        client.images.generate(prompt="a")
    assert caught.value.status_code == 501
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"
