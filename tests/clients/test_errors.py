"""Each client raises its own exception for what the server answers, status by status."""

import dataclasses
import os
import time

import httpx
import openai
import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_mistralai import ChatMistralAI
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models import base as langchain_openai
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, SDKError
from prompts import MODEL, user

# Else it asks the internet what models cost.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm  # noqa: E402


@dataclasses.dataclass
class Fault:
    """What goes wrong: of which server is asked what, and the status."""

    status: int
    server: str = "server_url"
    model: str = MODEL
    content: str = "Hello!"
    fields: dict = dataclasses.field(default_factory=dict)


FAULTS = {
    "field": Fault(400, fields={"temperature": 9}),
    "context": Fault(400, content="Hello!" * 999),
    "stranger": Fault(401, "keyed_url"),
    "model": Fault(404, model="other"),
    "large": Fault(413, "narrow_url", content="a" * 10_000),
    "busy": Fault(429, "busy_url"),
    "broken": Fault(500, "broken_url"),
    "loading": Fault(503, "loading_url"),
    "slow": Fault(504, "hasty_url", fields={"min_tokens": 4000}),
}


def ask_openai(url, fault):
    client = openai.OpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0)
    client.chat.completions.create(model=fault.model, messages=user(fault.content), extra_body=fault.fields)


def ask_mistralai(url, fault):
    client = Mistral(api_key="none", server_url=url)
    client.chat.complete(model=fault.model, messages=user(fault.content), **fault.fields)


def ask_langchain_openai(url, fault):
    settings = {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}
    ChatOpenAI(model=fault.model, extra_body=fault.fields, **settings).invoke(fault.content)


def ask_langchain_mistralai(url, fault):
    chat = ChatMistralAI(model=fault.model, base_url=f"{url}/v1", api_key="none", max_retries=1)
    chat.bind(**fault.fields).invoke(fault.content)


def ask_litellm_for_openai(url, fault):
    ask_litellm("openai", url, fault)


def ask_litellm_for_mistral(url, fault):
    ask_litellm("mistral", url, fault)


def ask_litellm(provider, url, fault):
    settings = {"api_base": f"{url}/v1", "api_key": "none", "max_retries": 0}
    litellm.completion(f"{provider}/{fault.model}", user(fault.content), **settings, **fault.fields)


CLIENTS = {
    ask_openai: {
        "field": openai.BadRequestError,
        "context": openai.BadRequestError,
        "stranger": openai.AuthenticationError,
        "model": openai.NotFoundError,
        "large": openai.APIStatusError,
        "busy": openai.RateLimitError,
        "broken": openai.InternalServerError,
        "loading": openai.InternalServerError,
        "slow": openai.InternalServerError,
    },
    ask_mistralai: dict.fromkeys(FAULTS, SDKError) | {"field": HTTPValidationError},
    ask_langchain_openai: {
        "field": langchain_openai.OpenAIInvalidRequestError,
        "context": langchain_openai.OpenAIContextOverflowError,
        "stranger": langchain_openai.OpenAIAuthenticationError,
        "model": langchain_openai.OpenAIModelNotFoundError,
        "large": openai.APIStatusError,
        "busy": langchain_openai.OpenAIRateLimitError,
        "broken": langchain_openai.OpenAIAPIError,
        "loading": langchain_openai.OpenAIAPIError,
        "slow": langchain_openai.OpenAIAPIError,
    },
    ask_langchain_mistralai: dict.fromkeys(FAULTS, httpx.HTTPStatusError),
    ask_litellm_for_openai: {
        "field": litellm.BadRequestError,
        "context": litellm.ContextWindowExceededError,
        "stranger": litellm.AuthenticationError,
        "model": litellm.NotFoundError,
        "large": litellm.APIError,
        "busy": litellm.RateLimitError,
        "broken": litellm.InternalServerError,
        "loading": litellm.ServiceUnavailableError,
        "slow": litellm.Timeout,
    },
    ask_litellm_for_mistral: {
        "field": litellm.BadRequestError,
        "context": litellm.ContextWindowExceededError,
        "stranger": litellm.AuthenticationError,
        "model": litellm.NotFoundError,
        "large": litellm.BadRequestError,
        "busy": litellm.RateLimitError,
        "broken": litellm.InternalServerError,
        "loading": litellm.ServiceUnavailableError,
        "slow": litellm.Timeout,
    },
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_client_raises_its_own(request, name):
    fault = FAULTS[name]
    url = request.getfixturevalue(fault.server)
    raised = {ask: caught(ask, url, fault) for ask in CLIENTS}
    expected = {ask.__name__: errors[name].__name__ for ask, errors in CLIENTS.items()}
    assert {ask.__name__: type(error).__name__ for ask, error in raised.items()} == expected
    for ask, error in raised.items():
        assert type(error) is CLIENTS[ask][name]
        # In Mistral's dialect what is wrong with one field is 422.
        assert status_of(error) == (422 if isinstance(error, HTTPValidationError) else fault.status)


def caught(ask, url, fault):
    try:
        ask(url, fault)
    except Exception as error:
        return error
    return None


def status_of(error):
    return error.response.status_code if isinstance(error, httpx.HTTPStatusError) else error.status_code


def test_whoever_has_a_key_is_answered(keyed):
    url, keys = keyed
    settings = {"api_key": keys["developer"], "max_retries": 0}
    answer = openai.OpenAI(base_url=f"{url}/v1", **settings).chat.completions.create(model=MODEL, messages=user("Hello!"))
    assert answer.choices[0].message.content
    answer = Mistral(api_key=keys["developer"], server_url=url).chat.complete(model=MODEL, messages=user("Hello!"))
    assert answer.choices[0].message.content


def test_whoever_may_not_is_told(keyed):
    url, keys = keyed
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=keys["auditor"], max_retries=0)
    assert client.models.list().data
    with pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model=MODEL, messages=user("Hello!"))
    with pytest.raises(SDKError) as raised:
        Mistral(api_key=keys["auditor"], server_url=url).chat.complete(model=MODEL, messages=user("Hello!"))
    assert raised.value.status_code == 403


def test_langchain_knows_what_is_too_long(server_url):
    with pytest.raises(ContextOverflowError):
        ask_langchain_openai(server_url, FAULTS["context"])


def test_a_wrong_field_of_a_route_that_only_mistral_has(server_url):
    client = openai.OpenAI(api_key="none", base_url=f"{server_url}/v1", max_retries=0)
    with pytest.raises(openai.UnprocessableEntityError):
        client.post("/fim/completions", body={"model": MODEL, "prompt": 1}, cast_to=object)


def test_what_cannot_be_cancelled_any_more(server_url):
    client = openai.OpenAI(api_key="none", base_url=f"{server_url}/v1", max_retries=0)
    lines = client.files.create(file=("lines.jsonl", b"{}"), purpose="batch")
    batch = client.batches.create(
        input_file_id=lines.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    deadline = time.monotonic() + 60
    while client.batches.retrieve(batch.id).status != "failed" and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


def test_streams_that_break(broken_url):
    with pytest.raises(openai.APIError):
        client = openai.OpenAI(api_key="none", base_url=f"{broken_url}/v1", max_retries=0)
        list(client.chat.completions.create(model=MODEL, messages=user("Hello!"), stream=True))
    with pytest.raises(openai.APIError):
        list(ChatOpenAI(model=MODEL, base_url=f"{broken_url}/v1", api_key="none", max_retries=0).stream("Hello!"))
