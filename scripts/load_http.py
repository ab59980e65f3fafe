#!/usr/bin/env python3
"""Drives a server of the OpenAI API with streamed completions and tells what its clients saw.

Main function: `measure(server, load)`. Prompts are random token ids, different in every request, so that no cache of
prefixes helps; every answer is greedy and as long as asked for. Several processes read the streams, for one could not keep up: an event
is counted where two newlines end it, and nothing is parsed but the usage at the end. Invariant: an answer that was
refused, cut or of another length than asked for is an error, and errors are counted. Needs Python alone.

    scripts/load_http.py load http://127.0.0.1:8000 --concurrency 1,8,32 --prompt-tokens 128 --output-tokens 128
    scripts/load_http.py ceiling                  # what this client can take, from a server that computes nothing
    scripts/load_http.py ceiling --step-ms 12.8   # the same with 256 streams at 20,000 events a second

The ceiling, on two cores that the empty server shares, with `--processes 1`: 280,000 to 340,000 events a second that
queue up; 19,800 that come one by one (`--step-ms 12.8`) keep it busy for 61 % of the time, and it sees gaps of 12.8 ms at
the median and 15.1 ms at the 99th percentile. Two processes are busy for 32 % then. Results say how busy they were.
"""

import argparse
import array
import asyncio
import dataclasses
import json
import multiprocessing
import os
import random
import re
import socket
import statistics
import sys
import time
import traceback
import urllib.parse
import urllib.request

FIRST_TEXT_TOKEN = 1027  # in tokenizers of version v3; before it are control tokens and single bytes
USAGE = re.compile(rb'"completion_tokens":\s*(\d+)')
TAIL_BYTES = 4096  # of a stream, in which usage and errors stand
REPORTED_ERRORS = 3
# Linux has fork, and with it workers need not import anything.
FORK = multiprocessing.get_context("fork")


@dataclasses.dataclass(frozen=True)
class Server:
    """Where requests go."""

    host: str
    port: int
    model: str
    vocabulary: int = 32768

    @classmethod
    def at(cls, url):
        """The first model of the server at `url`."""
        with urllib.request.urlopen(f"{url.rstrip('/')}/v1/models", timeout=30) as answer:
            model = json.load(answer)["data"][0]["id"]
        parts = urllib.parse.urlsplit(url)
        return cls(parts.hostname, parts.port or 80, model)


@dataclasses.dataclass(frozen=True)
class Load:
    """What is asked for: `concurrency` requests at a time until `requests` are answered."""

    concurrency: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    seed: str = "0"
    processes: int = 4
    timeout_s: float = 300.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    load = commands.add_parser("load", help="measure a running server")
    load.add_argument("url", help="base address, without /v1")
    load.add_argument("--concurrency", default="1,8,32,128,256", help="levels, measured one after the other")
    load.add_argument("--rounds", type=int, default=2, help="requests per level and place")
    load.add_argument("--prompt-tokens", type=int, default=128)
    load.add_argument("--output-tokens", type=int, default=128)
    load.add_argument("--seed", default="0", help="another one gives other prompts")
    ceiling = commands.add_parser("ceiling", help="measure this client against a server that computes nothing")
    ceiling.add_argument("--concurrency", type=int, default=256)
    ceiling.add_argument("--output-tokens", type=int, default=500)
    ceiling.add_argument("--step-ms", type=float, default=0.0, help="time between the events of a stream, 0: none")
    for command in load, ceiling:
        command.add_argument("--processes", type=int, default=4, help="that read streams")
    arguments = parser.parse_args()
    results = load_levels(arguments) if arguments.command == "load" else [measure_ceiling(arguments)]
    print(json.dumps(results, indent=2))
    sys.exit(1 if any(result["errors"] for result in results) else 0)


def load_levels(arguments):
    server = Server.at(arguments.url)
    levels = [int(level) for level in arguments.concurrency.split(",")]
    sizes = {"prompt_tokens": arguments.prompt_tokens, "output_tokens": arguments.output_tokens}
    return [measure(server, Load(level, level * arguments.rounds, seed=f"{arguments.seed}/{level}",
                                 processes=arguments.processes, **sizes)) for level in levels]


def measure(server, load):
    """Asks for everything and returns a flat dictionary: times in milliseconds, rates per second of the whole run."""
    processes = min(load.processes, load.concurrency)
    barrier = FORK.Barrier(processes)
    pipes, workers = [], []
    for index in range(processes):
        receiver, sender = FORK.Pipe(duplex=False)
        worker = FORK.Process(target=work, args=(server, load, range(index, load.concurrency, processes), barrier, sender))
        worker.start()
        sender.close()
        pipes.append(receiver)
        workers.append(worker)
    answers, busy = [], []
    for receiver in pipes:
        try:
            part, share = receiver.recv()
        except EOFError:
            raise RuntimeError("a process of the load client ended without an answer") from None
        answers.extend(part)
        busy.append(share)
    for worker in workers:
        worker.join()
    return {**summary(load, answers), "client_processes": processes, "client_busy": round(max(busy), 3)}


def summary(load, answers):
    good = [answer for answer in answers if answer.error is None]
    errors = [answer.error for answer in answers if answer.error is not None]
    gaps = [gap for answer in good for gap in answer.gaps]
    tokens = sum(answer.tokens for answer in good)
    events = sum(1 + len(answer.gaps) for answer in good)
    seconds = max((a.ended for a in answers), default=0.0) - min((a.sent for a in answers), default=0.0)
    return {
        "concurrency": load.concurrency,
        "requests": len(answers),
        "prompt_tokens": load.prompt_tokens,
        "output_tokens": load.output_tokens,
        "errors": len(errors),
        **({"first_errors": errors[:REPORTED_ERRORS]} if errors else {}),
        **percentiles("ttft_ms", [1e3 * answer.ttft for answer in good]),
        **percentiles("itl_ms", [1e3 * gap for gap in gaps]),
        **percentiles("request_ms", [1e3 * (answer.ended - answer.sent) for answer in good]),
        "throughput_tok_s": round(tokens / seconds, 1) if seconds else 0.0,
        "tokens_per_event": round(tokens / events, 4) if events else 0.0,
        "seconds": round(seconds, 3),
    }


def percentiles(name, values):
    """The value that half of them, or 99 of 100, do not exceed; nothing of no values."""
    if not values:
        return {}
    if len(values) == 1:
        values = values * 2
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {f"{name}_p50": round(cuts[49], 3), f"{name}_p99": round(cuts[98], 3)}


@dataclasses.dataclass
class Answer:
    """What became of one request; times in seconds of the machine's clock, which all processes share."""

    error: str | None
    sent: float
    ended: float
    ttft: float = 0.0
    gaps: array.array = dataclasses.field(default_factory=lambda: array.array("d"))
    tokens: int = 0


def work(server, load, places, barrier, sender):
    """One process: its share of the places, which begin together with those of the others."""
    try:
        bodies = {place: [request_bytes(server, load, number) for number in range(place, load.requests, load.concurrency)]
                  for place in places}
        barrier.wait()
        began, used = time.monotonic(), time.process_time()
        answers = asyncio.run(ask_all(server, load, bodies))
        sender.send((answers, (time.process_time() - used) / (time.monotonic() - began)))
    except Exception:
        traceback.print_exc()
        barrier.abort()
    finally:
        sender.close()


def request_bytes(server, load, number):
    chance = random.Random(f"{load.seed}/{number}")
    prompt = [chance.randrange(FIRST_TEXT_TOKEN, server.vocabulary) for _ in range(load.prompt_tokens)]
    body = json.dumps({"model": server.model, "prompt": prompt, "max_tokens": load.output_tokens, "ignore_eos": True,
                       "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}).encode()
    head = (f"POST /v1/completions HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n")
    return head.encode() + body


async def ask_all(server, load, bodies):
    async def one_place(requests):
        return [await ask(server, load, request) for request in requests]

    return sum(await asyncio.gather(*map(one_place, bodies.values())), [])


async def ask(server, load, request):
    loop = asyncio.get_running_loop()
    sent = time.monotonic()
    try:
        transport, stream = await loop.create_connection(lambda: Stream(loop.create_future()), server.host, server.port)
        try:
            transport.write(request)
            await asyncio.wait_for(stream.closed, load.timeout_s)
        finally:
            transport.abort()
    except (OSError, asyncio.TimeoutError) as error:
        return Answer(f"{type(error).__name__}: {error}", sent, time.monotonic())
    return stream.answer(sent, load.output_tokens)


class Stream(asyncio.Protocol):
    """Times of the events of an answer.

    >>> stream = Stream(None)
    >>> for part in b"HTTP/1.1 200 OK", b"data: 1\\n", b"\\n", b"\\r\\n8\\r\\n: ping\\n\\n\\r\\ndata: 2\\n\\ndata: 3\\n\\n":
    ...     stream.data_received(part)
    >>> len(stream.times)
    3
    """

    def __init__(self, closed):
        self.closed = closed
        self.times = array.array("d")
        self.head = b""
        self.tail = b""

    def data_received(self, data):
        now = time.monotonic()
        if len(self.head) < 64:
            self.head += data[:64]
        seam = self.tail[-1:] == b"\n" and data[:1] == b"\n"  # an event's end that was cut in two
        for _ in range(seam + data.count(b"\n\n") - data.count(b"\n: ping\n\n")):
            self.times.append(now)
        self.tail = (self.tail + data)[-TAIL_BYTES:]

    def connection_lost(self, error):
        if not self.closed.done():
            self.closed.set_result(None)

    def answer(self, sent, wanted):
        ended = time.monotonic()
        usage = USAGE.search(self.tail)
        if b" 200 " not in self.head[:16] or b"[DONE]" not in self.tail or usage is None:
            text = self.tail[-300:].decode(errors="replace")
            return Answer(f"not a whole stream: {self.head[:16]!r} ... {text!r}", sent, ended)
        tokens = int(usage.group(1))
        if tokens != wanted:
            return Answer(f"{tokens} tokens instead of {wanted}", sent, ended)
        # What comes after the last token has none: the reason to finish, the usage, the end.
        times = self.times[: max(1, min(tokens, len(self.times) - 2))]
        gaps = array.array("d", (later - earlier for earlier, later in zip(times, times[1:])))
        return Answer(None, sent, ended, times[0] - sent, gaps, tokens)


def measure_ceiling(arguments):
    """Streams of events as long as the server's, from a process that does nothing else."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = listener.getsockname()[1]
    process = FORK.Process(target=serve_nothing, args=(listener, arguments.step_ms / 1e3), daemon=True)
    process.start()
    listener.close()
    load = Load(arguments.concurrency, arguments.concurrency, 128, arguments.output_tokens, processes=arguments.processes)
    try:
        result = measure(Server("127.0.0.1", port, "none"), load)
    finally:
        process.terminate()
        process.join()
    return {**result, "events_s": result["throughput_tok_s"], "cores": os.cpu_count()}


def serve_nothing(listener, step_s):
    """Sends one event to every stream per step, each by a write of its own, as an engine's step does."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    event = b"data: " + json.dumps({
        "id": "cmpl-" + 32 * "0", "object": "text_completion", "created": 0, "model": "none",
        "system_fingerprint": "none-0.1.0-000000000000",
        "choices": [{"index": 0, "text": " none", "logprobs": None, "finish_reason": None}], "usage": None,
    }, separators=(",", ":")).encode() + b"\n\n"
    streams = {}

    class Connection(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport, self.received = transport, b""

        def data_received(self, data):
            self.received += data
            head_end = self.received.find(b"\r\n\r\n") + 4
            length = re.search(rb"(?i)content-length: (\d+)", self.received)
            if head_end > 3 and length and len(self.received) >= head_end + int(length.group(1)):
                self.transport.write(head)
                streams[self.transport] = [json.loads(self.received[head_end:])["max_tokens"]] * 2

    async def run():
        await asyncio.get_running_loop().create_server(Connection, sock=listener)
        while True:
            await asyncio.sleep(0.001)
            due = time.monotonic()
            while streams:
                for transport in list(streams):
                    transport.write(event)
                    streams[transport][0] -= 1
                    if streams[transport][0] == 0:
                        usage = json.dumps({"choices": [], "usage": {"completion_tokens": streams.pop(transport)[1]}})
                        transport.write(b"data: " + usage.encode() + b"\n\ndata: [DONE]\n\n")
                        transport.close()
                due += step_s
                await asyncio.sleep(max(0.0, due - time.monotonic()) if step_s else 0)

    asyncio.run(run())


if __name__ == "__main__":
    main()
