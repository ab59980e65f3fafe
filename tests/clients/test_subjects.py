"""What an official client has stored about a person is told and deleted over HTTP."""

import json
import urllib.error
import urllib.request

import openai
import pytest
from conftest import TINY, made_key, serving
from prompts import MODEL


@pytest.fixture(scope="module")
def governed(tmp_path_factory):
    data = tmp_path_factory.mktemp("governed")
    keys = {role: made_key(data, role) for role in ("admin", "auditor", "developer")}
    with serving(TINY, "--max-model-len", "512", "--data-dir", data, "--audit-capture") as url:
        yield url, keys


def subjects(governed, role, method):
    url, keys = governed
    head = {"Authorization": f"Bearer {keys[role]}"}
    request = urllib.request.Request(f"{url}/admin/v1/subjects?subject=customer-7", headers=head, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def test_what_is_held_is_told_and_deleted(governed):
    url, keys = governed
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=keys["developer"])
    stored = client.responses.create(
        model=MODEL, input="Hello!", safety_identifier="customer-7", max_output_tokens=16
    )
    told = subjects(governed, "auditor", "GET")["data"]
    assert [held["kind"] for held in told] == ["response", "audit record"]
    assert told[0]["id"] == stored.id
    with pytest.raises(urllib.error.HTTPError) as refused:
        subjects(governed, "auditor", "DELETE")
    assert refused.value.code == 403
    assert subjects(governed, "admin", "DELETE")["deleted"]["response"] == 1
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(stored.id)
    left = subjects(governed, "auditor", "GET")["data"]
    assert [held["kind"] for held in left] == ["audit record"]
