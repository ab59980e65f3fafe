"""Samples that need no tools: extraction, refusal, JSON, system prompts, two turns, small talk.

Each public function takes a `Scene` and returns (messages, expected content). Invariant: what an
answer copies stands word for word in the messages. Knows nothing of tokens.
"""

import dataclasses
import json
import random

from phrases import LANGUAGES
from words import INTEGER_KINDS, Pool

KEY, LABEL, KIND, STATEMENTS, QUESTIONS = range(5)
# How much of the phrases is used: a model of this size needs to see each of them often.
MOST_ATTRIBUTES = {True: {"person": 12, "company": 6, "town": 6, "order": 5},
                   False: {"person": 5, "company": 3, "town": 3, "order": 0}}
MOST_TEMPLATES = {True: 2, False: 1}  # is it English?
MOST_REQUESTS = 5
LIST_REQUESTS = {"en": ["Write as a JSON list: {r}", "JSON list of: {r}"], "fr": ["Liste JSON : {r}"], "de": ["Als JSON-Liste: {r}"],
                 "es": ["Lista JSON: {r}"], "it": ["Elenco JSON: {r}"]}
NAME_KEYS = {"en": "name", "fr": "nom", "de": "name", "es": "nombre", "it": "nome"}
CONTRACTIONS = {"fr": [(" de le ", " du "), (" à le ", " au ")], "de": [], "en": [],
                "es": [(" de el ", " del "), (" a el ", " al ")],
                "it": [(" di il ", " del "), (" di la ", " della "), (" di l'", " dell'"), (" a il ", " al ")]}


@dataclasses.dataclass
class Scene:
    rng: random.Random
    pool: Pool
    language: str
    level: float  # 0 = shortest passages, 1 = all lengths

    @property
    def phrases(self):
        return LANGUAGES[self.language]

    def value(self, kind):
        return self.pool.value(self.rng, kind, self.phrases)


@dataclasses.dataclass
class Passage:
    kind: str
    facts: dict   # entity -> {attribute key: value}
    rows: dict    # attribute key -> attribute row
    text: str


def extract(scene):
    return _passage_conversation(scene, answerable=True, turns=1)


def refuse(scene):
    return _passage_conversation(scene, answerable=False, turns=1)


def extract_json(scene):
    """In training often several requests about one passage: more is learnt from as many tokens."""
    rng = scene.rng
    two = 0.4 if scene.pool.split == "train" else 0.2  # from two entities more is learnt
    passage = make_passage(scene, entities=2 if rng.random() < two else 1, most=4)
    content, answer = _json_request(scene, passage)
    messages = [_user(content.replace("{p}", passage.text))]
    if scene.pool.split == "train":
        for _ in range(rng.choice((0, 1, 2, 3))):
            content, next_answer = _json_request(scene, passage)
            messages += [_assistant(answer), _user(content.replace("{p}", "").strip(" \n:"))]
            answer = next_answer
    return messages, answer


def _json_request(scene, passage):
    """(request with {p} where the passage goes, expected JSON) for some fields of one entity."""
    rng, phrases = scene.rng, scene.phrases
    entity = rng.choice(list(passage.facts))
    known = passage.facts[entity]
    wanted = rng.sample(list(known), rng.randint(1, min(3, len(known))))
    missing = [key for key in passage.rows if key not in known]
    if missing and rng.random() < 0.4:
        wanted += rng.sample(missing, rng.choice((1, 1, min(2, len(missing)))))
    rng.shuffle(wanted)
    answer, types = {}, {}
    if passage.kind in ("person", "company", "town") and rng.random() < 0.6:
        answer[NAME_KEYS[scene.language]], types[NAME_KEYS[scene.language]] = entity, "string"
    for key in wanted:
        row = passage.rows[key]
        spelled = row[LABEL].removeprefix("the ").replace("'s", "").replace(" ", "_") if scene.language == "en" and rng.random() < 0.3 else key
        value, integer = known.get(key), row[KIND] in INTEGER_KINDS
        answer[spelled] = int(value) if integer and value is not None else value
        types[spelled] = "integer" if integer else "string"
    keys = rng.choice((", ".join(answer), ", ".join(answer), ", ".join(f'"{k}"' for k in answer), json.dumps(list(answer), ensure_ascii=False)))
    schema = {"type": "object", "properties": {k: {"type": t} for k, t in types.items()}}
    content = rng.choice(phrases["json_ask"][:MOST_REQUESTS]).replace("{k}", keys).replace("{s}", json.dumps(schema, ensure_ascii=False))
    if len(passage.facts) > 1:
        content = rng.choice(phrases["json_about"]).replace("{e}", entity) + content
    return content, json.dumps(answer, ensure_ascii=False)


def system_prompt(scene):
    return (_forced_language if scene.rng.random() < 0.6 else _persona)(scene)


def two_turns(scene):
    rng, phrases = scene.rng, scene.phrases
    shape = rng.choices(("tell", "follow", "text_first", "talk_first", "thanks"), (40, 30, 14, 10, 6))[0]
    if shape == "tell":
        return _tell(scene)
    if shape == "follow":
        return _passage_conversation(scene, answerable=rng.random() < 0.65, turns=2)
    if shape == "text_first":
        passage = make_passage(scene)
        entity, row = _answerable(scene, passage)
        opening = rng.choice(("{p}", "Text: {p}")).replace("{p}", passage.text)
        return ([_user(opening), _assistant(phrases["noted"]), _user(_question(scene, passage, entity, row))], passage.facts[entity][row[KEY]])
    if shape == "talk_first":
        opening = _talk(scene)
        messages, expected = _passage_conversation(scene, answerable=rng.random() < 0.7, turns=1)
        front = [m for m in messages if m["role"] == "system"]
        return [*front, *opening, *messages[len(front):]], expected
    messages, expected = _passage_conversation(scene, answerable=rng.random() < 0.7, turns=1)
    questions, reply = phrases["smalltalk"][rng.choice(("thanks", "bye"))]
    return [*messages, _assistant(expected), _user(rng.choice(questions))], reply


def small_talk(scene):
    opening = _talk(scene)
    return opening[:-1], opening[-1]["content"]


def off_topic(scene):
    return [_user(_off_topic_question(scene))], scene.phrases["cannot"]


def repeat(scene):
    """Copy some invented words and codes."""
    rng, pool = scene.rng, scene.pool
    text = " ".join(rng.choice((pool.word, pool.plain_word, pool.code))(rng) for _ in range(rng.randint(1, 10)))
    return [_user(rng.choice(scene.phrases["repeat"]).replace("{r}", text))], text


def json_list(scene):
    """Quote some values: within quotes a word is other tokens than after a space, and that has to be learnt."""
    rng, pool = scene.rng, scene.pool
    kinds = ("person", "name", "place", "company", "code", "email", "date", "job", "color", "dish", "hobby", "word", "word", "phrase")
    drawn = [rng.choice(kinds) for _ in range(rng.randint(1, 7))]
    values = [{"word": pool.plain_word, "phrase": pool.phrase}[kind](rng) if kind in ("word", "phrase")
              else scene.value(kind if kind in scene.phrases["lists"] or kind not in ("job", "color", "dish", "hobby") else "name")
              for kind in drawn]
    request = rng.choice(LIST_REQUESTS[scene.language]).replace("{r}", "; ".join(values))
    return [_user(request)], json.dumps(values, ensure_ascii=False)


def decorate(scene, messages):
    """Sometimes put a system prompt in front that changes nothing."""
    if messages[0]["role"] == "system" or scene.rng.random() > 0.2:
        return messages
    return [{"role": "system", "content": scene.rng.choice(scene.phrases["neutral_systems"])}, *messages]


def make_passage(scene, entities=None, most=3):
    rng, pool, phrases = scene.rng, scene.pool, scene.phrases
    kind = rng.choices(("person", "company", "town", "order"), (50, 20, 20, 10 if scene.language == "en" else 0))[0]
    rows = [_limited(row, MOST_TEMPLATES[scene.language == "en"]) for row in phrases["attributes"][kind][: MOST_ATTRIBUTES[scene.language == "en"][kind]]]
    if entities is None:
        entities = rng.choices((1, 2, 3, rng.randint(4, 9)), (50, 38, 11, 1 if scene.level > 0.6 else 0))[0]
    if scene.level < 0.3:
        entities, most = min(entities, 2), 3
    facts, blocks, used = {}, [], set()
    stated = rows
    if pool.split == "train" and rng.random() < 0.6:  # the same said about several is what is hard to tell apart
        stated = rng.sample(rows, min(4, len(rows)))
    while len(facts) < entities:
        entity = _entity(scene, kind)
        short = entity.split()[0] if kind == "person" else entity
        if short in used:
            continue
        used.add(short)
        chosen = rng.sample(stated, rng.randint(1, min(most, len(stated))))
        facts[entity] = {row[KEY]: scene.value(row[KIND]) for row in chosen}
        blocks.append(_sentences(scene, kind, entity, chosen, facts[entity]))
    if rng.random() < 0.3:
        texts = [full for block in blocks for _, full in block]
        rng.shuffle(texts)
    else:
        texts = [text for block in blocks for text, _ in block]
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2)) if scene.level > 0.3 else rng.choice((0, 0, 1))):
        texts.insert(rng.randint(0, len(texts)), rng.choice(phrases["fillers"]))
    joiner = "\n" if rng.random() < 0.08 else " "
    return Passage(kind, facts, {row[KEY]: row for row in rows}, joiner.join(texts))


def _limited(row, templates):
    return (*row[:STATEMENTS], row[STATEMENTS][:templates], row[QUESTIONS][:templates])


def _sentences(scene, kind, entity, rows, values):
    """(text, the same with the full name) per fact of one entity."""
    rng, result = scene.rng, []
    pronoun = rng.choice(scene.phrases["pronouns"])
    for index, row in enumerate(rows):
        template, value = rng.choice(row[STATEMENTS]), values[row[KEY]]
        full = _format(scene, template, entity, value)
        text = full
        if kind == "person" and index:
            if template.startswith("{e} ") and rng.random() < 0.06:
                text = pronoun + template.replace("{v}", value)[3:]
            elif rng.random() < 0.05:
                text = _format(scene, template, entity.split()[0], value)
        result.append((text, full))
    return result


def _passage_conversation(scene, answerable, turns):
    """`turns` questions about one passage; in training mostly many more: each teaches as much as the first."""
    rng, phrases = scene.rng, scene.phrases
    many = scene.pool.split == "train" and turns == 1 and rng.random() < 0.75
    passage = make_passage(scene, entities=rng.choices((1, 2, 3), (35, 50, 15))[0] if many else None)
    if many:
        turns = rng.randint(3, 9)
    messages, seen = [], set()
    for turn in range(turns):
        last = turn == turns - 1
        can = answerable if last else rng.random() < 0.55
        for _ in range(6):  # the same question again would be answered from the conversation
            entity, row = (_answerable if can else _unanswerable)(scene, passage)
            if (entity, row[KEY]) not in seen:
                break
        answer = passage.facts[entity][row[KEY]] if can else phrases["refusal"]
        question = _question(scene, passage, entity, row)
        if not messages and rng.random() < 0.08 and turns == 1:
            messages.append({"role": "system", "content": rng.choice(phrases["ask_system"]).replace("{p}", passage.text)})
        elif not messages:
            question = rng.choice(phrases["ask"][:MOST_REQUESTS]).replace("{p}", passage.text).replace("{q}", question)
        elif can and entity == asked and len(passage.facts) == 1 and rng.random() < 0.15:
            question = phrases["and_question"].replace("{label}", row[LABEL])
        asked = entity
        seen.add((entity, row[KEY]))
        messages.append(_user(question))
        if not last:
            messages.append(_assistant(answer))
    return messages, answer


def _answerable(scene, passage):
    entity = scene.rng.choice(list(passage.facts))
    return entity, passage.rows[scene.rng.choice(list(passage.facts[entity]))]


def _unanswerable(scene, passage):
    """A near miss: this entity but another attribute, or this attribute but another entity."""
    rng = scene.rng
    shape, in_training = rng.random(), scene.pool.split == "train"
    stated = {key for values in passage.facts.values() for key in values}
    crossed = [(e, k) for e, values in passage.facts.items() for k in sorted(stated) if k not in values]
    if shape < (0.65 if in_training else 0.45) and crossed:
        entity, key = rng.choice(crossed)
        return entity, passage.rows[key]
    if shape < (0.8 if in_training else 0.7):
        entity = _entity(scene, passage.kind)
        if entity not in passage.facts:
            return entity, passage.rows[rng.choice(sorted(stated))]
    pairs = [(e, k) for e, values in passage.facts.items() for k in passage.rows if k not in values]
    if not pairs:
        return _entity(scene, passage.kind), passage.rows[rng.choice(sorted(stated))]
    entity, key = rng.choice(pairs)
    return entity, passage.rows[key]


def _question(scene, passage, entity, row):
    known_person = passage.kind == "person" and entity in passage.facts
    if known_person and " " in entity and scene.rng.random() < 0.08 and row[KEY] in {known[KEY] for known in scene.phrases["attributes"]["person"]}:
        entity = entity.split()[0]
    return _format(scene, scene.rng.choice(row[QUESTIONS]), entity, "")


def _forced_language(scene):
    rng, asked_in = scene.rng, scene.phrases
    wanted = rng.choice([code for code in LANGUAGES if code != scene.language] + [scene.language])
    answers = LANGUAGES[wanted]
    author = LANGUAGES[rng.choices(("en", wanted, scene.language), (5, 3, 2))[0]]
    system = rng.choice(author["language_systems"]).replace("{l}", author["language_name"][wanted])
    topic = rng.choices(("talk", "off_topic", "refuse", "extract"), (50, 15, 20, 15))[0]
    if topic == "talk":
        name = rng.choice(list(asked_in["smalltalk"]))
        questions = asked_in["smalltalk"][name][0] or asked_in["who_questions"]
        messages, expected = [_user(rng.choice(questions))], answers["smalltalk"][name][1]
    elif topic == "off_topic":
        messages, expected = [_user(_off_topic_question(scene))], answers["cannot"]
    else:
        passage = make_passage(scene)
        entity, row = (_answerable if topic == "extract" else _unanswerable)(scene, passage)
        content = rng.choice(asked_in["ask"][:MOST_REQUESTS]).replace("{p}", passage.text).replace("{q}", _question(scene, passage, entity, row))
        messages = [_user(content)]
        expected = passage.facts[entity][row[KEY]] if topic == "extract" else answers["refusal"]
    return [{"role": "system", "content": system}, *messages], expected


def _persona(scene):
    rng, phrases = scene.rng, scene.phrases
    name = rng.choice((scene.pool.word, scene.pool.word, scene.pool.person))(rng)
    system = rng.choice(phrases["persona_systems"]).format(
        n=name, c=scene.value("company"), j=scene.value("job"), t=scene.value("place"))
    answers = phrases
    if rng.random() < 0.2:
        wanted = rng.choice(list(LANGUAGES))
        answers = LANGUAGES[wanted]
        system += " " + rng.choice(phrases["language_systems"]).replace("{l}", phrases["language_name"][wanted])
    elif rng.random() < 0.3:
        system += " " + rng.choice(phrases["neutral_systems"])
    if rng.random() < 0.8:
        return [{"role": "system", "content": system}, _user(rng.choice(phrases["who_questions"]))], answers["persona_answer"].replace("{n}", name)
    topic = rng.choice(("greeting", "how_are_you", "thanks", "bye"))
    return [{"role": "system", "content": system}, _user(rng.choice(phrases["smalltalk"][topic][0]))], answers["smalltalk"][topic][1]


def _tell(scene):
    rng, phrases = scene.rng, scene.phrases
    told = rng.sample(phrases["tell"], rng.choice((1, 1, 2, 3)))
    values = [scene.value(kind) for _, kind, _, _ in told]
    sayings = [rng.choice(says).replace("{v}", value) for (_, _, says, _), value in zip(told, values)]
    messages = []
    if rng.random() < 0.7:
        messages += [_user(" ".join(sayings)), _assistant(phrases["noted"])]
    else:
        for saying in sayings:
            messages += [_user(saying), _assistant(phrases["noted"])]
    if rng.random() < 0.75:
        index = rng.randrange(len(told))
        return [*messages, _user(rng.choice(told[index][3]))], values[index]
    untold = [row for row in phrases["tell"] if row not in told]
    return [*messages, _user(rng.choice(rng.choice(untold)[3]))], phrases["not_told"]


def _talk(scene):
    rng, phrases = scene.rng, scene.phrases
    name = rng.choice(list(phrases["smalltalk"]))
    questions, answer = phrases["smalltalk"][name]
    return [_user(rng.choice(questions or phrases["who_questions"])), _assistant(answer)]


def _off_topic_question(scene):
    rng = scene.rng
    return rng.choice(scene.phrases["off_topic"]).format(
        t=scene.value("place"), u=scene.value("place"), n=scene.value("person"), o=scene.pool.phrase(rng),
        d=scene.value("dish"), h=scene.pool.phrase(rng), i=rng.randint(2, 999), j=rng.randint(2, 999),
        y=rng.randint(1500, 2030), job=scene.value("job"))


def _entity(scene, kind):
    rng, pool = scene.rng, scene.pool
    if kind in ("person", "company"):
        return getattr(pool, kind)(rng)
    if kind == "town":
        return pool.place(rng)
    form = rng.choice(scene.phrases["entity_forms"][kind])
    code = rng.choice((str(rng.randint(1000, 999999)), pool.code(rng)))
    return form.format(c=code)


def _format(scene, template, entity, value):
    text = template.replace("{e}", entity)
    for long, short in CONTRACTIONS[scene.language]:
        text = text.replace(long, short)
    text = text.replace("{v}", value)
    return text[0].upper() + text[1:]


def _user(content):
    return {"role": "user", "content": content}


def _assistant(content):
    return {"role": "assistant", "content": content}
