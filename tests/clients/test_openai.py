"""The unmodified `openai` package against the server."""

import asyncio

import openai
import pytest

MODEL = "tiny"
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
    return openai.OpenAI(api_key="none", base_url=f"{server_url}/v1", max_retries=0)


def user(text):
    return [{"role": "user", "content": text}]


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


def test_tools(client):
    request = {"model": MODEL, "tools": [TOOL], "temperature": 0, "max_tokens": 60}
    messages = user("What is the weather in Paris?")
    answer = client.chat.completions.create(**request, messages=messages)
    call = answer.choices[0].message.tool_calls[0]
    assert answer.choices[0].finish_reason == "tool_calls" and call.function.name == "get_weather"
    arguments = ""
    for chunk in client.chat.completions.create(**request, messages=messages, stream=True):
        for piece in chunk.choices[0].delta.tool_calls or []:
            arguments += piece.function.arguments or ""
    assert arguments == call.function.arguments
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear"}'}
    rest = client.chat.completions.create(**request, messages=[*messages, answer.choices[0].message, result])
    assert rest.choices[0].message.content or rest.choices[0].message.tool_calls


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
