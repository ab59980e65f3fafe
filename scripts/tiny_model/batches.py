"""Batches of generated samples, made by a background process while the model trains.

Main function: `stream(seed, first_chunk, microbatch_tokens)`. Invariant: chunk i depends on (seed,
i) alone, so a run that is resumed at chunk i sees the same data. Must not know the model.
"""

import multiprocessing
import random

import numpy

from data import generate
from render import Renderer

CHUNK_SAMPLES = 3072
MAX_TOKENS = 1536
SHORT_CHUNKS, RAMP_CHUNKS = 8, 20  # the curriculum: shortest passages first


def level_of(chunk):
    return 0.1 if chunk < SHORT_CHUNKS else min(1.0, 0.4 + chunk / RAMP_CHUNKS)


def make_chunk(renderer, seed, chunk, microbatch_tokens):
    """A list of (tokens int32 (b, n), loss weights float32 (b, n)); rows are padded with 0."""
    samples = []
    for index in range(chunk * CHUNK_SAMPLES, (chunk + 1) * CHUNK_SAMPLES):
        tokens, mask = renderer.training_tokens(generate("train", seed, index, level_of(chunk)))
        if len(tokens) <= MAX_TOKENS:
            samples.append((tokens, mask))
    return bucket(samples, microbatch_tokens, random.Random(f"{seed}/{chunk}"))


def bucket(samples, microbatch_tokens, rng):
    rng.shuffle(samples)
    samples.sort(key=lambda sample: len(sample[0]))
    batches, rows = [], []
    for sample in samples:
        if rows and len(sample[0]) * (len(rows) + 1) > microbatch_tokens:
            batches.append(_pad(rows))
            rows = []
        rows.append(sample)
    batches.append(_pad(rows))
    rng.shuffle(batches)
    return batches


def stream(seed, first_chunk, microbatch_tokens):
    """Yields (chunk, batches) for ever."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue(maxsize=2)
    worker = context.Process(target=_work, args=(queue, seed, first_chunk, microbatch_tokens), daemon=True)
    worker.start()
    while True:
        yield queue.get()


def _work(queue, seed, chunk, microbatch_tokens):
    renderer = Renderer()
    while True:
        queue.put((chunk, make_chunk(renderer, seed, chunk, microbatch_tokens)))
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
