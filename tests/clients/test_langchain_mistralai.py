"""The unmodified `langchain-mistralai` package against the server.

It does not say who it is, so that a field that only Mistral has must: `safe_mode=False` sends `safe_prompt`. Without it
answers are right all the same, but a stream has calls in pieces, which this package does not put together, and no usage."""

import pytest
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_mistralai import ChatMistralAI
from prompts import CITIES, MODEL, PERSON, PROMPTS, RESULTS, TOOL, Person


def chat_model(server_url, **settings):
    url = f"{server_url}/v1"
    return ChatMistralAI(model=MODEL, base_url=url, api_key="none", temperature=0, max_tokens=100, max_retries=1, **settings)


@pytest.fixture(scope="module")
def chat(server_url):
    return chat_model(server_url, safe_mode=False)


def test_invoke_and_stream(chat):
    messages = [SystemMessage("You are a helpful assistant."), HumanMessage("Hello!")]
    whole = chat.invoke(messages)
    assert whole.response_metadata["finish_reason"] == "stop" and whole.usage_metadata["output_tokens"] > 0
    chunks = list(chat.stream(messages))
    assert len(chunks) > 3
    merged = sum(chunks[1:], start=chunks[0])
    assert merged.content == whole.content != ""
    assert merged.usage_metadata["total_tokens"] == whole.usage_metadata["total_tokens"]


def test_async_and_batch(server_url, run):
    async def ask():
        chat = chat_model(server_url)
        whole = await chat.ainvoke("Hello!")
        pieces = [chunk.content async for chunk in chat.astream("Hello!")]
        many = await chat.abatch(["Hello!"] * 4)
        return [whole.content, "".join(pieces), *(answer.content for answer in many)]

    contents = run(ask())
    assert len(contents) == 6 and len(set(contents)) == 1 and contents[0]


def test_parallel_calls_and_their_results(chat):
    bound = chat.bind_tools([TOOL])
    question = HumanMessage(PROMPTS["two_cities"])
    answer = bound.invoke([question])
    assert [(call["name"], call["args"]["city"]) for call in answer.tool_calls] == [("get_weather", city) for city in CITIES]
    chunks = list(bound.stream([question]))
    assert sum(chunks[1:], start=chunks[0]).tool_calls == answer.tool_calls
    results = [ToolMessage(result, tool_call_id=call["id"]) for call, result in zip(answer.tool_calls, RESULTS, strict=True)]
    assert bound.invoke([question, answer, *results]).content.startswith(PROMPTS["said_of_results"])


def test_demanded_calls(chat):
    answer = chat.bind_tools([TOOL], tool_choice="any").invoke("Hello!")
    assert {call["name"] for call in answer.tool_calls} == {"get_weather"}


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output(server_url, method):
    for settings in ({}, {"safe_mode": False}):
        chat = chat_model(server_url, **settings)
        assert chat.with_structured_output(Person, method=method).invoke(PROMPTS["extraction"]) == PERSON


def test_its_own_fields(server_url):
    plain = chat_model(server_url).invoke("Hello!").usage_metadata["input_tokens"]
    safe = chat_model(server_url, safe_mode=True, random_seed=7).invoke("Hello!").usage_metadata["input_tokens"]
    assert safe > plain + 20
