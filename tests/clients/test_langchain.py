"""The unmodified `langchain-openai` and `langchain-mistralai` packages against the server.

`langchain-mistralai` does not say who it is, so that a field that only Mistral has must: `safe_mode=False` sends
`safe_prompt`. Without it answers are right all the same, but a stream has calls in pieces, which this package does not put
together, and no usage."""

import pytest
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_mistralai import ChatMistralAI
from langchain_openai import ChatOpenAI, OpenAI
from prompts import CITIES, MODEL, PERSON, PROMPTS, RESULTS, TOOL, Person


def openai_chat(server_url, **settings):
    url = f"{server_url}/v1"
    return ChatOpenAI(model=MODEL, base_url=url, api_key="none", temperature=0, max_tokens=100, max_retries=0, **settings)


def mistral_chat(server_url, **settings):
    url = f"{server_url}/v1"
    return ChatMistralAI(model=MODEL, base_url=url, api_key="none", temperature=0, max_tokens=100, max_retries=1, **settings)


both = pytest.mark.parametrize("chat_model", [openai_chat, mistral_chat])
# With what each package must be told for calls and usage in its streams.
both_in_full = pytest.mark.parametrize(
    ("chat_model", "settings"), [(openai_chat, {"stream_usage": True}), (mistral_chat, {"safe_mode": False})]
)


@both_in_full
def test_invoke_and_stream(server_url, chat_model, settings):
    chat = chat_model(server_url, **settings)
    messages = [SystemMessage("You are a helpful assistant."), HumanMessage("Hello!")]
    whole = chat.invoke(messages)
    assert whole.response_metadata["finish_reason"] == "stop" and whole.usage_metadata["output_tokens"] > 0
    chunks = list(chat.stream(messages))
    assert len(chunks) > 3
    merged = sum(chunks[1:], start=chunks[0])
    assert merged.content == whole.content != ""
    assert merged.usage_metadata["total_tokens"] == whole.usage_metadata["total_tokens"]


@both
def test_async_and_batch(server_url, run, chat_model):
    async def ask():
        chat = chat_model(server_url)
        whole = await chat.ainvoke("Hello!")
        pieces = [chunk.content async for chunk in chat.astream("Hello!")]
        many = await chat.abatch(["Hello!"] * 4)
        return [whole.content, "".join(pieces), *(answer.content for answer in many)]

    contents = run(ask())
    assert len(contents) == 6 and len(set(contents)) == 1 and contents[0]


@both_in_full
def test_parallel_calls_and_their_results(server_url, chat_model, settings):
    bound = chat_model(server_url, **settings).bind_tools([TOOL])
    question = HumanMessage(PROMPTS["two_cities"])
    answer = bound.invoke([question])
    assert [(call["name"], call["args"]["city"]) for call in answer.tool_calls] == [("get_weather", city) for city in CITIES]
    chunks = list(bound.stream([question]))
    assert sum(chunks[1:], start=chunks[0]).tool_calls == answer.tool_calls
    results = [ToolMessage(result, tool_call_id=call["id"]) for call, result in zip(answer.tool_calls, RESULTS, strict=True)]
    assert bound.invoke([question, answer, *results]).content.startswith(PROMPTS["said_of_results"])


@pytest.mark.parametrize("choice", ["any", "required", "get_weather"])
def test_calls_demanded_by_openai(server_url, choice):
    bound = openai_chat(server_url).bind_tools([TOOL], tool_choice=choice, parallel_tool_calls=False)
    assert [call["name"] for call in bound.invoke("Hello!").tool_calls] == ["get_weather"]


def test_calls_demanded_by_mistralai(server_url):
    bound = mistral_chat(server_url, safe_mode=False).bind_tools([TOOL], tool_choice="any")
    assert {call["name"] for call in bound.invoke("Hello!").tool_calls} == {"get_weather"}


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize(
    ("chat_model", "settings"), [(openai_chat, {}), (mistral_chat, {}), (mistral_chat, {"safe_mode": False})]
)
def test_structured_output(server_url, chat_model, settings, method):
    chat = chat_model(server_url, **settings)
    assert chat.with_structured_output(Person, method=method).invoke(PROMPTS["extraction"]) == PERSON


def test_completions_of_openai(server_url):
    model = OpenAI(model=MODEL, base_url=f"{server_url}/v1", api_key="none", max_tokens=8, temperature=0, max_retries=0)
    whole = model.invoke("Hello, my name is")
    assert whole and "".join(model.stream("Hello, my name is")) == whole


def test_fields_of_mistralai(server_url):
    plain = mistral_chat(server_url).invoke("Hello!").usage_metadata["input_tokens"]
    safe = mistral_chat(server_url, safe_mode=True, random_seed=7).invoke("Hello!").usage_metadata["input_tokens"]
    assert safe > plain + 20
