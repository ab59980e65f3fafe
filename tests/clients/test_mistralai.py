"""The unmodified `mistralai` package against the server: every answer must fit its models, every error its classes."""

import asyncio
import json
import time

import pytest
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, SDKError
from mistralai.client.models import AssistantMessage, BaseModelCard, FunctionResultEntry, ToolMessage, UserMessage
from prompts import CITIES, MODEL, PERSON, PROMPTS, RESULTS, TOOL, Person, user

N_LINES = 200
DOCUMENT = {"type": "document_url", "document_url": "https://example.org"}


@pytest.fixture(scope="module")
def client(server_url):
    return Mistral(api_key="none", server_url=server_url)


def test_chat(client):
    answer = client.chat.complete(model=MODEL, messages=user("Hello!"), temperature=0, max_tokens=20)
    assert answer.object == "chat.completion" and answer.model == MODEL
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_messages_of_its_own_types(client):
    messages = [UserMessage(content="Hello!"), AssistantMessage(content="Hello! How can I help?"), UserMessage(content="Thanks.")]
    assert client.chat.complete(model=MODEL, messages=messages, max_tokens=8).choices[0].message.content


def test_stream(client):
    request = {"model": MODEL, "messages": user("Hello!"), "temperature": 0, "max_tokens": 20}
    whole = client.chat.complete(**request)
    with client.chat.stream(**request) as stream:
        chunks = [event.data for event in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_async(server_url):
    async def both():
        async with Mistral(api_key="none", server_url=server_url) as client:
            request = {"model": MODEL, "messages": user("Hello!"), "temperature": 0, "max_tokens": 20}
            whole = await client.chat.complete_async(**request)
            streamed = ""
            async for event in await client.chat.stream_async(**request):
                streamed += event.data.choices[0].delta.content or ""
            return whole.choices[0].message.content, streamed

    whole, streamed = asyncio.run(both())
    assert whole == streamed


def test_prefix(client):
    prefix = "Hello! How"
    messages = [*user("Hello!"), {"role": "assistant", "content": prefix, "prefix": True}]
    request = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 8}
    content = client.chat.complete(**request).choices[0].message.content
    assert content.startswith(prefix) and len(content) > len(prefix)
    with client.chat.stream(**request) as stream:
        assert "".join(event.data.choices[0].delta.content or "" for event in stream) == content


def test_random_seed(client):
    def sample(seed):
        return client.chat.complete(
            model=MODEL, messages=user("Hello!"), temperature=1.5, max_tokens=20, random_seed=seed
        ).choices[0].message.content

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in range(8)}) > 1


def test_fields_of_mistral(client):
    request = {"model": MODEL, "messages": user("Hello!"), "temperature": 0, "max_tokens": 20}
    plain = client.chat.complete(**request)
    safe = client.chat.complete(**request, safe_prompt=True)
    assert safe.usage.prompt_tokens > plain.usage.prompt_tokens + 20
    text = plain.choices[0].message.content
    predicted = client.chat.complete(
        **request,
        prediction={"type": "content", "content": text},
        metadata={"tenant": "a"},
        prompt_cache_key="a",
        n=2,
        service_tier="auto",
    )
    assert [choice.message.content for choice in predicted.choices] == [text, text]


def test_log_probabilities(client):
    answer = client.chat.complete(
        model=MODEL,
        messages=user("Hello!"),
        max_tokens=4,
        logprobs=True,
        top_logprobs=2,
        prompt_logprobs=True,
        top_prompt_logprobs=1,
    )
    choice = answer.choices[0]
    assert len(choice.logprobs.content) <= 4 and len(choice.logprobs.content[0].top_logprobs) == 2
    assert len(choice.prompt_logprobs.content) == answer.usage.prompt_tokens - 1


def test_the_longest_sequence_ends_an_answer(client):
    answer = client.chat.complete(model=MODEL, messages=user("Hello!"), min_tokens=480, temperature=1)
    assert answer.choices[0].finish_reason in ("model_length", "stop")


def test_parallel_calls_and_their_results(client):
    request = {"model": MODEL, "tools": [TOOL], "temperature": 0, "max_tokens": 100}
    messages = user(PROMPTS["two_cities"])
    choice = client.chat.complete(**request, messages=messages).choices[0]
    calls = choice.message.tool_calls
    with client.chat.stream(**request, messages=messages) as stream:
        chunks = [event.data for event in stream]
    streamed = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert choice.finish_reason == chunks[-1].choices[0].finish_reason == "tool_calls"
    assert [(call.index, call.function) for call in calls] == [(call.index, call.function) for call in streamed]
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": city} for city in CITIES]
    results = [
        ToolMessage(content=result, tool_call_id=call.id, name=call.function.name)
        for call, result in zip(calls, RESULTS, strict=True)
    ]
    rest = client.chat.complete(**request, messages=[*messages, choice.message, *results])
    assert rest.choices[0].message.content.startswith(PROMPTS["said_of_results"])


@pytest.mark.parametrize("choice", ["any", "required", {"type": "function", "function": {"name": "get_weather"}}])
def test_demanded_calls(client, choice):
    request = {"model": MODEL, "tools": [TOOL], "temperature": 0, "max_tokens": 100, "tool_choice": choice}
    calls = client.chat.complete(**request, messages=user("Hello!")).choices[0].message.tool_calls
    assert {call.function.name for call in calls} == {"get_weather"}


def test_an_answer_as_a_pydantic_type(client):
    request = {"model": MODEL, "messages": user(PROMPTS["extraction"]), "temperature": 0, "max_tokens": 60}
    assert client.chat.parse(**request, response_format=Person).choices[0].message.parsed == PERSON
    with client.chat.parse_stream(**request, response_format=Person) as stream:
        content = "".join(event.data.choices[0].delta.content or "" for event in stream)
    assert Person.model_validate_json(content) == PERSON


def test_fill_in_the_middle(client):
    request = {"model": MODEL, "prompt": "Hello, my", "suffix": "is Anna.", "max_tokens": 8, "random_seed": 1}
    answer = client.fim.complete(**request)
    assert answer.object == "chat.completion" and answer.usage.completion_tokens <= 8
    with client.fim.stream(**request) as stream:
        streamed = "".join(event.data.choices[0].delta.content or "" for event in stream)
    assert streamed == answer.choices[0].message.content


def test_a_batch_from_a_file(client):
    body = {"messages": user("Hello!"), "temperature": 0, "max_tokens": 4}
    lines = [json.dumps({"custom_id": f"line {i}", "body": body}) for i in range(N_LINES)]
    content = "\n".join(lines).encode()
    file = client.files.upload(file={"file_name": "lines.jsonl", "content": content}, purpose="batch")
    assert file.id in [each.id for each in client.files.list().data]
    found = client.files.list(
        page_size=1, search="LINES", purpose="batch", source=["upload"], sample_type=["batch_request"]
    )
    assert [each.id for each in found.data] == [file.id] and found.total >= 1
    assert client.files.list(search=file.id, include_total=False).total is None
    assert client.files.retrieve(file_id=file.id).size_bytes == len(content)
    job = client.batch.jobs.create(
        input_files=[file.id], model=MODEL, endpoint="/v1/chat/completions", metadata={"run": "1"}
    )
    job = ended(client, job)
    assert job.status == "SUCCESS" and job.metadata == {"run": "1"}
    assert (job.total_requests, job.succeeded_requests, job.failed_requests) == (N_LINES, N_LINES, 0)
    output = client.files.download(file_id=job.output_file).read().decode()
    answers = [json.loads(line) for line in output.splitlines()]
    assert [answer["custom_id"] for answer in answers] == [f"line {i}" for i in range(N_LINES)]
    assert all(answer["response"]["body"]["choices"][0]["message"]["content"] for answer in answers)
    assert job.id in [each.id for each in client.batch.jobs.list().data]
    assert client.files.delete(file_id=file.id).deleted
    with pytest.raises(SDKError):
        client.files.retrieve(file_id=file.id)


def test_a_batch_of_its_own_requests(client):
    body = {"prompt": "Hello, my", "suffix": "is Anna.", "max_tokens": 4}
    requests = [{"custom_id": f"line {i}", "body": body} for i in range(3)]
    job = ended(client, client.batch.jobs.create(requests=requests, model=MODEL, endpoint="/v1/fim/completions"))
    assert (job.status, job.succeeded_requests) == ("SUCCESS", 3)


def ended(client, job):
    deadline = time.monotonic() + 120
    while job.status in ("QUEUED", "RUNNING") and time.monotonic() < deadline:
        time.sleep(0.1)
        job = client.batch.jobs.get(job_id=job.id)
    return job


@pytest.fixture
def agent(client):
    made = client.beta.agents.create(
        model=MODEL,
        name="Ann",
        instructions="Be brief.",
        description="Says hello.",
        completion_args={"temperature": 0, "max_tokens": 20, "stop": ["#"]},
        metadata={"team": "a"},
    )
    yield made
    client.beta.agents.delete(agent_id=made.id)


def test_agents(client, agent):
    agents = client.beta.agents
    assert agents.get(agent_id=agent.id) == agent
    assert (agent.version, agent.versions, agent.completion_args.max_tokens) == (0, [0], 20)
    changed = agents.update(agent_id=agent.id, instructions="Be long.", tools=[TOOL], version_message="Longer.")
    assert (changed.version, changed.versions, changed.name) == (1, [0, 1], "Ann")
    assert changed.tools[0].function.name == "get_weather"
    assert agents.get(agent_id=agent.id, agent_version=0).instructions == "Be brief."
    assert [it.version for it in agents.list_versions(agent_id=agent.id)] == [1, 0]
    assert agents.get_version(agent_id=agent.id, version="0").tools == []
    assert agents.update_version(agent_id=agent.id, version=0).version == 0
    alias = agents.create_version_alias(agent_id=agent.id, alias="beta", version=1)
    assert (alias.alias, alias.version) == ("beta", 1)
    assert agents.get(agent_id=agent.id, agent_version="beta").instructions == "Be long."
    assert [it.alias for it in agents.list_version_aliases(agent_id=agent.id)] == ["beta"]
    agents.delete_version_alias(agent_id=agent.id, alias="beta")
    assert agents.list_version_aliases(agent_id=agent.id) == []
    assert agent.id in [it.id for it in agents.list(metadata={"team": "a"}, name="Ann", sources=["api"])]
    assert agents.list(name="Nobody") == []


def test_pages_of_agents(client):
    name = f"Page of {time.time_ns()}"
    made = [client.beta.agents.create(model=MODEL, name=name).id for _ in range(3)]
    found, page = [], client.beta.agents.list_pages(page_size=2, name=name)
    while page is not None:
        found += [it.id for it in page.result.data]
        page = page.next()
    assert found == made[::-1]
    for it in made:
        client.beta.agents.delete(agent_id=it)


def test_a_wrong_agent_is_a_validation_error(client, agent):
    for field, value, loc in [
        ("completion_args", {"temperature": 9}, ["body", "completion_args", "temperature"]),
        ("tools", [{"type": "web_search"}], ["body", "tools", 0, "type"]),
        ("handoffs", ["ag_nobody"], ["body", "handoffs", 0]),
    ]:
        with pytest.raises(HTTPValidationError) as caught:
            client.beta.agents.update(agent_id=agent.id, **{field: value})
        assert caught.value.data.detail[0].loc == loc
    with pytest.raises(SDKError) as caught:
        client.beta.agents.get(agent_id="ag_nobody")
    assert caught.value.status_code == 404


def test_asking_an_agent(client, agent):
    answer = client.agents.complete(agent_id=agent.id, messages=user("Hello!"))
    assert answer.model == MODEL and 0 < answer.usage.completion_tokens <= 20
    with client.agents.stream(agent_id=agent.id, messages=user("Hello!")) as stream:
        streamed = "".join(event.data.choices[0].delta.content or "" for event in stream)
    assert streamed == answer.choices[0].message.content
    shorter = client.agents.complete(agent_id=agent.id, messages=user("Hello!"), max_tokens=2)
    assert shorter.usage.completion_tokens == 2


def test_conversation(client):
    it = client.beta.conversations
    begun = it.start(
        model=MODEL,
        inputs="Hello!",
        instructions="Be brief.",
        completion_args={"temperature": 0, "max_tokens": 20},
        name="A talk",
        metadata={"a": 1},
    )
    assert begun.object == "conversation.response" and begun.outputs[0].type == "message.output"
    assert begun.usage.total_tokens == begun.usage.prompt_tokens + begun.usage.completion_tokens
    more = it.append(conversation_id=begun.conversation_id, inputs=[{"role": "user", "content": "Thanks."}])
    assert more.conversation_id == begun.conversation_id and more.usage.prompt_tokens > begun.usage.prompt_tokens
    history = it.get_history(conversation_id=begun.conversation_id).entries
    assert [entry.type for entry in history] == ["message.input", "message.output"] * 2
    assert history[1] == begun.outputs[0] and history[3] == more.outputs[0]
    assert it.get_messages(conversation_id=begun.conversation_id).messages == history
    shown = it.get(conversation_id=begun.conversation_id)
    assert (shown.model, shown.name, shown.instructions, shown.metadata) == (MODEL, "A talk", "Be brief.", {"a": 1})
    assert begun.conversation_id in [listed.id for listed in it.list(metadata={"a": 1})]
    other = it.restart(conversation_id=begun.conversation_id, from_entry_id=history[1].id, inputs="Bye.")
    assert other.conversation_id != begun.conversation_id
    assert len(it.get_history(conversation_id=other.conversation_id).entries) == 4
    for conversation in (begun, other):
        it.delete(conversation_id=conversation.conversation_id)
        with pytest.raises(SDKError) as caught:
            it.get(conversation_id=conversation.conversation_id)
        assert caught.value.status_code == 404


def test_streamed_conversation(client):
    request = {"model": MODEL, "inputs": "Hello!", "completion_args": {"temperature": 0, "max_tokens": 20}}
    whole = client.beta.conversations.start(**request)
    with client.beta.conversations.start_stream(**request) as stream:
        events = list(stream)
    assert [event.event for event in events] == [event.data.type for event in events]
    assert events[0].event == "conversation.response.started" and events[-1].event == "conversation.response.done"
    assert "".join(event.data.content for event in events[1:-1]) == whole.outputs[0].content
    assert events[-1].data.usage == whole.usage
    conversation = events[0].data.conversation_id
    with client.beta.conversations.append_stream(conversation_id=conversation, inputs="Thanks.") as stream:
        assert [event.event for event in stream][-1] == "conversation.response.done"
    entries = client.beta.conversations.get_history(conversation_id=conversation).entries
    assert len(entries) == 4
    restarted = {"conversation_id": conversation, "from_entry_id": entries[1].id, "inputs": "Bye."}
    with client.beta.conversations.restart_stream(**restarted) as stream:
        assert next(iter(stream)).data.conversation_id != conversation


def test_a_forgotten_conversation(client):
    answer = client.beta.conversations.start(
        model=MODEL, inputs="Hello!", store=False, completion_args={"max_tokens": 4}
    )
    with pytest.raises(SDKError) as caught:
        client.beta.conversations.get_history(conversation_id=answer.conversation_id)
    assert caught.value.status_code == 404


def test_a_function_in_a_conversation(client):
    request = {"model": MODEL, "tools": [TOOL], "completion_args": {"temperature": 0, "max_tokens": 60}}
    begun = client.beta.conversations.start(**request, inputs="What is the weather in Paris?")
    call = next(entry for entry in begun.outputs if entry.type == "function.call")
    assert call.name == "get_weather" and list(json.loads(call.arguments)) == ["city"]
    result = FunctionResultEntry(tool_call_id=call.tool_call_id, result='{"sky": "clear"}')
    more = client.beta.conversations.append(conversation_id=begun.conversation_id, inputs=[result])
    assert more.outputs
    entries = client.beta.conversations.get_history(conversation_id=begun.conversation_id).entries
    assert [entry.type for entry in entries][:3] == ["message.input", "function.call", "function.result"]


def test_handoff(client):
    brief = {"temperature": 0, "max_tokens": 20}
    bob = client.beta.agents.create(model=MODEL, name="Bob", description="Greets.", completion_args=brief)
    ann = client.beta.agents.create(
        # The tiny model would not think of it.
        model=MODEL, name="Ann", handoffs=[bob.id], completion_args={"tool_choice": "required"}
    )
    begun = client.beta.conversations.start(agent_id=ann.id, inputs="Hello!")
    # She may say something first.
    *_, handoff, answer = begun.outputs
    assert (handoff.type, answer.type) == ("agent.handoff", "message.output")
    assert handoff.next_agent_id == answer.agent_id == bob.id
    assert client.beta.conversations.get(conversation_id=begun.conversation_id).agent_id == ann.id
    with client.beta.conversations.start_stream(agent_id=ann.id, inputs="Hello!") as stream:
        handoffs = [event.data for event in stream if event.event.startswith("agent.handoff")]
    assert [event.type for event in handoffs] == ["agent.handoff.started", "agent.handoff.done"]
    assert (handoffs[0].previous_agent_name, handoffs[1].next_agent_name) == ("Ann", "Bob")
    waits = client.beta.conversations.start(agent_id=ann.id, inputs="Hello!", handoff_execution="client")
    assert waits.outputs[-1].type == "agent.handoff"
    more = client.beta.conversations.append(conversation_id=waits.conversation_id)
    assert [(entry.type, entry.agent_id) for entry in more.outputs] == [("message.output", bob.id)]
    for it in (ann, bob):
        client.beta.agents.delete(agent_id=it.id)


def test_results_of_a_job(client):
    body = {"messages": user("Hello!"), "max_tokens": 8}
    job = client.batch.jobs.create(
        endpoint="/v1/chat/completions", model=MODEL, requests=[{"custom_id": "a", "body": body}]
    )
    deadline = time.monotonic() + 60
    while job.status in ("QUEUED", "RUNNING") and time.monotonic() < deadline:
        job = client.batch.jobs.get(job_id=job.id, inline=True)
        time.sleep(0.05)
    assert job.status == "SUCCESS" and [it["custom_id"] for it in job.outputs] == ["a"]
    assert client.batch.jobs.delete(job_id=job.id).deleted
    with pytest.raises(SDKError) as caught:
        client.batch.jobs.get(job_id=job.id)
    assert caught.value.status_code == 404


def test_models(client):
    cards = client.models.list().data
    assert [type(card) for card in cards] == [BaseModelCard]
    card = client.models.retrieve(model_id=MODEL)
    assert card == cards[0]
    assert card.id == MODEL and card.max_context_length == 512
    capabilities = card.capabilities
    assert capabilities.completion_chat and capabilities.function_calling and capabilities.completion_fim
    assert not (capabilities.vision or capabilities.audio or capabilities.fine_tuning or capabilities.reasoning)


def test_a_wrong_field_is_a_validation_error(client):
    with pytest.raises(HTTPValidationError) as caught:
        client.chat.complete(model=MODEL, messages=user("Hello!"), temperature=9)
    assert caught.value.status_code == 422
    assert caught.value.data.detail[0].loc == ["body", "temperature"]
    with pytest.raises(HTTPValidationError) as caught:
        client.chat.stream(model=MODEL, messages=user("Hello!"), prompt_mode="reasoning")
    assert caught.value.data.detail[0].loc == ["body", "prompt_mode"]
    with pytest.raises(HTTPValidationError):
        client.fim.complete(model=MODEL, prompt="a", min_tokens=9, max_tokens=8)


@pytest.mark.parametrize(
    ("status", "code", "ask"),
    [
        (404, "model_not_found", lambda it: it.chat.complete(model="other", messages=user("Hello!"))),
        (404, "model_not_found", lambda it: it.models.retrieve(model_id="other")),
        (400, "context_length_exceeded", lambda it: it.chat.complete(model=MODEL, messages=user("Hello!" * 999))),
        (
            400,
            "invalid_message_order",
            lambda it: it.chat.complete(model=MODEL, messages=[*user("a"), {"role": "assistant", "content": "b"}]),
        ),
        (501, "not_served", lambda it: it.models.delete(model_id=MODEL)),
        (501, "not_served", lambda it: it.ocr.process(model=MODEL, document=DOCUMENT)),
    ],
)
def test_other_errors_are_sdk_errors(client, status, code, ask):
    with pytest.raises(SDKError) as caught:
        ask(client)
    assert caught.value.status_code == status
    assert f'"code":"{code}"' in caught.value.body
