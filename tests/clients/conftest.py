"""A server with models/tiny on a free port, for the whole run. TRAMONTANE is the binary to start."""

import json
import os
import subprocess
import threading

import pytest

# Of the server to say where it listens, and then to load a model of 9 million parameters.
PATIENCE_S = 120


@pytest.fixture(scope="session")
def server_url():
    binary = os.environ.get("TRAMONTANE", "target/debug/tramontane")
    command = [binary, "serve", "models/tiny", "--bind", "127.0.0.1:0", "--max-model-len", "512"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield _url_once_ready(server)
    finally:
        server.terminate()
        server.wait(PATIENCE_S)


def _url_once_ready(server):
    deadline = threading.Timer(PATIENCE_S, server.kill)
    deadline.start()
    seen = []
    for line in server.stderr:
        seen.append(line)
        # It logs JSON, as nobody reads along.
        event = json.loads(line)
        if event["message"] == "ready":
            break
    else:
        raise RuntimeError("the server ended:\n" + "".join(seen))
    deadline.cancel()
    # Nobody reads what else it logs, and a full pipe would stop it.
    threading.Thread(target=server.stderr.read, daemon=True).start()
    return f"http://{event['address']}"
