"""The generator of samples: a chat request and the answer that is expected for it.

Main function: `generate(split, seed, index, level)`, a pure function of its arguments. A sample is
{"request": {"messages", "tools"?}, "expected": {"content"} or {"tool_calls": [{"name",
"arguments"}], "more"?}, "skill", "language"}; `more` has further requests for the same tools, in
training alone. Invariant: invented names of the split "heldout" never occur in "train" (see words.py).
Must not know how a model is trained.

    python data.py --split heldout --seed 1 --samples 1000 > heldout.jsonl
"""

import argparse
import functools
import json
import random

import skills_text
import skills_tools
from words import Pool

MIX = {"extract": 26, "refuse": 28, "json": 22, "tool_call": 17, "tool_answer": 4,
       "system": 5, "two_turn": 5, "small_talk": 3, "off_topic": 2, "repeat": 2, "list": 3}
EARLY_MIX = {**MIX, "repeat": 12}  # while copying is being learnt
FOREIGN_SHARE = 0.16
TEXT_SKILLS = {"extract": skills_text.extract, "refuse": skills_text.refuse, "json": skills_text.extract_json,
               "system": skills_text.system_prompt, "two_turn": skills_text.two_turns,
               "small_talk": skills_text.small_talk, "off_topic": skills_text.off_topic, "list": skills_text.json_list}


def generate(split, seed, index, level=1.0, skill=None, language=None):
    # A skill that is asked for has samples of its own, so that skills are measured independently.
    rng = random.Random(f"{split}/{seed}/{index}/{skill or 'any'}")
    if skill is None:
        mix = EARLY_MIX if level < 0.3 else MIX
        skill = rng.choices(list(mix), list(mix.values()))[0]
    foreign = rng.random() < FOREIGN_SHARE
    language = language or (rng.choice(("fr", "de", "es", "it")) if foreign else "en")
    scene = skills_text.Scene(rng, _pool(split), language, level)
    request = {}
    if skill in ("tool_call", "tool_answer"):
        make = skills_tools.tool_call if skill == "tool_call" else skills_tools.tool_answer
        request["messages"], request["tools"], expected = make(scene)
    else:
        if skill == "repeat":
            request["messages"], answer = skills_text.repeat(scene)
        else:
            request["messages"], answer = TEXT_SKILLS[skill](scene)
        expected = {"content": answer}
        if skill in ("small_talk", "extract", "refuse", "two_turn") and rng.random() < 0.06:
            request["tools"] = skills_tools.offered_in_vain(scene)
    if skill not in ("system", "repeat", "list"):
        request["messages"] = skills_text.decorate(scene, request["messages"])
    return {"request": request, "expected": expected, "skill": skill, "language": language}


@functools.cache
def _pool(split):
    return Pool(split)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", choices=("train", "heldout"), default="heldout")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--skill", choices=list(MIX))
    arguments = parser.parse_args()
    for index in range(arguments.samples):
        sample = generate(arguments.split, arguments.seed, index, skill=arguments.skill)
        print(json.dumps(sample, ensure_ascii=False))
