"""What a quota refuses, as the official clients tell it."""

import subprocess

import openai
import pytest
from conftest import TINY, binary, made_key, serving
from mistralai.client import Mistral
from mistralai.client.errors import SDKError
from prompts import MODEL, user


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """A server that lets in a key for one request a minute, and one for few tokens a day: its address and the keys."""
    data = tmp_path_factory.mktemp("limited")
    keys = {limit: made_key(data, role) for limit, role in (("minute", "developer"), ("day", "service"))}
    for role, *limit in (("developer", "--requests-per-minute", "1"), ("service", "--tokens-per-day", "5")):
        command = [binary(), "quota", "set", "--key", f"{role}-key", *limit, "--data-dir", data]
        subprocess.run(command, check=True, capture_output=True)
    with serving(TINY, "--max-model-len", "512", "--data-dir", data) as url:
        yield url, keys


def test_a_limit_by_the_minute(limited):
    url, keys = limited
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=keys["minute"], max_retries=0)
    first = client.chat.completions.with_raw_response.create(model=MODEL, messages=user("Hello!"), max_tokens=2)
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model=MODEL, messages=user("Hello!"), max_tokens=2)
    assert refused.value.code == "rate_limit_exceeded"
    told_to_wait(refused.value.response.headers)
    with pytest.raises(SDKError) as refused:
        Mistral(server_url=url, api_key=keys["minute"]).chat.complete(model=MODEL, messages=user("Hello!"), max_tokens=2)
    assert refused.value.status_code == 429
    told_to_wait(refused.value.headers)


def told_to_wait(headers):
    """A refusal says what an answer says, and when to come again."""
    assert headers["x-ratelimit-limit-requests"] == "1"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"]
    assert 1 <= int(headers["retry-after"]) <= 61


def test_a_budget(limited):
    url, keys = limited
    # With its retries: the server tells it that none would help.
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=keys["day"])
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model=MODEL, messages=user("Hello!"), max_tokens=20)
    assert refused.value.code == "insufficient_quota"
    assert refused.value.response.headers["x-should-retry"] == "false"
