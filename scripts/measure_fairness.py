#!/usr/bin/env python3
"""Measures what one tenant's flood does to another's time to the first token, through HTTP.

Starts `tramontane serve` on a data directory of its own with two tenants. The light one asks for one short answer after the
other: first alone, then beside a flood of the heavy one's long answers, as many as the server takes, and at last beside the
same flood of its own, which shows what there would be without shares. Prints p50 and p99 of each and the factors. Invariant:
the server is stopped and waited for, whatever fails. Needs Python alone.

    scripts/measure_fairness.py target/release/tramontane models/tiny
"""

import argparse
import http.client
import itertools
import json
import multiprocessing
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

LIGHT = {"prompt": 64, "output": 4}
HEAVY = {"prompt": 256, "output": 512}
FIRST_TEXT_TOKEN, VOCABULARY = 1027, 32768
WARM_UP = 3
OWN = 2
POLL_S = 0.05
START_S = 60.0
TIMEOUT_S = 120.0
FORK = multiprocessing.get_context("fork")
numbers = itertools.count()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--requests", type=int, default=100, help="of the light tenant, in each part")
    parser.add_argument("--max-running", type=int, default=16)
    parser.add_argument("--max-waiting", type=int, default=48)
    parser.add_argument("--max-batched-tokens", type=int, default=512)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        keys = {tenant: make_key(arguments.program, folder, tenant) for tenant in ("heavy", "light")}
        port = free_port()
        command = [arguments.program, "serve", arguments.model, "--data-dir", folder, "--bind", f"127.0.0.1:{port}",
                   "--served-model-name", "measured", "--offline", "--drain-timeout", "1s", "--max-running",
                   arguments.max_running, "--max-waiting", arguments.max_waiting, "--max-batched-tokens",
                   arguments.max_batched_tokens]
        with open(pathlib.Path(folder) / "log", "w") as log:
            server = subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT)
            try:
                wait_until_ready(port, keys["light"], server)
                report(measure(port, keys, arguments), arguments)
            finally:
                server.terminate()
                server.wait()


def make_key(program, folder, tenant):
    where = ["--data-dir", folder]
    subprocess.run([program, "tenants", "create", tenant, *where], check=True, capture_output=True)
    made = subprocess.run([program, "keys", "create", "app", "--tenant", tenant, "--role", "developer", *where],
                          check=True, capture_output=True, text=True)
    return made.stdout.split()[-1]


def measure(port, keys, arguments):
    """Times to the first token in milliseconds, by part."""
    found = {"alone": times(port, keys["light"], arguments.requests)}
    places = arguments.max_running + arguments.max_waiting
    for name, key, streams in (("beside a flood of another tenant", keys["heavy"], places),
                               ("beside a flood of its own", keys["light"], places - 1)):
        # In a process of its own, so that reading the flood does not hold up whoever takes the time.
        flood = FORK.Process(target=keep_flooding, args=(port, key, streams), daemon=True)
        flood.start()
        wait_until_full(port, key, arguments.max_running)
        # Of the last part few are enough: each waits for all of the flood.
        found[name] = times(port, keys["light"], arguments.requests if key == keys["heavy"] else OWN)
        flood.terminate()
        flood.join()
    return found


def report(found, arguments):
    alone = {p: percentile(found["alone"], p) for p in (50, 99)}
    print(f"{arguments.max_running} places to run, {arguments.max_waiting} to wait, {arguments.max_batched_tokens} tokens a step; "
          f"prompts and answers of {LIGHT['prompt']} and {LIGHT['output']} tokens beside {HEAVY['prompt']} and {HEAVY['output']}")
    for name, milliseconds in found.items():
        p50, p99 = (percentile(milliseconds, p) for p in (50, 99))
        print(f"{name}: TTFT p50 {p50:.1f} ms ({p50 / alone[50]:.1f}x), p99 {p99:.1f} ms ({p99 / alone[99]:.1f}x), "
              f"{len(milliseconds)} requests")


def percentile(values, percent):
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def times(port, key, count):
    return [first_token_ms(port, key) for _ in range(WARM_UP + count)][WARM_UP:]


def first_token_ms(port, key):
    began = time.monotonic()
    answer = None
    while answer is None:  # a client that is refused tries again, and its time runs
        try:
            answer = ask(port, key, LIGHT)
        except Refused:
            time.sleep(POLL_S)
    first = None
    for line in answer:
        if first is None and line.startswith(b"data: {") and b'"text":' in line:
            first = time.monotonic()
    answer.close()
    if first is None:
        sys.exit("an answer had no token")
    return (first - began) * 1000


def keep_flooding(port, key, streams):
    flood = [threading.Thread(target=keep_asking, args=(port, key), daemon=True) for _ in range(streams)]
    for thread in flood:
        thread.start()
    for thread in flood:
        thread.join()


def keep_asking(port, key):
    while True:
        try:
            answer = ask(port, key, HEAVY)
        except (Refused, OSError):
            time.sleep(POLL_S)
            continue
        while answer.readline():
            pass
        answer.close()


class Refused(Exception):
    """The queue is full."""


def ask(port, key, lengths):
    """The stream of an answer to a prompt that nobody has asked for before."""
    number = os.getpid() + 1000003 * next(numbers)
    prompt = [FIRST_TEXT_TOKEN + (number * 7919 + i * 104729) % (VOCABULARY - FIRST_TEXT_TOKEN)
              for i in range(lengths["prompt"])]
    body = {"model": "measured", "prompt": prompt, "max_tokens": lengths["output"], "ignore_eos": True, "stream": True,
            "temperature": 0}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    connection.request("POST", "/v1/completions", json.dumps(body),
                       {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    if answer.status == 429:
        raise Refused
    if answer.status != 200:
        sys.exit(f"status {answer.status}: {answer.read()[:500]}")
    return answer


def wait_until_full(port, key, running):
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with get(port, key, "/load") as answer:
            if json.load(answer)["server_load"] > running:
                return
        time.sleep(POLL_S)
    sys.exit("the flood did not fill the server")


def get(port, key, path):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {key}"})
    return urllib.request.urlopen(request, timeout=5)


def wait_until_ready(port, key, server):
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(f"the server ended with code {server.returncode} before it was ready")
        try:
            with get(port, key, "/health/ready"):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_S)
    sys.exit("the server was not ready in time")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    main()
