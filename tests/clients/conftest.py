"""Servers on free ports with models/tiny, or with what was made of it. TRAMONTANE is the binary to start."""

import asyncio
import contextlib
import json
import math
import os
import pathlib
import shutil
import struct
import subprocess
import threading
import urllib.error
import urllib.request

import pytest
from prompts import MODEL, user

# Of the server to say where it listens, and then to load a model of 9 million parameters.
PATIENCE_S = 120
TINY = pathlib.Path("models/tiny")


@pytest.fixture(scope="session")
def server_url(tmp_path_factory):
    with serving(TINY, "--max-model-len", "512", "--data-dir", tmp_path_factory.mktemp("data")) as url:
        yield url


@pytest.fixture(scope="session")
def run():
    """Runs a coroutine in one loop for all tests: some clients keep connections for the whole process."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="session")
def narrow_url():
    """Computes one sequence while another waits, and takes small bodies only."""
    with serving(TINY, "--ephemeral", "--max-running", 1, "--max-waiting", 1, "--body-limit", "8KiB") as url:
        yield url


@pytest.fixture
def busy_url(narrow_url):
    """The same while both places are taken."""
    body = {"model": MODEL, "messages": user("Hello!"), "n": 2, "stream": True, "ignore_eos": True, "max_tokens": 4000}
    request = urllib.request.Request(
        f"{narrow_url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    for _ in range(1000):
        with contextlib.suppress(urllib.error.HTTPError):
            stream = urllib.request.urlopen(request, timeout=PATIENCE_S)
            break
    else:
        raise RuntimeError("the server did not notice that the last test has left")
    with stream:
        assert stream.readline().startswith(b"data: ")
        yield narrow_url


@pytest.fixture(scope="session")
def hasty_url():
    """Gives no request the time that a long answer takes."""
    with serving(TINY, "--ephemeral", "--request-timeout", "300ms") as url:
        yield url


@pytest.fixture(scope="session")
def broken_url(tmp_path_factory):
    """Its last norm multiplies by what is not a number."""
    folder = tmp_path_factory.mktemp("broken") / MODEL
    shutil.copytree(TINY, folder)
    header, data = _tensors()
    begin, end = header["model.norm.weight"]["data_offsets"]
    not_a_number = struct.pack("<H", 0x7FC0)
    _write(folder, header, data[:begin] + not_a_number * ((end - begin) // 2) + data[end:])
    with serving(folder, "--ephemeral") as url:
        yield url


@pytest.fixture(scope="session")
def keyed(tmp_path_factory):
    """Lets in who has one of its keys: its address, and a key of a developer and of an auditor."""
    data = tmp_path_factory.mktemp("keyed")
    keys = {role: made_key(data, role) for role in ("developer", "auditor")}
    with serving(TINY, "--max-model-len", "512", "--data-dir", data) as url:
        yield url, keys


@pytest.fixture(scope="session")
def keyed_url(keyed):
    return keyed[0]


@pytest.fixture
def loading_url(tmp_path):
    """Loads for longer than any test asks: zeros that take no place on the disk, to be quantized by one thread."""
    n_layers, widened = 1000, 8
    folder = tmp_path / MODEL
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    narrow = config["intermediate_size"]
    config |= {"num_hidden_layers": n_layers, "intermediate_size": widened * narrow}
    (folder / "config.json").write_text(json.dumps(config))
    header, offset = {}, 0
    for name, tensor in _tensors()[0].items():
        parts = name.split(".")
        if parts[1] == "layers" and parts[2] != "0":
            continue
        shape = [widened * size if size == narrow else size for size in tensor["shape"]]
        length = 2 * math.prod(shape)
        for layer in range(n_layers) if parts[1] == "layers" else [0]:
            its_name = name.replace(".layers.0.", f".layers.{layer}.")
            header[its_name] = {**tensor, "shape": shape, "data_offsets": [offset, offset + length]}
            offset += length
    _write(folder, header, b"", size=offset)
    listening = "listening; requests are answered once the model is loaded"
    with serving(folder, "--ephemeral", "--threads", 1, "--quantize", "q4", until=listening) as url:
        yield url


def made_key(data, role):
    command = [binary(), "keys", "create", f"{role}-key", "--role", role, "--data-dir", data]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def binary():
    return os.environ.get("TRAMONTANE", "target/debug/tramontane")


@contextlib.contextmanager
def serving(model, *flags, until="ready"):
    command = [binary(), "serve", model, "--bind", "127.0.0.1:0", *map(str, flags)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield _url_once(until, server)
    finally:
        server.kill() if until != "ready" else server.terminate()
        server.wait(PATIENCE_S)


def _url_once(message, server):
    deadline = threading.Timer(PATIENCE_S, server.kill)
    deadline.start()
    seen = []
    for line in server.stderr:
        seen.append(line)
        # It logs JSON, as nobody reads along.
        event = json.loads(line)
        if event["message"] == message:
            break
    else:
        raise RuntimeError("the server ended:\n" + "".join(seen))
    deadline.cancel()
    # Nobody reads what else it logs, and a full pipe would stop it.
    threading.Thread(target=server.stderr.read, daemon=True).start()
    return f"http://{event['address']}"


def _tensors():
    """The header of the tiny model's file of weights, and the rest of it."""
    content = (TINY / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    return header, content[8 + length :]


def _write(folder, header, data, size=0):
    encoded = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded + data)
        if size:
            file.truncate(8 + len(encoded) + size)
