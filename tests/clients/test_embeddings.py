"""Embeddings by every unmodified client for Python that knows them: what each gets is the same."""

import asyncio
import math
import os

import openai
import pytest
from langchain_mistralai import MistralAIEmbeddings
from langchain_openai import OpenAIEmbeddings
from mistralai.client import Mistral
from prompts import MODEL

# Else it asks the internet what models cost.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
# Else `langchain-mistralai` asks a hub for a tokenizer; it counts characters instead.
os.environ["HF_HUB_OFFLINE"] = "1"
import litellm  # noqa: E402

TEXTS = ["Hello!", "What's the weather like in Rasturk?", "The temperature is 21."]


@pytest.fixture(scope="module")
def client(server_url):
    return openai.OpenAI(api_key="none", base_url=f"{server_url}/v1", max_retries=0)


@pytest.fixture(scope="module")
def expected(client):
    """As numbers in JSON; the client itself would ask for base64."""
    answer = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    assert [each.index for each in answer.data] == [0, 1, 2] and answer.usage.prompt_tokens > len(TEXTS)
    return [each.embedding for each in answer.data]


def agree(found, expected):
    assert len(found) == len(expected)
    for vector, other in zip(found, expected, strict=True):
        assert vector == pytest.approx(other, abs=1e-6)


def test_they_are_unit_vectors_and_differ(expected):
    assert all(math.hypot(*vector) == pytest.approx(1, abs=1e-3) for vector in expected)
    assert len({tuple(vector) for vector in expected}) == len(TEXTS)


def test_openai(server_url, client, expected):
    agree([each.embedding for each in client.embeddings.create(model=MODEL, input=TEXTS).data], expected)
    agree([client.embeddings.create(model=MODEL, input=TEXTS[0]).data[0].embedding], expected[:1])

    async def ask():
        async with openai.AsyncOpenAI(api_key="none", base_url=f"{server_url}/v1") as client:
            return await client.embeddings.create(model=MODEL, input=TEXTS)

    agree([each.embedding for each in asyncio.run(ask()).data], expected)


def test_openai_dimensions(client, expected):
    (short,) = client.embeddings.create(model=MODEL, input=TEXTS[0], dimensions=16).data
    norm = math.hypot(*expected[0][:16])
    agree([short.embedding], [[value / norm for value in expected[0][:16]]])
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input=TEXTS[0], dimensions=100_000)
    assert caught.value.param == "dimensions"


def test_mistralai(server_url, expected):
    client = Mistral(api_key="none", server_url=server_url)
    answer = client.embeddings.create(model=MODEL, inputs=TEXTS)
    assert answer.usage.prompt_tokens > len(TEXTS)
    agree([each.embedding for each in answer.data], expected)
    small = client.embeddings.create(model=MODEL, inputs=TEXTS, output_dimension=16, output_dtype="int8")
    assert all(len(each.embedding) == 16 and max(map(abs, each.embedding)) <= 128 for each in small.data)


def test_langchain_openai(server_url, expected):
    # What it would count tokens with by default is not for this model.
    settings = {"base_url": f"{server_url}/v1", "api_key": "none", "check_embedding_ctx_length": False}
    embeddings = OpenAIEmbeddings(model=MODEL, **settings)
    agree(embeddings.embed_documents(TEXTS), expected)
    agree([embeddings.embed_query(TEXTS[0])], expected[:1])


def test_langchain_mistralai(server_url, expected):
    embeddings = MistralAIEmbeddings(model=MODEL, endpoint=f"{server_url}/v1/", api_key="none", max_retries=1)
    agree(embeddings.embed_documents(TEXTS), expected)
    agree([embeddings.embed_query(TEXTS[0])], expected[:1])


@pytest.mark.parametrize("provider", ["openai", "mistral", "hosted_vllm"])
def test_litellm(server_url, expected, provider):
    settings = {"api_base": f"{server_url}/v1", "api_key": "none"}
    answer = litellm.embedding(f"{provider}/{MODEL}", input=TEXTS, **settings)
    agree([each["embedding"] for each in answer.data], expected)
