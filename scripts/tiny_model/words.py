"""Invented names, numbers and dates, drawn from pools that differ by split.

Main type: `Pool`, one per split ("train" or "heldout"). Invariant: the syllables of the two splits
are disjoint, so a held-out name was never seen in training. Closed word lists (colours, dishes, jobs)
are shared. Words are such that quotes around them change no more than the first token's leading space,
and made of tokens that are common in the words of "train": to learn how any word is spelled takes a
larger model. Knows nothing of skills or of chat messages.
"""

import collections
import functools
import pathlib
import random
import zlib

TOKENIZER_PATH = pathlib.Path(__file__).resolve().parents[2] / "models/tiny/tokenizer.model.v3"

ONSETS = "b br c d f g gr h j k l m n p pl r s st t tr v z".split()
NUCLEI = "a e i o u ai ea io".split()
CODAS = "l m n r s t x th nd rk sk ld".split()
COMPANY_ENDINGS = ["Ltd", "Systems", "Group", "Labs", "Works", "Foods", "Energy"]
HELDOUT_SHARE = 5  # one syllable in five is kept for evaluation
COMMON_SHARE = 0.001  # a token is common if so many words have it in this place: as the first one, or later


def is_heldout(text):
    """A fixed split of strings, independent of any seed."""
    return zlib.crc32(text.encode()) % HELDOUT_SHARE == 0


@functools.cache
def _tokenizer():
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(TOKENIZER_PATH))


@functools.cache
def quotes_alike(text):
    """Is `text` within quotes made of the same tokens as after a space, but for the first one's space?"""
    spaced = _tokenizer().encode(text, out_type=str)
    quoted = _tokenizer().encode(f'"{text}"', out_type=str)
    return quoted[1:-1] == [spaced[0].removeprefix("\u2581"), *spaced[1:]]


def _tokens_in_quotes(word):
    first, *rest = _tokenizer().encode(f'"{word}"', out_type=str)[1:-1]
    return [("first", first)] + [("later", token) for token in rest]


@functools.cache
def _common_tokens():
    """(place, token) of the tokens of which all words of both splits are made."""
    pool, rng, drawn = Pool("train"), random.Random("common tokens"), 20_000
    words = (pool.spelled(rng, rng.choice((str.capitalize, str.lower))) for _ in range(drawn))
    counts = collections.Counter(token for word in words if quotes_alike(word) for token in _tokens_in_quotes(word))
    return {token for token, count in counts.items() if count >= COMMON_SHARE * drawn}


@functools.cache
def is_easily_spelled(word):
    return quotes_alike(word) and _common_tokens().issuperset(_tokens_in_quotes(word))


class Pool:
    """Draws values for one split. All methods take the caller's `random.Random`."""

    def __init__(self, split):
        assert split in ("train", "heldout")
        self.split = split
        wanted = split == "heldout"
        self.open_syllables = [o + n for o in ONSETS for n in NUCLEI if is_heldout(o + n) == wanted]
        self.closed_syllables = [o + n + c for o in ONSETS for n in NUCLEI[:5] for c in CODAS
                                 if is_heldout(o + n + c) == wanted]

    def word(self, rng):
        """A capitalised invented word, such as "Zilir"."""
        return self._drawn(rng, str.capitalize)

    def plain_word(self, rng):
        """An invented word in lower case."""
        return self._drawn(rng, str.lower)

    def _drawn(self, rng, spell):
        while True:
            if is_easily_spelled(word := self.spelled(rng, spell)):
                return word

    def spelled(self, rng, spell):
        """Any word of this split's syllables, in the case that `spell` gives it."""
        parts = [rng.choice(self.open_syllables) for _ in range(rng.choice((0, 0, 1, 1, 1, 2)))]
        parts.append(rng.choice(self.closed_syllables))
        if rng.random() < 0.25:
            parts.append(rng.choice("aeio"))
        return spell("".join(parts))

    def person(self, rng):
        if rng.random() < 0.12:
            return self.word(rng)
        return f"{self.word(rng)} {self.word(rng)}"

    def place(self, rng):
        word = self.word(rng)
        return f"{rng.choice(('Port', 'San', 'New', 'Bad', 'Saint'))} {word}" if rng.random() < 0.1 else word

    def identifier(self, rng, words):
        """A name as programmers write it."""
        return "_".join(self.plain_word(rng) for _ in range(words))

    def phrase(self, rng):
        return " ".join(self.plain_word(rng) for _ in range(rng.choice((1, 1, 2, 2, 3))))

    def company(self, rng):
        return f"{self.word(rng)} {rng.choice(COMPANY_ENDINGS)}"

    def code(self, rng):
        letter, digits = rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ"), rng.randint(10, 99999)
        return rng.choice((f"{letter}-{digits}", f"{letter}{digits}", f"{digits}-{letter}"))

    def email(self, rng):
        return f"{self.plain_word(rng)}{rng.choice(('', rng.randint(1, 99)))}@example.com"

    def value(self, rng, kind, phrases):
        """A value of `kind` as text. `phrases` gives the language's months, units and word lists."""
        if kind in ("person", "place", "company", "code", "email"):
            return getattr(self, kind)(rng)
        if kind == "name":
            return self.word(rng)
        if kind == "date":
            return self.date(rng, phrases)
        if kind in phrases["lists"]:
            return rng.choice([word for word in phrases["lists"][kind] if quotes_alike(word)])
        return NUMERIC_KINDS[kind](rng, phrases)

    def date(self, rng, phrases):
        day, year = rng.randint(1, 28), rng.randint(1950, 2035)
        month = rng.randint(1, 12)
        written = rng.choice(phrases["date_forms"]).format(d=day, m=phrases["months"][month - 1], y=year)
        return rng.choice((written, written, f"{year}-{month:02}-{day:02}"))


NUMERIC_KINDS = {
    "age": lambda rng, _: str(rng.randint(18, 98)),
    "year": lambda rng, _: str(rng.randint(1300, 2030)),
    "count": lambda rng, _: str(rng.choice((rng.randint(2, 99), rng.randint(100, 9999), rng.randint(10000, 999999)))),
    "time": lambda rng, _: f"{rng.randint(0, 23):02}:{rng.choice((0, 5, 10, 15, 20, 30, 40, 45, 50)):02}",
    "phone": lambda rng, _: " ".join([f"0{rng.randint(100, 999)}"] + [f"{rng.randint(10, 99)}" for _ in range(3)]),
    "price": lambda rng, p: f"{rng.randint(2, 900)}{rng.choice(('', p['decimal'] + '50', p['decimal'] + f'{rng.randint(10, 99)}'))} {p['currency']}",
    "weight": lambda rng, _: f"{rng.randint(2, 400)} kg",
    "room": lambda rng, _: str(rng.randint(2, 799)),
}
INTEGER_KINDS = ("age", "year", "count", "room")
