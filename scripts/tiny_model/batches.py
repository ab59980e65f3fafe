"""Batches of generated samples, made by a background process while the model trains.

Main function: `stream(seed, first_chunk)`. Invariant: chunk i depends on (seed,
i) alone, so a run that is resumed at chunk i sees the same data. Must not know the model.
"""

import multiprocessing
import random

import numpy

from data import generate
from render import Renderer

CHUNK_SAMPLES = 2800
STEP_SAMPLES = 56
MICROBATCHES = 4
MAX_TOKENS = 1536
SHORT_CHUNKS, RAMP_CHUNKS = 3, 20  # the curriculum: shortest passages first


def level_of(chunk):
    return 0.1 if chunk < SHORT_CHUNKS else min(1.0, 0.4 + chunk / RAMP_CHUNKS)


def make_chunk(renderer, seed, chunk):
    """A list of steps. A step is a random mix of samples, as a list of microbatches by length.

    Sorting a whole chunk by length would pad less, but then a step would hold one skill only.
    """
    samples = []
    for index in range(chunk * CHUNK_SAMPLES, (chunk + 1) * CHUNK_SAMPLES):
        tokens, mask = renderer.training_tokens(generate("train", seed, index, level_of(chunk)))
        if len(tokens) <= MAX_TOKENS:
            samples.append((tokens, mask))
    random.Random(f"{seed}/{chunk}").shuffle(samples)
    return [split(samples[first : first + STEP_SAMPLES]) for first in range(0, len(samples), STEP_SAMPLES)]


def split(samples):
    """(tokens int32 (b, n), loss weights float32 (b, n)) per microbatch, of about equal size."""
    samples = sorted(samples, key=lambda sample: len(sample[0]))
    share = sum(len(tokens) for tokens, _ in samples) / MICROBATCHES
    groups, filled = [[]], 0
    for sample in samples:
        if filled >= share * len(groups):
            groups.append([])
        groups[-1].append(sample)
        filled += len(sample[0])
    return [_pad(rows) for rows in groups]


def stream(seed, first_chunk):
    """Yields (chunk, steps) for ever."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue(maxsize=2)
    worker = context.Process(target=_work, args=(queue, seed, first_chunk), daemon=True)
    worker.start()
    while True:
        yield queue.get()


def _work(queue, seed, chunk):
    renderer = Renderer()
    while True:
        queue.put((chunk, make_chunk(renderer, seed, chunk)))
        chunk += 1


def _pad(rows):
    """A sample's weight grows with the root of its answer's length, not with the length."""
    length = max(len(tokens) for tokens, _ in rows)
    tokens = numpy.zeros((len(rows), length), numpy.int32)
    weights = numpy.zeros((len(rows), length), numpy.float32)
    for index, (row, mask) in enumerate(rows):
        tokens[index, : len(row)] = row
        weights[index, : len(row)] = numpy.array(mask, numpy.float32) * sum(mask) ** -0.5
    return tokens, weights
