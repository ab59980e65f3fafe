"""What the machine can do, measured in every round: memory bandwidth and arithmetic. Main function: `measure`.

Our own figures come from `tramontane bench engine`, those of oneDNN from torch where a peer brought it.
"""

import json
import os
import pathlib
import platform
import subprocess
import tempfile

import checkpoint
from rows import MACHINE, Row
from scenarios import NotMeasured

LIMIT_S = 120.0
# The best of many products of bf16 matrices, in operations per second.
ONEDNN = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
left, right = torch.randn(2048, 2048).bfloat16(), torch.randn(2048, 2048).bfloat16()
best, until = float("inf"), time.perf_counter() + 1.5
with torch.inference_mode():
    while time.perf_counter() < until:
        began = time.perf_counter()
        torch.nn.functional.linear(left, right)
        best = min(best, time.perf_counter() - began)
print(2 * 2048**3 / best)
"""


def measure(binary: pathlib.Path, torch_python: pathlib.Path | None, threads: int, round_number: int) -> list[Row]:
    """Rows of the scenario `peak`."""
    found = peaks(binary, threads)
    if torch_python is not None:
        text = output([torch_python, "-c", ONEDNN, threads])
        found["onednn_bf16_gflop_s"] = round(float(text.split()[-1]) / 1e9, 1)
    return [Row(MACHINE, processor(), "", "peak", metric, value, round_number) for metric, value in found.items()]


def peaks(binary: pathlib.Path, threads: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "engine.json"
        output([binary, "bench", "engine", checkpoint.ROOT / "models/tiny", "--device", "cpu", "--threads", threads,
                "--prefill", 1, "--batch", 1, "--context", 1, "--repeats", 1, "--json", report])
        machine = json.loads(report.read_text())["machine"]
    return {"bandwidth_gb_s": round(machine["read_bytes_per_s"] / 1e9, 2),
            "bf16_gflop_s": round(machine["operations_per_s"] / 1e9, 1)}


def output(command: list[object]) -> str:
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"{command[0]} was not done within {LIMIT_S:.0f} s") from None
    if done.returncode != 0:
        raise NotMeasured(f"{command[0]} ended with code {done.returncode}: {done.stderr[-300:].strip()}")
    return done.stdout


def processor() -> str:
    """Its name and how many cores of it there are."""
    name = platform.machine()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return f"{name}, {len(os.sched_getaffinity(0))} cores"
