"""Samples with tools: a call whose arguments stand in the message, and answers from results.

Each public function takes a `Scene` and returns (messages, tools, expected). Invariant: the
offered tools never contain two that fit the request. Knows nothing of tokens.
"""

import dataclasses
import functools
import json
from collections.abc import Callable

from tool_catalog import (ENUMS, ERRORS, FOREIGN_REQUESTS, INTEGER_KINDS, INTENTS, LEADS, NOUNS, RESULT_FIELDS,
                          SLOTS, VERBS)

MOST_REQUESTS = 3
ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
RESULT_WORDS = {"fr": "Résultat : ", "de": "Ergebnis: ", "es": "Resultado: ", "it": "Risultato: "}
ERROR_WORDS = {"en": "The tool reported an error: ", "fr": "L'outil a signalé une erreur : ", "de": "Das Werkzeug meldete einen Fehler: ",
               "es": "La herramienta informó de un error: ", "it": "Lo strumento ha segnalato un errore: "}


@dataclasses.dataclass
class Offered:
    tool: dict
    ask: Callable  # () -> (message that asks for this tool, expected calls); None where no phrase is known for it


def tool_call(scene):
    """In training often with `more` requests, as (message, calls), for the same tools: see render.py."""
    number = scene.rng.choice((1, 1, 2, 3, 4)) if scene.pool.split == "train" else 1
    tools, ((content, calls), *more) = _requests(scene, number)
    return [{"role": "user", "content": content}], tools, {"tool_calls": calls, **({"more": more} if more else {})}


def tool_answer(scene):
    rng = scene.rng
    tools, [(content, calls)] = _requests(scene, 1)
    messages = [{"role": "user", "content": content}]
    identifiers = ["".join(rng.choices(ALPHABET, k=9)) if rng.random() < 0.5 else f"call{i + 1:05}" for i in range(len(calls))]
    messages.append({"role": "assistant", "content": "", "tool_calls": [
        {"id": identifier, "type": "function",
         "function": {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}}
        for identifier, call in zip(identifiers, calls)]})
    answers = []
    for identifier, call in zip(identifiers, calls):
        result, answer = _result(scene)
        messages.append({"role": "tool", "tool_call_id": identifier, "name": call["name"], "content": result})
        answers.append(answer)
    expected = " ".join(answers)
    if rng.random() < 0.12:
        questions, reply = scene.phrases["smalltalk"][rng.choice(("thanks", "bye"))]
        messages += [{"role": "assistant", "content": expected}, {"role": "user", "content": rng.choice(questions)}]
        expected = reply
    return messages, tools, {"content": expected}


def offered_in_vain(scene):
    """Tools for a request that needs none."""
    return [offered.tool for offered in _offer(scene)]


def _requests(scene, number):
    """(tools, [(message, calls)]): so many requests, each for one of the offered tools."""
    offered = _offer(scene)
    asked = [o for o in offered if o.ask]
    return [o.tool for o in offered], [scene.rng.choice(asked).ask() for _ in range(number)]


def _offer(scene):
    """One to three tools with different names and purposes, shuffled; at least one can be asked for."""
    rng = scene.rng
    first = _composed if scene.language == "en" and rng.random() < 0.1 else _common
    wanted = rng.choices((1, 2, 3), (45, 35, 20) if scene.level > 0.3 else (60, 40, 0))[0]
    offered, taken = [], set()
    while len(offered) < wanted:
        make = first if not offered or first is _composed and rng.random() < 0.5 else _common
        one, purpose = make(scene, must_ask=not offered)
        if not taken & {purpose, one.tool["function"]["name"]}:
            taken |= {purpose, one.tool["function"]["name"]}
            offered.append(one)
    rng.shuffle(offered)
    return offered


def _common(scene, must_ask):
    """(a tool of the catalogue, its purpose)"""
    rng, foreign = scene.rng, scene.language != "en"
    choices = [i for i in INTENTS if i.names[0] in FOREIGN_REQUESTS] if foreign and must_ask else INTENTS
    intent = INTENTS[0] if rng.random() < 0.12 else rng.choice(choices)
    tool, spelled = _spell(scene, intent)
    requests = FOREIGN_REQUESTS.get(intent.names[0], {}).get(scene.language) if foreign else intent.requests
    ask = functools.partial(_ask_common, scene, intent, tool, spelled, requests) if requests else None
    return Offered(tool, ask), intent.names[0]


def _ask_common(scene, intent, tool, spelled, requests):
    """One request, a few ask for two calls."""
    rng = scene.rng
    template = rng.choice(requests[:MOST_REQUESTS])
    twice = scene.language == "en" and intent is INTENTS[0] and rng.random() < 0.3
    if twice:
        template = rng.choice(("What is the weather in {city} and in {other}?", "Compare the weather in {city} and {other}.", "Weather in {city} and in {other}, please."))
    values = {slot: _value(scene, tool, spelled[slot], param.kind) for slot, param in intent.params.items() if f"{{{slot}}}" in template}
    content = template
    for slot, (written, _) in values.items():
        content = content.replace(f"{{{slot}}}", written)
    calls = [_call(tool, {spelled[slot]: value for slot, (_, value) in values.items()})]
    if twice:
        written, value = _value(scene, tool, spelled["city"], "place")
        content = content.replace("{other}", written)
        calls.append(_call(tool, {spelled["city"]: value}))
    return content, calls


def _call(tool, arguments):
    order = list(tool["function"]["parameters"]["properties"])
    return {"name": tool["function"]["name"], "arguments": {k: arguments[k] for k in order if k in arguments}}


def _spell(scene, intent):
    """A tool's definition, and how its slots are called in it."""
    rng = scene.rng
    name = rng.choice(intent.names)
    if rng.random() < 0.03:
        name = scene.pool.identifier(rng, rng.choice((1, 2)))
    return _definition(scene, name, rng.choice(intent.descriptions[:2]), intent.params)


def _composed(scene, must_ask):
    """(a tool "<verb>_<noun>", its purpose)"""
    rng = scene.rng
    verb, noun = rng.choice(VERBS), rng.choice(NOUNS)
    name = rng.choices((f"{verb}_{noun}", f"{noun}_{verb}", f"{verb}{noun.capitalize()}", f"do_{verb}_{noun}"), (60, 15, 15, 10))[0]
    slots = rng.sample(list(SLOTS), rng.choice((1, 1, 2, 2, 3)))
    description = rng.choice((f"{verb.capitalize()} a {noun}", f"{verb.capitalize()} the {noun}", f"Use this to {verb} a {noun}"))
    tool, spelled = _definition(scene, name, description, {slot: SLOTS[slot][0] for slot in slots})
    return Offered(tool, functools.partial(_ask_composed, scene, verb, noun, tool, spelled, slots)), (verb, noun)


def _ask_composed(scene, verb, noun, tool, spelled, slots):
    rng = scene.rng
    slots = rng.sample(slots, len(slots)) if rng.random() < 0.5 else slots
    values = {slot: _value(scene, tool, spelled[slot], SLOTS[slot][0].kind) for slot in slots}
    words = " ".join(rng.choice(SLOTS[slot][1]).replace("{v}", values[slot][0]) for slot in slots)
    content = rng.choice(LEADS).format(verb=verb, Verb=verb.capitalize(), noun=noun, slots=words)
    return content, [_call(tool, {spelled[slot]: values[slot][1] for slot in slots})]


def _definition(scene, name, description, params):
    rng = scene.rng
    properties, spelled, required = {}, {}, []
    described, random_names = rng.random() < 0.7, rng.random() < 0.02
    for slot, param in params.items():
        key = rng.choice(param.names)
        while key in properties:
            key = rng.choice([*param.names, f"{param.names[0]}_{len(properties) + 1}"])
        if random_names:
            key = scene.pool.identifier(rng, 1)
            while key in properties:
                key = scene.pool.identifier(rng, 2)
        schema = {"type": "string"}
        if param.kind in INTEGER_KINDS:
            schema["type"] = "string" if param.kind == "orderid" and rng.random() < 0.4 else rng.choice(("integer", "integer", "number"))
        if described:
            schema["description"] = param.description
        if param.kind in ENUMS:
            schema["enum"] = ENUMS[param.kind]
        properties[key], spelled[slot] = schema, key
        if param.required:
            required.append(key)
    parameters = {"type": "object", "properties": properties}
    if rng.random() < 0.85:
        parameters["required"] = required
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}, spelled


def _value(scene, tool, key, kind):
    """(as written in the message, as passed to the tool)"""
    rng = scene.rng
    schema = tool["function"]["parameters"]["properties"][key]
    value = _draw(scene, kind)
    if kind in INTEGER_KINDS and schema["type"] == "string":
        return str(value), str(value)
    if kind == "amount" and schema["type"] == "number" and rng.random() < 0.4:
        value = round(value / 100 + 0.01, 2)
        value = int(value) if value == int(value) else value
    if kind in ("phrase", "phrase1") and rng.random() < 0.35:
        return f'"{value}"', value
    return str(value), value


def _draw(scene, kind):
    rng = scene.rng
    if kind in ENUMS:
        return rng.choice(ENUMS[kind])
    ranges = {"small": (1, 40), "minutes": (1, 120), "amount": (1, 9999), "orderid": (1000, 999999), "percent": (1, 100)}
    if kind in ranges:
        return rng.randint(*ranges[kind])
    if kind == "isodate":
        return f"{rng.randint(2020, 2035)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    if kind == "phrase":
        return scene.pool.phrase(rng)
    if kind in ("phrase1", "word"):
        return scene.pool.plain_word(rng)
    return scene.value(kind)


def _result(scene):
    """(content of the tool message, the answer to the user)"""
    rng, language = scene.rng, scene.language
    shape = rng.random()
    if shape < 0.1:
        error = rng.choice(ERRORS)
        return json.dumps({"error": error}), f"{ERROR_WORDS[language]}{error}."
    if shape < 0.22:
        value = str(_draw(scene, rng.choice(("word", "person", "amount", "code", "isodate", "phrase"))))
        return value, f"The result is {value}." if language == "en" else f"{RESULT_WORDS[language]}{value}."
    fields = {key: _draw(scene, RESULT_FIELDS[key]) for key in rng.sample(list(RESULT_FIELDS), rng.choice((1, 2, 2, 3)))}
    if language == "en":
        parts = [f"the {key.replace('_', ' ')} is {value}" for key, value in fields.items()]
        text = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
        return json.dumps(fields, ensure_ascii=False), text[0].upper() + text[1:] + "."
    pairs = ", ".join(f"{key} {value}" for key, value in fields.items())
    return json.dumps(fields, ensure_ascii=False), f"{RESULT_WORDS[language]}{pairs}."
