"""What the tiny model was trained to do, so that every client can be asked the same: see prompts.json, which the tests
for Node read as well. Its words are invented, as those of its training are."""

import json
import pathlib

from pydantic import BaseModel

PROMPTS = json.loads((pathlib.Path(__file__).parent / "prompts.json").read_text())
MODEL = PROMPTS["model"]
TOOL = PROMPTS["tool"]
CITIES = PROMPTS["cities"]
RESULTS = [json.dumps(result) for result in PROMPTS["results"]]


class Person(BaseModel):
    """Who a text is about."""

    name: str
    city: str
    age: int


PERSON = Person(**PROMPTS["person"])


def user(text):
    return [{"role": "user", "content": text}]
