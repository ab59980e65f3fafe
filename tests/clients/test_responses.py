"""OpenAI's Responses by those unmodified clients that are not OpenAI's own: `langchain-openai` and `litellm`."""

import json
import os

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from prompts import CITIES, MODEL, PERSON, PROMPTS, RESULTS, TOOL, Person, user

# Else it asks the internet what models cost.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm  # noqa: E402


def chat_model(server_url, **settings):
    settings |= {"base_url": f"{server_url}/v1", "api_key": "none", "temperature": 0, "max_retries": 0}
    return ChatOpenAI(model=MODEL, max_tokens=100, use_responses_api=True, **settings)


@pytest.fixture(scope="module")
def chat(server_url):
    return chat_model(server_url)


@pytest.fixture
def settings(server_url):
    return {"model": f"openai/{MODEL}", "api_base": f"{server_url}/v1", "api_key": "none", "temperature": 0}


def test_langchain_answers_whole_and_streamed(chat):
    whole = chat.invoke("Hello!")
    assert whole.text and whole.usage_metadata["output_tokens"] > 0 and whole.response_metadata["id"].startswith("resp_")
    chunks = list(chat.stream("Hello!"))
    merged = sum(chunks[1:], start=chunks[0])
    assert len(chunks) > 3 and merged.text == whole.text
    assert merged.usage_metadata["total_tokens"] == whole.usage_metadata["total_tokens"]


def test_langchain_async(server_url, run):
    async def ask():
        chat = chat_model(server_url)
        whole = await chat.ainvoke("Hello!")
        return whole.text, "".join([chunk.text async for chunk in chat.astream("Hello!")])

    whole, streamed = run(ask())
    assert whole == streamed != ""


def test_langchain_continues_by_id(server_url):
    chat = chat_model(server_url, use_previous_response_id=True)
    first = chat.invoke("Hello!")
    second = chat.invoke([HumanMessage("Hello!"), first, HumanMessage("Thank you!")])
    alone = chat.invoke("Thank you!")
    assert second.usage_metadata["input_tokens"] > alone.usage_metadata["input_tokens"]


def test_langchain_parallel_calls_and_their_results(chat):
    bound = chat.bind_tools([TOOL])
    question = HumanMessage(PROMPTS["two_cities"])
    answer = bound.invoke([question])
    assert [(call["name"], call["args"]["city"]) for call in answer.tool_calls] == [("get_weather", city) for city in CITIES]
    chunks = list(bound.stream([question]))
    streamed = sum(chunks[1:], start=chunks[0]).tool_calls
    assert [call["args"] for call in streamed] == [call["args"] for call in answer.tool_calls]
    results = [ToolMessage(result, tool_call_id=call["id"]) for call, result in zip(answer.tool_calls, RESULTS, strict=True)]
    assert bound.invoke([question, answer, *results]).text.startswith(PROMPTS["said_of_results"])


def test_langchain_structured_output(chat):
    assert chat.with_structured_output(Person, method="json_schema").invoke(PROMPTS["extraction"]) == PERSON


def test_litellm_answers_and_continues(settings):
    whole = litellm.responses(input="Hello!", max_output_tokens=20, **settings)
    text = whole.output[0].content[0].text
    events = list(litellm.responses(input="Hello!", max_output_tokens=20, stream=True, **settings))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text != ""
    assert events[-1].type == "response.completed"
    rest = litellm.responses(input="Thank you!", previous_response_id=whole.id, max_output_tokens=20, **settings)
    assert rest.usage.input_tokens > whole.usage.input_tokens + whole.usage.output_tokens


def test_litellm_calls_and_their_results(settings):
    tool = {"type": "function", **TOOL["function"]}
    asked = user(PROMPTS["two_cities"])
    answer = litellm.responses(input=asked, tools=[tool], **settings)
    calls = [item for item in answer.output if item.type == "function_call"]
    assert [json.loads(call.arguments)["city"] for call in calls] == CITIES
    results = [
        {"type": "function_call_output", "call_id": call.call_id, "output": result}
        for call, result in zip(calls, RESULTS, strict=True)
    ]
    rest = litellm.responses(input=results, previous_response_id=answer.id, tools=[tool], max_output_tokens=60, **settings)
    assert rest.output[0].content[0].text.startswith(PROMPTS["said_of_results"])
