"""A SentencePiece model of byte pairs in the format of the `tokenizers` library. Main function: `convert(model)`.

Peers read that format alone. Merges are every way to put two pieces of the vocabulary together to a third, the best score
first, which is the order that SentencePiece joins in. Needs Python alone: the model is a message of Protocol Buffers
(sentencepiece_model.proto), of which field 1 is a piece with 1: text, 2: score, 3: type.
"""

import struct
import typing

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
SPACE = "\u2581"


class Piece(typing.NamedTuple):
    """One token."""

    text: str
    score: float
    kind: int


def convert(model: bytes) -> dict:
    """The content of a tokenizer.json."""
    tokens = list(pieces(model))
    vocabulary = {piece.text: number for number, piece in enumerate(tokens)}
    special = [piece.text for piece in tokens if piece.kind in (UNKNOWN, CONTROL, USER_DEFINED)]
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocabulary[text], "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for text in special],
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [vocabulary["<s>"]], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": vocabulary, "merges": merges(tokens, vocabulary)},
    }


def merges(tokens: list[Piece], vocabulary: dict[str, int]) -> list[list[str]]:
    ordered = []
    for whole in sorted((piece for piece in tokens if piece.kind == NORMAL), key=lambda piece: -piece.score):
        halves = [(whole.text[:cut], whole.text[cut:]) for cut in range(1, len(whole.text))]
        ordered += [list(pair) for pair in halves if pair[0] in vocabulary and pair[1] in vocabulary]
    return ordered


def pieces(model: bytes) -> typing.Iterator[Piece]:
    for number, value in fields(model):
        if number == 1:
            parts = dict(fields(value))
            score = struct.unpack("<f", parts[2])[0] if 2 in parts else 0.0
            yield Piece(parts[1].decode(), score, parts.get(3, NORMAL))


def fields(message: bytes) -> typing.Iterator[tuple[int, typing.Any]]:
    """Number and value of each field; values are integers or bytes."""
    place = 0
    while place < len(message):
        key, place = varint(message, place)
        kind = key & 7
        if kind == VARINT:
            value, place = varint(message, place)
            yield key >> 3, value
            continue
        if kind == BYTES:
            size, place = varint(message, place)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"field {key >> 3} of the tokenizer has the unknown kind {kind}")
        yield key >> 3, message[place : place + size]
        place += size


def varint(message: bytes, place: int) -> tuple[int, int]:
    """The integer at `place`, and where it ends."""
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
