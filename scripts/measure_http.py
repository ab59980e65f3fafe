#!/usr/bin/env python3
"""Starts `tramontane serve` on a checkpoint, measures it through HTTP, stops it, and writes flat keys as JSON.

Measured are the time from the start until it takes requests, times to the first token and between tokens at rising
concurrency, the throughput of long prompts with long answers, and, where there is nvidia-smi, the memory of the GPU at
the end. A greedy answer is asked for alone and again while others are computed: it has to be the same. Invariant: the
server is stopped and waited for, whatever fails; what was measured until then is written. Needs Python alone.

    scripts/measure_http.py target/release/tramontane CHECKPOINT OUT.json --device cuda
    scripts/measure_http.py target/release/tramontane CHECKPOINT OUT.json --device cpu --small
"""

import argparse
import dataclasses
import json
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import load_http

# Small numbers show that the measuring works, on a processor with a small model.
FULL = {"levels": {1: 4, 8: 3, 32: 3, 128: 2, 256: 2}, "prompt": 128, "output": 128, "long": (1000, 1000), "places": 256,
        "company": 32}
SMALL = {"levels": {1: 2, 4: 2}, "prompt": 24, "output": 12, "long": (40, 30), "places": 8, "company": 4}
COMPARED_TOKENS = 64
POLL_S = 0.02


class NotMeasured(Exception):
    """The server did not do what is measured."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--device", required=True)
    parser.add_argument("--small", action="store_true", help="only show that the measuring works")
    parser.add_argument("--limit-s", type=float, default=240.0, help="for all of it; parts without time are left out")
    parser.add_argument("--log", type=pathlib.Path, help="of the server; beside OUT if absent")
    arguments = parser.parse_args()
    # As an exception, so that the server is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("measuring was ended from outside"))
    results, problems = {}, []
    try:
        measure(arguments, results, problems)
    except (NotMeasured, OSError, RuntimeError) as error:
        problems.append(str(error))
    finally:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    for problem in problems:
        print(f"problem: {problem}")
    if problems and log_of(arguments).is_file():
        print("the end of the server's log:", *log_of(arguments).read_text(errors="replace").splitlines()[-5:], sep="\n")
    sys.exit(1 if problems else 0)


def measure(arguments, results, problems):
    deadline = time.monotonic() + arguments.limit_s
    plan = SMALL if arguments.small else FULL
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # Room for every request at once: the levels and the answer that is compared.
    command = [arguments.program, "serve", arguments.checkpoint, "--device", arguments.device, "--bind", f"127.0.0.1:{port}",
               "--served-model-name", "random", "--offline", "--ephemeral", "--log-format", "human", "--drain-timeout", "10s",
               "--max-running", str(plan["places"])]
    with open(log_of(arguments), "w") as log:
        started = time.monotonic()
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_ready(url, process, deadline)
            results["load_s"] = round(time.monotonic() - started, 2)
            print(f"ready after {results['load_s']} s", flush=True)
            server = load_http.Server("127.0.0.1", port, "random")
            for part in levels, long_answers, company:
                part(server, plan, deadline, results, problems)
            results.update(gpu_memory())
        finally:
            stop(process, problems)


def log_of(arguments):
    return arguments.log or arguments.out.with_suffix(".log")


def wait_until_ready(url, process, deadline):
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NotMeasured(f"the server ended with code {process.returncode} before it was ready; see its log")
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_S)
    raise NotMeasured("the server was not ready in time")


def levels(server, plan, deadline, results, problems):
    """Latency by concurrency."""
    warm_up = load_http.Load(1, 2, plan["prompt"], plan["output"], seed="warm-up")
    load_http.measure(server, warm_up)
    for level, rounds in plan["levels"].items():
        name = f"c{level}"
        before = host_time(server)
        found = run(server, load_http.Load(level, level * rounds, plan["prompt"], plan["output"], seed=name),
                    (name, deadline), problems)
        for key in "ttft_ms_p50", "ttft_ms_p99", "itl_ms_p50", "itl_ms_p99", "throughput_tok_s", "client_busy":
            if key in found:
                results[f"http_{key}.{name}"] = found[key]
        after = host_time(server)
        if after["count"] > before["count"]:
            seconds = (after["sum"] - before["sum"]) / (after["count"] - before["count"])
            results[f"host_us_per_step.{name}"] = round(seconds * 1e6, 1)


def host_time(server):
    """Seconds that steps kept the engine's thread busy, and how many steps: those of a GPU."""
    with urllib.request.urlopen(f"http://{server.host}:{server.port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = {part: re.search(rf"^tramontane:step_host_seconds_{part}{{.*}} (.+)$", text, re.MULTILINE) for part in ("sum", "count")}
    if None in found.values():
        raise NotMeasured("the server has no metric tramontane:step_host_seconds")
    return {part: float(match[1]) for part, match in found.items()}


def long_answers(server, plan, deadline, results, problems):
    """Throughput with as many requests as are computed at once, all of the same length: one round of them."""
    prompt, output = plan["long"]
    name = f"{prompt}x{output}"
    places = plan["places"]
    found = run(server, load_http.Load(places, places, prompt, output, seed=name), (name, deadline), problems)
    for key in "throughput_tok_s", "ttft_ms_p50", "ttft_ms_p99", "itl_ms_p50", "itl_ms_p99", "client_busy":
        if key in found:
            results[f"{'' if key.startswith('throughput') else 'http_'}{key}.{name}"] = found[key]


def run(server, load, named, problems):
    name, deadline = named
    left = deadline - time.monotonic()
    if left < 5:
        problems.append(f"{name}: no time left for it")
        return {}
    found = load_http.measure(server, dataclasses.replace(load, timeout_s=left))
    print(f"{name}: {json.dumps(found)}", flush=True)
    if found["errors"]:
        problems.append(f"{name}: {found['errors']} of {found['requests']} requests failed: {found['first_errors'][0]}")
        return {}
    return found


def company(server, plan, deadline, results, problems):
    """The same greedy answer alone and while others are computed."""
    chance = random.Random("compared")
    prompt = [chance.randrange(load_http.FIRST_TEXT_TOKEN, server.vocabulary) for _ in range(2 * plan["prompt"])]
    alone = greedy(server, prompt)
    # A program of its own: to divide a process that has threads is not safe.
    others = subprocess.Popen([sys.executable, load_http.__file__, "load", f"http://{server.host}:{server.port}",
                               "--concurrency", str(plan["company"]), "--prompt-tokens", str(plan["prompt"]),
                               "--output-tokens", str(plan["output"]), "--seed", "company"], stdout=subprocess.DEVNULL)
    answers = []
    try:
        while others.poll() is None and time.monotonic() < deadline:
            answers.append(greedy(server, prompt))
    finally:
        others.kill()
        if others.wait() != 0:
            problems.append("the load that a greedy answer was compared in did not end well")
    different = sum(answer != alone for answer in answers)
    results["greedy_compared"], results["greedy_different"] = len(answers), different
    if different or not answers:
        problems.append(f"{different} of {len(answers)} greedy answers differ in company from the one alone")


def greedy(server, prompt):
    body = {"model": server.model, "prompt": prompt, "max_tokens": COMPARED_TOKENS, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True}
    request = urllib.request.Request(f"http://{server.host}:{server.port}/v1/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["choices"][0]["token_ids"]
    except urllib.error.HTTPError as error:
        raise NotMeasured(f"a greedy request was answered with {error.code}: {error.read(500)!r}") from None


def gpu_memory():
    """MiB that all processes have on the GPU, if there is one."""
    try:
        asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        lines = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
        return {"gpu_memory_used_mib": float(lines[0])}
    except (OSError, subprocess.CalledProcessError, IndexError, ValueError):
        return {}


def stop(process, problems):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            problems.append("the server did not stop within 20 s")
            return
        if process.returncode != 0:
            problems.append(f"the server stopped with code {process.returncode}")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


if __name__ == "__main__":
    main()
