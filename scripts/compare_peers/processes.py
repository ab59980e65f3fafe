"""A server as a tree of processes: started, waited for, watched, and ended with all its children. Main type: `Server`.

`ForeignCores` tells how many cores other processes kept busy meanwhile. Invariant: when a `Server` is left, none of its
processes live and its port is free. Linux alone: it reads /proc.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
import typing
import urllib.error
import urllib.request

from scenarios import NotMeasured

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.25
POLL_S = 0.05
STOP_S = 20.0
PROC = pathlib.Path("/proc")


class Server:
    """A context: entering starts it, `wait_until_ready` waits for its first answer, leaving ends it."""

    def __init__(self, command: list[str], environment: dict[str, str], port: int, log: pathlib.Path) -> None:
        self.command, self.port, self.log = command, port, log
        self.environment = {**os.environ, **environment}
        self.url = f"http://127.0.0.1:{port}"
        self.known: set[int] = set()

    def __enter__(self) -> "Server":
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        with open(self.log, "w", encoding="utf-8") as log:
            log.write(f"$ {' '.join(self.command)}\n")
            log.flush()
            # A session of its own, so that all of it can be signalled.
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                            env=self.environment, start_new_session=True)
        self.memory = PeakMemory(self)
        self.memory.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.memory.ended.set()
        self.memory.join()
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            pass
        self.signal(signal.SIGKILL)
        self.process.wait()
        wait_until_free(self.port)

    def signal(self, number: int) -> None:
        """To its group, and to those of its descendants that left the group and still live."""
        family = self.family() | {pid for pid in self.known if session_of(pid) == self.process.pid}
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass
        for pid in family - {self.process.pid}:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def family(self) -> set[int]:
        """The process and its descendants."""
        found: set[int] = set()
        left = [self.process.pid]
        while left:
            pid = left.pop()
            if pid not in found:
                found.add(pid)
                for children in PROC.glob(f"{pid}/task/*/children"):
                    left.extend(map(int, read(children).split()))
        self.known |= found
        return found

    def wait_until_ready(self, limit_s: float) -> float:
        """Seconds from the start to the first answer."""
        while time.monotonic() - self.started < limit_s:
            self.check()
            if self.answers():
                return time.monotonic() - self.started
            time.sleep(POLL_S)
        raise NotMeasured(f"the server did not answer within {limit_s:.0f} s: {self.last_words()}")

    def check(self) -> None:
        """That it lives."""
        if self.process.poll() is not None:
            raise NotMeasured(f"the server ended with code {self.process.returncode}: {self.last_words()}")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/v1/models", timeout=10) as answer:
                model = json.load(answer)["data"][0]["id"]
            body = json.dumps({"model": model, "prompt": "one", "max_tokens": 1}).encode()
            request = urllib.request.Request(f"{self.url}/v1/completions", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status == 200
        except (OSError, ValueError, LookupError, urllib.error.URLError):
            return False

    def last_words(self) -> str:
        lines = [line for line in read(self.log).splitlines() if line.strip()]
        return " / ".join(lines[-3:])[-400:]

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far."""
        ticks = 0
        for pid in self.family():
            fields = read(PROC / str(pid) / "stat").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # its own and that of children that ended: user, system
        return ticks / TICKS_PER_S


class PeakMemory(threading.Thread):
    """Samples the resident memory of a server: all of it, and the part that is no file's. In MB of 10^6 bytes."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server, self.ended = server, threading.Event()
        self.resident_mb = self.anonymous_mb = 0.0

    def run(self) -> None:
        while not self.ended.wait(SAMPLE_S):
            sizes = [status_kb(pid) for pid in self.server.family()]
            self.resident_mb = max(self.resident_mb, sum(size["VmRSS"] for size in sizes) * 1.024e-3)
            self.anonymous_mb = max(self.anonymous_mb, sum(size["RssAnon"] for size in sizes) * 1.024e-3)


class ForeignCores:
    """A context: `cores` is how many cores were busy with neither `server` nor this program and its other children."""

    def __init__(self, server: Server | None) -> None:
        self.server, self.cores = server, 0.0

    def __enter__(self) -> "ForeignCores":
        self.began = time.monotonic(), self.foreign_s()
        return self

    def __exit__(self, *_: object) -> None:
        began, foreign_s = self.began
        self.cores = max(0.0, (self.foreign_s() - foreign_s) / (time.monotonic() - began))

    def foreign_s(self) -> float:
        fields = list(map(int, read(PROC / "stat").split("\n", 1)[0].split()[1:9]))
        user, nice, system, _, _, irq, soft_irq, steal = fields
        own = os.times()
        own_s = own.user + own.system + own.children_user + own.children_system
        busy_s = (user + nice + system + irq + soft_irq + steal) / TICKS_PER_S
        return busy_s - own_s - (self.server.cpu_seconds() if self.server else 0.0)


def read(path: pathlib.Path) -> str:
    """Empty if the process has ended meanwhile."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def status_kb(pid: int) -> typing.Mapping[str, int]:
    sizes = {"VmRSS": 0, "RssAnon": 0}
    for line in read(PROC / str(pid) / "status").splitlines():
        name, _, value = line.partition(":")
        if name in sizes:
            sizes[name] = int(value.split()[0])
    return sizes


def session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_until_free(port: int) -> None:
    until = time.monotonic() + STOP_S
    while time.monotonic() < until:
        try:
            socket.create_server(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(POLL_S)
    raise RuntimeError(f"port {port} is still taken after its server was ended")
