"""Batches of generated samples, made by a background process while the model trains.

Main function: `stream(seed, first_chunk)`. Invariant: chunk i depends on (seed,
i) alone, so a run that is resumed at chunk i sees the same data. Must not know the model.
"""

import multiprocessing

import numpy

from data import generate
from render import Renderer

CHUNK_SAMPLES = 1600
STEP_SAMPLES = 32
MICROBATCHES = 5
MAX_TOKENS = 1536
SHORT_CHUNKS, RAMP_CHUNKS = 7, 12  # the curriculum: shortest passages first, then longer and longer ones


def level_of(chunk):
    return 0.1 if chunk < SHORT_CHUNKS else min(1.0, 0.45 + 0.55 * (chunk - SHORT_CHUNKS) / RAMP_CHUNKS)


def make_chunk(renderer, seed, chunk):
    """A list of steps. A step is a random mix of (tokens, mask)."""
    samples = []
    for index in range(chunk * CHUNK_SAMPLES, (chunk + 1) * CHUNK_SAMPLES):
        tokens, mask = renderer.training_tokens(generate("train", seed, index, level_of(chunk)))
        if len(tokens) <= MAX_TOKENS:
            samples.append((tokens, mask))
    return [samples[first : first + STEP_SAMPLES] for first in range(0, len(samples), STEP_SAMPLES)]


def split(samples, rank=0, workers=1):
    """The share of `rank` as (tokens int32 (b, n), loss weights float32 (b, n)) per microbatch.

    Every rank gets like lengths; the microbatches are cut where the least padding results.
    """
    samples = sorted(samples, key=lambda sample: len(sample[0]))[rank::workers]
    lengths = [len(tokens) for tokens, _ in samples]
    # cheapest[k] = (padded tokens, cuts) of the first k samples in so many microbatches as were tried.
    cheapest = [(lengths[k - 1] * k if k else 0, [0]) for k in range(len(samples) + 1)]
    for _ in range(MICROBATCHES - 1):
        cheapest = [min([cheapest[k]] + [(cheapest[cut][0] + (k - cut) * lengths[k - 1], [*cheapest[cut][1], cut]) for cut in range(1, k)])
                    for k in range(len(samples) + 1)]
    cuts = [*cheapest[-1][1], len(samples)]
    return [_pad(samples[first:last]) for first, last in zip(cuts, cuts[1:])]


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
